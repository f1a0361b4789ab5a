"""FITS products of whole runs: the chain's own arrays, whatever the segments, blocks and workers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import PLANES, Simulated, bytes_per_integration, differences, light_curve, reduce

import tsostream
from tsostream.errors import InputError, OutputExistsError, SinkError
from tsostream.files.reader import read_sync
from tsostream.integration import dq
from tsostream.integration.payload import Ramp
from tsostream.records import RowPair
from tsostream.run.prepared import Prepared
from tsostream.run.product_plan import product_path
from tsostream.run.request import Request
from tsostream.run.scout import scout_path
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import journal_path
from tsostream.sinks.products import slabs
from tsostream.testing.oracle import official_python

INTS = 30
HITS = 3e-3
ALL = {"products": ("rate,rateints,ramp",), "save_steps": ("saturation,refpix,jump", "ramp_fit")}


@pytest.fixture(scope="module")
def cut(simulated: Simulated) -> dict[int, SimulatedExposure]:
    """The same exposure as one and as three files."""
    return {
        files: simulated("NRS_BRIGHTOBJ", ints=INTS, segments=files, seed=2, nx=96, cosmic_rays=HITS)
        for files in (1, 3)
    }


@pytest.fixture(scope="module")
def made(cut: dict[int, SimulatedExposure], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of the three files; not to be changed."""
    out = tmp_path_factory.mktemp("made") / "lc.arrow"
    return reduce(cut[3], out, **ALL).parent


def request(exposure: SimulatedExposure, out: Path, **options: Any) -> Request:
    return Request(
        inputs=tuple(exposure.segments), out=out, refs_dir=exposure.directory,
        wavelengths=exposure.references.get("wavelength"), **options,
    )  # fmt: skip


def prepared(exposure: SimulatedExposure, out: Path, **options: Any) -> Prepared:
    (one,) = prepare_all(request(exposure, out, **options))
    return one


def cube(directory: Path, suffix: str, name: str) -> np.ndarray:
    """One extension of all segments, put together."""
    paths = sorted(directory.glob(f"*seg*_nrs1_{suffix}.fits"))
    return np.concatenate([fits.getdata(path, name) for path in paths])


def native(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def test_the_chains_own_arrays(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    """Slopes, ramps before the fit, and every saved step, against the steps run one after the other."""
    run = prepared(cut[3], tmp_path / "x.arrow", scout=str(made / "lc.scout.npz"))
    from tsostream.run.scout import load_scout

    scout = load_scout(made / "lc.scout.npz", run.exposure.info.frame_shape)
    rates = run.chain({**scout.templates(), "wavelength": run.wavelengths})
    slopes: dict[str, list[np.ndarray]] = {name: [] for name in PLANES}
    for raw in read_sync(run.exposure):
        with rates.rates(raw) as rate:
            for name, array in zip(
                PLANES, (rate.data, rate.err, rate.dq, rate.var_poisson, rate.var_rnoise), strict=True
            ):
                slopes[name].append(array.copy())
    for name, arrays in slopes.items():
        assert native(cube(made, "rateints", name)).tobytes() == np.concatenate(arrays).tobytes()
        # gain_scale does nothing here
        assert native(cube(made, "1_ramp_fit", name)).tobytes() == np.concatenate(arrays).tobytes()
    words = np.concatenate([fits.getdata(path, "SCI") for path in cut[3].segments])
    times = next(iter(read_sync(run.exposure, [(1, 1)]))).times
    ramp = Ramp(1, words.astype(np.float32), np.zeros(words.shape, np.uint8), rates.pixeldq, times)
    seen = {}
    for step in rates.steps:
        if step.produces == "rate":
            break
        (ramp,) = step.push(ramp)
        seen[step.name] = (ramp.data.copy(), ramp.groupdq.copy(), step.pixeldq)
    seen["ramp"] = (ramp.data, ramp.groupdq, ramp.pixeldq)
    for suffix in ("saturation", "refpix", "jump", "ramp"):
        data, groupdq, pixeldq = seen[suffix]
        assert native(cube(made, suffix, "SCI")).tobytes() == data.tobytes(), suffix
        assert cube(made, suffix, "GROUPDQ").tobytes() == groupdq.tobytes(), suffix
        for path in made.glob(f"*_{suffix}.fits"):
            np.testing.assert_array_equal(fits.getdata(path, "PIXELDQ"), pixeldq)


@pytest.mark.parametrize(("files", "block", "workers"), [(1, 80, 1), (1, 1, 2), (3, 7, 4)])
def test_segments_blocks_and_workers_leave_no_trace(
    files: int, block: int, workers: int, cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path
) -> None:
    each = bytes_per_integration(cut[3].segments[0])
    reduce(
        cut[3], tmp_path / "lc.arrow", cut[files].segments, workers=workers, block_bytes=each * block, **ALL
    )
    for suffix, names in {
        "rateints": PLANES,
        "1_ramp_fit": PLANES,
        "ramp": ("SCI", "GROUPDQ"),
        "refpix": ("SCI",),
    }.items():
        for name in (*names, "INT_TIMES"):
            assert cube(tmp_path, suffix, name).tobytes() == cube(made, suffix, name).tobytes(), (
                suffix,
                name,
            )
    if files == 3:
        for path in made.glob("*_rate.fits"):
            for name in PLANES:
                assert (
                    fits.getdata(path, name).tobytes() == fits.getdata(tmp_path / path.name, name).tobytes()
                )


def test_rows_do_not_notice(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    assert differences(reduce(cut[3], tmp_path / "lc.arrow"), made / "lc.arrow") == []


def test_the_mean_of_one_file(cut: dict[int, SimulatedExposure], made: Path) -> None:
    """Weights are those of the read noise."""
    path = min(made.glob("*seg002*_rateints.fits"))
    slope, var = fits.getdata(path, "SCI").astype(float), fits.getdata(path, "VAR_RNOISE").astype(float)
    weight = np.where(np.isfinite(slope), 1 / var, 0)
    expected = np.nansum(slope * weight, axis=0) / np.where(
        weight.sum(axis=0) > 0, weight.sum(axis=0), np.nan
    )
    mean = fits.getdata(path.with_name(path.name.replace("rateints", "rate")), "SCI")
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-4)


def test_jumps_are_in_the_flags(made: Path) -> None:
    """``dq & 4`` finds what the jump step found."""
    jumps = np.any(cube(made, "ramp", "GROUPDQ") & dq.JUMP_DET, axis=1)
    flags = cube(made, "rateints", "DQ")
    usable = flags & np.uint32(dq.DO_NOT_USE) == 0
    np.testing.assert_array_equal((flags & np.uint32(4) != 0)[usable], jumps[usable])
    assert jumps.sum() > 20


def test_layout(cut: dict[int, SimulatedExposure], made: Path) -> None:
    """Extensions in the official order, shapes, types, units, and everything the input's header said."""
    source = cut[3].segments[1]
    path = product_path(made, source, "rateints")
    expected = {
        "rateints": ["SCI", "ERR", "DQ", "INT_TIMES", "VAR_POISSON", "VAR_RNOISE"],
        "rate": ["SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"],
        "ramp": ["SCI", "PIXELDQ", "GROUPDQ", "INT_TIMES"],
    }
    models = {"rateints": "CubeModel", "rate": "ImageModel", "ramp": "RampModel"}
    for suffix, names in expected.items():
        with fits.open(product_path(made, source, suffix)) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus[1:]] == [*names, "ASDF"]
            assert hdus[0].header["DATAMODL"] == models[suffix]
            assert hdus[0].header["FILENAME"] == f"jw01366003001_04101_00001-seg002_nrs1_{suffix}.fits"
            assert hdus["SCI"].header["BUNIT"] == ("DN" if suffix == "ramp" else "DN/s")
            assert hdus["SCI"].data.ndim == {"rateints": 3, "rate": 2, "ramp": 4}[suffix]
    old, new = fits.getheader(source), fits.getheader(path)
    changed = {key for key in old if key in new and old[key] != new[key]}
    assert changed == {"DATE", "FILENAME", "DATAMODL"}
    assert set(old) <= set(new)
    assert (new["INTSTART"], new["INTEND"], new["EXSEGNUM"]) == (11, 20, 2)
    assert new["CAL_VER"] == f"tsostream {tsostream.__version__}"
    assert (new["S_DQINIT"], new["S_JUMP"], new["S_RAMP"], new["S_IPC"]) == (*["COMPLETE"] * 3, "SKIPPED")
    assert new["R_SUPERB"] == cut[3].references["superbias"].name
    assert new["H_SUPERB"] == sha256(cut[3].references["superbias"].read_bytes()).hexdigest()
    sci_old, sci_new = fits.getheader(source, "SCI"), fits.getheader(path, "SCI")
    structure = {"BITPIX", "NAXIS", "NAXIS3", "NAXIS4", "BSCALE", "BZERO", "BUNIT"}
    assert {key for key in sci_old if sci_new.get(key) != sci_old[key]} == structure
    step = fits.getheader(product_path(made, source, "refpix"))
    assert step["S_REFPIX"] == "COMPLETE"
    assert not {"S_LINEAR", "S_JUMP", "R_LINEAR"} & set(step)


def test_times_are_those_of_the_integrations(cut: dict[int, SimulatedExposure], made: Path) -> None:
    for path in cut[3].segments:
        ours = fits.getdata(product_path(made, path, "rateints"), "INT_TIMES")
        theirs = fits.getdata(path, "INT_TIMES")
        assert ours.tobytes() == theirs.tobytes()


def test_a_table_of_the_whole_exposure(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    """Each product carries the rows of its own integrations."""
    table = np.concatenate([fits.getdata(path, "INT_TIMES") for path in cut[3].segments])
    copies = [Path(shutil.copy(path, tmp_path)) for path in cut[3].segments]
    for copy in copies:
        with fits.open(copy, mode="update") as hdus:
            hdus["INT_TIMES"].data = fits.FITS_rec.from_columns(fits.BinTableHDU(table).columns)
    reduce(cut[3], tmp_path / "lc.arrow", copies, products="rateints")
    for copy in copies:
        with fits.open(product_path(tmp_path, copy, "rateints")) as hdus:
            assert len(hdus["INT_TIMES"].data) == len(hdus["SCI"].data) == 10
    assert cube(tmp_path, "rateints", "INT_TIMES").tobytes() == cube(made, "rateints", "INT_TIMES").tobytes()


def test_without_a_table(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    copy = Path(shutil.copy(cut[1].segments[0], tmp_path))
    with fits.open(copy, mode="update") as hdus:
        del hdus["INT_TIMES"]
    reduce(cut[1], tmp_path / "lc.arrow", [copy], products="rateints")
    with fits.open(product_path(tmp_path, copy, "rateints")) as hdus:
        assert "INT_TIMES" not in hdus


def test_some_integrations_of_a_step(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    """Only segments that hold some of them; numbers and times go with them."""
    where = tmp_path / "products"
    where.mkdir()
    reduce(
        cut[3],
        tmp_path / "lc.arrow",
        save_steps=["refpix"],
        save_ints="8-12",
        products_dir=where,
        block_bytes=1,
    )
    paths = sorted(where.iterdir())
    assert [path.name[26:] for path in paths] == ["seg001_nrs1_refpix.fits", "seg002_nrs1_refpix.fits"]
    assert [(fits.getval(p, "INTSTART"), fits.getval(p, "INTEND")) for p in paths] == [(8, 10), (11, 12)]
    assert cube(where, "refpix", "SCI").tobytes() == cube(made, "refpix", "SCI")[7:12].tobytes()
    assert cube(where, "refpix", "INT_TIMES")["integration_number"].tolist() == [8, 9, 10, 11, 12]


def test_missing_integrations(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    """Segments that are there get their products."""
    first, _, third = cut[3].segments
    reduce(
        cut[3], tmp_path / "lc.arrow", [first, third], products="rateints,rate", allow_gaps=True,
        scout=str(made / "lc.scout.npz"),
    )  # fmt: skip
    assert len(list(tmp_path.glob("*.fits"))) == 4
    for path in tmp_path.glob("*.fits"):
        for name in PLANES:
            assert fits.getdata(path, name).tobytes() == fits.getdata(made / path.name, name).tobytes()


def test_slabs_are_there_before_their_rows(
    cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path
) -> None:
    """When rows are committed, the unfinished products hold the final arrays of the same integrations."""
    final = cube(made, "rateints", "SCI")
    checked = []

    def look(pair: RowPair) -> None:
        for number in pair.light_curve["integration"].to_pylist():
            index, local = divmod(number - 1, 10)
            part = tmp_path / f"{product_path(tmp_path, cut[3].segments[index], 'rateints').name}.part"
            slab = fits.getdata(part, "SCI")[local]
            checked.append(native(slab).tobytes() == final[number - 1].tobytes())

    run = prepared(cut[3], tmp_path / "lc.arrow", products=("rateints",), block_bytes=1, workers=2)
    result = asyncio.run(run_exposure(run, on_rows=look))
    assert checked == [True] * INTS
    names = [product_path(tmp_path, path, "rateints").name for path in cut[3].segments]
    assert tsostream.open(tmp_path / "lc.arrow").metadata["products"] == names
    assert result.products == [product_path(tmp_path, path, "rateints") for path in cut[3].segments]
    assert not list(tmp_path.glob("*.part"))


class _StopError(Exception):
    pass


@pytest.mark.parametrize("error", [_StopError, asyncio.CancelledError])
def test_an_unfinished_run(
    error: type[BaseException], cut: dict[int, SimulatedExposure], tmp_path: Path
) -> None:
    """What was written stays, under a name that says so; the next run needs --overwrite."""

    def stop(pair: RowPair) -> None:
        raise error

    run = prepared(cut[3], tmp_path / "lc.arrow", products=("rateints,rate",), block_bytes=1, workers=1)
    with pytest.raises(error):
        asyncio.run(run_exposure(run, on_rows=stop))
    assert tsostream.open(tmp_path / "lc.arrow").status in ("failed", "interrupted")
    assert not list(tmp_path.glob("*.fits"))
    names = {path.name for path in tmp_path.glob("*.part")}
    assert "jw01366003001_04101_00001-seg001_nrs1_rateints.fits.part" in names
    with pytest.raises(OutputExistsError, match="a run that did not end"):
        reduce(cut[3], tmp_path / "other.arrow", products="rateints")
    reduce(cut[3], tmp_path / "lc.arrow", products="rateints,rate", overwrite=True)
    assert len(list(tmp_path.glob("*.fits"))) == 6
    assert not list(tmp_path.glob("*.part"))


def test_slopes_are_no_source_of_slopes(
    made: Path, cut: dict[int, SimulatedExposure], tmp_path: Path
) -> None:
    """But our own rateints can be reduced again."""
    paths = sorted(made.glob("*_rateints.fits"))
    with pytest.raises(InputError, match=r"the input holds slopes \(rateints\): rate are made from uncal"):
        reduce(cut[3], tmp_path / "lc.arrow", paths, products="rate")
    again = light_curve(reduce(cut[3], tmp_path / "lc.arrow", paths))
    np.testing.assert_array_equal(again["integration"], np.arange(1, INTS + 1))
    np.testing.assert_allclose(again["flux"], light_curve(made / "lc.arrow")["flux"], rtol=1e-3)


def test_planned_sizes(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    """What the plan says is what the files have, but for headers."""
    plan = prepared(cut[3], tmp_path / "lc.arrow", **ALL).products
    assert plan is not None
    for one in plan.files:
        size = (made / one.path.name).stat().st_size
        assert size - 60_000 < one.nbytes < size + 60_000
    assert plan.lines()[0].startswith("rateints: 3 files, ")
    assert plan.lines()[-1].startswith(f"in {tmp_path} (")


def test_memory_is_planned(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    plain = prepared(cut[3], tmp_path / "lc.arrow").plan
    with_sums = prepared(cut[3], tmp_path / "lc.arrow", products=("rate",)).plan
    assert plain.products == 0
    assert with_sums.products > 1 << 20
    assert with_sums.total >= plain.total


def test_a_full_disk(
    cut: dict[int, SimulatedExposure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows written before stay; the message names file and integrations."""
    write, calls = os.pwrite, iter(range(1 << 30))

    def pwrite(*given: Any) -> int:
        if next(calls) > 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*given)

    monkeypatch.setattr(slabs, "os", _Os(pwrite))
    out = tmp_path / "lc.arrow"
    run = prepared(cut[3], out, products=("rateints",), block_bytes=1, workers=1)
    message = (
        r"seg001_nrs1_rateints\.fits\.part: integrations \d-\d of \w+ cannot be written: No space left.*free"
    )
    with pytest.raises(SinkError, match=message):
        asyncio.run(run_exposure(run))
    assert tsostream.open(out).status == "failed"
    assert journal_path(out).exists()
    assert scout_path(out).exists()
    assert list(tmp_path.glob("*.part"))


class _Os:
    """The os module with another pwrite, for one module only."""

    def __init__(self, pwrite: Any):
        self.pwrite = pwrite

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_the_command_line(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    """Options reach the run; the plan says what is made and how large it is."""
    from click.testing import CliRunner

    from tsostream.cli.app import tsostream as command

    where = tmp_path / "products"
    where.mkdir()
    given = [
        "process", *cut[3].segments, "--refs", cut[3].directory, "--out", tmp_path / "lc.arrow", "--products",
        "rateints,rate", "--products-dir", where, "--save-steps", "jump", "--save-steps", "refpix", "--save-ints", 3,
    ]  # fmt: skip
    done = CliRunner().invoke(command, [str(one) for one in given], prog_name="tsostream")
    assert done.exit_code == 0, done.stderr
    assert "rateints: 3 files, 1.1 MB" in done.stderr
    assert "jump: 1 file, 0.1 MB" in done.stderr
    assert f"in {where} (" in done.stderr
    assert f"8 products in {where}" in done.stderr
    assert len(list(where.iterdir())) == 8


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("jw1-seg001_nrs1_uncal.fits", "jw1-seg001_nrs1_rateints.fits"),
        ("jw1-seg001_nrs1_uncal.fits.gz", "jw1-seg001_nrs1_rateints.fits"),
        ("mine.FITS", "mine_rateints.fits"),
    ],
)
def test_names(source: str, expected: str, tmp_path: Path) -> None:
    assert product_path(tmp_path, Path("elsewhere") / source, "rateints") == tmp_path / expected


@pytest.mark.parametrize("exp_type", ["NIS_SOSS", "MIR_LRS-SLITLESS", "NRC_TSIMAGE"])
def test_other_modes(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated(exp_type, ints=12, segments=2, seed=3)
    reduce(exposure, tmp_path / "lc.arrow", products="rateints,rate,ramp")
    for path in exposure.segments:
        with fits.open(product_path(tmp_path, path, "rateints")) as hdus, fits.open(path) as source:
            assert hdus["SCI"].shape == (source["SCI"].shape[0], *source["SCI"].shape[2:])
            assert np.isfinite(hdus["SCI"].data).mean() > 0.5
        with fits.open(product_path(tmp_path, path, "ramp")) as hdus, fits.open(path) as source:
            assert hdus["SCI"].shape == hdus["GROUPDQ"].shape == source["SCI"].shape


#: executed by the interpreter that has the official package: facts of each file, as JSON
LOOK = """
import hashlib, json, sys
import numpy as np
from stdatamodels.jwst import datamodels
facts = {}
for path in sys.argv[1:]:
    with datamodels.open(path) as model:
        model.validate()
        names = ["data", "pixeldq", "groupdq"] if type(model).__name__ == "RampModel" else [
            "data", "err", "dq", "var_poisson", "var_rnoise"]
        digests = {}
        for name in names:
            array = np.array(getattr(model, name))
            native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            digests[name] = [str(native.dtype), list(native.shape), hashlib.sha256(native.tobytes()).hexdigest()]
        facts[path] = {
            "model": type(model).__name__, "arrays": digests, "jump": model.meta.cal_step.jump,
            "gain": model.meta.ref_file.gain.name, "first": model.meta.exposure.integration_start,
            "unit": model.meta.bunit_data, "software": model.meta.calibration_software_version,
            "times": [] if not hasattr(model, "int_times") else model.int_times["int_mid_BJD_TDB"].tolist(),
        }
print(json.dumps(facts))
"""


@pytest.mark.oracle
@pytest.mark.skipif(
    not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name an interpreter with jwst"
)
def test_the_official_package_reads_them(cut: dict[int, SimulatedExposure], made: Path) -> None:
    import hashlib

    source = cut[3].segments[2]
    paths = {suffix: str(product_path(made, source, suffix)) for suffix in ("rateints", "rate", "ramp")}
    done = subprocess.run(
        [official_python(), "-W", "ignore", "-c", LOOK, *paths.values()],
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    extensions = {"data": "SCI", "err": "ERR", "dq": "DQ", "pixeldq": "PIXELDQ", "groupdq": "GROUPDQ"}
    for suffix, path in paths.items():
        told = facts[path]
        assert told["model"] == {"rateints": "CubeModel", "rate": "ImageModel", "ramp": "RampModel"}[suffix]
        for name, (dtype, shape, digest) in told["arrays"].items():
            ours = native(fits.getdata(path, extensions.get(name, name.upper())))
            assert (dtype, tuple(shape)) == (str(ours.dtype), ours.shape)
            assert digest == hashlib.sha256(ours.tobytes()).hexdigest(), (suffix, name)
        assert told["jump"] == "COMPLETE"
        assert told["gain"] == cut[3].references["gain"].name
        assert told["first"] == 21
        assert told["unit"] == ("DN" if suffix == "ramp" else "DN/s")
        assert told["software"].startswith("tsostream ")
        if suffix != "rate":
            expected = fits.getdata(source, "INT_TIMES")["int_mid_BJD_TDB"]
            np.testing.assert_array_equal(told["times"], expected)

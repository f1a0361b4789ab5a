"""calints and crfints: layout, keywords, values, whatever the blocks; the official ones from the official calints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import Simulated, make_rateints, reduce

import tsostream
from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.simulate import SimulatedExposure

#: so low that there is something to see
LOW = {"settings": ["outlier_detection.snr=3.5"]}
CASES = ("miri_slitless", "miri_sub64", "nrc_sub64p", "nrc_subgrism64", "nrs_sub512", "nrs_sub512_short")


@pytest.mark.parametrize("case", CASES)
def test_crfints_are_the_official_ones(case: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden_stage2" / case
    (calints,) = folder.glob("*_calints.fits.gz")
    (crfints,) = folder.glob("*_crfints.fits.gz")
    tsostream.process(
        calints, tmp_path / "lc.arrow", refs_dir=folder, parity="jwst", products=["crfints"], workers=2,
        block_bytes=1 << 17, skip_steps=[],
    )  # fmt: skip
    with fits.open(tmp_path / crfints.name.removesuffix(".gz")) as ours, fits.open(crfints) as official:
        names = [hdu.name for hdu in official]
        assert [hdu.name for hdu in ours] == names
        assert ours[0].header["DATAMODL"] == official[0].header["DATAMODL"]
        assert ours[0].header["S_OUTLIR"] == "COMPLETE"
        for key in ("BUNIT", "PHOTMJSR", "PIXAR_SR", "SRCTYPE"):
            assert ours["SCI"].header.get(key) == official["SCI"].header.get(key)
        for key, value in official[0].header.items():
            if key.startswith("S_"):
                assert ours[0].header[key] == value, key
        for name in names[1:]:
            if name not in ("INT_TIMES", "ASDF"):
                np.testing.assert_array_equal(ours[name].data, official[name].data, err_msg=name)


@pytest.fixture(scope="module")
def exposure(tmp_path_factory: pytest.TempPathFactory, simulated: Simulated) -> SimulatedExposure:
    return simulated("NRS_BRIGHTOBJ", ints=40, segments=2, seed=5, oof=0)


@pytest.fixture(scope="module")
def made(exposure: SimulatedExposure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("calibrated")
    reduce(
        exposure, directory / "lc.arrow", products=["rateints", "calints", "crfints"], block_bytes=1, **LOW
    )
    return directory


def product(directory: Path, source: Path, suffix: str) -> Path:
    return directory / source.name.replace("uncal", suffix)


def test_files_of_each_segment(made: Path, exposure: SimulatedExposure) -> None:
    assert not list(made.glob("*.part"))
    flagged = 0
    for path in exposure.segments:
        with (
            fits.open(product(made, path, "rateints")) as rate,
            fits.open(product(made, path, "calints")) as cal,
            fits.open(product(made, path, "crfints")) as crf,
        ):
            names = [
                "PRIMARY", "SCI", "ERR", "DQ", "WAVELENGTH", "VAR_POISSON", "VAR_RNOISE", "INT_TIMES", "ASDF",
            ]  # fmt: skip
            for hdus in (cal, crf):
                assert [hdu.name for hdu in hdus] == names
                assert hdus[0].header["DATAMODL"] == "SlitModel"
                assert hdus[0].header["S_RAMP"] == "COMPLETE"
                assert hdus[0].header["S_FLAT"] == "SKIPPED"
                assert hdus["SCI"].header["BUNIT"] == "DN/s"
                assert hdus[0].header["INTSTART"] == rate[0].header["INTSTART"]
            assert crf[0].header["S_OUTLIR"] == "COMPLETE"
            assert "S_OUTLIR" not in cal[0].header
            for name in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE"):
                np.testing.assert_array_equal(cal[name].data, crf[name].data, err_msg=name)
            np.testing.assert_array_equal(cal["SCI"].data, rate["SCI"].data)
            new = crf["DQ"].data & ~cal["DQ"].data
            assert set(np.unique(new)) <= {0, dq.OUTLIER | dq.DO_NOT_USE}
            flagged += np.count_nonzero(new)
    assert flagged > 0


@pytest.mark.parametrize("options", [{"block_bytes": 1 << 22, "workers": 1}, {"workers": 4}])
def test_blocks_and_workers_do_not_matter(
    options: dict, made: Path, exposure: SimulatedExposure, tmp_path: Path
) -> None:
    reduce(exposure, tmp_path / "lc.arrow", products=["crfints"], **options, **LOW)
    for path in exposure.segments:
        with (
            fits.open(product(made, path, "crfints")) as one,
            fits.open(product(tmp_path, path, "crfints")) as two,
        ):
            for name in ("SCI", "ERR", "DQ", "WAVELENGTH"):
                assert one[name].data.tobytes() == two[name].data.tobytes(), name


def test_segments_do_not_matter(
    made: Path, exposure: SimulatedExposure, simulated: Simulated, tmp_path: Path
) -> None:
    """A window reaches across files."""
    other = simulated("NRS_BRIGHTOBJ", ints=40, segments=5, seed=5, oof=0)
    reduce(other, tmp_path / "lc.arrow", products=["crfints"], **LOW)
    flags = [
        np.concatenate([fits.getdata(product(where, path, "crfints"), "DQ") for path in one.segments])
        for where, one in ((made, exposure), (tmp_path, other))
    ]
    np.testing.assert_array_equal(*flags)


def test_from_rateints_to_the_same_rows(made: Path, exposure: SimulatedExposure, tmp_path: Path) -> None:
    """Slopes that were saved go the rest of the way: the same calints, and headers keep what was done."""
    rates = [product(made, path, "rateints") for path in exposure.segments]
    reduce(exposure, tmp_path / "lc.arrow", rates, products=["calints"])
    for path in exposure.segments:
        with (
            fits.open(product(made, path, "calints")) as one,
            fits.open(product(tmp_path, path, "calints")) as two,
        ):
            np.testing.assert_array_equal(one["SCI"].data, two["SCI"].data)
            assert two[0].header["S_JUMP"] == "COMPLETE"
            assert two[0].header["R_DARK"] == one[0].header["R_DARK"]


def test_names_from_an_association(made: Path, exposure: SimulatedExposure, tmp_path: Path) -> None:
    for path in exposure.segments:
        shutil.copy(product(made, path, "calints"), tmp_path)
    members = [
        {"expname": product(tmp_path, path, "calints").name, "exptype": "science"}
        for path in exposure.segments
    ]
    association = tmp_path / "asn.json"
    association.write_text(
        json.dumps(
            {"asn_type": "tso3", "asn_id": "o002", "products": [{"name": "jw1-o002_t1", "members": members}]}
        )
    )
    reduce(exposure, tmp_path / "lc.arrow", [association], products=["crfints"])
    assert len(list(tmp_path.glob("*_o002_crfints.fits"))) == 2


def test_results_of_single_steps(exposure: SimulatedExposure, tmp_path: Path) -> None:
    reduce(exposure, tmp_path / "lc.arrow", save_steps=["outlier_detection"], save_ints="3-5")
    path = product(tmp_path, exposure.segments[0], "outlier_detection")
    with fits.open(path) as hdus:
        assert hdus["SCI"].shape[0] == 3
        assert hdus[0].header["S_OUTLIR"] == "COMPLETE"


def test_refused(made: Path, exposure: SimulatedExposure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crfints are what outlier_detection makes, which is skipped"):
        reduce(exposure, tmp_path / "lc.arrow", products=["crfints"], skip_steps=["outlier_detection"])
    calints = [product(made, path, "calints") for path in exposure.segments]
    with pytest.raises(ConfigError, match="there are no calints to make from it"):
        reduce(exposure, tmp_path / "lc.arrow", calints, products=["calints"])


def test_calibrated_slopes_have_units_and_flat_variance(simulated: Simulated, tmp_path: Path) -> None:
    """--calibrated: what photom and flat_field do stands in the file, and the rows come in its unit."""
    exposure = simulated("MIR_IMAGE", ints=12, seed=3)
    paths = make_rateints(exposure, tmp_path / "rates", bounds=[12])
    _references(exposure, tmp_path)
    reduce(
        exposure, tmp_path / "lc.arrow", paths, calibrated=True, products=["calints"],
        overrides=[f"flat={tmp_path / 'flat.fits'}", f"photom={tmp_path / 'photom.fits'}"],
    )  # fmt: skip
    with (
        fits.open(tmp_path / paths[0].name.replace("rateints", "calints")) as hdus,
        fits.open(paths[0]) as given,
    ):
        assert [hdu.name for hdu in hdus][:5] == ["PRIMARY", "SCI", "ERR", "DQ", "INT_TIMES"]
        assert "VAR_FLAT" in hdus
        assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
        assert hdus["SCI"].header["PHOTMJSR"] == 0.5
        assert hdus[0].header["S_PHOTOM"] == "COMPLETE"
        good = (hdus["DQ"].data & 1) == 0
        assert good.mean() > 0.5
        np.testing.assert_allclose(hdus["SCI"].data[good], given["SCI"].data[good] / 2 * 0.5, rtol=1e-5)
        np.testing.assert_allclose(
            hdus["VAR_FLAT"].data[good], (hdus["SCI"].data[good] * 0.01 / 2) ** 2, rtol=1e-4
        )


def _references(exposure: SimulatedExposure, directory: Path) -> None:
    header = fits.getheader(exposure.segments[0])
    primary = fits.PrimaryHDU()
    for key in ("TELESCOP", "INSTRUME", "DETECTOR", "FILTER", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1"):
        primary.header[key] = header[key]
    primary.header["SUBSIZE2"] = header["SUBSIZE2"]
    shape = header["SUBSIZE2"], header["SUBSIZE1"]
    primary.header["REFTYPE"] = "FLAT"
    planes = {"SCI": np.full(shape, 2.0, np.float32), "ERR": np.full(shape, 0.01, np.float32)}
    hdus = [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]
    hdus.append(fits.ImageHDU(np.zeros(shape, np.uint32), name="DQ"))
    fits.HDUList([primary, *hdus]).writeto(directory / "flat.fits")
    primary = primary.copy()
    primary.header["REFTYPE"] = "PHOTOM"
    primary.header["PIXAR_SR"], primary.header["PIXAR_A2"] = 2.8e-13, 0.0121
    columns = [
        fits.Column("filter", "12A", array=[header["FILTER"]]),
        fits.Column("subarray", "15A", array=["GENERIC"]),
        fits.Column("photmjsr", "E", array=[0.5]),
        fits.Column("uncertainty", "E", array=[0.0]),
    ]
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="PHOTOM")]).writeto(
        directory / "photom.fits"
    )


@pytest.mark.oracle
def test_they_open_in_the_official_models(made: Path, exposure: SimulatedExposure) -> None:
    python = os.environ.get("TSOSTREAM_JWST_PYTHON")
    if not python:
        pytest.skip("TSOSTREAM_JWST_PYTHON does not name an interpreter with jwst")
    paths = [str(product(made, exposure.segments[0], suffix)) for suffix in ("calints", "crfints")]
    code = (
        "import sys\nfrom jwst import datamodels\n"
        "for path in sys.argv[1:]:\n"
        "    with datamodels.open(path) as model:\n"
        "        assert type(model).__name__ == 'SlitModel', type(model)\n"
        "        assert model.meta.bunit_data == 'DN/s'\n"
        "        print(model.data.shape, model.dq.dtype, model.wavelength.shape, len(model.int_times),\n"
        "              model.meta.cal_step.outlier_detection)\n"
    )
    done = subprocess.run([python, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(20, 16, 160) uint32 (16, 160) 20 None"
    assert done.stdout.split("\n")[1] == "(20, 16, 160) uint32 (16, 160) 20 COMPLETE"

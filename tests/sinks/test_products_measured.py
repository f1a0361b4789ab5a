"""x1dints, whtlt and phot as files: what goes in comes back, for astropy and for the official data models."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import InputError, OutputExistsError, SinkError
from tsostream.integration.payload import Measurement, Times
from tsostream.sinks.products.ecsv import Column, EcsvProduct, ecsv_header, ecsv_rows, read_table, row_dtype
from tsostream.sinks.products.measured import MeasuredProducts, MeasuredSpec
from tsostream.sinks.products.slabs import part_path
from tsostream.sinks.products.spectra import ExposureHeader, spectra_bytes, spectrum_dtype
from tsostream.testing.oracle import official_python

EXPOSURE = {
    "instrument": "NIRISS", "detector": "NIS", "exp_type": "NIS_SOSS", "subarray": "SUBSTRIP96", "filter": "CLEAR",
    "pupil": "GR700XD", "channel": "",
}  # fmt: skip
WAVE = {1: [2.8, 2.0, 0.85], 2: [1.4, 0.6, None]}


def times(first: int, count: int) -> Times:
    numbers = np.arange(first, first + count)[:, None]
    return Times(59770.0 + numbers + 0.1 * np.arange(6), np.zeros(count, np.uint32))


def spectra(first: int, count: int, keys: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    whole = rng.normal(1e3, 1, (200, keys, 3))
    part = slice(first, first + count)
    return {
        "flux": whole[part],
        "flux_err": whole[part] / 100,
        "dq": rng.integers(0, 2**32, (200, keys, 3), dtype=np.uint32)[part],
        "npixels": np.full((count, keys, 3), 8.0),
        "background_var_flat": whole[part] * 2,
    }


def measurement(first: int, count: int, present: np.ndarray | None = None) -> Measurement:
    keys = ((1, 0), (1, 1), (2, 0))
    flux = 1e6 + np.arange(first, first + count)[:, None] + 0.5 * np.arange(3)
    here = np.ones(count, bool) if present is None else present
    return Measurement(
        first,
        times(first, count),
        keys,
        {"flux": flux, "flux_err": flux / 1e3},
        spectra(first, count, 3),
        here,
    )


def spec(tmp_path: Path, first: int = 3, count: int = 20, **changes: Any) -> MeasuredSpec:
    given = {
        "paths": {
            kind: tmp_path / f"jw_{kind}.{end}" for kind, end in (("x1dints", "fits"), ("whtlt", "ecsv"))
        },
        "metadata": {"exposure": EXPOSURE, "flux_unit": "DN/s", "wavelength": WAVE, "target_name": "WASP-39"},
        "first": first,
        "count": count,
        "orders": (1, 2),
        "segments": ((1, 1), (11, 2)),
        "header": ExposureHeader(None, {"TELESCOP": "JWST", "TSOVISIT": True, "NINTS": 40}),
        "cards": {1: {"SPORDER": 1, "DETECTOR": "NIS"}, 2: {"SPORDER": 2, "DETECTOR": "NIS"}},
    }
    return MeasuredSpec(**{**given, **changes})


def make(wanted: MeasuredSpec, blocks: list[tuple[int, int]], **options: Any) -> MeasuredProducts:
    products = MeasuredProducts(wanted, **options)
    for first, count in blocks:
        products.add(measurement(first, count))
    products.publish()
    return products


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(4, 22)), shuffle=st.randoms())
def test_blocks_do_not_matter(tmp_path_factory: pytest.TempPathFactory, cuts: set[int], shuffle: Any) -> None:
    edges = [3, *sorted(cuts), 23]
    blocks = [(a, b - a) for a, b in itertools.pairwise(edges)]
    shuffle.shuffle(blocks)
    images = []
    for some in (blocks, [(3, 20)]):
        folder = tmp_path_factory.mktemp("x")
        files = make(spec(folder, parity=len(cuts) % 2 == 0), some).files
        images.append([b"".join(p for p in file.path.read_bytes().split(b"DATE")) for file in files])
        assert not list(folder.glob("*.part"))
    whole, one = images
    for a, b in zip(whole, one, strict=True):
        assert len(a) == len(b)
        assert a[-8640:] == b[-8640:]


def test_the_table_of_the_exposure(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    make(wanted, [(3, 4), (15, 8), (7, 8)])
    path = wanted.paths["x1dints"]
    with fits.open(path, uint=True) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "INT_TIMES", "EXTRACT1D", "EXTRACT1D"]
        assert hdus[0].header["DATAMODL"] == "TSOMultiSpecModel"
        assert (hdus[0].header["INTSTART"], hdus[0].header["INTEND"]) == (3, 22)
        assert hdus["INT_TIMES"].data["integration_number"].tolist() == list(range(3, 23))
        truth = spectra(3, 20, 3)
        for order, place in ((1, 0), (2, 2)):
            hdu = hdus["EXTRACT1D", order]
            assert (hdu.header["SPORDER"], hdu.header["NAXIS1"], hdu.header["NAXIS2"]) == (
                order,
                60 + 140 * 3,
                20,
            )
            data = hdu.data
            np.testing.assert_array_equal(data["FLUX"], truth["flux"][:, place])
            np.testing.assert_array_equal(data["DQ"], truth["dq"][:, place])
            np.testing.assert_array_equal(data["BKGD_VAR_FLAT"], truth["background_var_flat"][:, place])
            assert np.isnan(data["SURF_BRIGHT"]).all()
            assert data["INT_NUM"].tolist() == list(range(3, 23))
            assert data["SEGMENT"].tolist() == [1] * 8 + [2] * 12
            assert data["N_ALONGDISP"].tolist() == [4 - order] * 20
            np.testing.assert_array_equal(data["TDB-MID"], times(3, 20).values[:, 4])
            np.testing.assert_array_equal(data["WAVELENGTH"][7], np.array(WAVE[order], float))
            assert hdu.header["TUNIT3"] == "DN/s"
            assert hdu.header["TUNIT5"] == "DN^2 / s^2"
    assert abs(path.stat().st_size - spectra_bytes(3, 20, 2)) < 20000


def test_parity_has_a_table_per_segment_and_order(tmp_path: Path) -> None:
    wanted = spec(tmp_path, parity=True)
    make(wanted, [(3, 20)])
    with fits.open(wanted.paths["x1dints"]) as hdus:
        found = [
            (hdu.header["SPORDER"], hdu.data["INT_NUM"][0], len(hdu.data), set(hdu.data["SEGMENT"]))
            for hdu in hdus[2:]
        ]
    with fits.open(wanted.paths["x1dints"]) as hdus:
        assert (hdus["EXTRACT1D", 1].data["SB_ERROR"] == 0).all(), "as the official SOSS tables"
    assert found == [(1, 3, 8, {1}), (2, 3, 8, {1}), (1, 11, 12, {2}), (2, 11, 12, {2})]
    names = QTable.read(wanted.paths["whtlt"]).colnames
    assert names == ["MJD_UTC", "BJD_TDB", "whitelight_flux_order_1", "whitelight_flux_order_2"]


def test_white_light_with_errors(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    make(wanted, [(3, 20)])
    table = QTable.read(wanted.paths["whtlt"])
    assert table.meta["number_of_integrations"] == 20
    assert table.meta["target_name"] == "WASP-39"
    flux = measurement(3, 20).columns["flux"]
    np.testing.assert_array_equal(table["whitelight_flux_order_2"].value, flux[:, 2])
    np.testing.assert_array_equal(table["whitelight_flux_err_order_1"].value, flux[:, 0] / 1e3)
    assert table["whitelight_flux_order_1"].unit == u.DN / u.s
    np.testing.assert_array_equal(table["BJD_TDB"], times(3, 20).values[:, 4])


def test_absent_integrations_are_rows_without_values(tmp_path: Path) -> None:
    wanted = spec(tmp_path, count=4)
    products = MeasuredProducts(wanted)
    here = np.array([True, False, True, True])
    products.add(measurement(3, 4, here))
    products.publish()
    with fits.open(wanted.paths["x1dints"], uint=True) as hdus:
        data = hdus["EXTRACT1D", 1].data
        assert np.isfinite(data["FLUX"]).all(axis=1).tolist() == here.tolist()
        assert (data["DQ"][1] == 1).all()
        assert (data["NPIXELS"][1] == 0).all()
    flux = QTable.read(wanted.paths["whtlt"])["whitelight_flux_order_1"]
    assert np.isfinite(flux).tolist() == here.tolist()


def test_times_that_repeat_are_left_out_in_parity_only(tmp_path: Path) -> None:
    columns = [Column("MJD_UTC"), Column("whitelight_flux", "Jy")]
    values = {"MJD_UTC": np.array([1.0, 1.0, np.nan, 2.0]), "whitelight_flux": np.arange(4.0)}
    for distinct, left in (("MJD_UTC", [0.0, 3.0]), ("", [0.0, 1.0, 2.0, 3.0])):
        product = EcsvProduct(tmp_path / f"x{distinct}_whtlt.ecsv", columns, {}, 1, 4, distinct=distinct)
        product.add(1, values)
        product.publish()
        assert QTable.read(product.path)["whitelight_flux"].value.tolist() == left


def test_unfinished_products_keep_their_part(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    products = MeasuredProducts(wanted)
    products.add(measurement(3, 5))
    with pytest.raises(SinkError, match="holds 5 of 20 integrations"):
        products.publish()
    products.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jw_whtlt.ecsv.part", "jw_x1dints.fits.part"]
    with pytest.raises(OutputExistsError):
        MeasuredProducts(wanted).add(measurement(3, 5))
    make(wanted, [(3, 20)], overwrite=True)
    assert not part_path(wanted.paths["whtlt"]).exists()


def test_an_unfinished_session_is_continued(tmp_path: Path) -> None:
    from tsostream.sinks.products.files import Resumed

    wanted = spec(tmp_path)
    products = MeasuredProducts(wanted)
    products.add(measurement(3, 5))
    products.add(measurement(8, 7))
    products.close()
    # what came after the last journal line is done again
    products = MeasuredProducts(wanted, resume=Resumed(8))
    products.add(measurement(8, 15))
    products.publish()
    (tmp_path / "whole").mkdir()
    whole = spec(tmp_path / "whole")
    make(whole, [(3, 20)])
    assert wanted.paths["whtlt"].read_bytes() == whole.paths["whtlt"].read_bytes()
    for number in (1, 2, 3):
        one, other = (fits.getdata(some.paths["x1dints"], number) for some in (wanted, whole))
        assert one.tobytes() == other.tobytes()
    MeasuredProducts(wanted, resume=Resumed(23, named=True)).publish()


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(-(2**62), 2**62)), min_size=1, max_size=5))
def test_text_is_what_astropy_writes(rows: list[tuple[float, float, int]]) -> None:
    """And comes back bit for bit."""
    import io

    columns = [Column("MJD"), Column("net_aperture_sum", "Jy"), Column("number", "", integer=True)]
    meta = {"instrument": "NIRCAM", "target_name": None, "number_of_integrations": len(rows)}
    ours = ecsv_header(columns, meta) + ecsv_rows(np.array(rows, row_dtype(columns)))
    table = QTable(meta=meta)
    for place, column in enumerate(columns):
        values = np.array([row[place] for row in rows], column.dtype)
        table[column.name] = values << u.Unit(column.unit) if column.unit else values
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    assert ours == text.getvalue()
    back = Table.read(ours, format="ascii.ecsv")
    assert back["MJD"].tolist() == pytest.approx([row[0] for row in rows], rel=0, nan_ok=True)
    assert back["number"].tolist() == [row[2] for row in rows]


def test_either_name_of_the_white_light_is_read(tmp_path: Path, shared: Path) -> None:
    source = shared / "golden_stage2" / "nrs_sub512" / "whtlt.ecsv"
    (tmp_path / "jw_wtlt.ecsv").write_bytes(source.read_bytes())
    for name in ("jw_wtlt.ecsv", "jw_whtlt.ecsv"):
        assert read_table(tmp_path / name).colnames[0] == "MJD_UTC_NRS1"
    with pytest.raises(InputError, match="is not there"):
        read_table(tmp_path / "jw_phot.ecsv")
    (tmp_path / "bad_whtlt.ecsv").write_text("hello\n")
    with pytest.raises(InputError, match="no ECSV table"):
        read_table(tmp_path / "bad_whtlt.ecsv")


def test_headers_are_those_of_the_official_tables(shared: Path) -> None:
    """Letter by letter, but for the line that only the pipeline (not the step) adds."""
    from tsostream.sinks.products.tables import phot_columns, phot_meta, whtlt_columns, whtlt_meta

    folder = shared / "golden_stage2"
    facts = {"instrument": "NIRSPEC", "detector": "NRS1", "exp_type": "NRS_BRIGHTOBJ", "subarray": "SUB512"}
    metadata: dict[str, Any] = {"exposure": {**facts, "filter": "CLEAR", "pupil": ""}, "flux_unit": "Jy"}
    ours = ecsv_header(whtlt_columns(metadata, (1,), errors=False), whtlt_meta(metadata, 40))
    lines = [line for line in ours.splitlines() if "number_of_integrations" not in line]
    theirs = (folder / "nrs_sub512" / "whtlt.ecsv").read_text().splitlines()
    assert lines == theirs[: len(lines)]
    facts = {"instrument": "NIRCAM", "detector": "NRCB1", "channel": "SHORT", "subarray": "SUB64P"}
    metadata = {
        "exposure": {**facts, "filter": "F210M", "pupil": "CLEAR"}, "flux_unit": "Jy", "radius": 3.0,
        "radius_inner": 4.0, "radius_outer": 5.0,
    }  # fmt: skip
    ours = ecsv_header(phot_columns(metadata), phot_meta(metadata, 40))
    lines = [line for line in ours.splitlines() if "number_of_integrations" not in line]
    theirs = (folder / "nrc_sub64p" / "phot.ecsv").read_text().splitlines()
    assert lines == theirs[: len(lines)]


def test_the_columns_are_those_of_the_official_spectra(shared: Path, tmp_path: Path) -> None:
    wanted = spec(tmp_path, parity=True, background_unit="MJy/sr")
    make(wanted, [(3, 20)])
    with (
        fits.open(wanted.paths["x1dints"]) as ours,
        fits.open(shared / "golden_stage2" / "nrs_sub512" / "x1dints.fits") as theirs,
    ):
        a, b = ours["EXTRACT1D", 1].header, theirs["EXTRACT1D", 1].header
        for key in b:
            if key.startswith(("TTYPE", "TZERO", "TSCAL")) or (
                key.startswith("TUNIT") and not b[f"TTYPE{key[5:]}"].startswith("FLUX")
            ):
                assert a[key] == b[key], key
            if key.startswith("TFORM"):
                assert a[key].replace("3", "96") == b[key], key
        assert [key for key in a if key.startswith("TUNIT")] == [key for key in b if key.startswith("TUNIT")]


LOOK = """
import json, sys, hashlib
from stdatamodels.jwst import datamodels as dm
with dm.open(sys.argv[1]) as model:
    spec = [one.spec_table for one in model.spec]
    print(json.dumps({"model": type(model).__name__, "tables": len(spec), "flux": spec[1]["FLUX"].tolist(),
        "dq": spec[0]["DQ"].tolist(), "order": [one.spectral_order for one in model.spec],
        "times": model.int_times["int_mid_BJD_TDB"].tolist(), "along": spec[0]["N_ALONGDISP"].tolist(),
        "unit": model.spec[0].spec_table.columns["FLUX"].unit}))
"""


@pytest.mark.oracle
@pytest.mark.skipif(
    not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name an interpreter with jwst"
)
def test_the_official_package_reads_the_spectra(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    make(wanted, [(3, 20)])
    done = subprocess.run(
        [official_python(), "-W", "ignore", "-c", LOOK, str(wanted.paths["x1dints"])],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    truth = spectra(3, 20, 3)
    assert (told["model"], told["tables"], told["order"]) == ("TSOMultiSpecModel", 2, [1, 2])
    np.testing.assert_array_equal(told["flux"], truth["flux"][:, 2])
    np.testing.assert_array_equal(told["dq"], truth["dq"][:, 0])
    np.testing.assert_array_equal(told["times"], times(3, 20).values[:, 4])
    assert told["along"] == [3] * 20
    assert told["unit"] == "DN/s"


BIG = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_products_measured import EXPOSURE, Measurement, MeasuredProducts, Times, spec
n, wave = 130_000, 32
folder = Path(sys.argv[1])
metadata = {"exposure": EXPOSURE, "flux_unit": "electron", "wavelength": np.linspace(1, 2, wave).tolist()}
products = MeasuredProducts(spec(folder, 1, n, metadata=metadata, orders=(1,), segments=((1, 1),), cards={}))
before = None
for first in range(1, n + 1, 1000):
    count = min(1000, n + 1 - first)
    clock = 59770 + np.arange(first, first + count)[:, None] * 1e-6 + np.zeros(6)
    flux = np.full((count, 1, wave), float(first))
    products.add(Measurement(first, Times(clock, np.zeros(count, np.uint32)), ((1, 0),),
        {"flux": flux.sum(-1)}, {"flux": flux}, np.ones(count, bool)))
    if first == 10_001:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
products.publish()
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_130_000_integrations_in_constant_memory(tmp_path: Path) -> None:
    """The archive could not save this table; here the peak is that of the first ten thousand."""
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 20 << 10, "kB"
    path = tmp_path / "jw_x1dints.fits"
    assert path.stat().st_size > 130_000 * spectrum_dtype(32).itemsize
    with fits.open(path, memmap=True) as hdus:
        table = hdus["EXTRACT1D"]
        assert len(table.data) == 130_000
        assert table.data["INT_NUM"][[0, 99_999, 129_999]].tolist() == [1, 100_000, 130_000]
        np.testing.assert_array_equal(table.data["FLUX"][129_999], np.full(32, 129_001.0))
    with (tmp_path / "jw_whtlt.ecsv").open() as file:
        assert sum(1 for line in file if not line.startswith("#")) == 130_001

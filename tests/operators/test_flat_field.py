"""flat_field: its twin, the three NIRSpec factors, refusals, and the official step. Tolerance: 1e-6 (float32)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_references import dq_def, fast_table, images, primary, write_flat, write_nirspec

from tsostream.errors import ReferenceMismatchError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding
from tsostream.operators.flat_field import FlatField, divide_by_flat
from tsostream.operators.nirspec_flat import combined_flat
from tsostream.references.loading import load_reference
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.naive.calibration import naive_divide_by_flat
from tsostream.testing.oracle import official_python
from tsostream.testing.rate_oracle import RateCase, assert_parity, run_official_rates

NAMES = ("data", "err", "var_poisson", "var_rnoise", "var_flat")


def nirspec(**changes: Any) -> ExposureInfo:
    return make_info(
        "NRS_BRIGHTOBJ",
        filter="CLEAR",
        grating="PRISM",
        tsovisit=True,
        level="rateints",
        ny=12,
        nx=40,
        **changes,
    )


def waves(info: ExposureInfo) -> np.ndarray:
    """Curved wavelengths with rows and columns that have none."""
    y, x = np.indices(info.frame_shape)
    wave = np.linspace(0.5, 5.3, info.nx)[x] + 0.01 * (y - 5)
    wave[:2], wave[-1], wave[:, :3], wave[4, 7:9] = np.nan, np.nan, np.nan, np.nan
    return wave.astype("f4").astype("f8")


def copy(rate: Rate) -> Rate:
    names = [one.name for one in dataclasses.fields(rate) if isinstance(getattr(rate, one.name), np.ndarray)]
    return dataclasses.replace(rate, **{name: getattr(rate, name).copy() for name in names})


def load(paths: dict[str, Path], info: ExposureInfo) -> dict[str, Any]:
    return {name: load_reference(path, name, info, notes=[]) for name, path in paths.items()}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_agrees_with_its_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("NRC_TSIMAGE", ny=5, nx=7)
    rate = make_rate(info, rng, 2, broken=0.03, bad=0.05)
    flat = rng.uniform(0.2, 3, info.frame_shape).astype("f4")
    error = rng.uniform(0, 0.1, info.frame_shape).astype("f4")
    flags = rng.choice([0, 0, 0, dq.DO_NOT_USE, dq.LOW_QE], info.frame_shape).astype("u4")
    planes = {name: getattr(rate, name).astype("f8") for name in NAMES[:4]} | {
        "var_flat": np.zeros(rate.data.shape)
    }
    bits, var_flat = rate.dq.copy(), np.empty_like(rate.data)
    with np.errstate(all="ignore"):
        naive_divide_by_flat(planes, bits, flat, error, flags)
    divide_by_flat(
        rate.data,
        rate.err,
        rate.var_poisson,
        rate.var_rnoise,
        var_flat,
        rate.dq,
        1 / flat,
        error / flat,
        flags,
    )
    out = dataclasses.replace(rate, var_flat=var_flat)
    np.testing.assert_array_equal(out.dq, bits)
    for name, values in planes.items():
        np.testing.assert_allclose(getattr(out, name), values, rtol=1e-6, err_msg=name)


def test_what_cannot_be_divided_by_is_flagged_and_lost(tmp_path: Path) -> None:
    info, rng = make_info("MIR_IMAGE", level="rateints"), np.random.default_rng(0)
    reference = load({"flat": write_flat(tmp_path / "flat.fits", info, rng)}, info)
    step = FlatField().bind(Binding(info, reference))
    value, bits = reference["flat"].arrays["SCI"], reference["flat"].arrays["DQ"]
    lost = np.isnan(value) | (value == 0) | ((bits & (dq.DO_NOT_USE | dq.NO_FLAT_FIELD)) != 0)
    np.testing.assert_array_equal((step.pixeldq & dq.DO_NOT_USE) != 0, lost)
    (out,) = step.push(make_rate(info, rng, 3, bad=0))
    np.testing.assert_array_equal(np.isnan(out.data), np.broadcast_to(lost, out.data.shape))
    assert out.var_flat is not None
    assert (out.err[np.isfinite(out.err)] > 0).all()


def test_inverse_undoes_it(tmp_path: Path) -> None:
    info, rng = make_info("NRC_TSGRISM", level="rateints"), np.random.default_rng(1)
    reference = load({"flat": write_flat(tmp_path / "flat.fits", info, rng)}, info)
    rate = make_rate(info, rng, 2, bad=0)
    before = rate.data.copy()
    (there,) = FlatField().bind(Binding(info, reference)).push(rate)
    (back,) = FlatField(inverse=True).bind(Binding(info, reference)).push(there)
    known = np.isfinite(back.data)
    assert known.mean() > 0.8
    np.testing.assert_allclose(back.data[known], before[known], rtol=1e-6)
    assert back.var_flat is not None
    assert (back.var_flat[known] == 0).all()


def test_nirspec_without_flats_or_wavelengths_is_skipped(tmp_path: Path) -> None:
    info = nirspec()
    assert "fflat" in FlatField().bind(Binding(info)).skipped
    references = load(write_nirspec(tmp_path, info, np.random.default_rng(0)), info)
    assert "wavelength" in FlatField().bind(Binding(info, references)).skipped
    assert FlatField().wants(info) == ((), ("fflat", "sflat", "dflat"))


def test_factors_that_are_missing_are_told(tmp_path: Path) -> None:
    info = nirspec()
    references = load(write_nirspec(tmp_path, info, np.random.default_rng(0)), info)
    binding = Binding(info, {"fflat": references["fflat"]}, None, {"wavelength": {1: waves(info)}})
    step = FlatField().bind(binding)
    assert step.notes == ("no sflat and no dflat reference was found; taken as 1",)


def test_pixels_without_wavelength_are_lost(tmp_path: Path) -> None:
    info = nirspec()
    references = load(write_nirspec(tmp_path, info, np.random.default_rng(3)), info)
    flat = combined_flat(references, info, waves(info))
    outside = ~(waves(info) > 0.8) | ~(waves(info) < 4.8)
    bad = dq.DO_NOT_USE | dq.NO_FLAT_FIELD | dq.UNRELIABLE_FLAT
    assert ((flat.dq[outside] & bad) == bad).all()
    assert ((flat.dq & dq.DO_NOT_USE) == 0).mean() > 0.4


@pytest.mark.parametrize(
    ("name", "extension", "text"),
    [("fflat", "slit", "not for S1600A1"), ("dflat", "WAVELENGTH", "needs a table WAVELENGTH")],
)
def test_refusals_name_file_and_remedy(tmp_path: Path, name: str, extension: str, text: str) -> None:
    info = nirspec()
    references = load(write_nirspec(tmp_path, info, np.random.default_rng(0)), info)
    one = references[name]
    tables = {key: table.copy() for key, table in one.tables.items()}
    if extension == "slit":
        tables["FAST_VARIATION"]["slit_name"] = "S200A2"
    else:
        del tables[extension]
    references[name] = dataclasses.replace(one, tables=tables)
    with pytest.raises(ReferenceMismatchError, match=text) as caught:
        FlatField().bind(Binding(info, references, None, {"wavelength": {1: waves(info)}}))
    assert f"{name}.fits" in str(caught.value)


def test_the_window_is_cut_from_the_reference(tmp_path: Path) -> None:
    info = nirspec(xstart=101, ystart=11)
    references = load(write_nirspec(tmp_path, info, np.random.default_rng(3)), info)
    whole = combined_flat(references, info, waves(info))
    small = dataclasses.replace(info, xstart=105, ystart=13, nx=30, ny=8)
    part = combined_flat(Binding(small, references).references, small, waves(info)[2:10, 4:34])
    inner = (slice(None), slice(0, 29))
    np.testing.assert_allclose(part.value[inner], whole.value[2:10, 4:34][inner])


def test_real_files(shared: Path) -> None:
    """A detector flat cut to 32 x 512 without keywords, and the archive's fore-optics flat of the prism."""
    info = make_info(
        "NRS_BRIGHTOBJ", filter="CLEAR", grating="PRISM", subarray="SUB512", ny=32, nx=512, level="rateints"
    )
    files = {
        "dflat": shared / "data/nirspec_dflat_PRISM_32x512.fits",
        "fflat": shared / "data/nirspec_fflat_0017.fits",
    }
    references = load(files, info)
    wave = {1: np.linspace(0.6, 5.29, 512)}
    step = FlatField().bind(Binding(info, references, None, {"wavelength": wave}))
    rate = make_rate(info, np.random.default_rng(0), 2, bad=0)
    before = rate.data.copy()
    (out,) = step.push(rate)
    known = np.isfinite(out.data)
    assert known.mean() > 0.9
    row = references["fflat"].tables["FAST_VARIATION"]
    row = row[[str(name) == "S1600A1" for name in row["slit_name"]]][0]
    table = (row["wavelength"].astype("f8"), row["data"].astype("f8"))
    good = table[1] != 0
    step_size = np.append(np.diff(wave[1]), wave[1][-1] - wave[1][-2])
    half = np.sqrt(0.6) / 2
    fast = sum(
        weight / 18 * np.interp(wave[1] + place * step_size, table[0][good], table[1][good])
        for place, weight in ((-half, 5), (0.0, 8), (half, 5))
    )
    expected = before / references["dflat"].arrays["SCI"] / fast
    np.testing.assert_allclose(out.data[known], expected[known], rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_against_the_official_step(tmp_path: Path) -> None:
    cases: list[RateCase] = []
    results: list[Rate] = []
    none = dict.fromkeys(("flat", "fflat", "sflat", "dflat"), "N/A")
    for exp_type in ("NRC_TSGRISM", "NIS_SOSS", "MIR_LRS-SLITLESS", "NRC_TSIMAGE", "MIR_IMAGE"):
        info, rng = make_info(exp_type, level="rateints", tsovisit=True), np.random.default_rng(5)
        path = write_flat(tmp_path / f"{exp_type}.fits", info, rng)
        rate = make_rate(info, rng, 3, bad=0.05)
        cases.append(RateCase("flat_field", info, copy(rate), references={**none, "flat": path}))
        results += FlatField().bind(Binding(info, load({"flat": path}, info))).push(rate)
    for slow, names in (("cube", 3), ("image", 3), ("cube", 1)):
        info, rng = nirspec(xstart=101, ystart=11), np.random.default_rng(6)
        folder = tmp_path / f"{slow}{names}"
        folder.mkdir()
        # the official step cuts full frames only
        paths = write_nirspec(folder, dataclasses.replace(info, xstart=1, ystart=1), rng, slow=slow)
        info = dataclasses.replace(info, xstart=1, ystart=1)
        paths = dict(list(paths.items())[:names])
        rate = make_rate(info, rng, 3, bad=0.05)
        cases.append(RateCase("flat_field", info, copy(rate), waves(info), references={**none, **paths}))
        binding = Binding(info, load(paths, info), None, {"wavelength": {1: waves(info)}})
        results += FlatField().bind(binding).push(rate)
    for case, result, official in zip(cases, results, run_official_rates(cases), strict=True):
        assert official.get("status", {}).get("flat_field") == "COMPLETE", (case.info.exp_type, official)
        assert_parity(result, official)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_a_real_detector_flat_against_the_official_step(shared: Path, tmp_path: Path) -> None:
    """The detector's own pixels, with the keywords that the official step wants and the cut-out lacks."""
    info = make_info(
        "NRS_BRIGHTOBJ", filter="CLEAR", grating="PRISM", subarray="SUB512", ny=32, nx=512, level="rateints",
        detector="NRS1", xstart=1, ystart=1, tsovisit=True,
    )  # fmt: skip
    rng, path = np.random.default_rng(8), tmp_path / "dflat.fits"
    with fits.open(shared / "data/nirspec_dflat_PRISM_32x512.fits") as hdus:
        value = next(
            np.array(hdu.data, np.float32) for hdu in hdus if hdu.data is not None and hdu.data.ndim == 2
        )
    # the official step wants planes by wavelength
    cube = np.stack([value, 1.02 * value]).astype(np.float32)
    planes = np.array([(0.5,), (5.5,)], [("wavelength", "<f4")])
    head = primary(info, "DFLAT", "NirspecFlatModel", EXP_TYPE=info.exp_type)
    images_of = images(SCI=cube, ERR=0.01 * cube, DQ=np.zeros(cube.shape, np.uint32))
    waves_of = fits.BinTableHDU(planes, name="WAVELENGTH")
    fits.HDUList([head, *images_of, dq_def(), waves_of, fast_table(rng, ("ANY",), 0.5, 5.5)]).writeto(path)
    wave = np.broadcast_to(np.linspace(0.6, 5.29, 512), (32, 512)).copy()
    wave[:, :3] = np.nan
    rate = make_rate(info, rng, 2, bad=0.02)
    official = dict.fromkeys(("flat", "fflat", "sflat"), "N/A")
    case = RateCase("flat_field", info, copy(rate), wave, references={**official, "dflat": path})
    binding = Binding(info, load({"dflat": path}, info), None, {"wavelength": {1: wave}})
    (ours,) = FlatField().bind(binding).push(rate)
    (theirs,) = run_official_rates([case])
    assert "error" not in theirs, theirs
    assert_parity(ours, theirs)
    assert np.nanstd(value) > 1e-3

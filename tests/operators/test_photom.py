"""photom: its twin, the row of every mode, time correction, units, refusals, the official step. Tolerance 1e-6."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_references import PHOTOM, WAVE, write_area, write_photom

from tsostream.errors import ReferenceMismatchError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding
from tsostream.operators.photom import Photom, dispersion
from tsostream.operators.photom_tables import ARCSEC2, photom_row, pixel_area, soss_factor
from tsostream.operators.rate_sync import multiply_rate
from tsostream.references.loading import load_reference
from tsostream.testing.builders import make_info, make_measurement, make_rate
from tsostream.testing.naive.calibration import naive_multiply_rate
from tsostream.testing.oracle import official_python
from tsostream.testing.rate_oracle import RateCase, assert_parity, run_official_rates

NAMES = ("data", "err", "var_poisson", "var_rnoise", "var_flat")
MODES = list(PHOTOM)
ELEMENTS = {
    "NRS_BRIGHTOBJ": {"filter": "CLEAR", "grating": "PRISM"},
    "NRC_TSGRISM": {"filter": "F322W2", "pupil": "GRISMR"},
    "NIS_SOSS": {"filter": "CLEAR", "pupil": "GR700XD"},
    "MIR_LRS-SLITLESS": {"filter": "P750L"},
    "NRC_TSIMAGE": {"filter": "F210M", "pupil": "CLEAR"},
    "MIR_IMAGE": {"filter": "F1500W"},
}
RANGE = {"NRS_BRIGHTOBJ": (0.4, 5.3), "NRC_TSGRISM": (2.4, 4.1), "MIR_LRS-SLITLESS": (14.9, 4.0)}


def of_mode(exp_type: str, **changes: Any) -> ExposureInfo:
    facts = {
        "level": "rateints",
        "tsovisit": True,
        "header": {"EXPMID": 60123.4},
        **ELEMENTS[exp_type],
        **changes,
    }
    return make_info(exp_type, **facts)


def waves(info: ExposureInfo) -> np.ndarray:
    """Wavelengths beyond both ends of the table, curved, some unknown."""
    low, high = RANGE.get(info.exp_type, (0.6, 2.8))
    along = np.linspace(low, high, info.ny if info.dispaxis == 2 else info.nx)
    wave = np.broadcast_to(along[:, None] if info.dispaxis == 2 else along, info.frame_shape).copy()
    if info.exp_type == "NRS_BRIGHTOBJ":
        wave[3, 4:9], wave[:2] = np.nan, np.nan
    return wave.astype("f4").astype("f8")


def binding(info: ExposureInfo, **paths: Path) -> Binding:
    references = {name: load_reference(path, name, info, notes=[]) for name, path in paths.items()}
    return Binding(info, references, None, {"wavelength": {1: waves(info)}} if info.is_spectroscopy else {})


def copy(rate: Rate) -> Rate:
    names = [one.name for one in dataclasses.fields(rate) if isinstance(getattr(rate, one.name), np.ndarray)]
    return dataclasses.replace(rate, **{name: getattr(rate, name).copy() for name in names})


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), flat=st.booleans())
def test_agrees_with_its_twin(seed: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    rate = make_rate(make_info("NRC_TSIMAGE", ny=5, nx=7), rng, 2, broken=0.03, bad=0.05)
    if flat:
        rate.var_flat = rng.choice([np.nan, 0, 1, 3, 5], rate.data.shape).astype("f4")
    names = NAMES if flat else NAMES[:4]
    planes, bits = {name: getattr(rate, name).copy() for name in names}, rate.dq.copy()
    factor = rng.choice([0.5, 2.0, 1.7, 0.0, np.nan], (5, 7)).astype("f4")
    flags = rng.choice([0, 0, 0, dq.DO_NOT_USE, dq.LOW_QE], (5, 7)).astype("u4")
    with np.errstate(all="ignore"):
        naive_multiply_rate(planes, bits, factor, flags)
    var_flat = rate.var_flat if rate.var_flat is not None else np.empty((0, 0, 0), "f4")
    multiply_rate(rate.data, rate.err, rate.var_poisson, rate.var_rnoise, var_flat, rate.dq, factor, flags)
    np.testing.assert_array_equal(rate.dq, bits)
    for name, values in planes.items():
        np.testing.assert_allclose(getattr(rate, name), values, rtol=3e-7, err_msg=name)


@pytest.mark.parametrize("exp_type", MODES)
def test_the_row_of_every_mode(tmp_path: Path, exp_type: str) -> None:
    info = of_mode(exp_type)
    (reference,) = binding(info, photom=write_photom(tmp_path / "p.fits", info)).references.values()
    row = photom_row(reference, info)
    assert row is not None
    assert row.conversion == pytest.approx(3.4e-3, rel=1e-6)
    assert (row.wave is not None) == info.is_spectroscopy
    assert photom_row(reference, dataclasses.replace(info, filter="F000X")) is None


@pytest.mark.parametrize("exp_type", ["MIR_LRS-SLITLESS", "MIR_IMAGE"])
def test_generic_rows_serve_any_subarray(tmp_path: Path, exp_type: str) -> None:
    info = of_mode(exp_type)
    path = write_photom(tmp_path / "p.fits", info, rows=[{"subarray": "OTHER"}, {"subarray": "GENERIC"}])
    row = photom_row(load_reference(path, "photom", info, notes=[]), info)
    assert row is not None
    assert row.conversion == pytest.approx(3.4e-3, rel=1e-6)


def test_wavelengths_in_metres_and_descending(tmp_path: Path) -> None:
    info = of_mode("NRC_TSGRISM")
    plain, other = (
        photom_row(
            load_reference(
                write_photom(tmp_path / f"{k}.fits", info, metres=k, falling=k), "photom", info, notes=[]
            ),
            info,
        )
        for k in (False, True)
    )
    assert plain is not None
    assert other is not None
    assert plain.wave is not None
    assert other.wave is not None
    assert (np.diff(other.wave) > 0).all()
    at = np.linspace(2, 14, 30)
    np.testing.assert_allclose(
        np.interp(at, other.wave, other.response), np.interp(at, plain.wave, plain.response), rtol=1e-4
    )


def test_time_correction_by_hand(tmp_path: Path) -> None:
    info = of_mode("MIR_IMAGE")
    reference = load_reference(write_photom(tmp_path / "p.fits", info, times=True), "photom", info, notes=[])
    row, plain = (photom_row(reference, info, correct_time=on) for on in (True, False))
    t = 60123.4
    expected = (1 - 0.02 * (t - 59500) / 365) * (0.1 * np.exp(-(t - 59600) / 200) + 0.9)
    expected *= ((t - 59550 + 50) / 415) ** -0.03 * 0.97
    assert row is not None
    assert plain is not None
    assert row.correction == pytest.approx(expected, rel=1e-6)
    assert row.conversion == pytest.approx(plain.conversion / expected, rel=1e-6)
    with pytest.raises(ReferenceMismatchError, match="no EXPMID"):
        photom_row(reference, dataclasses.replace(info, header={}))


def test_units_and_keywords(tmp_path: Path) -> None:
    info = of_mode("NRS_BRIGHTOBJ")
    rng = np.random.default_rng(0)
    paths = {
        "photom": write_photom(tmp_path / "p.fits", info),
        "area": write_area(tmp_path / "a.fits", info, rng),
    }
    point = Photom().bind(binding(info, **paths))
    wide = Photom(source_type="EXTENDED").bind(binding(info, **paths))
    told = Photom().bind(
        binding(dataclasses.replace(info, header={**info.header, "SRCTYPE": "EXTENDED"}), **paths)
    )
    assert (point.info.bunit, wide.info.bunit, told.info.bunit) == ("MJy", "MJy/sr", "MJy/sr")
    assert point.facts["PIXAR_SR"] == pytest.approx(0.01 * ARCSEC2, rel=1e-6)
    assert wide.facts["PHOTMJSR"] == pytest.approx(3.4e-3 / (0.01 * ARCSEC2), rel=1e-6)
    assert point.facts["PHOTUJA2"] == pytest.approx(point.facts["PHOTMJSR"] * 23.50443, rel=1e-6)
    bare = dataclasses.replace(load_reference(paths["photom"], "photom", info, notes=[]), keywords={})
    with pytest.raises(ReferenceMismatchError, match="needs the area"):
        Photom(source_type="EXTENDED").bind(dataclasses.replace(binding(info), references={"photom": bare}))


def test_pixel_area_of_images(tmp_path: Path) -> None:
    info, rng = of_mode("NRC_TSIMAGE"), np.random.default_rng(0)
    photom = load_reference(write_photom(tmp_path / "p.fits", info), "photom", info, notes=[])
    area = load_reference(write_area(tmp_path / "a.fits", info, rng), "area", info, notes=[])
    assert pixel_area(area, photom, info) == (4.1e-13, 0.0175)
    assert pixel_area(None, photom, info) == (2.3e-13, 0.0098)
    assert area.arrays["SCI"].shape == info.frame_shape


def test_outside_the_table_is_lost(tmp_path: Path) -> None:
    info = of_mode("NRS_BRIGHTOBJ")
    step = Photom().bind(binding(info, photom=write_photom(tmp_path / "p.fits", info)))
    outside = ~((waves(info) >= WAVE[0]) & (waves(info) <= WAVE[-6]))
    np.testing.assert_array_equal((step.pixeldq & dq.DO_NOT_USE) != 0, outside)
    (out,) = step.push(make_rate(info, np.random.default_rng(0), 2, bad=0))
    np.testing.assert_array_equal(np.isnan(out.data), np.broadcast_to(outside, out.data.shape))


def test_dispersion_is_one_sided_beside_unknown_wavelengths() -> None:
    wave = np.array([[np.nan, 1.0, 1.1, 1.3, 1.6, np.nan, 2.0]])
    expected = [np.nan, 0.1, 0.15, 0.25, 0.3, np.nan, np.nan]
    np.testing.assert_allclose(dispersion(wave)[0], expected)


def test_inverse_undoes_it(tmp_path: Path) -> None:
    info = of_mode("MIR_LRS-SLITLESS")
    given = binding(info, photom=write_photom(tmp_path / "p.fits", info))
    rate = make_rate(info, np.random.default_rng(1), 2, bad=0)
    before = rate.data.copy()
    (there,) = Photom().bind(given).push(rate)
    back = Photom(inverse=True).bind(given)
    (out,) = back.push(there)
    known = np.isfinite(out.data)
    np.testing.assert_allclose(out.data[known], before[known], rtol=1e-6)
    assert back.info.bunit == "DN/s"


def test_soss_factor_of_the_real_table(shared: Path) -> None:
    info = of_mode("NIS_SOSS", subarray="SUBSTRIP256")
    reference = load_reference(shared / "data/jwst_niriss_photom_rev2.fits", "photom", info, notes=[])
    wave = np.linspace(0.5, 3.2, 400)
    factors = [soss_factor(reference, info, order, wave) for order in (1, 2)]
    for factor, (low, high) in zip(factors, ((0.8, 2.8), (0.6, 1.3)), strict=True):
        assert factor is not None
        known = np.isfinite(factor)
        assert known[(wave > low) & (wave < high)].all()
        assert (factor[known] > 0).all()
        assert np.isnan(factor[-1])
    assert soss_factor(reference, info, 7, wave) is None


def test_soss_spectra_are_converted_order_by_order(tmp_path: Path) -> None:
    info = of_mode("NIS_SOSS")
    path = write_photom(tmp_path / "p.fits", info, rows=[{}, {"order": 2}])
    reference = load_reference(path, "photom", info, notes=[])
    rng = np.random.default_rng(0)
    keys, wave = ((1, 0), (2, 0), (3, 0)), np.stack([np.linspace(0.4, 2.8, 48)] * 3)
    block = make_measurement(info, rng, 4)
    spectra = {name: np.repeat(values, 3, axis=1) for name, values in block.spectra.items()}
    block = dataclasses.replace(block, keys=keys, spectra=spectra)
    weights = tuple(rng.normal(size=(24, 48)) for _ in keys)
    templates = {"keys": keys, "columns_wavelength": wave, "sum_weights": weights}
    templates |= {"spectrum": spectra["flux"][0], "spectrum_error": spectra["flux_err"][0]}
    given = Binding(info, {"photom": reference}, None, templates)
    step, official = Photom().bind(given), Photom(scope="segment").bind(given)
    assert (step.unit, official.unit) == ("Jy", "MJy")
    assert "order 3: no conversion" in step.notes[0]
    (out,), (theirs,) = step.push(block), official.push(block)
    factor = soss_factor(reference, info, 2, wave[1])
    assert factor is not None
    known = np.isfinite(factor)
    assert (~known).any()
    np.testing.assert_allclose(out.spectra["flux"][:, 1], spectra["flux"][:, 1] * factor * 1e6)
    np.testing.assert_allclose(
        out.spectra["flux_var_poisson"][:, 1], spectra["flux_var_poisson"][:, 1] * (factor * 1e6) ** 2
    )
    np.testing.assert_allclose(
        theirs.spectra["flux_err"][:, 1][:, known], (spectra["flux_err"][:, 1] * factor)[:, known]
    )
    there = np.isfinite(spectra["flux"][:, 1][:, ~known])
    assert (theirs.spectra["flux"][:, 1][:, ~known][there] == 0).all()
    assert np.isnan(out.spectra["flux"][:, 2]).all()
    for name in ("dq", "npixels", "counts", "lost"):
        np.testing.assert_array_equal(out.spectra[name], spectra[name])
    np.testing.assert_allclose(step.templates["spectrum"][1], spectra["flux"][0, 1] * factor * 1e6)
    assert np.isfinite(step.templates["sum_weights"][1]).all()


def test_the_real_nirspec_table(shared: Path) -> None:
    """Made for NRS2, and serves NRS1: the prism's conversion does not depend on the detector."""
    info = of_mode("NRS_BRIGHTOBJ")
    step = Photom().bind(binding(info, photom=shared / "data/nirspec_photom_0014.fits"))
    assert not step.skipped
    (out,) = step.push(make_rate(info, np.random.default_rng(0), 1, bad=0))
    assert np.isfinite(out.data).mean() > 0.7


def test_skipped_with_a_reason(tmp_path: Path) -> None:
    info = of_mode("NRC_TSGRISM")
    given = binding(info, photom=write_photom(tmp_path / "p.fits", info))
    assert "wavelength" in Photom().bind(dataclasses.replace(given, templates={})).skipped
    other = dataclasses.replace(info, filter="F000X")
    assert "no conversion for F000X GRISMR" in Photom().bind(dataclasses.replace(given, info=other)).skipped


def test_refusals(tmp_path: Path) -> None:
    info = of_mode("NRC_TSGRISM")
    twice = write_photom(tmp_path / "twice.fits", info, rows=[{}, {}])
    with pytest.raises(
        ReferenceMismatchError, match=r"2 rows for filter F322W2.*twice\.fits|twice\.fits.*2 rows"
    ):
        Photom().bind(binding(info, photom=twice))
    image = of_mode("NRC_TSIMAGE", filter="F322W2", pupil="GRISMR")
    wrong = write_photom(tmp_path / "wrong.fits", image)
    with pytest.raises(ReferenceMismatchError, match="has no column order"):
        Photom().bind(dataclasses.replace(binding(image, photom=wrong), info=info))


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_against_the_official_step(tmp_path: Path) -> None:
    cases: list[RateCase] = []
    steps, results = [], []
    for number, (exp_type, options, parameters) in enumerate(
        [
            ("NRS_BRIGHTOBJ", {}, {}),
            ("NRS_BRIGHTOBJ", {"times": True}, {"source_type": "EXTENDED"}),
            ("NRC_TSGRISM", {}, {}),
            ("NRC_TSGRISM", {"metres": True, "falling": True, "times": True}, {}),
            ("MIR_LRS-SLITLESS", {"times": True}, {"apply_time_correction": False}),
            ("MIR_LRS-SLITLESS", {"times": True, "rows": [{"subarray": "GENERIC"}]}, {}),
            ("NRC_TSIMAGE", {}, {}),
            ("MIR_IMAGE", {"times": True}, {}),
        ]
    ):
        info, rng = of_mode(exp_type), np.random.default_rng(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = {"photom": write_photom(folder / "p.fits", info, **options)}
        if info.instrument == "NIRSPEC" or exp_type == "NRC_TSIMAGE":
            paths["area"] = write_area(folder / "a.fits", info, rng)
        rate = make_rate(info, rng, 3, bad=0.05)
        rate.var_flat = (0.01 * np.abs(rate.data)).astype("f4") if number % 2 else None
        wave = waves(info) if info.is_spectroscopy else None
        references = {"area": "N/A", **paths}
        cases.append(RateCase("photom", info, copy(rate), wave, parameters, references))
        step = Photom(**parameters).bind(binding(info, **paths))
        assert not step.skipped
        steps.append(step)
        results += step.push(rate)
    for case, step, result, official in zip(cases, steps, results, run_official_rates(cases), strict=True):
        assert "error" not in official, (case.info.exp_type, official)
        assert_parity(result, official)
        assert step.info.bunit == official["bunit_data"]
        for key, name in (("PHOTMJSR", "conversion_megajanskys"), ("PHOTUJA2", "conversion_microjanskys"),
                          ("PIXAR_SR", "pixelarea_steradians"), ("PIXAR_A2", "pixelarea_arcsecsq")):  # fmt: skip
            assert step.facts[key] == pytest.approx(official[f"photometry.{name}"], rel=1e-6)

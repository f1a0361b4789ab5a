"""extract_1d: kernel and twin agree to 1e-5 of the value + 1e-5 of the error, flags exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from tsostream.errors import ConfigError, InputError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.aperture.sums import measure_block, measure_spectrum
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.extract_1d import BoundExtract1d, Extract1d
from tsostream.testing.builders import make_binding, make_info, make_rate, make_scene
from tsostream.testing.naive.aperture import measure_columns

MODES = ["NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS"]


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def assert_agrees(block: Rate, step: BoundExtract1d) -> None:
    """The sums row after row, those from the lists, and the twin."""
    aperture = step.aperture
    for out in (measure_spectrum(block, step.series[0].strips), measure_block(block, aperture)):
        assert_is_twin(out._asdict(), block, aperture)


def assert_is_twin(out: dict[str, Any], block: Rate, aperture: Any) -> None:
    var_flat = None if block.var_flat is None else flat(block.var_flat)
    twin = measure_columns(
        flat(block.data), flat(block.var_poisson), flat(block.var_rnoise), var_flat, flat(block.dq), aperture
    )
    for name in ("dq", "counts"):
        np.testing.assert_array_equal(out[name], twin[name], err_msg=name)
    error = np.nan_to_num(twin["error"])
    scales = {
        "flux": error,
        "ground": np.sqrt(np.nan_to_num(twin["ground_variance"])),
        "fit": twin["fit_error"],
    }
    for name, expected in twin.items():
        if name in ("dq", "counts"):
            continue
        slack = 1e-5 * np.nan_to_num(scales.get(name, np.zeros_like(expected)))
        # a fraction close to zero is a difference of numbers close to one
        slack += 1e-6 if name == "lost" else 0.0
        np.testing.assert_array_equal(np.isnan(out[name]), np.isnan(expected), err_msg=name)
        with np.errstate(invalid="ignore"):
            far = np.abs(out[name] - expected) > 1e-5 * np.abs(expected) + slack + 1e-9
        assert not far.any(), name


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(MODES),
    broken=st.sampled_from([0.0, 0.01]),
    bad=st.sampled_from([0.0, 0.05]),
    subtract=st.booleans(),
    has_flat=st.booleans(),
)
def test_agrees_with_its_twin(
    seed: int, mode: str, broken: float, bad: float, subtract: bool, has_flat: bool
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(mode, level="calints")
    step = Extract1d(subtract_background=subtract).bind(make_binding(Extract1d, info, rng))
    block = make_rate(info, rng, 2, broken=broken, bad=bad, flux=np.array([1.0, 0.8]))
    block.data[~(np.abs(block.data) < 1e30)] = np.nan
    if has_flat:
        block.var_flat = (0.01 * block.var_poisson).astype(np.float32)
    assert_agrees(block, step)


def clean(mode: str = "NRS_BRIGHTOBJ", **parameters: Any) -> tuple[ExposureInfo, BoundExtract1d]:
    """An extraction whose template is the scene itself."""
    info = make_info(mode, level="calints")
    return info, Extract1d(**parameters).bind(Binding(info, templates=templates_of(info, make_scene(info))))


def templates_of(info: ExposureInfo, image: np.ndarray) -> dict[str, Any]:
    """Templates without noise, and without noise that pixels share."""
    variance = np.full(info.frame_shape, 4.0, np.float32)
    return {
        "image": np.asarray(image, np.float32),
        "scatter": np.sqrt(variance),
        "variance": variance,
        "covariance": np.zeros((3, 3)),
        "count": 64,
    }


def exact(info: ExposureInfo, level: np.ndarray, **options: Any) -> Rate:
    """Slopes without noise: the source at some level, the background as it is."""
    block = make_rate(info, np.random.default_rng(0), len(level), noise=0.0, bad=0.0, **options)
    block.data[...] = 5.0 + level[:, None, None] * (make_scene(info) - 5.0)
    return block


def shifted(info: ExposureInfo, dy: float) -> np.ndarray:
    """The scene, moved along y."""
    rows = np.arange(info.ny)
    return CubicSpline(rows, make_scene(info), axis=0)(rows - dy)


def aperture_pixels(info: ExposureInfo, step: BoundExtract1d, column: int) -> np.ndarray:
    a = step.aperture
    order = slice(a.start[column], a.start[column + 1])
    return a.pixel[order][np.argsort(-a.shape[order, 0])]


@pytest.mark.parametrize("mode", MODES)
def test_flux_of_a_clean_spectrum(mode: str) -> None:
    info, step = clean(mode, extract_width=12.0, trace_coeffs=None)
    (out,) = step.push(exact(info, np.array([1.0, 0.5])))
    source = (make_scene(info) - 5.0).sum(axis=1 if info.dispaxis == 2 else 0)
    flux = out.spectra["flux"][:, 0]
    np.testing.assert_allclose(flux[0], source, rtol=2e-3)
    np.testing.assert_allclose(flux[1] / flux[0], 0.5, rtol=1e-4)
    assert step.along_y == (info.dispaxis == 2)
    across, along = ("x", "y") if step.along_y else ("y", "x")
    np.testing.assert_allclose(out.columns[across][:, 0], step.centre, atol=1e-4)
    np.testing.assert_allclose(out.columns[along][:, 0], 0.0, atol=1e-4)
    np.testing.assert_allclose(out.columns[f"width_{across}"][:, 0], 1.1, atol=0.05)
    assert set(out.spectra["dq"].ravel()) == {0}


@pytest.mark.parametrize("mode", MODES)
def test_lost_pixels_do_not_bias_the_flux(mode: str) -> None:
    """Whatever its level, a column that lost a pixel keeps its flux; the error grows and the row says so."""
    info, step = clean(mode, max_lost=0.6)
    level = np.array([1.0, 0.97, 1.4, 1.0])
    whole = step.push(exact(info, level))[0].spectra
    block = exact(info, level)
    for column in range(0, step.trace.size, 3):
        for i, rank in enumerate((0, 1, 2, 5)):
            p = aperture_pixels(info, step, column)[rank]
            flat(block.data)[i, p] = 1e9
            flat(block.dq)[i, p] |= np.uint32(dq.DO_NOT_USE)
    filled = step.push(block)[0].spectra
    np.testing.assert_allclose(filled["flux"], whole["flux"], rtol=1e-4)
    hit = np.arange(step.trace.size) % 3 == 0
    assert (filled["dq"][:, 0, hit] == dq.FLUX_ESTIMATED).all()
    assert not filled["dq"][:, 0, ~hit].any()
    assert (filled["flux_err"][:3, 0, hit] > whole["flux_err"][:3, 0, hit]).all()
    assert (filled["lost"][:, 0, hit] > 0).all()
    assert (filled["lost"][:, 0, ~hit] == 0).all()
    assert (filled["counts"][:, 0, hit, 3] == 1).all()


def test_shifted_spectrum_is_filled_at_its_own_place() -> None:
    """The fill uses the profile at this integration's position."""
    info, step = clean(max_lost=0.6, correct_shift=False)
    moved = exact(info, np.ones(1))
    moved.data[0] = shifted(info, 0.15)
    whole = step.push(moved)[0]
    shift = whole.columns["y"][0, 0] - step.centre
    assert shift == pytest.approx(0.15, abs=0.02)
    p = aperture_pixels(info, step, 20)[0]
    flat(moved.dq)[0, p] |= np.uint32(dq.DO_NOT_USE)
    filled = step.push(moved)[0]
    assert filled.spectra["flux"][0, 0, 20] == pytest.approx(whole.spectra["flux"][0, 0, 20], rel=0.02)


def test_shift_correction_puts_lost_light_back() -> None:
    """A narrow box loses light when the source moves; with correct_shift it does not, to first order."""
    deficit = {}
    for correct in (True, False):
        info, step = clean(extract_width=3.0, bkg_inner=6.0, trace_coeffs=[9.0], correct_shift=correct)
        moved = exact(info, np.ones(1))
        moved.data[0] = shifted(info, 0.05)
        still = step.push(exact(info, np.ones(1)))[0].spectra["flux"][0, 0]
        deficit[correct] = np.median(np.abs(step.push(moved)[0].spectra["flux"][0, 0] / still - 1))
    assert deficit[True] < 0.5 * deficit[False]


def test_more_than_max_lost_is_nan() -> None:
    info, step = clean(max_lost=0.3)
    block = exact(info, np.ones(1))
    core, edge = aperture_pixels(info, step, 10)[:2], aperture_pixels(info, step, 11)[-2:]
    flat(block.dq)[0, np.r_[core, edge]] |= np.uint32(dq.DO_NOT_USE)
    (out,) = step.push(block)
    for name in ("flux", "flux_err", "flux_var_poisson", "flux_var_rnoise"):
        assert np.isfinite(out.spectra[name][0, 0, 10:12]).tolist() == [False, True], name
    assert out.spectra["dq"][0, 0, 10] == dq.DO_NOT_USE
    assert out.spectra["lost"][0, 0, 10] > 0.3


@pytest.mark.parametrize("flag", [0, dq.DO_NOT_USE])
def test_saturated_pixels_are_never_filled(flag: int) -> None:
    """A usable slope of a partly saturated ramp counts; a lost one makes the column NaN."""
    info, step = clean()
    block = exact(info, np.ones(1))
    p = aperture_pixels(info, step, 10)[-1]
    flat(block.dq)[0, p] |= np.uint32(dq.SATURATED | flag)
    (out,) = step.push(block)
    assert np.isnan(out.spectra["flux"][0, 0, 10]) == bool(flag)
    assert out.spectra["dq"][0, 0, 10] & dq.SATURATED
    assert out.spectra["counts"][0, 0, 10, 1] == 1


def test_an_outlier_of_a_partly_saturated_ramp_is_filled() -> None:
    """It had a slope like in every other integration: it is not lost because it is full."""
    info, step = clean()
    block = exact(info, np.ones(2))
    p = aperture_pixels(info, step, 10)[-1]
    flat(block.dq)[:, p] |= np.uint32(dq.SATURATED)
    flat(block.dq)[0, p] |= np.uint32(dq.DO_NOT_USE | dq.OUTLIER)
    flat(block.data)[0, p] = 1e6
    (out,) = step.push(block)
    flux = out.spectra["flux"][:, 0, 10]
    assert abs(flux[0] - flux[1]) < out.spectra["flux_err"][0, 0, 10]
    assert out.spectra["counts"][0, 0, 10].tolist()[1:] == [1, 1, 1]


def test_pixels_bad_in_every_integration_are_treated_alike() -> None:
    info = make_info(level="calints")
    scene = make_scene(info).astype(np.float32)
    plane = np.zeros(info.frame_shape, np.uint32)
    plane[9, 25] = dq.DO_NOT_USE
    scene[9, 25] = np.nan
    step = Extract1d(max_lost=0.6).bind(Binding(info, pixeldq=plane, templates=templates_of(info, scene)))
    block = exact(info, np.array([1.0, 1.0]))
    flat_index = 9 * info.nx + 25
    flat(block.dq)[1, flat_index] |= np.uint32(dq.DO_NOT_USE | dq.SATURATED)
    flat(block.data)[1, flat_index] = np.nan
    (out,) = step.push(block)
    flux = out.spectra["flux"][:, 0]
    np.testing.assert_array_equal(flux[0], flux[1])
    # the profile under the hole comes from the neighbouring columns
    assert flux[0, 25] == pytest.approx(0.5 * (flux[0, 24] + flux[0, 26]), rel=0.03)


def test_a_column_without_light_is_summed_when_nothing_is_missing() -> None:
    """Its profile cannot fill anything, but nothing is to be filled: noise around zero, not NaN."""
    info = make_info(level="calints")
    scene = make_scene(info).astype(np.float32)
    scene[:, 30:] = 5.0
    scene[8:12, 30:] = 4.9  # the template's total is negative there
    step = Extract1d(trace_coeffs=[9.5]).bind(Binding(info, templates=templates_of(info, scene)))
    block = make_rate(info, np.random.default_rng(0), 2, bad=0.0, noise=0.0)
    block.data[...] = scene
    block.dq[1, 9, 35] = dq.DO_NOT_USE
    (out,) = step.push(block)
    assert np.isfinite(out.spectra["flux"][0, 0]).all()
    assert np.isnan(out.spectra["flux"][1, 0, 35])
    assert np.isfinite(out.spectra["flux"][1, 0, 36])


def test_background_outliers_are_clipped() -> None:
    info, step = clean()
    a = step.aperture
    whole = step.push(exact(info, np.ones(1)))[0].spectra
    block = exact(info, np.ones(1))
    p = a.ground[a.ground_start[12]]
    flat(block.data)[0, p] += 1e4
    clipped = step.push(block)[0].spectra
    assert clipped["background"][0, 0, 12] == pytest.approx(whole["background"][0, 0, 12], abs=0.05)
    assert clipped["background_err"][0, 0, 12] > whole["background_err"][0, 0, 12]
    np.testing.assert_allclose(clipped["flux"][0, 0, 12], whole["flux"][0, 0, 12], rtol=1e-3)


def test_background_error_is_in_the_flux_error() -> None:
    info, step = clean(extract_width=4.0, trace_coeffs=[9.5])
    spectra = step.push(exact(info, np.ones(1)))[0].spectra
    own = spectra["flux_var_poisson"] + spectra["flux_var_rnoise"]
    shared = (spectra["npixels"] * spectra["background_err"]) ** 2
    np.testing.assert_allclose(spectra["flux_err"] ** 2, own + shared, rtol=2e-3)
    assert (spectra["background_err"] > 0).all()


def test_no_background_left() -> None:
    info, step = clean()
    block = exact(info, np.ones(1))
    a = step.aperture
    flat(block.dq)[0, a.ground[a.ground_start[7] : a.ground_start[8]]] |= np.uint32(dq.DO_NOT_USE)
    (out,) = step.push(block)
    assert np.isnan(out.spectra["flux"][0, 0, 7])
    assert np.isfinite(out.spectra["flux"][0, 0, 8])
    assert np.isnan(out.spectra["background"][0, 0, 7])
    bare = clean(subtract_background=False)[1].push(block)[0].spectra
    assert np.isfinite(bare["flux"][0, 0, 7])
    assert (bare["background"] == 0).all()


def test_electrons_where_the_gain_is_known() -> None:
    info = make_info("NRS_BRIGHTOBJ", bunit="DN/s")
    binding = make_binding(Extract1d, info, np.random.default_rng(1), share=0.0)
    electrons = Extract1d(apply_apcorr=False).bind(binding)
    plain = Extract1d(apply_apcorr=False).bind(dataclasses.replace(binding, references={}))
    assert (electrons.unit, plain.unit) == ("electron", "DN/s")
    block = make_rate(info, np.random.default_rng(2), 1, bad=0.0)
    ratio = electrons.push(block)[0].spectra["flux"] / plain.push(block)[0].spectra["flux"]
    np.testing.assert_allclose(ratio, 1.7 * info.integration_time, rtol=0.1)


def test_wavelengths() -> None:
    info, step = clean()
    np.testing.assert_array_equal(step.wavelength, np.arange(info.nx))
    image = np.tile(np.linspace(0.6, 5.3, info.nx), (info.ny, 1))
    image[:, 4] = np.nan
    templates = {**templates_of(info, make_scene(info)), "wavelength": {1: image}}
    known = Extract1d().bind(Binding(info, templates=templates))
    np.testing.assert_allclose(np.delete(known.wavelength, 4), np.delete(image[0], 4), rtol=1e-12)
    assert np.isnan(known.wavelength[4])


def test_refusals() -> None:
    info = make_info(level="calints")
    templates = templates_of(info, np.random.default_rng(0).normal(5.0, 0.1, info.frame_shape))
    with pytest.raises(InputError, match=r"no spectrum found.*extract_1d\.trace_coeffs"):
        Extract1d().bind(Binding(info, templates=templates))
    with pytest.raises(
        ConfigError, match=r"no background pixels: 20 pixels across.*extract_1d\.extract_width"
    ):
        clean(bkg_outer=3.0)


def test_a_box_that_does_not_fit_is_made_smaller_and_says_so() -> None:
    _, step = clean(extract_width=30.0, trace_coeffs=[9.5])
    assert "20 pixels across" in step.notes[0]
    assert not clean()[1].notes


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 0}, r"extract_1d\.extract_width = 0.*> 0"),
        ({"widht": 8}, r"did you mean width\?"),
        ({"max_lost": 1}, r"extract_1d\.max_lost = 1"),
        ({"trace_coeffs": "9"}, r"extract_1d\.trace_coeffs = '9'"),
        ({"order": 4}, r"extract_1d\.order = 4.*<= 3"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(Extract1d, parameters)

"""The official box: every column against its twin, apertures and backgrounds as EXTRACT1D says, units, corrections."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError, ReferenceMismatchError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.spectral.definition import ApertureDefinition, define_aperture
from tsostream.operators.spectral.official import GroundFit, extract_box
from tsostream.operators.spectral.official_block import BoundOfficialExtract1d, FirstCorrection
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.naive.extraction import covered_fraction, official_column
from tsostream.testing.recipes import make_apcorr

MODES = ["NRS_BRIGHTOBJ", "NRC_TSGRISM", "MIR_LRS-SLITLESS"]


def entry_for(info: ExposureInfo, **changes: Any) -> dict[str, Any]:
    along_y = info.dispaxis == 2
    cross, disp = ("x", "y") if along_y else ("y", "x")
    width, length = (info.nx, info.ny) if along_y else (info.ny, info.nx)
    middle = width // 2
    return {
        "id": {"NRS_BRIGHTOBJ": "S1600A1"}.get(info.exp_type, info.exp_type),
        f"{cross}start": middle - 4, f"{cross}stop": middle + 4, f"{disp}start": 0, f"{disp}stop": length - 1,
        "use_source_posn": False, **changes,
    }  # fmt: skip


def bind(
    info: ExposureInfo, entry: dict[str, Any], wavelength: Any = None, apcorr: bool = False, **parameters: Any
) -> BoundOfficialExtract1d:
    references = {"extract1d": Reference("extract1d", "e.json", {}, {"APERTURES": (entry,)})}
    if apcorr:
        references["apcorr"] = make_apcorr(info, np.random.default_rng(0))
    if wavelength is None:
        length = info.ny if info.dispaxis == 2 else info.nx
        wavelength = np.linspace(5.0, 12.0, length) if info.is_miri else np.linspace(0.6, 5.3, length)
    templates = {"wavelength": {1: wavelength}}
    step = Extract1d(scope="segment", **parameters).bind(
        Binding(info, references, templates=templates, segments=((1, 3), (4, 9)))
    )
    assert isinstance(step, BoundOfficialExtract1d)
    return step


def cross_disp(info: ExposureInfo, array: np.ndarray) -> np.ndarray:
    return array.T if info.dispaxis == 2 else array


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["poly", "median", "none"]),
    order=st.integers(0, 3),
    holes=st.sampled_from([0.0, 0.1, 0.7]),
    broken=st.sampled_from([0.0, 0.05]),
)
def test_agrees_with_its_twin(seed: int, kind: str, order: int, holes: float, broken: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (11, 7)
    image = rng.normal(10, 3, shape)
    variance = rng.uniform(0.1, 2, (3, *shape))
    image[rng.random(shape) < holes] = np.nan
    variance[:, rng.random(shape) < broken] = np.nan
    variance[0, rng.random(shape) < broken] = np.inf
    weight = np.clip(rng.normal(0.3, 0.6, shape), 0, 1)
    weight[:, 2] = 0
    mask = (rng.random(shape) < 0.5).astype(float)
    mask[:, 4] = 0
    ground = None if kind == "none" else GroundFit(mask, kind, order)
    sums = extract_box(image, variance, weight, ground)
    for c in range(shape[1]):
        twin = official_column(
            image[:, c], variance[:, :, c], weight[:, c], None if ground is None else mask[:, c], kind, order
        )
        found = {
            "flux": sums.flux[c], "variance": sums.variance[:, c], "ground": sums.ground[c],
            "ground_variance": sums.ground_variance[:, c], "npixels": sums.npixels[c],
        }  # fmt: skip
        for name, value in found.items():
            if name == "ground" and not np.isfinite(twin["ground"]):
                assert value == 0
                continue
            # the median stays in single precision
            slack = 1e-5 if kind == "median" else 1e-9
            np.testing.assert_allclose(value, twin[name], rtol=slack, atol=slack, err_msg=f"{name} of {c}")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(low=st.floats(-3, 12), width=st.floats(0, 8))
def test_weights_are_the_covered_fractions(low: float, width: float) -> None:
    definition = ApertureDefinition(low, low + width, 0, 3)
    expected = [covered_fraction(j, low, low + width) for j in range(12)]
    for column in range(4):
        np.testing.assert_allclose(definition.weights((12, 4))[:, column], expected, atol=1e-12)


def test_what_decides_the_aperture() -> None:
    """Polynomials win over a width, a width over start and stop; several regions are one aperture."""
    plain = ApertureDefinition(3, 6, 1, 2)
    assert plain.weights((12, 4)).sum() == 4 * 2
    wide = dataclasses.replace(plain, extract_width=6.5)
    np.testing.assert_allclose(wide.weights((12, 4)).sum(axis=0), [0, 6.5, 6.5, 0])
    traced = dataclasses.replace(wide, trace=np.array([4.0, 5.0, 6.0, 7.0]))
    assert np.average(np.arange(12), weights=traced.weights((12, 4))[:, 2]) == pytest.approx(6.0)
    coefficients = ((1.5,), (3.5,), (6.5, 1.0), (8.5, 1.0))
    regions = dataclasses.replace(wide, src_coeff=coefficients).weights((12, 4))
    # whole pixels between half-pixel edges: 2, 3 and 7+x, 8+x
    assert np.flatnonzero(regions[:, 1]).tolist() == [2, 3, 8, 9]
    assert np.flatnonzero(regions[:, 2]).tolist() == [2, 3, 9, 10]
    moved = dataclasses.replace(plain, src_coeff=coefficients).moved(0.5).weights((12, 4))
    np.testing.assert_allclose(moved[[2, 3, 4], 1], [0.5, 1.0, 0.5])


def test_polynomials_in_wavelength() -> None:
    wave = np.broadcast_to(np.linspace(1.0, 2.0, 5), (12, 5)).copy()
    definition = ApertureDefinition(
        0, 11, 0, 4, src_coeff=((0.5, 2.0), (2.5, 2.0)), bkg_coeff=((7.5,), (9.5,)), in_wavelength=True,
        subtract_background=True,
    )  # fmt: skip
    weight = definition.weights((12, 5), wave)
    for column in range(5):
        low, high = 0.5 + 2 * wave[0, column] + 0.5, 2.5 + 2 * wave[0, column] - 0.5
        np.testing.assert_allclose(
            weight[:, column], [covered_fraction(j, low, high) for j in range(12)], atol=1e-12
        )
    wave[:, 3] = np.nan
    assert definition.weights((12, 5), wave)[:, 3].sum() == 0


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_all_modes(mode: str) -> None:
    """Rows are those of the frame oriented by hand, whatever runs along x or y, and do not depend on the block."""
    info = make_info(mode, level="calints")
    entry = entry_for(info, bkg_coeff=[[0.4], [2.7]], bkg_order=1)
    step = bind(info, entry, apply_apcorr=False)
    block = make_rate(info, np.random.default_rng(1), 4, bad=0.05, broken=0.01)
    (out,) = step.push(block)
    image = np.where((block.dq & dq.DO_NOT_USE) != 0, np.nan, block.data.astype(float))
    lost = np.isnan(image) | np.isnan(block.err) | np.isnan(block.var_poisson) | np.isnan(block.var_rnoise)
    series = step.series[0]
    for i in range(block.count):
        planes = [
            np.where(lost[i], np.nan, plane[i]).astype(float)
            for plane in (block.data, block.var_poisson, block.var_rnoise)
        ]
        oriented = [cross_disp(info, plane) for plane in planes]
        variance = np.stack([oriented[1], oriented[2], np.where(np.isnan(oriented[0]), np.nan, 0.0)])
        for c in (0, 7, len(step.columns) - 1):
            twin = official_column(
                oriented[0][:, c], variance[:, :, c], series.weight[:, c], series.ground.mask[:, c], "poly", 1
            )
            got = out.spectra["flux"][i, 0, c]
            np.testing.assert_allclose(got, twin["flux"], rtol=1e-9, equal_nan=True)
    for i in range(block.count):
        names = ("data", "err", "var_poisson", "var_rnoise", "dq")
        one = Rate(
            block.first + i, *(getattr(block, name)[i : i + 1] for name in names), block.times[i : i + 1]
        )
        (alone,) = step.push(one)
        for name, array in alone.spectra.items():
            assert array.tobytes() == np.ascontiguousarray(out.spectra[name][i : i + 1]).tobytes(), name


def test_only_columns_with_wavelengths_are_rows() -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    wave = np.broadcast_to(np.linspace(0.6, 5.3, info.nx), info.frame_shape).copy()
    wave[:, :3] = np.nan
    step = bind(info, entry_for(info, xstop=info.nx - 5), wave)
    assert step.columns[0] == 3
    assert step.columns[-1] == info.nx - 5
    (out,) = step.push(make_rate(info, np.random.default_rng(0), 2))
    assert out.spectra["flux"].shape == (2, 1, len(step.wavelength))


@pytest.mark.parametrize(
    ("mode", "bunit", "unit", "flux", "surface", "ground"),
    [
        ("NRS_BRIGHTOBJ", "DN/s", "DN/s", 1.0, 1.0, 1.0),
        ("NRS_BRIGHTOBJ", "MJy", "Jy", 1e6, 0.0, 1 / 2e-13),
        ("MIR_LRS-SLITLESS", "MJy/sr", "Jy", 2e-13 * 1e6, 1.0, 1.0),
    ],
)
def test_units(mode: str, bunit: str, unit: str, flux: float, surface: float, ground: float) -> None:
    info = make_info(mode, level="calints", bunit=bunit, header={"PIXAR_SR": 2e-13})
    entry = entry_for(info, bkg_coeff=[[0.5], [2.5]])
    block = make_rate(info, np.random.default_rng(1), 1, bad=0.0)
    plain = bind(dataclasses.replace(info, bunit="DN/s"), entry).push(block)[0].spectra
    step = bind(info, entry)
    (out,) = step.push(block)
    assert step.unit == unit
    np.testing.assert_allclose(out.spectra["flux"], plain["flux"] * flux)
    np.testing.assert_allclose(out.spectra["flux_err"], plain["flux_err"] * flux)
    np.testing.assert_allclose(out.spectra["surf_bright"], plain["surf_bright"] * surface)
    np.testing.assert_allclose(out.spectra["background_err"], plain["background_err"] * ground)


def test_smoothing_leaves_a_flat_background_and_fills_holes() -> None:
    image = np.full((6, 30), 3.0)
    image[1, 4:7] = np.nan
    mask = np.zeros((6, 30))
    mask[:2] = 1
    weight = np.zeros((6, 30))
    weight[3:5] = 1
    sums = extract_box(image, np.ones((3, 6, 30)), weight, GroundFit(mask, smoothing=9))
    np.testing.assert_allclose(sums.ground, 6.0)
    np.testing.assert_allclose(sums.flux, 0.0, atol=1e-12)
    definition = define_aperture(
        {"bkg_coeff": [[1], [2]]}, (6, 30), along_y=False, chosen={"smoothing_length": 8}
    )
    assert definition.smoothing_length == 7


def test_a_correction_with_phases_is_that_of_the_first_integration_of_a_file() -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints", filter="CLEAR", grating="PRISM")
    step = bind(info, entry_for(info), apcorr=True)
    bare = bind(info, entry_for(info))
    block = make_rate(info, np.random.default_rng(1), 6, bad=0.0)
    # the first integration of each file misses a row of the aperture
    for i in (0, 3):
        block.dq[i, info.ny // 2] |= np.uint32(dq.DO_NOT_USE)
    assert step.needs_order
    (out,) = FirstCorrection(step).push(step.push(block)[0])
    plain = bare.push(block)[0].spectra
    with np.errstate(invalid="ignore"):
        factor = out.spectra["flux"] / plain["flux"]
    for i in range(6):
        expected = step.correction.factors(step.wavelength, plain["npixels"][0, 0])
        np.testing.assert_allclose(factor[i, 0], expected, rtol=1e-12)
    assert plain["npixels"][0, 0, 0] != plain["npixels"][1, 0, 0]
    np.testing.assert_allclose(
        out.spectra["flux_var_poisson"], plain["flux_var_poisson"] * factor**2, rtol=1e-12
    )
    np.testing.assert_array_equal(out.spectra["background"], plain["background"])


def test_a_correction_by_size_follows_each_integration() -> None:
    info = make_info("MIR_LRS-SLITLESS", level="calints", subarray="SLITLESSPRISM")
    step, bare = bind(info, entry_for(info), apcorr=True), bind(info, entry_for(info))
    assert not step.needs_order
    block = make_rate(info, np.random.default_rng(1), 2, bad=0.0)
    block.dq[0, :, info.nx // 2] |= np.uint32(dq.DO_NOT_USE)
    with np.errstate(invalid="ignore"):
        factor = step.push(block)[0].spectra["flux"] / bare.push(block)[0].spectra["flux"]
    assert (factor[0] > factor[1]).all()


def test_several_widths_are_several_apertures() -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    step = bind(info, entry_for(info), extract_width=[5.0, 7.0])
    block = make_rate(info, np.random.default_rng(1), 2, bad=0.0)
    (out,) = step.push(block)
    assert out.keys == ((1, 0), (1, 1))
    alone = bind(info, entry_for(info), extract_width=7.0).push(block)[0].spectra
    np.testing.assert_array_equal(out.spectra["flux"][:, 1], alone["flux"][:, 0])
    assert [one["extract_width"] for one in step.describe()] == [5.0, 7.0]


def test_the_source_is_followed_where_it_is_known() -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    entry = entry_for(info)
    entry.pop("use_source_posn")
    step = bind(info, entry)
    assert "position of the source is not known" in step.notes[0]
    references = {"extract1d": Reference("extract1d", "e.json", {}, {"APERTURES": (entry,)})}
    location = {"pixel": info.nx // 2, "location": info.ny // 2 + 1.5, "trace": None}
    templates = {"wavelength": {1: np.linspace(1, 5, info.nx)}, "source_location": location}
    moved = Extract1d(scope="segment").bind(Binding(info, references, templates=templates))
    np.testing.assert_allclose(moved.trace, step.trace + 1.5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "S400A1"}, "no aperture for S1600A1"),
        ({"spectral_order": 2}, "order 1"),
        ({"region_type": "sky"}, "no aperture"),
    ],
)
def test_references_without_the_aperture_are_refused(entry: dict[str, Any], message: str) -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    with pytest.raises(ReferenceMismatchError, match=message):
        bind(info, entry_for(info, **entry))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scope": "segment", "extraction_type": "optimal"}, "segment scope has the official box"),
        ({"bkg_fit": "median"}, "is for scope=segment"),
        ({"bkg_order": 1}, "needs extraction_type=profile"),
        ({"extract_width": [8, 8]}, "values that differ"),
        ({"extraction_type": "psf"}, "extraction_type"),
    ],
)
def test_what_does_not_go_together_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(Extract1d, parameters)

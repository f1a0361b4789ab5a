"""tso_photometry, segment scope: kernels against their twins and photutils; the step against the official results."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.files import find_exposures
from tsostream.integration import dq
from tsostream.integration.payload import Measurement, Rate, Times
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.photometry.official import aperture_sums, centroids, fit_gaussians
from tsostream.operators.tso_photometry import BoundOfficialPhotometry, TsoPhotometry
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.naive.photometry import aperture_image, centre_of_mass, gaussian_in_box

NY, NX = 26, 30


def stars(
    seed: int, count: int, *, bad: float = 0.02, x: float = 14.2, y: float = 12.7, width: float = 1.9
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, errors and masks; pixels are NaN, masked, or both."""
    rng = np.random.default_rng(seed)
    yy, xx = np.indices((NY, NX), dtype=float)
    star = np.exp(-0.5 * ((xx - x) ** 2 / width**2 + (yy - y) ** 2 / (width + 0.3) ** 2))
    data = (300 * star + 5 + rng.normal(0, 0.7, (count, NY, NX))).astype(np.float32)
    error = rng.uniform(0.5, 1.5, data.shape).astype(np.float32)
    masked = (rng.random(data.shape) < bad).astype(np.uint8)
    data[rng.random(data.shape) < bad] = np.nan
    masked[np.isnan(data)] = 1
    return data, error, masked


PLACES = st.tuples(st.floats(-3, NX + 3), st.floats(-3, NY + 3)) | st.tuples(
    st.floats(12, 16), st.floats(11, 15)
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    place=PLACES,
    size=st.sampled_from([3, 11, 41]),
    bad=st.sampled_from([0.0, 0.1, 0.97]),
)
def test_centroids_and_fits_agree_with_their_twins(
    seed: int, place: tuple[float, float], size: int, bad: float
) -> None:
    data, _, masked = stars(seed, 2, bad=bad)
    level, found, fit = np.empty(2), np.empty((2, 2)), np.empty((2, 3))
    centroids(data, masked, *place, 4.0, size, level, found)
    fit_gaussians(data, masked, level, found, size, fit)
    for i in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y, ground = centre_of_mass(data[i], masked[i].astype(bool), *place, 4.0, size)
        np.testing.assert_allclose(level[i], ground, rtol=1e-6)
        slack = 1e-4 * max(1.0, abs(x) if np.isfinite(x) else 0.0)
        np.testing.assert_allclose(found[i], [x, y], atol=slack, rtol=1e-4)
        near = np.isfinite(x) and abs(x - 14.2) < 1.5 and abs(y - 12.7) < 1.5
        if near and bad < 0.5 and size == 11:
            np.testing.assert_allclose(
                fit[i], gaussian_in_box(data[i], masked[i].astype(bool), level[i], *found[i], size), rtol=1e-4
            )
        elif not np.isfinite(x):
            assert np.isnan(fit[i]).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    place=PLACES,
    radius=st.floats(0.2, 9),
    ring=st.tuples(st.floats(0.5, 5), st.floats(0.5, 5)),
)
def test_sums_agree_with_their_twin(
    seed: int, place: tuple[float, float], radius: float, ring: tuple[float, float]
) -> None:
    data, error, masked = stars(seed, 1, bad=0.1)
    inner, outer = radius + ring[0], radius + sum(ring)
    out, counts = np.empty((1, 6)), np.empty((1, 4), np.int32)
    bits = (masked * dq.JUMP_DET).astype(np.uint8)
    aperture_sums(data, error, bits, np.array([place]), radius, inner, outer, out, counts)
    twin = aperture_image(data[0], error[0], place, radius, inner, outer)
    # a corner that is grazed has an area the twin's slices may not see
    np.testing.assert_allclose(np.nan_to_num(out[0]), np.nan_to_num(twin), rtol=1e-3, atol=0.05)
    if np.isfinite(twin).all():
        assert counts[0, 3] <= counts[0, 0]


@pytest.mark.parametrize("bad", [0.0, 0.05])
@pytest.mark.parametrize("place", [(14.0, 13.0), (2.0, 23.0)])
def test_photutils_finds_the_same(bad: float, place: tuple[float, float]) -> None:
    from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
    from photutils.centroids import centroid_sources
    from photutils.psf import GaussianPRF, PSFPhotometry

    data, error, masked = stars(5, 3, bad=bad, x=place[0] + 0.3, y=place[1] - 0.4)
    level, found, fit = np.empty(3), np.empty((3, 2)), np.empty((3, 3))
    centroids(data, masked, *place, 4.0, 11, level, found)
    fit_gaussians(data, masked, level, found, 11, fit)
    out, counts = np.empty((3, 6)), np.empty((3, 4), np.int32)
    aperture_sums(data, error, masked, found, 3.0, 4.0, 5.0, out, counts)
    for i in range(3):
        source = data[i] - np.float32(level[i])
        mask = masked[i].astype(bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = centroid_sources(source, *place, mask=mask, box_size=11)
            np.testing.assert_allclose(found[i], [x[0], y[0]], atol=1e-4)
            model = GaussianPRF(flux=source[~mask].sum(), x_0=x[0], y_0=y[0], x_fwhm=5.5, y_fwhm=5.5)
            for name in ("x_0", "y_0"):
                getattr(model, name).fixed = True
            for name in ("x_fwhm", "y_fwhm"):
                getattr(model, name).fixed = False
                getattr(model, name).bounds = (0.0, 11.0)
            first = {"flux": source[~mask].sum(), "x_fwhm": 5.5, "y_fwhm": 5.5}
            start = QTable({"x": x, "y": y, **{name: [value] for name, value in first.items()}})
            result = PSFPhotometry(model, (11, 11))(source, mask=mask, init_params=start)
            theirs = [
                result["x_fwhm_fit"][0] / 2.3548200450309493,
                result["y_fwhm_fit"][0] / 2.3548200450309493,
            ]
            np.testing.assert_allclose(fit[i], [*theirs, result["flux_fit"][0]], rtol=1e-3)
            circle = ApertureStats(data[i], CircularAperture((x[0], y[0]), 3.0), error=error[i])
            ring = ApertureStats(data[i], CircularAnnulus((x[0], y[0]), 4.0, 5.0), error=error[i])
            for k, one in ((0, circle), (3, ring)):
                expected = [one.sum, one.sum_err, one.sum_aper_area.value]
                np.testing.assert_allclose(out[i, k : k + 3], expected, rtol=1e-6)


#: catalogue column -> light-curve column, where the name differs
SAME = {
    "net_aperture_sum": "flux", "net_aperture_sum_err": "flux_err", "annulus_mean_err": "background_err",
    "centroid_x": "x", "centroid_y": "y", "psf_width_x": "width_x", "psf_width_y": "width_y",
}  # fmt: skip


def official_case(shared: Path, case: str) -> tuple[Binding, Rate, QTable]:
    folder = shared / "golden_stage2" / case
    path = next(folder.glob("*crfints*"))
    (exposure,) = find_exposures([path])
    with fits.open(path) as hdus:
        planes = {
            name: hdus[name].data.astype(hdus[name].data.dtype.newbyteorder("="))
            for name in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE", "DQ")
        }
    n = len(planes["SCI"])
    times = Times(np.zeros((n, 6)), np.zeros(n, np.uint32))
    block = Rate(
        1, planes["SCI"], planes["ERR"], planes["VAR_POISSON"], planes["VAR_RNOISE"], planes["DQ"].astype(np.uint32),
        times,
    )  # fmt: skip
    return Binding(exposure.info), block, QTable.read(folder / "phot.ecsv")


def check(measured: Measurement, table: QTable) -> None:
    for name in table.colnames[2:]:
        if "icrs" in name:
            continue
        ours = measured.extras.get(name, measured.columns.get(SAME.get(name, name)))
        assert ours is not None, name
        theirs = np.asarray(table[name].value)
        if name.startswith("psf"):
            np.testing.assert_allclose(ours[:, 0], theirs, rtol=1e-3, err_msg=name)
        elif name.endswith(("_x", "_y")):
            np.testing.assert_allclose(ours[:, 0], theirs, atol=1e-4, rtol=0, err_msg=name)
        else:
            np.testing.assert_allclose(ours[:, 0], theirs, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", ["nrc_sub64p", "miri_sub64"])
def test_the_official_table(shared: Path, case: str) -> None:
    binding, block, table = official_case(shared, case)
    (measured,) = TsoPhotometry(scope="segment").bind(binding).push(block)
    check(measured, table)


def bound(info: Any = None, **parameters: Any) -> BoundOfficialPhotometry:
    info = info or make_info("NRC_TSIMAGE", level="calints", nx=NX, ny=NY)
    step = TsoPhotometry(scope="segment", position=(14.0, 13.0), **parameters).bind(Binding(info))
    assert isinstance(step, BoundOfficialPhotometry)
    return step


def exact(count: int = 4, **options: Any) -> Rate:
    data, error, masked = stars(3, count, **options)
    times = Times(np.zeros((count, 6)), np.zeros(count, np.uint32))
    return Rate(1, data, error, error**2, error**2, masked.astype(np.uint32), times)


def test_the_aperture_moves_when_asked_to() -> None:
    block = exact()
    for moving in (False, True):
        (out,) = bound(moving_centroid=moving).push(block)
        spread = np.ptp(out.extras["aperture_x"])
        assert (spread > 0) == moving
        middle = out.columns["x"] if moving else np.full((4, 1), np.nanmedian(out.columns["x"]))
        np.testing.assert_array_equal(out.extras["aperture_x"], middle)
    (out,) = bound(centroid_source=False).push(block)
    assert (out.extras["aperture_x"] == 14.0).all()
    assert np.isnan(out.columns["x"]).all()


def test_a_source_that_is_not_found_is_where_it_was_planned() -> None:
    block = exact()
    block.dq[...] = dq.DO_NOT_USE
    (out,) = bound().push(block)
    assert np.isnan(out.columns["x"]).all()
    assert (out.extras["aperture_y"] == 13.0).all()
    assert np.isfinite(out.columns["flux"]).all(), "the aperture only leaves out what is not finite"


def test_several_radii_are_several_series() -> None:
    block = exact()
    (many,) = bound(radius=(3.0, 6.0), radius_inner=7.0, radius_outer=9.0).push(block)
    assert many.keys == ((0, 0), (0, 1))
    for place, radius in enumerate((3.0, 6.0)):
        (one,) = bound(radius=radius, radius_inner=7.0, radius_outer=9.0).push(block)
        for name, values in many.columns.items():
            np.testing.assert_array_equal(values[:, place], one.columns[name][:, 0], err_msg=name)


def test_weak_lens_in_the_smallest_subarray_is_summed_as_a_whole() -> None:
    info = make_info("NRC_TSIMAGE", level="calints", nx=NX, ny=NY, pupil="WLP8", subarray="SUB64P")
    block = exact()
    (out,) = bound(info).push(block)
    np.testing.assert_allclose(out.columns["flux"][:, 0], np.nansum(block.data.astype(float), axis=(1, 2)))
    expected = np.sqrt(np.nansum(block.err.astype(float) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(out.columns["flux_err"][:, 0], expected, rtol=1e-6)
    assert np.isnan(out.columns["background"]).all()


def test_units() -> None:
    info = make_info("NRC_TSIMAGE", level="calints", nx=NX, ny=NY, bunit="MJy/sr")
    assert bound(info).unit == "MJy/sr"
    assert "is kept" in bound(info).notes[0]
    known = replace(info, header={**info.header, "PIXAR_SR": 2e-13})
    assert bound(known).unit == "Jy"
    plain, jansky = (bound(one).push(exact())[0].columns["flux"] for one in (info, known))
    np.testing.assert_allclose(jansky, plain * 2e-7, rtol=1e-6)


def test_what_is_missing_or_even_is_said() -> None:
    info = make_info("NRC_TSIMAGE", level="calints", nx=NX, ny=NY)
    with pytest.raises(ConfigError, match="XREF_SCI"):
        TsoPhotometry(scope="segment").bind(Binding(info))
    with pytest.raises(ConfigError, match="outside the subarray"):
        TsoPhotometry(scope="segment", position=(NX + 1.0, 2.0)).bind(Binding(info))
    step = bound(fit_box_width=12)
    assert step.fit_box == 11
    assert "must be odd" in step.notes[0]
    with pytest.raises(ConfigError):
        build_operator(TsoPhotometry, {"radius": [3, -1]})
    assert TsoPhotometry(radius=(3.0, 5.0)).radii == (3.0, 5.0)


def test_one_integration_alone_disturbs_only_medians() -> None:
    """A wild integration moves the shared aperture by less than the others scatter."""
    calm, wild = exact(9, bad=0.0), exact(9, bad=0.0)
    wild.data[4] += np.float32(1e4) * (np.indices((NY, NX))[1] > 20)
    a, b = (bound().push(block)[0] for block in (calm, wild))
    moved = np.abs(a.extras["aperture_x"] - b.extras["aperture_x"]).max()
    assert moved <= np.ptp(a.columns["x"])


def test_make_rate_still_fits() -> None:
    info = make_info("MIR_IMAGE", level="calints")
    step = TsoPhotometry(scope="segment", position=(15.0, 15.0)).bind(Binding(info))
    (out,) = step.push(make_rate(info, np.random.default_rng(1), 3))
    assert out.columns["flux"].shape == (3, 1)

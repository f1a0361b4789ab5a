"""Smoothing, filling and interpolating as SciPy does it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, interpolate, ndimage

from tsostream.operators import smoothing
from tsostream.operators.aperture.covariance import _fast_length

NEXT = {"edge": "nearest", "symmetric": "reflect", "constant": "constant"}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).normal(10.0, 3.0, (9, 40))


@pytest.mark.parametrize("mode", NEXT)
@pytest.mark.parametrize("sigma", [0.0, 0.1, 1.2, 5.0, 16.0])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gaussian(image: np.ndarray, mode: str, sigma: float, axis: int) -> None:
    expected = ndimage.gaussian_filter1d(image, sigma, axis, mode=NEXT[mode]) if sigma else image
    np.testing.assert_allclose(smoothing.gaussian(image, sigma, axis, mode), expected, rtol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 5, 15, 16])
def test_running_mean(image: np.ndarray, size: int) -> None:
    expected = ndimage.uniform_filter1d(image[0], size, mode="nearest")
    np.testing.assert_allclose(smoothing.running_mean(image[0], size), expected, rtol=1e-12)


def test_median_of_nine(image: np.ndarray) -> None:
    np.testing.assert_array_equal(smoothing.median_of_nine(image), ndimage.median_filter(image, 3))


def test_beside() -> None:
    marked = np.random.default_rng(2).random((12, 15)) < 0.1
    np.testing.assert_array_equal(smoothing.beside(marked), ndimage.binary_dilation(marked))


def test_holes_are_filled_from_their_rim(image: np.ndarray) -> None:
    known = np.ones(image.shape, bool)
    known[3:8, 10:15] = known[0, 0] = known[:, -1] = False
    filled = smoothing.filled_from_neighbours(np.where(known, image, np.nan), known)
    np.testing.assert_array_equal(filled[known], image[known])
    assert filled[0, 0] == pytest.approx((image[0, 1] + image[1, 0]) / 2)
    np.testing.assert_array_equal(filled[:, -1], filled[:, -2])
    hole = filled[3:8, 10:15]
    assert image.min() < hole.min() <= hole.max() < image.max()
    assert np.ptp(hole[1:4, 1:4]) < np.ptp(hole)


def test_a_level_image_stays_level() -> None:
    known = np.zeros((5, 7), bool)
    known[2, 3] = True
    np.testing.assert_allclose(smoothing.filled_from_neighbours(np.full((5, 7), 4.0), known), 4.0)


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (2, 2)])
def test_bilinear(rows: int, columns: int) -> None:
    rng = np.random.default_rng(3)
    y, x = np.sort(rng.uniform(0, 1, rows)), np.sort(rng.uniform(0, 1, columns))
    table = rng.normal(size=(rows, columns))
    at_y, at_x = (
        np.r_[rng.uniform(-0.3, 1.3, 50), y[0], y[-1]],
        np.r_[rng.uniform(-0.3, 1.3, 50), x[-1], x[0]],
    )
    expected = interpolate.RectBivariateSpline(y, x, table, kx=1, ky=1).ev(at_y, at_x)
    np.testing.assert_allclose(smoothing.bilinear(y, x, table, at_y, at_x), expected, rtol=1e-10, atol=1e-12)


def test_a_table_of_one_row_is_constant_along_it() -> None:
    found = smoothing.bilinear(
        np.array([3.0]),
        np.array([1.0, 2.0]),
        np.array([[5.0, 7.0]]),
        np.array([0.0, 9.0]),
        np.array([1.5, 1.5]),
    )
    np.testing.assert_allclose(found, 6.0)


@pytest.mark.parametrize("least", [1, 2, 7, 63, 127, 511, 4095, 4097])
def test_lengths_that_transform_fast(least: int) -> None:
    length = _fast_length(least)
    assert least <= length <= 2 * least
    assert length == fft.next_fast_len(least, real=True)

"""Overlapping orders on a small detector with a known spectrum: grids, kernels, the joint fit, the linear operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.soss.engine import OrderModel
from tsostream.operators.soss.geometry import box_weights
from tsostream.operators.soss.grids import (
    SpectralKernel,
    combined_grid,
    convolution,
    derivative,
    pixel_edges,
    pixel_integrals,
    split_grid,
    throughput_function,
)
from tsostream.operators.soss.official import calibrate_official, segment_statistics
from tsostream.operators.soss.overlap import Overlap, OverlapSettings, calibrate_overlap
from tsostream.testing.naive.soss import naive_box, naive_pixel_integral

NY, NX = 40, 160


def spectrum(wave: np.ndarray) -> np.ndarray:
    return 1e5 * (1.0 + 0.3 * np.sin(6 * wave)) * (1 - 0.2 * np.exp(-(((wave - 1.1) / 0.02) ** 2)))


@dataclass(frozen=True)
class Toy:
    """Two orders that run into each other towards column 0, of one spectrum."""

    models: tuple[OrderModel, OrderModel]
    boxes: dict[int, np.ndarray]
    truth: dict[int, np.ndarray]
    images: dict[int, np.ndarray]

    @property
    def image(self) -> np.ndarray:
        return sum(self.images.values())


def toy() -> Toy:
    x = np.arange(NX, dtype=float)
    rows = np.arange(NY)[:, None]
    models, boxes, truth, images = [], {}, {}, {}
    for order, wave, centre, gain in (
        (1, 1.60 - 0.0045 * x, 12 + 0.02 * x, 1.0),
        (2, 1.05 - 0.0030 * x, 19 + 0.08 * x, 0.3),
    ):
        profile = np.exp(-0.5 * ((rows - centre) / 3.0) ** 2)
        profile /= profile.sum(axis=0)
        table = np.stack([np.linspace(0.4, 1.8, 400), np.full(400, gain)])
        through = throughput_function(table)
        models.append(OrderModel(order, wave, profile, wave, through, None))
        short, long = pixel_edges(wave)
        fine = np.linspace(0, 1, 41)[:, None] * (long - short) + short
        light = np.trapezoid(spectrum(fine) * through(fine) * fine, fine, axis=0)
        truth[order] = light
        images[order] = profile * light
        boxes[order] = box_weights(centre, 14.0, NY)
    return Toy((models[0], models[1]), boxes, truth, images)


def calibrate(case: Toy, sigma: float = 0.05, **changes: object) -> tuple[Overlap, np.ndarray]:
    inverse = np.full((NY, NX), sigma**-2)
    noise = np.random.default_rng(1).normal(0, sigma, (NY, NX))
    outside = [~(box > 0) for box in case.boxes.values()]
    chosen = OverlapSettings(limits=(0.58, 0.75), **changes)  # type: ignore[arg-type]
    bad = np.zeros((NY, NX), bool)
    return calibrate_overlap(case.models, case.image + noise, inverse, outside, bad, chosen), inverse


def test_orders_are_told_apart() -> None:
    case = toy()
    overlap, inverse = calibrate(case)
    found = overlap.amplitudes(case.image, inverse)
    # at column 10 most of order 2's box is order 1's light
    shared = (np.minimum(case.boxes[1], case.boxes[2]) * case.images[1])[:, 10].sum()
    assert shared > case.truth[2][10] * 0.5
    for order in (1, 2):
        relative = found[order] / case.truth[order] - 1
        known = np.isfinite(relative)
        assert known.sum() > NX - 8
        assert abs(np.median(relative[known])) < 1e-3
        assert np.percentile(np.abs(relative[known]), 95) < 5e-3


def test_the_joint_part_is_linear() -> None:
    case = toy()
    overlap, inverse = calibrate(case)
    a, b = case.image, case.image[::-1] * 0.1
    one, other, both = (overlap.amplitudes(image, inverse) for image in (a, b, a + 2 * b))
    for order in (1, 2):
        np.testing.assert_allclose(both[order], one[order] + 2 * other[order], rtol=1e-9, atol=1e-6)


def test_a_single_order_with_frozen_errors_is_its_fit() -> None:
    case = toy()
    overlap, inverse = calibrate(case)
    (single,) = overlap.singles
    points, solver = single.frozen(inverse)
    sums = (single.share * inverse * case.image).sum(axis=0)
    found = single.rebuild[:, points] @ solver.solve((single.matrix.T @ sums)[points])
    np.testing.assert_allclose(
        found[single.columns], single.amplitudes(case.image, inverse)[single.columns], rtol=1e-6, atol=1e-8
    )


def test_given_regularisation_is_used() -> None:
    overlap, _ = calibrate(toy(), tikfac=1e-6)
    assert overlap.factor == 1e-6


@pytest.mark.parametrize("model_bad", [False, True])
def test_official_extraction_of_a_file(model_bad: bool) -> None:
    """Box sums with the other order taken out; a pixel that is always bad is left out or modelled."""
    case = toy()
    rng = np.random.default_rng(5)
    error = np.full((5, NY, NX), 0.05, np.float32)
    data = (case.image + rng.normal(0, 0.05, error.shape)).astype(np.float32)
    bits = np.zeros(data.shape, np.uint32)
    data[:, 13, 80] = np.nan
    bits[:, 13, 80] = 1
    data[2, 14, 90] = np.nan
    filled = np.empty_like(data)
    statistics = segment_statistics(data, error, bits, filled)
    assert np.isinf(statistics.error[13, 80])
    assert statistics.bad[13, 80]
    assert abs(filled[2, 14, 90] - case.image[14, 90]) < 0.5
    chosen = OverlapSettings(limits=(0.58, 0.75))
    models = {one.order: one for one in case.models}
    official = calibrate_official(statistics, case.boxes, models, chosen, atoca=True, model_bad=model_bad)
    found = official.extract(filled[2], error[2], ~np.isfinite(data[2]))
    for order in (1, 2):
        expected = (case.boxes[order] * case.images[order]).sum(axis=0)
        relative = found[order].flux / expected - 1
        relative[80] = 0 if order == 1 and not model_bad else relative[80]
        assert np.nanpercentile(np.abs(relative), 90) < 0.02
    lost = case.images[1][13, 80] / case.truth[1][80]
    deficit = 1 - found[1].flux[80] / (case.boxes[1] * case.images[1])[:, 80].sum()
    assert deficit == pytest.approx(0.0 if model_bad else lost, abs=0.01)
    assert found[1].npixels[80] == pytest.approx(14.0 if model_bad else 13.0)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(0.01, 1.0), min_size=3, max_size=12),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6),
    st.integers(0, 2**31),
)
def test_integrals_are_those_of_straight_lines(steps: list[float], edges: list[float], seed: int) -> None:
    grid = np.cumsum([0.0, *steps])
    at = np.sort(np.array(edges)) * grid[-1]
    values = np.random.default_rng(seed).normal(size=grid.size)
    short, long = at[:-1], at[1:]
    found = pixel_integrals(grid, short, long, np.ones(short.size, bool)) @ values
    for k in range(short.size):
        assert found[k] == pytest.approx(naive_pixel_integral(grid, values, short[k], long[k]), abs=1e-9)


def test_split_grid_and_derivative() -> None:
    grid = split_grid(np.array([0.0, 1.0, 3.0]), np.array([2, 1]))
    np.testing.assert_allclose(grid, [0, 0.5, 1, 3])
    np.testing.assert_allclose(derivative(grid) @ (5 * grid + 2), 5)


def test_grid_is_refined_where_the_spectrum_bends() -> None:
    coarse = np.linspace(1.0, 2.0, 21)

    def line(wave: np.ndarray) -> np.ndarray:
        return 1 + np.exp(-(((wave - 1.5) / 0.01) ** 2))

    grid = combined_grid([coarse], [line], (1.0, 2.0), rtol=1e-4, most=5000)
    step = np.diff(grid)
    assert step[np.abs(grid[:-1] - 1.5) < 0.02].max() < 0.005
    assert step[grid[:-1] < 1.3].min() > 0.04
    assert combined_grid([coarse], [line], (1.0, 2.0), rtol=1e-9, most=40).size <= 41


def test_second_grid_only_where_the_first_is_not() -> None:
    grid = combined_grid(
        [np.linspace(1, 2, 11), np.linspace(0, 3, 16)], [np.ones_like] * 2, (0.0, 3.0), rtol=1.0, most=100
    )
    inside = grid[(grid > 1.0) & (grid < 2.0)]
    np.testing.assert_allclose(inside, np.linspace(1, 2, 11)[1:-1])
    assert grid[0] == 0.0
    assert grid[-1] == 3.0


def kernel_of(fwhm: float) -> SpectralKernel:
    pixels = np.linspace(-6, 6, 49)
    shape = np.maximum(np.exp(-0.5 * (pixels / (fwhm / 2.3548)) ** 2), 1e-8)
    centres = np.linspace(0.5, 2.0, 31)
    return SpectralKernel(centres, np.tile(shape[:, None], (1, 31)), 1.6 - 0.0045 * np.arange(NX), 13)


def test_convolution_keeps_a_level_and_widens_a_line() -> None:
    kernel = kernel_of(3.0)
    grid = np.linspace(1.0, 1.5, 400)
    matrix = convolution(kernel, grid, (20, 380))
    np.testing.assert_allclose(matrix @ np.ones(400), 1.0, atol=1e-12)
    line = np.exp(-0.5 * ((grid - 1.25) / 0.004) ** 2)
    broad = matrix @ line
    part = grid[20:380]
    width = np.sqrt((broad * (part - 1.25) ** 2).sum() / broad.sum())
    # sigma of the kernel: 3 / 2.3548 pixels of 0.0045 µm
    assert width == pytest.approx(np.hypot(0.004, 3.0 / 2.3548 * 0.0045), rel=0.02)
    plain = convolution(None, grid, (20, 380)) @ line
    np.testing.assert_array_equal(plain, line[20:380])


@settings(deadline=None, max_examples=50)
@given(st.floats(-3, 12), st.floats(1.0, 9.0))
def test_box_weights_against_naive(centre: float, width: float) -> None:
    found = box_weights(np.array([centre, np.nan]), width, 10)
    np.testing.assert_allclose(found[:, 0], naive_box(centre, width, 10), atol=1e-12)
    assert not found[:, 1].any()

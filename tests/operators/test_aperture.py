"""What extraction and photometry share: traces, profiles, backgrounds, pixel lists, solver, shared noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import InputError
from tsostream.operators.aperture import covariance, geometry
from tsostream.operators.aperture.solving import solve_symmetric
from tsostream.operators.aperture.sums import Position
from tsostream.testing.naive.aperture import solve_system

# --- the solver ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), decades=st.floats(0, 6))
def test_solver_agrees_with_its_twin(seed: int, n: int, decades: float) -> None:
    """A template and its derivatives differ in size by orders of magnitude."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(20, n)) * 10 ** rng.uniform(-decades / 2, decades / 2, n)
    matrix, vector, diagonal = basis.T @ basis, rng.normal(size=n), np.empty(n)
    expected, inverse = solve_system(matrix, vector)
    before, solution = matrix.copy(), vector.copy()
    assert solve_symmetric(matrix, solution, n, diagonal)
    np.testing.assert_allclose(solution, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(diagonal, inverse, rtol=1e-7)
    np.testing.assert_array_equal(matrix, before)


@pytest.mark.parametrize(
    "matrix",
    [np.ones((2, 2)), np.zeros((2, 2)), np.array([[1.0, 0.0], [0.0, -1.0]]), np.full((2, 2), np.nan)],
    ids=["singular", "zero", "negative", "nan"],
)
def test_solver_says_when_there_is_no_solution(matrix: np.ndarray) -> None:
    vector = np.array([1.0, 2.0])
    assert not solve_symmetric(matrix, vector, 2, np.empty(2))
    assert vector.tolist() == [1.0, 2.0]


# --- the trace ----------------------------------------------------------------------------------------------

SHAPE = (40, 300)
TRACES = {
    "straight": lambda x: 17.3 + 0 * x,
    "tilted": lambda x: 10.0 + 18.0 * x / 300,
    "curved like SOSS": lambda x: 8.0 + 24.0 * ((x - 180) / 180) ** 2,
    "s-shaped": lambda x: 20.0 + 8.0 * np.sin(x / 60.0),
}


def spectrum_along(
    centre: np.ndarray, rng: np.random.Generator, *, noise: float = 5.0, sigma: float = 1.5
) -> np.ndarray:
    x = np.arange(SHAPE[1])
    light = 400.0 * (0.3 + np.sin(np.pi * (x + 5) / (SHAPE[1] + 10)))
    profile = np.exp(-0.5 * ((np.arange(SHAPE[0])[:, None] - centre) / sigma) ** 2)
    return light * profile + rng.normal(30.0, noise, SHAPE)


@pytest.mark.parametrize("kind", TRACES)
@pytest.mark.parametrize("spoilt", [False, True])
def test_trace_is_found(kind: str, spoilt: bool) -> None:
    rng = np.random.default_rng(7)
    centre = TRACES[kind](np.arange(SHAPE[1], dtype=float))
    image, bad = spectrum_along(centre, rng), np.zeros(SHAPE, bool)
    if spoilt:
        bad = rng.random(SHAPE) < 0.02
        image[bad] = rng.choice([np.nan, 1e6, -1e6], bad.sum())
        bad[:, 140:144] = True
    trace = geometry.find_trace(image, bad, half_width=5.0)
    assert np.abs(trace.centre - centre).max() < 0.35
    assert np.sqrt(np.mean((trace.centre - centre) ** 2)) < 0.1
    assert np.isfinite(trace.centre).all()


def test_a_straight_trace_gets_no_needless_terms() -> None:
    centre = TRACES["straight"](np.arange(SHAPE[1], dtype=float))
    trace = geometry.find_trace(
        spectrum_along(centre, np.random.default_rng(1)), np.zeros(SHAPE, bool), half_width=5.0
    )
    assert trace.degree <= 1


def test_the_brighter_of_two_spectra_is_followed() -> None:
    rng = np.random.default_rng(2)
    low, high = np.full(SHAPE[1], 9.0), np.full(SHAPE[1], 30.0)
    image = spectrum_along(high, rng) + 0.25 * (spectrum_along(low, rng) - 30.0)
    trace = geometry.find_trace(image, np.zeros(SHAPE, bool), half_width=4.0)
    np.testing.assert_allclose(trace.centre, high, atol=0.1)


def test_ends_without_light_hold_the_last_centre() -> None:
    rng = np.random.default_rng(3)
    image = spectrum_along(np.linspace(12, 28, SHAPE[1]), rng)
    image[:, :60] = rng.normal(30, 5, (SHAPE[0], 60))
    trace = geometry.find_trace(image, np.zeros(SHAPE, bool), half_width=5.0)
    assert (np.diff(trace.centre[:50]) == 0).all()
    assert np.abs(trace.centre[:50] - trace.centre[70]).max() < 2


@pytest.mark.parametrize("shape", [(20, 48), SHAPE, (32, 512)])
def test_no_spectrum_is_an_error_that_says_what_to_do(shape: tuple[int, int]) -> None:
    """Somewhere in noise there is always a peak; it is not followed by others."""
    for seed in range(10):
        image = np.random.default_rng(seed).normal(30, 5, shape)
        with pytest.raises(InputError, match=r"no spectrum found.*--set extract_1d\.trace_coeffs"):
            geometry.find_trace(image, np.zeros(shape, bool), half_width=5.0)


# --- boxes, lists, backgrounds, profiles --------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(centre=st.floats(6, 13), width=st.floats(0.2, 10))
def test_box_has_its_width_and_its_place(centre: float, width: float) -> None:
    weight = geometry.box_weights(np.array([centre]), width, 20)[:, 0]
    assert weight.sum() == pytest.approx(width)
    assert (weight * np.arange(20)).sum() / width == pytest.approx(centre, abs=0.5)
    assert ((weight >= 0) & (weight <= 1)).all()


def test_box_beyond_the_edge_is_cut() -> None:
    np.testing.assert_allclose(geometry.box_weights(np.array([0.0]), 4.0, 5)[:, 0], [1, 1, 0.5, 0, 0])


@pytest.mark.parametrize("along_y", [False, True])
def test_pixel_lists_name_each_column_s_pixels(along_y: bool) -> None:
    selected = np.random.default_rng(0).random((5, 8)) < 0.4
    selected[:, 3] = False
    start, flat, (cross, disp) = geometry.pixel_lists(selected, along_y=along_y)
    stored = selected.T if along_y else selected
    for column in range(8):
        part = slice(start[column], start[column + 1])
        places = np.array(np.unravel_index(flat[part], stored.shape))
        mine = stored[tuple(places)]
        assert mine.all()
        assert len(mine) == selected[:, column].sum()
        assert (places[0 if along_y else 1] == column).all()
        np.testing.assert_array_equal(disp[part], column)
        np.testing.assert_array_equal(places[1 if along_y else 0], cross[part])


def test_background_keeps_away_from_trace_edges_bad_pixels_and_other_sources() -> None:
    rng = np.random.default_rng(5)
    centre = np.full(SHAPE[1], 12.0)
    image = spectrum_along(centre, rng) + 0.5 * (spectrum_along(np.full(SHAPE[1], 33.0), rng) - 30.0)
    bad = rng.random(SHAPE) < 0.01
    ground = geometry.ground_mask(geometry.smoothed(image, bad), bad, centre, 7.0, None)
    distance = np.abs(np.arange(SHAPE[0]) - 12.0)
    assert not ground[distance < 7].any()
    assert not (ground & bad).any()
    assert ground[32:35, 50:250].mean() < 0.05, "the other spectrum is no background"
    assert ground[22:27].mean() > 0.9
    near = geometry.ground_mask(geometry.smoothed(image, bad), bad, centre, 7.0, 9.0)
    assert not near[distance > 9].any()
    assert near.any()


def test_profile_fills_holes_from_the_neighbouring_columns() -> None:
    rng = np.random.default_rng(6)
    centre = TRACES["tilted"](np.arange(SHAPE[1], dtype=float))
    image = spectrum_along(centre, rng, noise=0.0)
    bad = np.zeros(SHAPE, bool)
    holes = [(round(centre[c]) + d, c) for c, d in ((60, 0), (120, 1), (200, -1))]
    for hole in holes:
        bad[hole] = True
    weight = geometry.box_weights(centre, 10.0, SHAPE[0])
    ground = np.abs(np.arange(SHAPE[0])[:, None] - centre) > 8
    spoilt = np.where(bad, np.nan, image)
    source, level = geometry.column_profile(spoilt, bad, centre, weight, ground)
    np.testing.assert_allclose(level, 30.0, atol=0.01)
    for hole in holes:
        assert source[hole] == pytest.approx(image[hole] - 30.0, rel=0.1)
    np.testing.assert_allclose(source[~bad], (image - 30.0)[~bad], atol=0.01)


def test_derivatives_of_a_barely_sampled_profile() -> None:
    y = np.arange(30.0)[:, None] - 14.3
    profile = np.exp(-0.5 * (y / 1.2) ** 2)
    first, second = geometry.derivatives(profile, 0)
    np.testing.assert_allclose(first, -y / 1.2**2 * profile, atol=0.02)
    np.testing.assert_allclose(second, (y**2 / 1.2**4 - 1 / 1.2**2) * profile, atol=0.12)
    assert not np.any(geometry.derivatives(np.ones((3, 5)), 0))


def test_robust_spread() -> None:
    values = np.random.default_rng(0).normal(0, 2.0, 20000)
    values[:100] = 1e6
    values[100:200] = np.nan
    assert geometry.robust_spread(values) == pytest.approx(2.0, rel=0.03)
    assert geometry.robust_spread(np.array([np.nan])) == 0.0


@pytest.mark.parametrize(("shift", "broader"), [(0.1, 0.0), (-0.2, 0.0), (0.0, 0.1), (0.15, -0.05)])
def test_position_from_the_derivatives(shift: float, broader: float) -> None:
    y = np.arange(40.0)[:, None] - 20.0
    template = np.exp(-0.5 * (y / 2.0) ** 2) / 2.0
    width = 2.0 * (1 + broader)
    observed = 3.0 * np.exp(-0.5 * ((y - shift) / width) ** 2) / width
    basis = np.concatenate([template, *geometry.derivatives(template, 0)], axis=1)
    fit = np.zeros((1, 5))
    fit[0, :3] = np.linalg.lstsq(basis, observed[:, 0], rcond=None)[0]
    place = Position(fit, np.full((1, 5), 0.3), 1, 2, 2.0)
    assert place.shift[0] == pytest.approx(shift, abs=0.015)
    assert place.width[0] == pytest.approx(width, abs=0.05)
    assert place.shift_error[0] == pytest.approx(0.3 / fit[0, 0])
    dark = Position(np.array([[-1.0, 0, 0, 0, 0]]), np.ones((1, 5)), 1, 2, 2.0)
    assert np.isnan(dark.shift[0])
    assert np.isnan(dark.width[0])


# --- shared noise -------------------------------------------------------------------------------------------


def naive_excess(weights: np.ndarray, shared: np.ndarray) -> float:
    """Sum over all pairs of pixels."""
    lag_y, lag_x = shared.shape[0] // 2, shared.shape[1] // 2
    total = 0.0
    for y, x in np.ndindex(weights.shape):
        for v, u in np.ndindex(weights.shape):
            if abs(v - y) <= lag_y and abs(u - x) <= lag_x:
                total += weights[y, x] * weights[v, u] * shared[v - y + lag_y, u - x + lag_x]
    return max(total, 0.0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), lag_y=st.integers(0, 4), lag_x=st.integers(0, 6))
def test_excess_variance_is_the_sum_over_pairs(seed: int, lag_y: int, lag_x: int) -> None:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(2 * lag_y + 1, 2 * lag_x + 1))
    shared = shared + shared[::-1, ::-1]
    weights = rng.normal(size=(6, 7))
    assert covariance.excess_variance(weights, shared) == pytest.approx(
        naive_excess(weights, shared), rel=1e-9, abs=1e-9
    )
    columns = covariance.column_excess(weights, shared)
    alone = [naive_excess(weights[:, [k]], shared[:, [lag_x]]) for k in range(7)]
    np.testing.assert_allclose(columns, alone, rtol=1e-9, atol=1e-9)


def test_weights_of_a_background_subtracted_column_add_up_to_zero() -> None:
    rng = np.random.default_rng(0)
    weight, ground = rng.random((9, 5)), rng.random((9, 5)) < 0.4
    ground[:, 2] = False
    weights = covariance.sum_weights(weight, ground, np.ones((9, 5)))
    np.testing.assert_allclose(np.delete(weights.sum(axis=0), 2), 0.0, atol=1e-12)
    assert weights[:, 2].sum() == pytest.approx(weight[:, 2].sum())


@pytest.mark.parametrize("slow_is_x", [False, True])
def test_covariance_of_lines_is_measured(slow_is_x: bool) -> None:
    """Each fast line has an offset of its own: pixels of a line share its variance, others share nothing."""
    rng = np.random.default_rng(1)
    lines = rng.normal(0, 3.0, (200, 1, 24) if slow_is_x else (200, 24, 1))
    residuals = (lines + rng.normal(0, 1.0, (200, 24, 24))).astype(np.float32)
    mask = rng.random((24, 24)) < 0.7
    shared = covariance.shared_covariance(residuals, mask, independent=1.0, slow_is_x=slow_is_x)
    middle = (shared.shape[0] // 2, shared.shape[1] // 2)
    assert shared[middle] == pytest.approx(9.0, rel=0.15), "what a pixel has for itself is taken off"
    along = shared[middle[0] + 3, middle[1]] if slow_is_x else shared[middle[0], middle[1] + 3]
    across = shared[middle[0], middle[1] + 3] if slow_is_x else shared[middle[0] + 3, middle[1]]
    # the mean of each image is taken out: a twenty-fourth of the lines' variance
    assert along == pytest.approx(9.0, rel=0.15)
    assert across == pytest.approx(-9.0 / 24, abs=0.3)

"""Sorting and what follows from it agree with their twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators import ranks
from tsostream.operators.sorting import comparators
from tsostream.testing.naive.flicker import clip_statistics, median_lines, order


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 300), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_sort_agrees_with_its_twin(seed: int, count: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, scale, count + 5)).astype(np.float32)
    values[rng.random(values.size) < 0.2] = rng.choice([0.0, -0.0, np.inf, -np.inf, values[0]])
    expected = order(values[:count])
    tail = values[count:].copy()
    ranks.sort_values(values, np.empty_like(values), count)
    np.testing.assert_array_equal(values[:count], expected)
    np.testing.assert_array_equal(values[count:], tail)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), start=st.integers(0, 5))
def test_clip_agrees_with_its_twin(seed: int, count: int, start: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 5, count).astype(np.float32)
    values[rng.random(count) < 0.1] += 500
    if seed % 7 == 0:
        values[:] = 3.25
    padded = np.concatenate([np.full(start, -1e9, np.float32), np.sort(values)])
    stop = start + count
    sums, squares = np.empty(stop + 1), np.empty(stop + 1)
    ranks.sums_of_squares(padded, start, stop, 49.0, sums, squares)
    first, last, centre, width = ranks.clipped_stretch(padded, start, stop, 3.0, 49.0, sums, squares)
    expected = clip_statistics(values.astype(np.float64))
    assert centre == expected[0]
    assert width == pytest.approx(expected[1], rel=1e-7, abs=1e-6)
    assert start <= first < last <= stop
    off = centre - values[values <= centre].astype(np.float64)
    mirrored = clip_statistics(np.concatenate([-off, off]))[1]
    assert ranks.half_width(padded, start, stop, centre, 3.0, squares) == pytest.approx(mirrored, rel=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), along_x=st.booleans(), channels=st.sampled_from([1, 4]))
def test_medians_of_lines_agree_with_their_twin(seed: int, along_x: bool, channels: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(10, 3, (8, 12)).round(1).astype(np.float32)
    good = rng.random(image.shape) < 0.5
    expected = median_lines(image, good, along_x=along_x, channels=channels)
    ranks.middle_of_lines(image, good, along_x, channels, np.empty(12, np.float32))
    np.testing.assert_allclose(image, expected, rtol=0, atol=2e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), levels=st.sampled_from([2, 5, 1000]))
def test_median_by_selection(seed: int, count: int, levels: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, count).astype(np.float32)
    assert ranks.middle_value(values.copy(), count) == np.median(values)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), ny=st.sampled_from([1, 2, 5, 32]), nx=st.sampled_from([1, 63, 64, 150])
)
def test_columns_side_by_side_agree_with_their_twin(seed: int, ny: int, nx: int) -> None:
    rng = np.random.default_rng(seed)
    image, good = rng.normal(0, 9, (ny, nx)).astype(np.float32), rng.random((ny, nx)) < rng.random()
    image[~good & (rng.random((ny, nx)) < 0.2)] = np.nan
    expected = median_lines(image, good, along_x=False, channels=1)
    ranks.middle_of_columns(image, good, np.full((ny, 64), np.nan, np.float32), comparators(ny))
    np.testing.assert_array_equal(image, expected)

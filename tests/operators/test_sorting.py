"""sorting: the network sorts, the statistics are numpy's. Tolerance: 1e-6, float32 interpolation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.sorting import (
    comparators,
    median_comparators,
    median_of,
    select,
    short_median,
    sort_lanes,
    stack_statistics,
)
from tsostream.testing.naive.statistics import middle_value, robust_stack, sort_columns


@pytest.mark.parametrize("n", range(1, 11))
def test_network_sorts_every_pattern_of_zeros_and_ones(n: int) -> None:
    """The 0-1 principle: a network that sorts these sorts everything."""
    lanes = np.array(list(itertools.product([0.0, 1.0], repeat=n)), np.float32).T.copy()
    expected = np.sort(lanes, axis=0)
    sort_lanes(lanes, comparators(n))
    np.testing.assert_array_equal(lanes, expected)


@pytest.mark.parametrize("n", range(1, 13))
def test_half_a_network_finds_the_middle(n: int) -> None:
    lanes = np.array(list(itertools.product([0.0, 1.0], repeat=n)), np.float32).T.copy()
    expected = np.sort(lanes, axis=0)
    pairs = median_comparators(n)
    sort_lanes(lanes, pairs)
    middle = sorted({max(n // 2 - 1, 0), n // 2})
    np.testing.assert_array_equal(lanes[middle], expected[middle])
    assert len(pairs) <= len(comparators(n))
    assert len(median_comparators(32)) < 0.85 * len(comparators(32))


@pytest.mark.parametrize("n", [2, 9, 16, 31, 64, 100])
def test_network_agrees_with_its_twin_and_with_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    lanes = rng.normal(size=(n, 70)).astype(np.float32)
    lanes[rng.random(lanes.shape) < 0.1] = np.inf
    lanes[rng.random(lanes.shape) < 0.1] = 3.0
    twin, expected = sort_columns(lanes), np.sort(lanes, axis=0)
    sort_lanes(lanes, comparators(n))
    np.testing.assert_array_equal(lanes, expected)
    np.testing.assert_array_equal(twin, expected)


def test_a_network_with_a_comparator_less_does_not_sort() -> None:
    lanes = np.array(list(itertools.product([0.0, 1.0], repeat=6)), np.float32).T.copy()
    expected = np.sort(lanes, axis=0)
    sort_lanes(lanes, comparators(6)[:-1])
    assert (lanes != expected).any()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), ties=st.booleans())
def test_short_median_agrees_with_its_twin(seed: int, count: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, 40).astype(float) if ties else rng.normal(size=40)
    expected = middle_value(values[:count])
    assert short_median(values, count) == expected == pytest.approx(np.median(values[:count]), abs=1e-15)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), ties=st.booleans(), single=st.booleans())
def test_medians_of_longer_lists_are_selected(seed: int, count: int, ties: bool, single: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, 301).astype(float) if ties else rng.normal(size=301)
    values = values.astype(np.float32) if single else values
    place = int(rng.integers(count))
    ordered = np.sort(values[:count])
    again = values.copy()
    assert select(again, count, place) == ordered[place] == again[place]
    assert (again[:place] <= again[place]).all()
    assert (again[place:count] >= again[place]).all()
    assert median_of(values, count) == middle_value(ordered.astype(np.float64))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), lost=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_statistics_agree_with_their_twin(seed: int, n: int, lost: float) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.normal(100, 5, (n, 4, 6)).astype(np.float32)
    stack[rng.random(stack.shape) < lost] = np.nan
    stack[rng.random(stack.shape) < lost / 10] = np.inf
    scale = rng.uniform(0.5, 2.0, n)
    median, scatter = np.zeros((2, 4, 6), np.float32)
    count = np.zeros((4, 6), np.int32)
    stack_statistics(stack, scale, comparators(n), median, scatter, count, 0, 4)
    expected = robust_stack(stack, scale)
    np.testing.assert_allclose(median, expected[0], rtol=1e-6)
    np.testing.assert_allclose(scatter, expected[1], rtol=1e-5, atol=3e-5)
    np.testing.assert_array_equal(count, expected[2])


def test_statistics_touch_only_their_rows() -> None:
    median, scatter = np.full((2, 5, 3), -1.0, np.float32)
    count = np.full((5, 3), -1, np.int32)
    stack = np.ones((7, 5, 3), np.float32)
    stack_statistics(stack, np.ones(7), comparators(7), median, scatter, count, 1, 3)
    assert (median[:, 0] == 1).tolist() == [False, True, True, False, False]
    assert count[:, 0].tolist() == [-1, 7, 7, -1, -1]

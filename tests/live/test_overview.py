"""Long series stay short, and figures are what they say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_builders import batches

from tsostream.live.figures import Figures
from tsostream.live.overview import Overview


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 8))
def test_bins_are_means_of_consecutive_rows(cuts, capacity):
    rng = np.random.default_rng(sum(cuts))
    values = rng.standard_normal((sum(cuts), 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    x = np.arange(len(values), dtype=float)
    overview = Overview(3, capacity)
    done = 0
    for cut in cuts:
        overview.add(x[done : done + cut], values[done : done + cut])
        done += cut
    assert overview.bins <= 2 * capacity
    assert overview.size == 1 or overview.bins > capacity
    for number in range(overview.bins):
        rows = slice(number * overview.size, (number + 1) * overview.size)
        assert overview.x[number] == pytest.approx(x[rows].mean())
        for column in range(3):
            good = values[rows, column][np.isfinite(values[rows, column])]
            mean = overview.mean[number, column]
            assert math.isnan(mean) if not len(good) else mean == pytest.approx(good.mean(), abs=1e-12)


def test_rate_and_time_left_do_not_count_what_was_there_before():
    now = [0.0]
    figures = Figures(clock=lambda: now[0])
    figures.add(batches(1, 50)[0])
    figures.mark()
    assert math.isnan(figures.rate)
    assert math.isnan(figures.left(100))
    now[0] = 2.0
    figures.add(batches(51, 10)[0])
    figures.mark()
    assert (figures.rows, figures.last) == (60, 60)
    assert figures.rate == 5.0
    assert figures.left(100) == 8.0
    for _ in range(60):  # a run that hangs comes to a rate of 0, not to the rate it had
        now[0] += 1.0
        figures.mark()
    assert figures.rate == 0.0
    assert math.isnan(figures.left(100))


def test_scatter_beside_what_is_expected():
    figures = Figures()
    assert all(math.isnan(one) for one in figures.scatter)
    figures.add(batches(1, 200)[0])
    found, expected = figures.scatter
    assert expected == pytest.approx(1000, rel=1e-3)  # sqrt(1e6) of 1e6
    assert found == pytest.approx(0, abs=1e-6)  # a straight line has no scatter between neighbours

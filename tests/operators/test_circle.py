"""circle_weights: exact overlaps, as photutils computes them (1e-12) and as thin slices say (1e-5)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.circle import circle_weights
from tsostream.testing.naive.statistics import circle_overlap

SHAPE = (9, 11)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=st.floats(-2, 12), y=st.floats(-2, 10), radius=st.floats(0.05, 9))
def test_agrees_with_photutils(x: float, y: float, radius: float) -> None:
    geometry = pytest.importorskip("photutils.geometry")
    edges = (-0.5 - x, SHAPE[1] - 0.5 - x, -0.5 - y, SHAPE[0] - 0.5 - y)
    exact = geometry.circular_overlap_grid(*edges, SHAPE[1], SHAPE[0], radius, 1, 1)
    weights = np.full(SHAPE, np.nan)
    total = circle_weights(weights, x, y, radius)
    np.testing.assert_allclose(weights, exact, atol=1e-12)
    assert total == pytest.approx(exact.sum(), abs=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "radius"), [(5.0, 4.0, 3.0), (4.5, 3.5, 2.5), (0.2, 8.7, 4.1), (5.1, 4.2, 0.3)]
)
def test_agrees_with_its_twin(x: float, y: float, radius: float) -> None:
    weights = np.empty(SHAPE)
    circle_weights(weights, x, y, radius)
    np.testing.assert_allclose(weights, circle_overlap(SHAPE, x, y, radius), atol=1e-5)


def test_area_and_symmetry() -> None:
    weights = np.empty((21, 21))
    assert circle_weights(weights, 10.0, 10.0, 7.3) == pytest.approx(np.pi * 7.3**2, rel=1e-12)
    np.testing.assert_allclose(weights, weights.T, atol=1e-12)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-12)
    assert weights[10, 10] == 1.0
    assert weights[0, 0] == 0.0


@pytest.mark.parametrize("radius", [0.0, -1.0])
def test_no_circle_no_weight(radius: float) -> None:
    weights = np.full((3, 3), np.nan)
    assert circle_weights(weights, 1.0, 1.0, radius) == 0.0
    assert not weights.any()

"""Weights of the official ramp fit (spec stage 1, 21.5) for ramps and pieces of ramps of every length."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tsostream.operators.ramp_slopes import POWERS
from tsostream.operators.sorting import comparators

__all__ = ["fit_tables", "official_weights", "raw_weights"]


def raw_weights(longest: int) -> np.ndarray:
    """Weights of the groups of segments of all lengths (21.5), powers in single precision.

    Returns
    -------
    weights : float64 [power, length, group]
        1 in segments of fewer than three groups.
    """
    table = np.ones((len(POWERS), longest + 1, max(longest, 1)))
    for number, power in enumerate(POWERS):
        for length in range(3, longest + 1):
            middle = (length - 1) / 2.0
            away = (np.abs(np.arange(length) - middle) / middle).astype(np.float32)
            table[number, length, :length] = away ** np.float32(power)
    return table


def official_weights(length: int) -> np.ndarray:
    """Weights whose dot product with a ramp of ``length`` groups is its rise per group; float64 [power, group]."""
    x = np.arange(length, dtype=np.float64)
    rows = []
    for w in raw_weights(length)[:, length]:
        centre = (w * x).sum() / w.sum()
        rows.append(w * (x - centre) / (w * (x - centre) ** 2).sum())
    return np.array(rows)


@lru_cache(maxsize=8)
def fit_tables(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of clean ramps and of segments, and comparators, for ramps of ``count`` groups."""
    weights = official_weights(count) if count > 1 else np.zeros((len(POWERS), 1))
    return weights, raw_weights(count), comparators(count - 1)

"""Twins of the kernels for the zero frame (spec stage 1, sections 6, 8 and 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ZERO_TWINS", "clear_zero", "correct_zero", "subtract_zero"]


def clear_zero(zero: np.ndarray, threshold: np.ndarray, reach: int) -> np.ndarray:
    """Set saturated samples, their neighbours and those not above zero to zero."""
    out = zero.copy()
    n, ny, nx = zero.shape
    for i, y, x in np.ndindex(n, ny, nx):
        box = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
        if (zero[i][box] >= threshold[box]).any() or zero[i, y, x] <= 0:
            out[i, y, x] = 0
    return out


def subtract_zero(zero: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Subtract a plane; zeros stay."""
    return np.where(zero == 0, 0, zero.astype(np.float64) - plane)


def correct_zero(zero: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Evaluate the polynomial as a sum of powers; zeros stay."""
    value = zero.astype(np.float64)
    total = sum(term.astype(np.float64) * value**power for power, term in enumerate(coefficients))
    return np.where(zero == 0, 0, total)


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
ZERO_TWINS: dict[str, Callable[..., Any]] = {
    "zeroframe.mark_saturated": clear_zero,
    "zeroframe.clear_saturated": clear_zero,
    "zeroframe.subtract_from_zero": subtract_zero,
    "zeroframe.restore_zeros": subtract_zero,
    "zeroframe.linearize_zero": correct_zero,
}

"""The SOSS kernels pixel by pixel, from the text of the specification (stages 2-3, B.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "SOSS_TWINS",
    "naive_band_solve",
    "naive_box",
    "naive_column_sums",
    "naive_pixel_integral",
    "naive_product",
    "naive_subtract_orders",
]


def naive_box(centre: float, width: float, ny: int) -> np.ndarray:
    """Weights of one column: 1 inside, linear at both edges, 0 outside."""
    weight = np.zeros(ny)
    for row in range(ny):
        if abs(row - centre) <= (width - 1) / 2:
            weight[row] = 1.0
            continue
        upper, lower = centre + width / 2 - (row - 0.5), (row + 0.5) - (centre - width / 2)
        part = upper if row > centre else lower
        weight[row] = part if 0 < part <= 1 else 0.0
    return weight


def naive_pixel_integral(grid: np.ndarray, values: np.ndarray, low: float, high: float) -> float:
    """Integrate a polygon exactly by trapezoids between all its corners and the limits."""
    inside = grid[(grid > low) & (grid < high)]
    at = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(at, grid, values), at))


def naive_column_sums(
    data: np.ndarray, bits: np.ndarray, share: np.ndarray, template: np.ndarray
) -> np.ndarray:
    """Sum columns with missing pixels filled from the scaled template."""
    n, ny, nx = data.shape
    sums = np.zeros((n, nx))
    for i in range(n):
        for x in range(nx):
            good = seen = whole = 0.0
            complete = True
            for y in range(ny):
                if share[y, x] <= 0:
                    continue
                expected = float(share[y, x]) * float(template[y, x])
                whole += expected
                if np.isfinite(data[i, y, x]) and not bits[i, y, x] & 1:
                    good += float(share[y, x]) * float(data[i, y, x])
                    seen += expected
                else:
                    complete = False
            sums[i, x] = good if complete or seen <= 0 or whole <= 0 else good * whole / seen
    return sums


def naive_subtract_orders(
    data: np.ndarray, profiles: np.ndarray, amplitudes: np.ndarray, keep: int
) -> np.ndarray:
    """Images without the orders that do not stay."""
    clean = data.astype(np.float64)
    for order in range(len(profiles)):
        if order != keep:
            clean = clean - profiles[order] * amplitudes[:, order][:, None, :]
    return clean


def naive_product(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply vectors by a dense matrix, element by element."""
    out = np.zeros((len(vectors), len(matrix)))
    for i, vector in enumerate(vectors):
        for row, elements in enumerate(matrix):
            for element, value in zip(elements, vector, strict=True):
                out[i, row] += float(element) * float(value)
    return out


def naive_band_solve(band: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Solve ``L L' x = b`` with the triangle written out."""
    count, below = band.shape
    lower = np.zeros((count, count))
    for j in range(count):
        for t in range(min(below, count - j)):
            lower[j + t, j] = band[j, t]
    return np.stack([np.linalg.solve(lower.T, np.linalg.solve(lower, one)) for one in values])


def naive_band_factor(band: np.ndarray) -> np.ndarray:
    """Cholesky factor of a band, by way of the whole matrix."""
    count, below = band.shape
    matrix = np.zeros((count, count))
    for j in range(count):
        for t in range(min(below, count - j)):
            matrix[j + t, j] = matrix[j, j + t] = band[j, t]
    lower = np.linalg.cholesky(matrix)
    found = np.zeros_like(band)
    for j in range(count):
        for t in range(min(below, count - j)):
            found[j, t] = lower[j + t, j]
    return found


SOSS_TWINS: dict[str, Callable[..., Any]] = {
    "soss.kernels.column_sums": naive_column_sums,
    "soss.kernels.solve_band": naive_band_solve,
    "soss.kernels.factor_band": naive_band_factor,
    "soss.kernels._subtract": naive_band_factor,
    "soss.kernels._subtract_four": naive_band_factor,
    "soss.kernels.sparse_product": naive_product,
    "soss.kernels._take_order": naive_subtract_orders,
    "soss.kernels.subtract_orders": naive_subtract_orders,
}

"""Rules of the official SOSS step that are its own, for the parity scope.

Integrals over pixels are not quite those of straight lines.

Its list of grid points for a pixel begins one point too low and ends at the last point inside: the first trapezoid
runs backwards, with the value at the pixel's edge extrapolated from the two points below it, and the last one is as
wide as to the pixel's other edge but has the value of the last point inside. On an even grid this is a shift of the
spectrum by a part of a grid step, which the fit takes back; on an uneven one it is noise. A pixel that begins in the
first interval of the grid gets weights thousands of times too large. Grid, regularisation and spectra follow from all
that, so the parity scope needs it; everything else uses `tsostream.operators.soss.grids.pixel_integrals`.

The first estimate of the spectrum has such pixels at its ends. Its values there are rounding errors, and the cubic
curve through them, continued to shorter wavelengths, sets where the regularisation is looked for: so wavelengths and
normal equations have to agree with the official ones to the last bit.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tsostream.operators.soss.engine import Engine

__all__ = ["official_integrals", "official_normal", "official_wavelengths", "official_weights"]


def official_integrals(
    grid: np.ndarray, short: np.ndarray, long: np.ndarray, use: np.ndarray
) -> sparse.csr_matrix:
    """Matrix [pixel, grid point] of the integrals; parameters as in `pixel_integrals`."""
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for pixel in np.flatnonzero(use):
        points, weight = official_weights(grid, float(short[pixel]), float(long[pixel]))
        rows.append(np.full(points.size, pixel))
        columns.append(points)
        values.append(weight)
    shape = (short.size, grid.size)
    if not rows:
        return sparse.csr_matrix(shape)
    parts = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix(parts, shape=shape)


def official_weights(grid: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of one pixel: grid points and their weights.

    Point -1, which the rule reaches when the pixel begins in the first interval, is the last one of the grid to the
    official code while it computes, and left out afterwards; it also makes the rule end one place too early.

    Parameters
    ----------
    grid : float64 [point]
        Rising.
    low, high
        Edges of the pixel, inside the grid.
    """
    below = int(np.searchsorted(grid, low, side="right")) - 1
    last = int(np.searchsorted(grid, high)) - 1
    first = below if grid[below] == low else below - 1
    points = np.arange(first, last + 1)
    count = int((points >= 0).sum())
    at, step = grid[points], np.diff(grid)
    weight = np.zeros(points.size)
    if count == 1:
        weight[0] = high - grid[-1]
    elif count == 2:
        weight[0] = at[1] - low
        weight[1] = high - at[0]
        if first != below:
            weight[1] += low - at[0]
        if points[1] != last:
            weight[0] += at[1] - high
        weight *= (high - low) / step[first]
    else:
        _long_rule(weight, points, at, step, (low, high, count, first != below, last))
    keep = points >= 0
    return points[keep], weight[keep] / 2


def _long_rule(
    weight: np.ndarray,
    points: np.ndarray,
    at: np.ndarray,
    step: np.ndarray,
    pixel: tuple[float, float, int, bool, int],
) -> None:
    """Three points or more: both ends by their rules, plain trapezoids in between."""
    low, high, count, extrapolated, last = pixel
    begin, end = at[1] - low, high - at[count - 2]
    weight[0], weight[1] = begin, begin
    weight[count - 1] = end
    weight[count - 2] += end
    if extrapolated:
        weight[0] *= begin / step[points[0]]
        weight[1] += begin * (low - at[0]) / step[points[0]]
    if points[count - 1] != last:
        place = step[points[count - 2]]
        weight[count - 1] *= end / place
        weight[count - 2] += end * (at[count - 1] - high) / place
    for j in range(1, count - 2):
        width = at[j + 1] - at[j]
        weight[j] += width
        weight[j + 1] += width


def official_wavelengths(wave: np.ndarray, profile: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Take the mean wavelength of each column over an order's profile, float64 [x]; NaN where it is not lit.

    It is the wavelength, all but the last bit, which decides whether the outermost pixels take part.
    """
    weights = np.where(lit, profile, 1.0)
    return np.where(lit, np.average(np.broadcast_to(wave, profile.shape), weights=weights, axis=0), np.nan)


def official_normal(
    engine: Engine, data: np.ndarray, inverse: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Sum the normal equations of one order pixel by pixel, in the precision of the official step.

    Parameters
    ----------
    engine
        Model of one order.
    data, inverse : float64 [y, x]
        Image and inverse variances that were single precision.

    Returns
    -------
    matrix, right
        [point, point] and float64 [point].
    """
    used = ~engine.mask
    with np.errstate(divide="ignore"):
        error = (1.0 / np.sqrt(inverse[used])).astype(np.float32)
    _, columns = np.nonzero(used)
    pixels = sparse.diags(engine.orders[0].profile[used] / error).dot(engine.matrices[0][columns])
    pixels = (sparse.csr_matrix(pixels.shape) + pixels).tocsr()
    values = sparse.csr_matrix(data[used].astype(np.float32) / error)
    return pixels.T.dot(pixels), values.dot(pixels).toarray().squeeze()

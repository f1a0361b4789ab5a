"""Kernels of the SOSS overlap: sums of columns, the solution for them, and the subtraction of other orders."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["column_sums", "factor_band", "solve_band", "sparse_product", "subtract_orders"]

DNU = np.uint32(dq.DO_NOT_USE)


@kernel
def column_sums(data, bits, start, pixel, share, template, out):
    """Sum pixels of each column, weighted by profile over variance.

    A pixel that is missing is filled from the template, scaled to the column by the pixels that are there: the sums
    are those of a whole column, whatever a cosmic ray took out of it.

    Parameters
    ----------
    data : float32 [integration, pixel]
        Slopes.
    bits : uint32 [integration, pixel]
        DQ.
    start : int32 [column + 1]
        Pixels of column *c* are ``start[c] … start[c+1] - 1`` of the list.
    pixel : int32 [list]
        Flat indices.
    share : float32 [list]
        ``P / sigma^2``.
    template : float32 [list]
        Typical image there.
    out : float64 [integration, column]
        Sums, written.
    """
    for i in range(data.shape[0]):
        for c in range(start.size - 1):
            good = seen = whole = 0.0
            lost = 0
            for k in range(start[c], start[c + 1]):
                p = pixel[k]
                expected = np.float64(share[k]) * template[k]
                whole += expected
                if np.isfinite(data[i, p]) and not bits[i, p] & DNU:
                    good += np.float64(share[k]) * data[i, p]
                    seen += expected
                else:
                    lost += 1
            if lost > 0:
                # nothing is known of a column without light that has lost a pixel: what is there stands
                good = good * whole / seen if seen > 0.0 and whole > 0.0 else good
            out[i, c] = good


@kernel
def sparse_product(start, index, value, vectors, out):
    """Multiply vectors by a sparse matrix, in fixed order.

    Parameters
    ----------
    start : int32 [row + 1]
        Elements of row *r* are ``start[r] … start[r+1] - 1`` of the list.
    index : int32 [list]
        Columns.
    value : float64 [list]
        Elements.
    vectors : float64 [integration, column]
    out : float64 [integration, row]
        Written.
    """
    for i in range(vectors.shape[0]):
        for r in range(start.size - 1):
            total = 0.0
            for k in range(start[r], start[r + 1]):
                total += value[k] * vectors[i, index[k]]
            out[i, r] = total


@kernel
def _subtract(out, column, factor):
    for t in range(out.size):
        out[t] -= factor * column[t]


@kernel
def _subtract_four(out, a, b, c, d, fa, fb, fc, fd):
    """Subtract four columns at once: what is far from the processor is read and written a quarter as often."""
    for t in range(out.size):
        out[t] = (((out[t] - fa * a[t]) - fb * b[t]) - fc * c[t]) - fd * d[t]


@kernel
def factor_band(band):
    """Cholesky factor of a symmetric banded matrix, in place, the same whatever machine and number of threads.

    Parameters
    ----------
    band : float64 [point, below]
        ``band[j, t]`` is element [j + t, j], of the matrix and then of the factor; 0 beyond the last point.

    Returns
    -------
    bool
        False when the matrix is not positive definite; ``band`` is of no use then.
    """
    count, below = band.shape
    for first in range(0, count, 4):
        last = min(first + 4, count)
        for j in range(first, last):
            for p in range(max(first, j - below + 1), j):
                _subtract(band[j, : below - (j - p)], band[p, j - p :], band[p, j - p])
            if not band[j, 0] > 0.0:
                return False
            root = np.sqrt(band[j, 0])
            for t in range(below):
                band[j, t] /= root
        for k in range(last, min(last + below - 1, count)):
            far = k - first
            if last - first == 4 and far < below:
                size = below - far
                _subtract_four(
                    band[k, :size], band[first, far:], band[first + 1, far - 1 :], band[first + 2, far - 2 :],
                    band[first + 3, far - 3 :], band[first, far], band[first + 1, far - 1],
                    band[first + 2, far - 2], band[first + 3, far - 3],
                )  # fmt: skip
            else:
                size = 0
            # what only the nearer columns reach
            for p in range(max(first, k - below + 1), last):
                s = k - p
                _subtract(band[k, size : below - s], band[p, s + size :], band[p, s])
    return True


@kernel
def solve_band(band, values):
    """Solve with the Cholesky factor of a banded matrix, in place.

    Parameters
    ----------
    band : float64 [point, below]
        ``band[j, t]`` is element [j + t, j] of the factor.
    values : float64 [integration, point]
        Right-hand sides; the solutions afterwards.
    """
    count, below = band.shape
    for i in range(values.shape[0]):
        for j in range(count):
            value = values[i, j] / band[j, 0]
            values[i, j] = value
            for t in range(1, min(below, count - j)):
                values[i, j + t] -= value * band[j, t]
        for j in range(count - 1, -1, -1):
            # four sums, because one would wait for itself
            a = b = c = d = 0.0
            top = min(below, count - j)
            whole = 1 + (top - 1) // 4 * 4
            for t in range(1, whole, 4):
                a += band[j, t] * values[i, j + t]
                b += band[j, t + 1] * values[i, j + t + 1]
                c += band[j, t + 2] * values[i, j + t + 2]
                d += band[j, t + 3] * values[i, j + t + 3]
            for t in range(whole, top):
                a += band[j, t] * values[i, j + t]
            values[i, j] = (values[i, j] - ((a + b) + (c + d))) / band[j, 0]


@kernel
def _take_order(value, profile, amplitude):
    """Take one order out of a row of pixels."""
    for x in range(value.size):
        value[x] -= profile[x] * amplitude[x]


@kernel
def subtract_orders(data, profiles, amplitudes, keep, out):
    """Take all orders but one out of the images.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    profiles : float32 [order, y, x]
        Spatial profiles.
    amplitudes : float64 [integration, order, x]
        What each order puts into a column.
    keep : int
        The order that stays.
    out : float32 [integration, y, x]
        Written.
    """
    # order by order along a row, so that several pixels are done at once
    value = np.empty(data.shape[2], np.float64)
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            value[:] = data[i, y]
            for m in range(profiles.shape[0]):
                if m != keep:
                    _take_order(value, profiles[m, y], amplitudes[i, m])
            out[i, y] = value

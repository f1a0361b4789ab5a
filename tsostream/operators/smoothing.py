"""Smoothing, filling and interpolating the scout's images, with NumPy alone.

SciPy has all of it and takes a third of a second to load, a tenth of a short exposure's run. These images are handled
once per exposure, so what follows may be plain.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = [
    "beside",
    "between",
    "bilinear",
    "filled_from_neighbours",
    "gaussian",
    "median_of_nine",
    "running_mean",
]

#: lines are worked on in lots of this size, which stay in cache [bytes]
CACHED = 128 * 1024


def gaussian(
    image: np.ndarray, sigma: float, axis: int, mode: Literal["edge", "symmetric", "constant"] = "edge"
) -> np.ndarray:
    """Gaussian mean along an axis.

    Parameters
    ----------
    image : float64 [y, x] or [x]
        Finite values.
    sigma
        Of the Gaussian, which is cut at four of it [px]; 0 leaves the image.
    axis
        Along which.
    mode
        What lies beyond the ends: the last value, the mirrored image, or zero (`numpy.pad`).

    Returns
    -------
    float64 [y, x] or [x]
        As ``scipy.ndimage.gaussian_filter1d``.
    """
    radius = int(4.0 * sigma + 0.5)
    if radius == 0:
        return image
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2.0 * taps[1:].sum()
    if image.ndim == 1:
        return gaussian(image[None], sigma, 1, mode)[0]
    axis %= 2
    n, across = image.shape[axis], image.shape[1 - axis]
    padded = np.pad(image, [(radius, radius), (0, 0)] if axis == 0 else [(0, 0), (radius, radius)], mode=mode)
    out = np.empty(image.shape)
    step = max(1, CACHED // (8 * padded.shape[axis]))
    for first in range(0, across, step):
        lot = slice(first, first + step)

        def shifted(by: int, lot: slice = lot) -> np.ndarray:
            along = slice(radius + by, radius + by + n)
            return padded[along, lot] if axis == 0 else padded[lot, along]

        mean = shifted(0) * taps[0]
        pair = np.empty_like(mean)
        for k in range(1, radius + 1):
            np.add(shifted(-k), shifted(k), out=pair)
            pair *= taps[k]
            mean += pair
        out[(slice(None), lot) if axis == 0 else (lot, slice(None))] = mean
    return out


def running_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Mean of ``size`` neighbours of a line, the last value repeated beyond its ends.

    Parameters
    ----------
    values : float64 [x]
        A line.
    size
        Of an even number one more lies before than after.

    Returns
    -------
    float64 [x]
        As ``scipy.ndimage.uniform_filter1d(mode="nearest")``.
    """
    padded = np.pad(values, (size // 2, size - size // 2 - 1), mode="edge")
    return np.convolve(padded, np.full(size, 1.0 / size), mode="valid")


def median_of_nine(image: np.ndarray) -> np.ndarray:
    """Median of each pixel and its eight neighbours, the image mirrored at its edges, float64 [y, x]."""
    around = np.pad(image, 1, mode="symmetric")
    return np.median(np.lib.stride_tricks.sliding_window_view(around, (3, 3)), axis=(2, 3))


def beside(marked: np.ndarray) -> np.ndarray:
    """Mark the four neighbours of marked pixels, too; bool [y, x]."""
    out = marked.copy()
    out[1:] |= marked[:-1]
    out[:-1] |= marked[1:]
    out[:, 1:] |= marked[:, :-1]
    out[:, :-1] |= marked[:, 1:]
    return out


def filled_from_neighbours(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill unknown pixels with the mean of their known neighbours, from the rim of a hole inwards.

    Parameters
    ----------
    image : float64 [y, x]
        An image.
    known : bool [y, x]
        Pixels to keep; at least one.

    Returns
    -------
    float64 [y, x]
    """
    value, have = np.where(known, image, 0.0), known
    while not have.all():
        around, there = np.pad(value, 1), np.pad(have, 1).astype(np.float64)
        total, count = (
            one[:-2, 1:-1] + one[2:, 1:-1] + one[1:-1, :-2] + one[1:-1, 2:] for one in (around, there)
        )
        new = ~have & (count > 0)
        value = np.where(new, total / np.maximum(count, 1.0), value)
        have = have | new
    return value


def bilinear(
    rows: np.ndarray, columns: np.ndarray, table: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Interpolate a table by straight lines in both directions; beyond its ends its edge counts.

    Parameters
    ----------
    rows, columns : float64 [row], float64 [column]
        Where the values stand, ascending; one alone is a constant.
    table : float64 [row, column]
        The values.
    row, column : float64 [point]
        Where they are asked for.

    Returns
    -------
    float64 [point]
    """
    (i0, i1, up), (j0, j1, right) = between(rows, row), between(columns, column)
    low = table[i0, j0] * (1.0 - right) + table[i0, j1] * right
    high = table[i1, j0] * (1.0 - right) + table[i1, j1] * right
    return low * (1.0 - up) + high * up


def between(nodes: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nodes on both sides, for straight lines between them.

    Parameters
    ----------
    nodes : float64 [node]
        Ascending.
    at : float64 [...]
        Places; those beyond the ends count as the ends.

    Returns
    -------
    before, after : int64 [...]
        Indices of the nodes.
    share : float64 [...]
        How far from the first to the second, 0 to 1.
    """
    last = len(nodes) - 1
    after = np.clip(np.searchsorted(nodes, at, side="right"), min(1, last), last)
    before = np.maximum(after - 1, 0)
    step = nodes[after] - nodes[before]
    share = np.where(
        step > 0, (np.clip(at, nodes[0], nodes[-1]) - nodes[before]) / np.where(step > 0, step, 1.0), 0.0
    )
    return before, after, share

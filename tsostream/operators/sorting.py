"""Sorting many short lists at once: a Batcher network whose lanes are neighbouring pixels.

A comparison of two rows of lanes is a minimum and a maximum, which the compiler turns into vector instructions: ten
times faster than sorting each pixel's list. The list of comparators is an argument, because generated code could not be
cached.
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel

__all__ = [
    "comparators",
    "median_comparators",
    "median_of",
    "middle_of_ranks",
    "select",
    "short_median",
    "sort_lanes",
    "stack_statistics",
]

#: longer lists are not sorted for their median
SHORT = 16


def comparators(n: int) -> np.ndarray:
    """List the comparators of Batcher's odd-even merge sort for lists of length ``n``.

    Returns
    -------
    pairs : int32 [comparator, 2]
        Compare and exchange (low index, high index), in order (Knuth, TAOCP 3, algorithm 5.2.2M).
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                low = range(j, j + min(k, n - j - k))
                pairs += [(i, i + k) for i in low if i // (2 * p) == (i + k) // (2 * p)]
            k //= 2
        p *= 2
    return np.array(pairs, np.int32).reshape(-1, 2)


def median_comparators(n: int) -> np.ndarray:
    """List the comparators that are needed to bring the middle of a list of length ``n`` into place.

    Returns
    -------
    pairs : int32 [comparator, 2]
        Those of `comparators` that entries ``n // 2 - 1`` and ``n // 2`` depend on: 157 of 191 for 32.
    """
    needed, pairs = {max(n // 2 - 1, 0), n // 2}, []
    for a, b in comparators(n)[::-1].tolist():
        if a in needed or b in needed:
            needed |= {a, b}
            pairs.append((a, b))
    return np.array(pairs[::-1], np.int32).reshape(-1, 2)


@kernel
def short_median(values, count):
    """Median of the first ``count`` entries, which are sorted in place; even counts average the two middle ones.

    Parameters
    ----------
    values : float64 [value]
        A short list (insertion sort), no NaN.
    count : int
        At least 1.
    """
    for k in range(1, count):
        value = values[k]
        j = k - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value
    if count % 2:
        return np.float64(values[count // 2])
    return 0.5 * (np.float64(values[count // 2 - 1]) + np.float64(values[count // 2]))


@kernel
def select(values, stop, place):
    """Move the value of rank ``place`` (0-based, of the first ``stop``) to its place; smaller ones go before it."""
    low, high = 0, stop - 1
    while low < high:
        pivot = values[(low + high) // 2]
        a, b = low, high
        while a <= b:
            while values[a] < pivot:
                a += 1
            while pivot < values[b]:
                b -= 1
            if a <= b:
                values[a], values[b] = values[b], values[a]
                a += 1
                b -= 1
        if place <= b:
            high = b
        elif place >= a:
            low = a
        else:
            break
    return values[place]


@kernel
def middle_of_ranks(values, stop, lower, upper):
    """Mean of the values of two ranks, the same or neighbours, of the first ``stop``, in double precision.

    ``values`` (float32 or float64 [value], no NaN) are reordered.
    """
    high = np.float64(select(values, stop, upper))
    if lower == upper:
        return high
    low = np.float64(values[0])
    for k in range(1, upper):
        low = max(low, np.float64(values[k]))
    return 0.5 * (low + high)


@kernel
def median_of(values, count):
    """Median of the first ``count`` entries, which are reordered; in double precision.

    Parameters
    ----------
    values : float32 or float64 [value]
        No NaN.
    count : int
        At least 1. Even counts average the two middle ones.
    """
    if count <= SHORT:
        return short_median(values, count)
    return middle_of_ranks(values, count, (count - 1) // 2, count // 2)


@kernel
def sort_lanes(lanes, pairs):
    """Sort every column of ``lanes``.

    Parameters
    ----------
    lanes : float32 [value, lane]
        Sorted along the first axis in place; no NaN.
    pairs : int32 [comparator, 2]
        As `comparators`.
    """
    # What is stored must not be, unchanged, what was loaded from the same place: the compiler would make masked stores
    # of that, with which the whole takes three times as long on AMD's processors. Adding zero prevents it, at no cost.
    zero = lanes.dtype.type(0)
    for c in range(pairs.shape[0]):
        first, second = lanes[pairs[c, 0]], lanes[pairs[c, 1]]
        for x in range(first.size):
            one, other = first[x] + zero, second[x] + zero
            first[x] = min(one, other)
            second[x] = max(one, other)


@kernel
def _quantile(lanes, x, count, fraction):
    """Linear interpolation between order statistics of the first ``count`` values."""
    place = fraction * (count - 1)
    low = int(place)
    high = min(low + 1, count - 1)
    part = np.float32(place - low)
    return lanes[low, x] + part * (lanes[high, x] - lanes[low, x])


@kernel
def stack_statistics(stack, scale, pairs, median, scatter, finite, y0, y1):
    """Median and scatter of each pixel over a stack of scaled images.

    Parameters
    ----------
    stack : float32 [image, y, x]
        Images; NaN is left out.
    scale : float64 [image]
        Each image is divided by its scale.
    pairs : int32 [comparator, 2]
        Comparators for the number of images.
    median : float32 [y, x]
        Written; NaN where no image has a value.
    scatter : float32 [y, x]
        Half the distance of the 16th and 84th percentile, written.
    finite : int32 [y, x]
        How many images have a value, written.
    y0, y1 : int
        Rows.
    """
    n, _, nx = stack.shape
    lanes = np.empty((n, nx), np.float32)
    for y in range(y0, y1):
        for x in range(nx):
            finite[y, x] = 0
        for k in range(n):
            factor = np.float32(1.0 / scale[k])
            for x in range(nx):
                value = stack[k, y, x] * factor
                there = np.isfinite(value)
                finite[y, x] += there
                # sorts behind all others
                lanes[k, x] = value if there else np.float32(np.inf)
        sort_lanes(lanes, pairs)
        for x in range(nx):
            count = finite[y, x]
            if count == 0:
                median[y, x] = np.nan
                scatter[y, x] = np.nan
            else:
                median[y, x] = _quantile(lanes, x, count, 0.5)
                scatter[y, x] = 0.5 * (
                    _quantile(lanes, x, count, 0.8413) - _quantile(lanes, x, count, 0.1587)
                )

"""Sorting whole images, and what sorted values make cheap: medians and clips of any stretch of them."""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.sorting import select, sort_lanes

__all__ = [
    "clipped_stretch",
    "half_width",
    "middle_of_columns",
    "middle_of_lines",
    "middle_value",
    "sort_values",
    "sums_of_squares",
]

#: bits of a digit, and rounds of evaluating the limits of a clip
DIGIT, ROUNDS = 11, 5
TOP = np.uint32(0x80000000)


@kernel
def sort_values(values, spare, count):
    """Sort the first ``count`` values by their digits.

    Parameters
    ----------
    values : float32 [value]
        Sorted in place; no NaN.
    spare : float32 [value]
        Working array of at least the same length.
    count : int
        How many.
    """
    keys, other = values.view(np.uint32), spare.view(np.uint32)
    size = 1 << DIGIT
    mask = np.uint32(size - 1)
    places = np.zeros((3, size), np.int64)
    for k in range(count):
        bits = keys[k]
        # order of floats as integers: flip all bits of negative numbers, the top bit of the others
        bits = ~bits if bits & TOP else bits | TOP
        keys[k] = bits
        places[0, bits & mask] += 1
        places[1, (bits >> np.uint32(DIGIT)) & mask] += 1
        places[2, bits >> np.uint32(2 * DIGIT)] += 1
    for digit in range(3):
        total = 0
        for k in range(size):
            here = places[digit, k]
            places[digit, k] = total
            total += here
    for digit in range(3):
        shift = np.uint32(DIGIT * digit)
        source, target = (keys, other) if digit % 2 == 0 else (other, keys)
        for k in range(count):
            bits = source[k]
            place = (bits >> shift) & mask
            target[places[digit, place]] = bits
            places[digit, place] += 1
    for k in range(count):
        bits = other[k]
        keys[k] = bits & ~TOP if bits & TOP else ~bits


@kernel
def sums_of_squares(values, start, stop, zero, sums, squares):
    """Write running sums of ``value - zero`` and of its square.

    Parameters
    ----------
    values : float32 [value]
        Values.
    start, stop : int
        Which of them.
    zero : float
        Subtracted, to keep the sums small.
    sums, squares : float64 [value + 1]
        Sums over ``values[start:k]`` at index k, written for ``start <= k <= stop``.
    """
    first, second = 0.0, 0.0
    sums[start] = 0.0
    squares[start] = 0.0
    for k in range(start, stop):
        off = np.float64(values[k]) - zero
        first += off
        second += off * off
        sums[k + 1] = first
        squares[k + 1] = second


@kernel
def _first_at_least(values, start, stop, limit):
    """Index of the first sorted value that is not below the limit."""
    while start < stop:
        half = (start + stop) // 2
        if np.float64(values[half]) < limit:
            start = half + 1
        else:
            stop = half
    return start


@kernel
def _first_above(values, start, stop, limit):
    """Index of the first sorted value above the limit."""
    while start < stop:
        half = (start + stop) // 2
        if np.float64(values[half]) <= limit:
            start = half + 1
        else:
            stop = half
    return start


@kernel
def _middle(values, start, stop):
    """Median of a stretch of sorted values."""
    half = (start + stop) // 2
    if (stop - start) % 2:
        return np.float64(values[half])
    return 0.5 * (np.float64(values[half - 1]) + np.float64(values[half]))


@kernel
def clipped_stretch(values, start, stop, limit, zero, sums, squares):
    """Clip symmetrically about the median, up to five times.

    Parameters
    ----------
    values : float32 [value]
        Sorted.
    start, stop : int
        Which of them; at least one.
    limit : float
        Values further from the median are dropped [standard deviations].
    zero : float
        As given to `sums_of_squares`.
    sums, squares : float64 [value + 1]
        As from `sums_of_squares`.

    Returns
    -------
    first, last, centre, width
        The stretch that is kept, its median and standard deviation.
    """
    first, last = start, stop
    low, high = 0.0, 0.0
    for _ in range(ROUNDS):
        count = last - first
        mean = (sums[last] - sums[first]) / count
        spread = np.sqrt(max(0.0, (squares[last] - squares[first]) / count - mean * mean))
        centre = _middle(values, first, last)
        low, high = centre - limit * spread, centre + limit * spread
        next_first, next_last = (
            _first_at_least(values, first, last, low),
            _first_above(values, first, last, high),
        )
        if next_first == first and next_last == last:
            break
        if next_first >= next_last:
            break
        first, last = next_first, next_last
    # the last limits count for all values
    first, last = _first_at_least(values, start, stop, low), _first_above(values, start, stop, high)
    if first >= last:
        first, last = start, stop
    count = last - first
    mean = (sums[last] - sums[first]) / count
    spread = np.sqrt(max(0.0, (squares[last] - squares[first]) / count - mean * mean))
    return first, last, _middle(values, first, last), spread


@kernel
def half_width(values, start, stop, centre, limit, squares):
    """Find the standard deviation of the values up to ``centre`` and their mirror images, clipped up to five times.

    Parameters
    ----------
    values : float32 [value]
        Sorted.
    start, stop : int
        Which of them.
    centre : float
        Where they are mirrored.
    limit : float
        Values further from the centre are dropped [standard deviations].
    squares : float64 [value + 1]
        Working array.
    """
    last = _first_above(values, start, stop, centre)
    squares[last] = 0.0
    for k in range(last - 1, start - 1, -1):
        off = centre - np.float64(values[k])
        squares[k] = squares[k + 1] + off * off
    first, low = start, -np.inf
    for _ in range(ROUNDS):
        if first == last:
            break
        low = centre - limit * np.sqrt(squares[first] / (last - first))
        kept = _first_at_least(values, first, last, low)
        if kept == first:
            break
        first = kept
    first = _first_at_least(values, start, last, low)
    return np.sqrt(squares[first] / (last - first)) if first < last else 0.0


@kernel
def middle_value(work, count):
    """Median of the first ``count`` values, which are reordered; float32 like the values.

    Parameters
    ----------
    work : float32 [value]
        Values without NaN.
    count : int
        How many; at least one.
    """
    target = count // 2
    upper = select(work, count, target)
    if count % 2:
        return upper
    lower = work[0]
    for k in range(1, target):
        lower = max(lower, work[k])
    return np.float32(0.5) * (lower + upper)


@kernel
def middle_of_lines(image, good, along_x, channels, work):
    """Subtract from each line the median of its good pixels, if it has any.

    Parameters
    ----------
    image : float32 [y, x]
        Changed in place.
    good : bool [y, x]
        Pixels that count.
    along_x : bool
        The lines run along x (else along y).
    channels : int
        Parts each line is cut into.
    work : float32 [value]
        Working array, as long as a line.
    """
    ny, nx = image.shape
    lines, length = (ny, nx) if along_x else (nx, ny)
    part = length // channels
    for line in range(lines):
        for channel in range(channels):
            count = 0
            for k in range(channel * part, (channel + 1) * part):
                y, x = (line, k) if along_x else (k, line)
                if good[y, x]:
                    work[count] = image[y, x]
                    count += 1
            if count == 0:
                continue
            level = middle_value(work, count)
            for k in range(channel * part, (channel + 1) * part):
                y, x = (line, k) if along_x else (k, line)
                image[y, x] -= level


@kernel
def middle_of_columns(image, good, lanes, pairs):
    """Subtract from each column the median of its good pixels, if it has any: `middle_of_lines`, columns side by side.

    Parameters
    ----------
    image : float32 [y, x]
        Changed in place.
    good : bool [y, x]
        Pixels that count; finite.
    lanes : float32 [y, lane]
        Working array.
    pairs : int32 [comparator, 2]
        Of `tsostream.operators.sorting.comparators` for so many rows.
    """
    ny, nx = image.shape
    width = lanes.shape[1]
    counts, levels = np.empty(width, np.int64), np.empty(width, np.float32)
    for start in range(0, nx, width):
        count = min(width, nx - start)
        counts[:] = 0
        for y in range(ny):
            for k in range(count):
                keep = good[y, start + k]
                # what does not count comes last
                lanes[y, k] = image[y, start + k] if keep else np.float32(np.inf)
                counts[k] += keep
            for k in range(count, width):
                lanes[y, k] = 0
        sort_lanes(lanes, pairs)
        for k in range(count):
            half = counts[k] // 2
            levels[k] = 0
            if counts[k] % 2:
                levels[k] = lanes[half, k]
            elif counts[k] > 0:
                levels[k] = np.float32(0.5) * (lanes[half - 1, k] + lanes[half, k])
        for y in range(ny):
            for k in range(count):
                image[y, start + k] -= levels[k]

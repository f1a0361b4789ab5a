"""jump among all differences of a pixel in a segment: one pass, or the largest first (spec stage 1, 16.5 and 16.6)."""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.jump_marks import (
    BRACKET,
    JUMP,
    LANES,
    SEED,
    bracket_median,
    fill_differences,
    list_moments,
)
from tsostream.operators.sorting import median_of, middle_of_ranks, sort_lanes

__all__ = ["flag_within"]

#: of so many standard errors of the mean about it the median is looked for [standard deviations]
NEAR = 2.5


@kernel
def _sorted_sizes(batch, lane, count, sizes):
    """Write the absolute values of a sorted list in ascending order (``sizes``: float32 [value])."""
    high = 0
    while high < count and batch[high, lane] < 0.0:
        high += 1
    low = high - 1
    for k in range(count):
        if high >= count or (low >= 0 and -batch[low, lane] <= batch[high, lane]):
            sizes[k] = -batch[low, lane]
            low -= 1
        else:
            sizes[k] = batch[high, lane]
            high += 1


@kernel
def _middle(values, low, high):
    """Median of sorted ``values[low:high]`` in double precision; NaN when there is none."""
    count = high - low
    if count == 0:
        return np.nan
    upper = np.float64(values[low + count // 2])
    return upper if count % 2 else 0.5 * (upper + np.float64(values[low + count // 2 - 1]))


@kernel
def _search(sizes, count, noise2, limits):
    """Find hits among sorted absolute differences, the largest first (16.6).

    Returns which are left: ``sizes[low:high]``.
    """
    low, high = 0, count
    first = True
    while high - low >= 2:
        left = high - low
        if left >= 4:
            top = high
            while top > low and sizes[top - 1] == sizes[high - 1]:
                top -= 1
            level, limit = _middle(sizes, low, top), limits[0]
        elif left == 3:
            level, limit = np.float64(sizes[low + 1]), limits[1]
        else:
            level, limit = np.float64(sizes[low]), limits[2]
        if not first:
            # from the second round on the official step keeps its level in single precision
            level = np.float64(np.float32(level))
        first = False
        sigma = np.sqrt(abs(level) + noise2)
        if not sigma > 0.0:
            break
        worst = max(_distance(sizes[high - 1], level) / sigma, _distance(sizes[low], level) / sigma)
        if not worst > limit:
            break
        # equal differences go together
        while high > low and _distance(sizes[high - 1], level) / sigma == worst:
            high -= 1
        while high > low and _distance(sizes[low], level) / sigma == worst:
            low += 1
    return low, high


@kernel
def _distance(size, level):
    """Distance from the level, rounded to single precision as the official step's."""
    return abs(np.float64(np.float32(np.float64(size) - level)))


@kernel
def _median_between(lanes, lane, count, low, high, work):
    """Median of a list of which only the values from ``low`` to ``high`` are sorted out; NaN when it is not there.

    ``work``: float32 [value].
    """
    below, inside = 0, 0
    for k in range(lanes.shape[0]):
        value = lanes[k, lane]
        below += value < low
        work[inside] = value
        inside += (value >= low) & (value <= high)
    lower, upper = (count - 1) // 2 - below, count // 2 - below
    if lower < 0 or upper >= inside:
        return np.nan
    return middle_of_ranks(work, inside, lower, upper)


@kernel
def _median(lanes, lane, count, mean, spread, work):
    """Median of a list, in double precision; it should lie near the mean."""
    half = min(BRACKET, NEAR / np.sqrt(count)) * spread
    level = _median_between(lanes, lane, count, np.float32(mean - half), np.float32(mean + half), work)
    if level == level:
        return level
    found = 0
    for k in range(lanes.shape[0]):
        value = lanes[k, lane]
        if value == value:
            work[found] = value
            found += 1
    return median_of(work, count)


@kernel
def _flag_one(groupdq, i, j, p, distance, sigma, limit, spread, marked, nx):
    """Flag a difference that is more than the limit from its level, and mark it if it spreads."""
    away = distance / sigma
    if not away > limit:
        return
    groupdq[i, j + 1, p] |= JUMP
    if sigma > 0.0 and away > spread[0] and away < spread[1]:
        groupdq[i, j + 1, p] |= SEED
        marked[i, p // nx] = 1


@kernel
def _set_bounds(bounds, lane, level, sigma, limit):
    """Write between which values (``bounds``: float32 [2, lane]) nothing is more than the limit from the level."""
    near = limit * sigma
    # a little less for the rounding
    near -= 1e-6 * (near + abs(level))
    bounds[0, lane] = level - near
    bounds[1, lane] = level + near


@kernel
def _flag_far(groupdq, lanes, bounds, medians, noise2, limit, spread, marked, nx, start):
    """Flag the differences of a block of pixels that are more than the limit from their medians.

    They are compared with ``bounds`` side by side; few are beyond.
    """
    n = groupdq.shape[0]
    low, high = bounds[0], bounds[1]
    for k in range(lanes.shape[0]):
        row, some = lanes[k], np.int32(0)
        for lane in range(LANES):
            some |= np.int32(row[lane] < low[lane]) | np.int32(row[lane] > high[lane])
        if some == 0:
            continue
        for lane in range(LANES):
            if row[lane] < low[lane] or row[lane] > high[lane]:
                p, level = start + lane, medians[start + lane]
                sigma, distance = (
                    np.sqrt(abs(level) + np.float64(noise2[p])), abs(np.float64(row[lane]) - level)
                )  # fmt: skip
                _flag_one(groupdq, k % n, k // n, p, distance, sigma, limit, spread, marked, nx)


@kernel
def _suspects(values, noise2, single, limit, start, width, moments, suspect):
    """Find the pixels that bounds cannot clear; ``suspect`` (uint8 [lane]) is set to 1 for them."""
    list_moments(values, not single, moments)
    bracket_median(values, not single, moments)
    for lane in range(width):
        low, high = moments[5, lane], moments[6, lane]
        least = max(low, -high, 0.0)
        sigma = np.sqrt(least + np.float64(noise2[start + lane]))
        reach = max(moments[4, lane] - low, high - moments[3, lane])
        suspect[lane] = moments[0, lane] > 0 and not (
            moments[0, lane] >= 5 and reach * (1.0 + 1e-6) <= limit * sigma
        )


@kernel
def _lane_median(batch, lane, count):
    """Median of a sorted list, in double precision."""
    upper = np.float64(batch[count // 2, lane])
    return upper if count % 2 else 0.5 * (upper + np.float64(batch[count // 2 - 1, lane]))


@kernel
def _flag_outside(groupdq, lanes, lane, level, noise2, spread, least, most, marked, nx, p):
    """Flag the differences of a pixel whose sizes lie outside ``least … most``, and mark those that spread."""
    n = groupdq.shape[0]
    sigma = np.sqrt(abs(level) + noise2)
    for k in range(lanes.shape[0]):
        value = lanes[k, lane]
        size = abs(value)
        if not (size < least or size > most):
            continue
        i, j = k % n, k // n
        groupdq[i, j + 1, p] |= JUMP
        away = abs(np.float64(value) - level) / sigma
        if sigma > 0.0 and away > spread[0] and away < spread[1]:
            groupdq[i, j + 1, p] |= SEED
            marked[i, p // nx] = 1


@kernel
def _sort_lists(lanes, batch, pairs):
    """Sort the lists of all lanes, numbers first."""
    for k in range(lanes.shape[0]):
        for lane in range(LANES):
            value = lanes[k, lane]
            batch[k, lane] = value if value == value else np.float32(np.inf)
    sort_lanes(batch, pairs)


@kernel
def flag_within(
    data, groupdq, gain, noise2, limits, single, spread, pairs, lanes, batch, sizes, moments, suspect,
    marked, medians, every, nx, first, last,
):  # fmt: skip
    """Flag differences that stand out among all differences of the pixel (16.5, 16.6).

    Parameters
    ----------
    data, groupdq, gain, noise2, spread, marked, medians, every, nx, first, last
        As `tsostream.operators.jump_clip.clip_integrations`.
    limits : float64 [3]
        Thresholds for four or more, three and two finite differences [sigma].
    single : bool
        One pass about the signed median (16.5) rather than the iterative search (16.6).
    pairs : int32 [comparator, 2]
        Comparators for all differences of a pixel.
    lanes, batch : float32 [difference * integration, lane]
        Scratch.
    sizes : float32 [difference * integration]
        Scratch.
    moments : float64 [7, lane]
        Scratch.
    suspect : uint8 [lane]
        Scratch.
    """
    n, ndiff = data.shape[0], data.shape[1] - 1
    bounds = np.empty((2, LANES), np.float32)
    for start in range(first, last, LANES):
        width = min(LANES, last - start)
        bounds[0, :] = -np.inf
        bounds[1, :] = np.inf
        fill_differences(data, groupdq, gain[start : start + width], start, lanes.reshape((ndiff, n, LANES)))
        _suspects(lanes, noise2, single, limits[0], start, width, moments, suspect)
        some = every
        for lane in range(width):
            some |= suspect[lane] != 0
        if some and not single:
            _sort_lists(lanes, batch, pairs)
        for lane in range(width):
            p, count = start + lane, int(moments[0, lane])
            if some:
                medians[p] = np.nan
            if count == 0 or not (suspect[lane] or every):
                continue
            read = np.float64(noise2[p])
            if single:
                level = _median(lanes, lane, count, moments[1, lane], moments[2, lane], sizes)
            else:
                level = _lane_median(batch, lane, count)
            medians[p] = level
            if not suspect[lane]:
                continue
            if single:
                _set_bounds(bounds, lane, level, np.sqrt(abs(level) + read), limits[0])
                continue
            least = most = np.float32(np.inf)  # all of them lie outside
            _sorted_sizes(batch, lane, count, sizes)
            low, high = _search(sizes, count, read, limits)
            if high > low:
                least, most = sizes[low], sizes[high - 1]
            if high - low < count:
                _flag_outside(groupdq, lanes, lane, level, read, spread, least, most, marked, nx, p)
        if some and single:
            _flag_far(groupdq, lanes, bounds, medians, noise2, limits[0], spread, marked, nx, start)

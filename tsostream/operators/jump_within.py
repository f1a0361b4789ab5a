"""jump among all differences of a pixel in a segment: one pass, or the largest first (spec stage 1, 16.5 and 16.6)."""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.jump_marks import (
    JUMP,
    LANES,
    SEED,
    bracket_median,
    fill_differences,
    list_moments,
)
from tsostream.operators.sorting import sort_lanes

__all__ = ["flag_within"]


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
def _single_pass(batch, lane, count, level, noise2, limit):
    """Find hits about the signed median (16.5) in a sorted list; returns which are left, as `_search`."""
    sigma = np.sqrt(abs(level) + noise2)
    low, high = 0, count
    while high > low and abs(np.float64(batch[high - 1, lane]) - level) / sigma > limit:
        high -= 1
    while high > low and abs(np.float64(batch[low, lane]) - level) / sigma > limit:
        low += 1
    return low, high


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
def _flag_lane(groupdq, lanes, lane, level, noise2, spread, least, most, absolute, marked, nx, p):
    """Flag the differences of a pixel that lie outside ``least … most``, and mark those that spread."""
    n = groupdq.shape[0]
    sigma = np.sqrt(abs(level) + noise2)
    for k in range(lanes.shape[0]):
        value = lanes[k, lane]
        size = abs(value) if absolute else value
        if not (size < least or size > most):
            continue
        i, j = k % n, k // n
        groupdq[i, j + 1, p] |= JUMP
        away = abs(np.float64(value) - level) / sigma
        if sigma > 0.0 and away > spread[0] and away < spread[1]:
            groupdq[i, j + 1, p] |= SEED
            marked[i, p // nx] = 1


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
    for start in range(first, last, LANES):
        width = min(LANES, last - start)
        for j in range(ndiff):
            fill_differences(data, groupdq, gain, j, start, width, lanes[j * n : (j + 1) * n])
        _suspects(lanes, noise2, single, limits[0], start, width, moments, suspect)
        some = every
        for lane in range(width):
            some |= suspect[lane] != 0
        if not some:
            continue
        for k in range(n * ndiff):
            for lane in range(LANES):
                value = lanes[k, lane]
                batch[k, lane] = value if value == value else np.float32(np.inf)
        sort_lanes(batch, pairs)
        for lane in range(width):
            p, count = start + lane, int(moments[0, lane])
            medians[p] = np.nan
            if count == 0 or not (suspect[lane] or every):
                continue
            read = np.float64(noise2[p])
            level = _lane_median(batch, lane, count)
            medians[p] = level
            if not suspect[lane]:
                continue
            least = most = np.float32(np.inf)  # all of them lie outside
            if single:
                low, high = _single_pass(batch, lane, count, level, read, limits[0])
                if high > low:
                    least, most = batch[low, lane], batch[high - 1, lane]
            else:
                _sorted_sizes(batch, lane, count, sizes)
                low, high = _search(sizes, count, read, limits)
                if high > low:
                    least, most = sizes[low], sizes[high - 1]
            if high - low < count:
                _flag_lane(groupdq, lanes, lane, level, read, spread, least, most, not single, marked, nx, p)

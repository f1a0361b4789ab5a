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
    median_of,
)

__all__ = ["flag_within"]


@kernel
def _level(sizes, count, work):
    """Level of the absolute differences left (16.6, step 1): without all maxima, the middle, or the smaller one."""
    top = np.float32(-1.0)
    for k in range(count):
        work[k] = sizes[k]
        top = max(top, sizes[k])
    if count == 2:
        return np.float64(min(work[0], work[1]))
    if count == 3:
        return median_of(work, 3)
    kept = 0
    for k in range(count):
        if sizes[k] != top:
            work[kept] = sizes[k]
            kept += 1
    return median_of(work, kept) if kept > 0 else np.nan


@kernel
def _search(sizes, places, count, noise2, limits, work):
    """Find hits among the absolute differences of a pixel, the largest first (16.6).

    ``sizes`` and ``places`` hold the finite ones; hits are moved behind the others. Returns how many are left.
    """
    first = True
    while count >= 2:
        level = _level(sizes, count, work)
        if not first:
            # from the second round on the official step keeps its level in single precision
            level = np.float64(np.float32(level))
        first = False
        sigma = np.sqrt(abs(level) + noise2)
        if not sigma > 0.0:
            break
        limit = limits[0] if count >= 4 else (limits[1] if count == 3 else limits[2])
        worst = -1.0
        for k in range(count):
            worst = max(worst, abs(np.float64(np.float32(np.float64(sizes[k]) - level))) / sigma)
        if not worst > limit:
            break
        k = 0
        while k < count:
            if abs(np.float64(np.float32(np.float64(sizes[k]) - level))) / sigma == worst:
                count -= 1
                sizes[k], sizes[count] = sizes[count], sizes[k]
                places[k], places[count] = places[count], places[k]
            else:
                k += 1
    return count


@kernel
def _single_pass(column, places, count, noise2, limit, work):
    """Find hits about the signed median (16.5); as `_search`."""
    for k in range(count):
        work[k] = column[places[k]]
    level = median_of(work, count)
    sigma = np.sqrt(abs(level) + noise2)
    k = 0
    while k < count and sigma > 0.0:
        if abs(np.float64(column[places[k]]) - level) / sigma > limit:
            count -= 1
            places[k], places[count] = places[count], places[k]
        else:
            k += 1
    return count


@kernel
def _suspects(values, noise2, single, limit, y, start, width, moments, suspect):
    """Find the pixels that bounds cannot clear; ``suspect`` (uint8 [lane]) is set to 1 for them."""
    list_moments(values, not single, moments)
    bracket_median(values, not single, moments)
    for lane in range(width):
        low, high = moments[5, lane], moments[6, lane]
        least = max(low, -high, 0.0)
        sigma = np.sqrt(least + np.float64(noise2[y, start + lane]))
        reach = max(moments[4, lane] - low, high - moments[3, lane])
        suspect[lane] = moments[0, lane] > 0 and not (
            moments[0, lane] >= 5 and reach * (1.0 + 1e-6) <= limit * sigma
        )


@kernel
def flag_within(
    data, groupdq, gain, noise2, limits, single, spread, lanes, column, sizes, places, work, moments, suspect,
    marked, medians, every, y0, y1, x0, x1,
):  # fmt: skip
    """Flag differences that stand out among all differences of the pixel (16.5, 16.6).

    Parameters
    ----------
    data, groupdq, gain, noise2, spread, marked, medians, every, y0, y1, x0, x1
        As `tsostream.operators.jump_clip.clip_integrations`.
    limits : float64 [3]
        Thresholds for four or more, three and two finite differences [sigma].
    single : bool
        One pass about the signed median (16.5) rather than the iterative search (16.6).
    lanes : float32 [difference * integration, lane]
        Scratch.
    column, sizes, work : float32 [difference * integration]
        Scratch.
    places : int32 [difference * integration]
        Scratch.
    moments : float64 [7, lane]
        Scratch.
    suspect : uint8 [lane]
        Scratch.
    """
    n, ndiff = data.shape[0], data.shape[1] - 1
    for y in range(y0, y1):
        for i in range(n):
            marked[i, y] = 0
        for start in range(x0, x1, LANES):
            width = min(LANES, x1 - start)
            for j in range(ndiff):
                fill_differences(data, groupdq, gain, j, y, start, width, lanes[j * n : (j + 1) * n])
            _suspects(lanes, noise2, single, limits[0], y, start, width, moments, suspect)
            for lane in range(width):
                if not (suspect[lane] or every):
                    continue
                x = start + lane
                read = np.float64(noise2[y, x])
                medians[y, x] = np.nan
                count = 0
                for k in range(n * ndiff):
                    value = lanes[k, lane]
                    column[k] = value
                    if not np.isnan(value):
                        sizes[count] = abs(value)
                        places[count] = k
                        count += 1
                if count == 0:
                    continue
                left = count
                if suspect[lane] and single:
                    left = _single_pass(column, places, count, read, limits[0], work)
                elif suspect[lane]:
                    left = _search(sizes, places, count, read, limits, work)
                if left == count and not every:
                    continue
                for k in range(count):
                    work[k] = column[places[k]]
                level = median_of(work, count)
                sigma = np.sqrt(abs(level) + read)
                medians[y, x] = level
                for k in range(left, count):
                    i, j = places[k] % n, places[k] // n
                    groupdq[i, j + 1, y, x] |= JUMP
                    size = abs(np.float64(column[places[k]]) - level) / sigma
                    if sigma > 0.0 and size > spread[0] and size < spread[1]:
                        groupdq[i, j + 1, y, x] |= SEED
                        marked[i, y] = 1

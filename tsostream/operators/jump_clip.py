"""jump across integrations: sigma clipping of each difference over all integrations of a segment (spec stage 1, 16.4).

Lists that bounds cannot decide (`tsostream.operators.jump_clip_screen`) are sorted 64 at a time by a network; the
rounds of clipping then only move the two ends of the sorted list.
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.jump_clip_screen import ROUNDS, fill_lists, screen_list
from tsostream.operators.jump_marks import JUMP, LANES, SEED
from tsostream.operators.sorting import median_of, sort_lanes

__all__ = ["clip_everything", "clip_integrations"]


@kernel
def _bounds(batch, lane, count, rejection):
    """Limits of the last round of clipping a sorted list of ``count`` values (astropy's ``sigma_clip``)."""
    low, high = 0, count
    lower = upper = np.nan
    for _ in range(ROUNDS):
        left = high - low
        if left == 0:
            break
        mean = 0.0
        for k in range(low, high):
            mean += np.float64(batch[k, lane])
        mean /= left
        spread = 0.0
        for k in range(low, high):
            away = mean - np.float64(batch[k, lane])
            spread += away * away
        spread = np.sqrt(spread / left)
        middle = np.float64(batch[low + left // 2, lane])
        if left % 2 == 0:
            middle = 0.5 * (middle + np.float64(batch[low + left // 2 - 1, lane]))
        lower, upper = middle - rejection * spread, middle + rejection * spread
        while low < high and batch[low, lane] < lower:
            low += 1
        while high > low and batch[high - 1, lane] > upper:
            high -= 1
        if high - low == left:
            break
    return lower, upper


@kernel
def _append_hits(lanes, j, lane, lower, upper, hits, found):
    """Append what lies outside its limits of a list to ``hits``; returns how many there are."""
    n = lanes.shape[1]
    for i in range(n):
        if lanes[j, i, lane] < lower or lanes[j, i, lane] > upper:
            hits[found] = (j * n + i) * LANES + lane
            found += 1
    return found


@kernel
def _flag_batch(lanes, batch, sources, used, pairs, rejection, hits, found):
    """Sort a batch of lists, and append what lies outside their limits to ``hits``; returns how many there are."""
    n = lanes.shape[1]
    sort_lanes(batch, pairs)
    for b in range(used):
        j, lane = sources[b] // LANES, sources[b] % LANES
        count = 0
        for i in range(n):
            count += lanes[j, i, lane] == lanes[j, i, lane]
        lower, upper = _bounds(batch, b, count, rejection)
        if not (batch[0, b] < lower or batch[count - 1, b] > upper):
            continue
        found = _append_hits(lanes, j, lane, lower, upper, hits, found)
    return found


@kernel
def _sort_suspects(j, width, rejection, space, used, found):
    """Put the lists of a difference that are not decided into the batch, which is worked on when it is full."""
    for lane in range(width):
        if not space.suspect[lane]:
            continue
        for i in range(space.batch.shape[0]):
            value = space.lanes[j, i, lane]
            space.batch[i, used] = np.float32(np.inf) if np.isnan(value) else value
        space.sources[used] = j * LANES + lane
        used += 1
        if used == LANES:
            found = _flag_batch(
                space.lanes, space.batch, space.sources, used, space.pairs, rejection, space.hits, found
            )
            used = 0
    return used, found


@kernel
def clip_integrations(
    data, groupdq, gain, noise2, rejection, spread, reset, space, marked, medians, every, nx, first, last
):
    """Flag differences that stand out among those of all other integrations (16.4).

    Parameters
    ----------
    data : float32 [integration, group, pixel]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, pixel]
        JUMP_DET is set in the group after the hit, and the seed bit where it spreads.
    gain : float32 [pixel]
        e-/DN.
    noise2 : float32 [pixel]
        Read-noise variance of a difference [e-^2].
    rejection : float
        rejection_threshold [sigma].
    spread : float64 [2]
        A hit with min < sigma < max spreads to its neighbours.
    reset : uint8 [integration, group]
        1 for planes that would be flagged as a whole: they are not (16.4, last paragraph).
    space
        Scratch.
    marked : uint8 [integration, y]
        Set to 1 where a row has a seed.
    medians : float64 [pixel]
        Median of all differences of a pixel [e-]; written where it had to be known, or everywhere.
    every : bool
        Write all medians.
    nx, first, last : int
        Pixels of a row; which pixels, ``first <= pixel < last``.
    """
    n, ngroups = data.shape[:2]
    for start in range(first, last, LANES):
        width = min(LANES, last - start)
        found = used = 0
        fill_lists(data, groupdq, gain, start, width, space)
        space.levels[0, :] = np.inf
        space.levels[1, :] = -np.inf
        for j in range(ngroups - 1):
            found = screen_list(j, width, rejection, space, found)
            used, found = _sort_suspects(j, width, rejection, space, used, found)
        if used > 0:
            # what a batch before left in the other columns is sorted along and not looked at
            for i in range(n):
                for lane in range(used, LANES):
                    space.batch[i, lane] = 0.0
            found = _flag_batch(
                space.lanes, space.batch, space.sources, used, space.pairs, rejection, space.hits, found
            )
        _find_medians(space, noise2, spread, medians, every, start, width, found)
        _set_flags(groupdq, noise2, spread, reset, space, found, marked, medians, nx, start)


@kernel
def _clip_pixel(lanes, lane, rejection, work, hits, found):
    """Append the differences of a pixel that stand out among all of them; returns how many hits there are.

    Parameters
    ----------
    lanes : float32 [difference, integration, lane]
        Differences [e-]; NaN where there is none.
    lane : int
        Which pixel.
    rejection : float
        Threshold [sigma].
    work : float32 [value, 1]
        Scratch.
    hits : int32 [value * lane]
        Places, written from ``found`` on.
    found : int
        Hits so far.
    """
    n, count = lanes.shape[1], 0
    for j in range(lanes.shape[0]):
        for i in range(n):
            if not np.isnan(lanes[j, i, lane]):
                work[count, 0] = lanes[j, i, lane]
                count += 1
    if count == 0:
        return found
    work[:count, 0].sort()
    lower, upper = _bounds(work, 0, count, rejection)
    if not (work[0, 0] < lower or work[count - 1, 0] > upper):
        return found
    for j in range(lanes.shape[0]):
        found = _append_hits(lanes, j, lane, lower, upper, hits, found)
    return found


@kernel
def clip_everything(
    data, groupdq, gain, noise2, rejection, spread, reset, space, marked, medians, every, nx, first, last
):
    """Flag differences that stand out among all differences of all integrations (16.4, ``only_use_ints`` false).

    Parameters
    ----------
    data, groupdq, gain, noise2, rejection, spread, reset, space, marked, medians, every, nx, first, last
        As `clip_integrations`; medians are written everywhere.
    """
    work = space.work.reshape(-1, 1)
    for start in range(first, last, LANES):
        width = min(LANES, last - start)
        fill_lists(data, groupdq, gain, start, width, space)
        found = 0
        for lane in range(width):
            found = _clip_pixel(space.lanes, lane, rejection, work, space.hits, found)
        _find_medians(space, noise2, spread, medians, True, start, width, found)
        _set_flags(groupdq, noise2, spread, reset, space, found, marked, medians, nx, start)


@kernel
def _depends(value, levels, lane, noise2, spread):
    """Whether it depends on where exactly the median lies between its bounds if a hit spreads to its neighbours."""
    low, high = levels[0, lane], levels[1, lane]
    least = 0.0 if low < 0.0 and high > 0.0 else min(abs(low), abs(high))
    near = 0.0 if value > low and value < high else min(abs(value - low), abs(value - high))
    smallest = near / np.sqrt(max(abs(low), abs(high)) + noise2) * (1.0 - 1e-9)
    largest = max(abs(value - low), abs(value - high)) / np.sqrt(least + noise2) * (1.0 + 1e-9)
    if not least + noise2 > 0.0:
        return True
    inside = smallest > spread[0] and largest < spread[1]
    outside = largest < spread[0] or smallest > spread[1]
    return not (inside or outside)


@kernel
def _find_medians(space, noise2, spread, medians, every, start, width, found):
    """Find the medians of pixels that need one exactly; ``suspect`` tells which."""
    n = space.lanes.shape[1]
    for lane in range(LANES):
        space.suspect[lane] = 1 if every else 0
    for k in range(found):
        lane, rest = space.hits[k] % LANES, space.hits[k] // LANES
        value = np.float64(space.lanes[rest // n, rest % n, lane])
        if _depends(value, space.levels, lane, np.float64(noise2[start + lane]), spread):
            space.suspect[lane] = 1
    for lane in range(width):
        if space.suspect[lane]:
            medians[start + lane] = _joint_median(space.lanes, lane, space.work)


@kernel
def _joint_median(lanes, lane, work):
    """Median of all lists of a lane (lanes: float32 [difference, integration, lane]); NaN when they are empty."""
    count = 0
    for j in range(lanes.shape[0]):
        for i in range(lanes.shape[1]):
            if not np.isnan(lanes[j, i, lane]):
                work[count] = lanes[j, i, lane]
                count += 1
    return median_of(work, count) if count > 0 else np.nan


@kernel
def _set_flags(groupdq, noise2, spread, reset, space, found, marked, medians, nx, start):
    """Flag the hits of a block of pixels, and mark those that spread."""
    n = space.lanes.shape[1]
    for k in range(found):
        lane, rest = space.hits[k] % LANES, space.hits[k] // LANES
        i, j, p = rest % n, rest // n, start + lane
        if reset[i, j + 1] and groupdq[i, j + 1, p] == 0:
            continue
        level = medians[p] if space.suspect[lane] else space.levels[0, lane]
        sigma = np.sqrt(abs(level) + np.float64(noise2[p]))
        size = abs(np.float64(space.lanes[j, i, lane]) - level) / sigma
        groupdq[i, j + 1, p] |= JUMP
        if sigma > 0.0 and size > spread[0] and size < spread[1]:
            groupdq[i, j + 1, p] |= SEED
            marked[i, p // nx] = 1

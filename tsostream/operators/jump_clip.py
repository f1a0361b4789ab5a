"""jump across integrations: sigma clipping of each difference over all integrations of a segment (spec stage 1, 16.4).

Lists that bounds cannot clear are sorted 64 at a time by a network; the rounds of clipping then only move the two ends
of the sorted list.
"""

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
from tsostream.operators.sorting import sort_lanes

__all__ = ["clip_integrations"]

#: rounds of clipping (astropy's default)
ROUNDS = 5


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
def _suspects(values, moments, rejection, suspect):
    """Find the lists that bounds cannot clear; ``suspect`` (uint8 [lane]) is set to 1 for them."""
    list_moments(values, False, moments)
    bracket_median(values, False, moments)
    for lane in range(LANES):
        reach = rejection * moments[2, lane] * (1.0 - 1e-9)
        clear = moments[3, lane] >= moments[6, lane] - reach and moments[4, lane] <= moments[5, lane] + reach
        suspect[lane] = moments[0, lane] > 0 and not clear


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
        for i in range(n):
            if lanes[j, i, lane] < lower or lanes[j, i, lane] > upper:
                hits[found] = (j * n + i) * LANES + lane
                found += 1
    return found


@kernel
def clip_integrations(
    data, groupdq, gain, noise2, rejection, spread, reset, pairs, lanes, batch, sources, suspect, moments, hits,
    work, marked, medians, every, y0, y1, x0, x1,
):  # fmt: skip
    """Flag differences that stand out among those of all other integrations (16.4).

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, y, x]
        JUMP_DET is set in the group after the hit, and the seed bit where it spreads.
    gain : float32 [y, x]
        e-/DN.
    noise2 : float32 [y, x]
        Read-noise variance of a difference [e-^2].
    rejection : float
        rejection_threshold [sigma].
    spread : float64 [2]
        A hit with min < sigma < max spreads to its neighbours.
    reset : uint8 [integration, group]
        1 for planes that would be flagged as a whole: they are not (16.4, last paragraph).
    pairs : int32 [comparator, 2]
        Comparators for the number of integrations.
    lanes : float32 [difference, integration, lane]
        Scratch.
    batch : float32 [integration, lane]
        Scratch.
    sources : int32 [lane]
        Scratch.
    suspect : uint8 [lane]
        Scratch.
    moments : float64 [7, lane]
        Scratch.
    hits : int32 [difference * integration * lane]
        Scratch.
    work : float32 [difference * integration]
        Scratch.
    marked : uint8 [integration, y]
        1 where a row has a seed; written.
    medians : float64 [y, x]
        Median of all differences of a pixel [e-]; written where there is a hit, or everywhere.
    every : bool
        Write all medians.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    n, ngroups = data.shape[:2]
    for y in range(y0, y1):
        for i in range(n):
            marked[i, y] = 0
        for start in range(x0, x1, LANES):
            width = min(LANES, x1 - start)
            found = used = 0
            for j in range(ngroups - 1):
                fill_differences(data, groupdq, gain, j, y, start, width, lanes[j])
                _suspects(lanes[j], moments, rejection, suspect)
                for lane in range(width):
                    if suspect[lane]:
                        for i in range(n):
                            value = lanes[j, i, lane]
                            batch[i, used] = np.float32(np.inf) if np.isnan(value) else value
                        sources[used] = j * LANES + lane
                        used += 1
                        if used == LANES:
                            found = _flag_batch(lanes, batch, sources, used, pairs, rejection, hits, found)
                            used = 0
            if used > 0:
                # what a batch before left in the other columns is sorted along and not looked at
                for i in range(n):
                    for lane in range(used, LANES):
                        batch[i, lane] = 0.0
                found = _flag_batch(lanes, batch, sources, used, pairs, rejection, hits, found)
            for lane in range(LANES):
                suspect[lane] = 1 if every else 0
            for k in range(found):
                suspect[hits[k] % LANES] = 1
            for lane in range(width):
                if suspect[lane]:
                    medians[y, start + lane] = _joint_median(lanes, lane, work)
            _set_flags(groupdq, noise2, spread, reset, lanes, hits, found, marked, medians, y, start)


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
def _set_flags(groupdq, noise2, spread, reset, lanes, hits, found, marked, medians, y, start):
    """Flag the hits of a block of pixels, and mark those that spread."""
    n = lanes.shape[1]
    for k in range(found):
        lane, rest = hits[k] % LANES, hits[k] // LANES
        i, j, x = rest % n, rest // n, start + lane
        if reset[i, j + 1] and groupdq[i, j + 1, y, x] == 0:
            continue
        level = medians[y, x]
        sigma = np.sqrt(abs(level) + np.float64(noise2[y, x]))
        size = abs(np.float64(lanes[j, i, lane]) - level) / sigma
        groupdq[i, j + 1, y, x] |= JUMP
        if sigma > 0.0 and size > spread[0] and size < spread[1]:
            groupdq[i, j + 1, y, x] |= SEED
            marked[i, y] = 1

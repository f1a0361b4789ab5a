"""Ramps without flags in the official OLS_C fit: neighbouring pixels side by side (spec stage 1, 21.3 and 21.5).

Their slopes are dot products, their median rates come from a sorting network. Simple loops over slices with few arrays
each: the compiler finds vector instructions for no others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = ["LANES", "Lanes", "find_places", "fit_clean", "make_lanes", "see_flags", "take_ramps", "take_rows"]

#: flags of either group, and of the later one, that spoil a difference
UNUSABLE, JUMP = np.uint8(dq.DO_NOT_USE | dq.SATURATED), np.uint8(dq.JUMP_DET)
#: pixels that are worked on side by side
LANES = 128


class Lanes(NamedTuple):
    """Scratch of a run of pixels.

    Parameters
    ----------
    samples, flags : float32, uint8 [group, lane]
        Of one integration. In the ramps themselves the groups of a pixel lie a frame apart: each would be a walk to
        memory of its own.
    places : int32 [lane]
        Lanes of the ramps with flags.
    ramps, marks : float32, uint8 [ramp, group]
        Samples and flags of those.
    differences : float32 [difference, lane]
        Between neighbouring groups; sorted.
    classes : int32 [lane]
        Class of signal-to-noise, which chooses the weights.
    seen : uint8 [lane]
        OR of all flags, or 1 for pixels that need care anyway.
    filling : float32 [lane]
        What stands for the next difference of a ramp that does not count.
    rise, middle : float64 [lane]
        Slope and median of the differences [DN/group]; of a ramp with flags the latter is right where it is finite.
    chosen : int32 [pixel]
        Class of which ``weights`` holds the weights; -1 in the beginning.
    weights : float64 [group, pixel]
        Each pixel's own, since its class hardly ever changes from one integration to the next.
    """

    samples: np.ndarray
    flags: np.ndarray
    places: np.ndarray
    ramps: np.ndarray
    marks: np.ndarray
    differences: np.ndarray
    classes: np.ndarray
    seen: np.ndarray
    filling: np.ndarray
    rise: np.ndarray
    middle: np.ndarray
    chosen: np.ndarray
    weights: np.ndarray


@kernel
def make_lanes(total, ngroups, pixels):
    """Make the scratch for so many groups, those of them in use, and pixels."""
    chosen = np.empty(pixels, np.int32)
    chosen[:] = -1
    return Lanes(
        np.empty((total, LANES), np.float32), np.empty((total, LANES), np.uint8), np.empty(LANES, np.int32),
        np.empty((LANES, total), np.float32), np.empty((LANES, total), np.uint8),
        np.zeros((max(ngroups - 1, 1), LANES), np.float32), np.empty(LANES, np.int32), np.empty(LANES, np.uint8),
        np.empty(LANES, np.float32), np.empty(LANES), np.empty(LANES), chosen, np.empty((ngroups, pixels)),
    )  # fmt: skip


@kernel
def take_rows(planes, i, first, width, rows):
    """Copy some pixels of all groups of an integration: ``planes[i, :, first:]`` to ``rows`` [group, lane]."""
    for g in range(rows.shape[0]):
        row, taken = planes[i, g, first : first + width], rows[g]
        for k in range(width):
            taken[k] = row[k]


@kernel
def find_places(seen, width, places):
    """Write which of the lanes are not 0 in ``seen``; returns how many."""
    count = 0
    for k in range(width):
        places[count] = k
        count += seen[k] != 0
    return count


@kernel
def take_ramps(rows, places, count, ramps):
    """Copy some columns of ``rows`` [group, lane], so that each lies in one piece: ``ramps`` [ramp, group]."""
    for g in range(rows.shape[0]):
        row = rows[g]
        for k in range(count):
            ramps[k, g] = row[places[k]]


@kernel
def see_flags(groupdq, i, first, care, g0, g1, seen):
    """Write the OR of ``care`` and all flags of each ramp to ``seen``, uint8 [lane]; returns how many are not 0."""
    width = care.size
    for k in range(width):
        seen[k] = care[k]
    for g in range(g0, g1):
        flags = groupdq[i, g, first : first + width]
        for k in range(width):
            seen[k] |= flags[k]
    count = 0
    for k in range(width):
        count += seen[k] != 0
    return count


@kernel
def _find_classes(start, end, gain, noise, classes):
    """Class of signal-to-noise, without root and branches."""
    for k in range(start.size):
        electrons, read = np.float64(gain[k]), np.float64(noise[k])
        signal = (np.float64(end[k]) - np.float64(start[k])) * electrons
        total = read * read + signal
        total = total if signal > 0.0 else np.inf
        square = signal * signal
        number = np.int32(square >= 25.0 * total) + np.int32(square >= 100.0 * total)
        number += np.int32(square >= 400.0 * total) + np.int32(square >= 2500.0 * total)
        classes[k] = number + np.int32(square >= 10000.0 * total)


@kernel
def _choose_weights(table, classes, chosen, weights, offset):
    """Bring the weights of pixels up to date whose class has changed."""
    changed = 0
    for k in range(chosen.size):
        changed += classes[k] != chosen[k]
    if changed == 0:
        return
    for k in range(chosen.size):
        if classes[k] != chosen[k]:
            chosen[k] = classes[k]
            for g in range(weights.shape[0]):
                weights[g, offset + k] = table[classes[k], g]


@kernel
def _leave_out(step, early, late, filling):
    """Put infinities of either sign, by turns, where a flag spoils a difference: so the middle of the rest stays it."""
    zero = np.float32(0.0)
    for k in range(early.size):
        spoilt = ((early[k] | late[k]) & UNUSABLE) | (late[k] & JUMP)
        # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
        value, other = step[k] + zero, filling[k] + zero
        good = (spoilt == 0) & (value - value == zero)
        step[k] = value if good else other
        filling[k] = other if good else -other


@kernel
def _take_middles(differences, count, filling, middle):
    """Take the medians of sorted differences; not finite where nothing counts.

    The first infinity filled in was positive, so after an odd number of them there is one more above than below.
    """
    low, high = differences[max(count // 2 - 1, 0)], differences[count // 2]
    for k in range(middle.size):
        lower, upper = np.float64(low[k]), np.float64(high[k])
        even = filling[k] > 0
        one = upper if count % 2 else lower
        middle[k] = one if even == (count % 2 == 1) else 0.5 * (lower + upper)


@kernel
def fit_clean(offset, gain, noise, setting, lanes, flagged):
    """Fit the ramps of one integration as if none had a flag, but for their medians.

    Parameters
    ----------
    offset : int
        Place of the first pixel among those of ``lanes``.
    gain, noise : float32 [lane]
        e-/DN, noise of one group [e-].
    setting
        As `tsostream.operators.ramp_fit_walks.Setting`.
    lanes
        Fits ``samples``; ``rise`` and ``middle`` are written.
    flagged : bool
        Whether there are ``flags``.
    """
    width, g0, g1 = gain.size, setting.g0, setting.g1
    count = g1 - g0 - 1
    rise, middle = lanes.rise[:width], lanes.middle[:width]
    rise[:] = 0.0
    middle[:] = 0.0
    if count < 1:
        return
    start = lanes.samples[g0, :width]
    for g in range(count):
        before, after = lanes.samples[g0 + g], lanes.samples[g0 + g + 1]
        step = lanes.differences[g]
        for k in range(width):
            step[k] = after[k] - before[k]
    lanes.filling[:] = np.inf
    if flagged:
        for g in range(count):
            early, late = lanes.flags[g0 + g, :width], lanes.flags[g0 + g + 1, :width]
            _leave_out(lanes.differences[g], early, late, lanes.filling)
    sort_lanes(lanes.differences, setting.pairs)
    _take_middles(lanes.differences, count, lanes.filling, middle)
    _find_classes(start, lanes.samples[g1 - 1], gain, noise, lanes.classes)
    _choose_weights(
        setting.weights, lanes.classes, lanes.chosen[offset : offset + width], lanes.weights, offset
    )
    for g in range(1, count + 1):
        row, weight = lanes.samples[g0 + g], lanes.weights[g, offset : offset + width]
        for k in range(width):
            rise[k] += weight[k] * (np.float64(row[k]) - np.float64(start[k]))

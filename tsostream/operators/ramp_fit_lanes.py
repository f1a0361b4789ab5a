"""Ramps without flags in the official OLS_C fit: neighbouring pixels side by side (spec stage 1, 21.3 and 21.5).

Their slopes are dot products, their median rates come from a sorting network. Simple loops over slices with few arrays
each: the compiler finds vector instructions for no others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = ["LANES", "Lanes", "fit_clean", "make_lanes", "see_flags", "take_rows"]

#: pixels that are worked on side by side
LANES = 128


class Lanes(NamedTuple):
    """Scratch of a run of pixels.

    Parameters
    ----------
    samples, flags : float32, uint8 [group, lane]
        Of one integration. In the ramps themselves the groups of a pixel lie a frame apart: each would be a walk to
        memory of its own.
    differences : float32 [difference, lane]
        Between neighbouring groups; sorted.
    classes : int32 [lane]
        Class of signal-to-noise, which chooses the weights.
    seen : uint8 [lane]
        OR of all flags, or 1 for pixels that need care anyway.
    rise, middle : float64 [lane]
        Slope and median of the differences [DN/group].
    chosen : int32 [pixel]
        Class of which ``weights`` holds the weights; -1 in the beginning.
    weights : float64 [group, pixel]
        Each pixel's own, since its class hardly ever changes from one integration to the next.
    """

    samples: np.ndarray
    flags: np.ndarray
    differences: np.ndarray
    classes: np.ndarray
    seen: np.ndarray
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
        np.empty((total, LANES), np.float32), np.empty((total, LANES), np.uint8),
        np.zeros((max(ngroups - 1, 1), LANES), np.float32), np.empty(LANES, np.int32), np.empty(LANES, np.uint8),
        np.empty(LANES), np.empty(LANES), chosen, np.empty((ngroups, pixels)),
    )  # fmt: skip


@kernel
def take_rows(planes, i, first, width, rows):
    """Copy some pixels of all groups of an integration: ``planes[i, :, first:]`` to ``rows`` [group, lane]."""
    for g in range(rows.shape[0]):
        row, taken = planes[i, g, first : first + width], rows[g]
        for k in range(width):
            taken[k] = row[k]


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
def fit_clean(offset, gain, noise, setting, lanes):
    """Fit the ramps of one integration as if none had a flag.

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
    sort_lanes(lanes.differences, setting.pairs)
    low, high = lanes.differences[(count - 1) // 2], lanes.differences[count // 2]
    for k in range(width):
        middle[k] = 0.5 * (np.float64(low[k]) + np.float64(high[k]))
    _find_classes(start, lanes.samples[g1 - 1], gain, noise, lanes.classes)
    _choose_weights(
        setting.weights, lanes.classes, lanes.chosen[offset : offset + width], lanes.weights, offset
    )
    for g in range(1, count + 1):
        row, weight = lanes.samples[g0 + g], lanes.weights[g, offset : offset + width]
        for k in range(width):
            rise[k] += weight[k] * (np.float64(row[k]) - np.float64(start[k]))

"""Which pixels can have a jump at all: bounds on the differences of neighbouring pixels, worked out side by side.

A screen may let clean pixels through, never clear one with a hit: the level (the median, or that of the sizes without
the largest) lies within the range of the differences, and counting proves between which bounds.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = [
    "clean_levels",
    "count_between",
    "fill_ramp_differences",
    "find_extremes",
    "screen_median",
    "screen_span",
]

UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)


@kernel
def fill_ramp_differences(data, groupdq, gain, i, start, width, d, offset):
    """Write the differences of neighbouring pixels (``d``: float32 [difference, lane], NaN where there is none).

    ``data`` and ``groupdq`` [integration, group, pixel] begin with pixel ``offset`` of ``gain`` [pixel].
    """
    # two simple loops a row: with flags and signal in one the compiler finds no vector instructions
    nothing, most, zero = np.float32(np.nan), np.float32(np.inf), np.float32(0.0)
    scale, low, high = gain[start : start + width], start - offset, start - offset + width
    for j in range(d.shape[0]):
        row = d[j]
        before, after = data[i, j, low:high], data[i, j + 1, low:high]
        for lane in range(width):
            rise = np.float32(after[lane] * scale[lane]) - np.float32(before[lane] * scale[lane])
            row[lane] = rise if abs(rise) < most else nothing
        flags, later = groupdq[i, j, low:high], groupdq[i, j + 1, low:high]
        for lane in range(width):
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            row[lane] = nothing if (flags[lane] | later[lane]) & UNUSABLE else row[lane] + zero


@kernel
def find_extremes(d, width, low, high):
    """Least and largest difference of each lane; infinities the wrong way round where there is none."""
    for lane in range(width):
        low[lane] = np.float32(np.inf)
        high[lane] = np.float32(-np.inf)
    zero = np.float32(0.0)
    for j in range(d.shape[0]):
        row = d[j]
        for lane in range(width):
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            value, least, most = row[lane], low[lane] + zero, high[lane] + zero
            low[lane] = value if value < least else least
            high[lane] = value if value > most else most


@kernel
def screen_span(noise2, start, width, clear, low, high, suspect):
    """Mark lanes whose differences are too far apart; the level is one of them, or lies between."""
    noise, none = noise2[start : start + width], np.float32(0.0)
    for lane in range(width):
        span = high[lane] - low[lane]
        least = max(low[lane], -high[lane], none)
        suspect[lane] = (span > none) & ~(span * span <= clear * (noise[lane] + least))
    some = 0
    for lane in range(width):
        some += suspect[lane]
    return some


@kernel
def clean_levels(noise2, start, width, limit, absolute, low, high, least, most):
    """Between which levels no difference of a lane is a hit (``least, most``: float32 [lane], written).

    The level m makes sigma = sqrt(|m| + noise2); neither ``high - m`` nor ``m - low`` may exceed ``limit`` of it. Both
    conditions hold between two levels, which are roots of quadratic equations; where m is below zero the smaller
    sqrt(noise2) stands for sigma. With ``absolute``, of the sizes of the differences.
    """
    zero, half, two = np.float32(0.0), np.float32(0.5), np.float32(2.0)
    square = limit * limit
    noise = noise2[start : start + width]
    for lane in range(width):
        bottom, top = low[lane], high[lane]
        if absolute:
            bottom, top = max(bottom, -top, zero), max(top, -bottom)
        reach = limit * np.sqrt(noise[lane])
        root = np.sqrt(square * square + two * two * square * max(top + noise[lane], zero))
        least[lane] = top - (reach if top <= reach else half * (root - square))
    for lane in range(width):
        bottom, top = low[lane], high[lane]
        if absolute:
            bottom = max(bottom, -top, zero)
        reach = limit * np.sqrt(noise[lane])
        root = np.sqrt(square * square + two * two * square * max(bottom + noise[lane], zero))
        most[lane] = bottom + (reach if bottom < -reach else half * (root + square))


@kernel
def count_between(d, width, absolute, high, low, least, most, count, below, above, largest):
    """Count differences: all of a lane, those not above ``most``, not below ``least``, and as large as the largest."""
    zero, one = np.float32(0.0), np.float32(1.0)
    count[:] = zero
    below[:] = zero
    above[:] = zero
    largest[:] = zero
    for j in range(d.shape[0]):
        row = d[j]
        for lane in range(width):
            value = abs(row[lane]) if absolute else row[lane]
            below[lane] += one if value <= most[lane] else zero
        for lane in range(width):
            value = abs(row[lane]) if absolute else row[lane]
            above[lane] += one if value >= least[lane] else zero
        for lane in range(width):
            count[lane] += one if row[lane] == row[lane] else zero
        if absolute:
            for lane in range(width):
                largest[lane] += one if abs(row[lane]) == max(high[lane], -low[lane]) else zero


@kernel
def screen_median(d, noise2, start, width, limit, single_pass, low, high, sums, suspect):
    """Clear the suspects whose level lies where no difference is a hit: counting proves it, without sorting.

    The level is the median; when the search goes from the largest on, that of the sizes without the largest.
    """
    absolute = d.shape[0] < single_pass
    least, most, count, below, above, largest = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
    clean_levels(noise2, start, width, limit, absolute, low, high, least, most)
    count_between(d, width, absolute, high, low, least, most, count, below, above, largest)
    some = 0
    for lane in range(width):
        n = int(count[lane])
        left = n - int(largest[lane])
        enough = n >= 4 if absolute else n >= single_pass
        proved = below[lane] >= left // 2 + 1 and above[lane] - (n - left) >= left // 2 + 1
        suspect[lane] &= not (enough and proved)
        some += suspect[lane]
    return some

"""Which pixels can have a jump at all: bounds on the differences of neighbouring pixels, worked out side by side.

A screen may let clean pixels through, never clear one with a hit: the level (the median, or that of the sizes without
the largest) lies within the range of the differences, and in a bracket about their mean that counting proves.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["count_bracket", "fill_ramp_differences", "find_extremes", "screen_bracket", "screen_span"]

UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: half width of the bracket about the mean [standard deviations]
BRACKET = np.float32(0.25)


@kernel
def fill_ramp_differences(data, groupdq, gain, i, y, start, width, d):
    """Write the differences of neighbouring pixels (``d``: float32 [difference, lane], NaN where there is none)."""
    # two simple loops a row: with flags and signal in one the compiler finds no vector instructions
    nothing, most = np.float32(np.nan), np.float32(np.inf)
    stop = start + width
    scale = gain[y, start:stop]
    for j in range(d.shape[0]):
        row = d[j]
        before, after = data[i, j, y, start:stop], data[i, j + 1, y, start:stop]
        for lane in range(width):
            rise = np.float32(after[lane] * scale[lane]) - np.float32(before[lane] * scale[lane])
            row[lane] = rise if abs(rise) < most else nothing
        flags, later = groupdq[i, j, y, start:stop], groupdq[i, j + 1, y, start:stop]
        for lane in range(width):
            row[lane] = nothing if (flags[lane] | later[lane]) & UNUSABLE else row[lane]


@kernel
def find_extremes(d, width, low, high):
    """Least and largest difference of each lane; infinities the wrong way round where there is none."""
    for lane in range(width):
        low[lane] = np.float32(np.inf)
        high[lane] = np.float32(-np.inf)
    for j in range(d.shape[0]):
        row = d[j]
        for lane in range(width):
            value, least, most = row[lane], low[lane], high[lane]
            low[lane] = value if value < least else least
            high[lane] = value if value > most else most


@kernel
def screen_span(noise2, y, start, width, clear, low, high, suspect):
    """Mark lanes whose differences are too far apart; the level is one of them, or lies between."""
    some = 0
    for lane in range(width):
        span = high[lane] - low[lane]
        least = max(low[lane], -high[lane], np.float32(0.0))
        dirty = (span > np.float32(0.0)) & ~(span * span <= clear * (noise2[y, start + lane] + least))
        suspect[lane] = dirty
        some += dirty
    return some


@kernel
def count_bracket(d, width, absolute, count, centre, width_of, below, above):
    """Count, and how many differences lie below and above a bracket about the mean.

    ``centre`` and ``width_of`` (float32 [lane]) are the mean and half the bracket's width; they need not be exact,
    for only the counts prove something. With ``absolute``, of the sizes of the differences.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    for lane in range(width):
        count[lane] = zero
        centre[lane] = zero
        width_of[lane] = zero
        below[lane] = zero
        above[lane] = zero
    for j in range(d.shape[0]):
        for lane in range(width):
            value = abs(d[j, lane]) if absolute else d[j, lane]
            there = value == value
            count[lane] += one if there else zero
            centre[lane] += value if there else zero
    for lane in range(width):
        centre[lane] /= count[lane]
    for j in range(d.shape[0]):
        for lane in range(width):
            value = abs(d[j, lane]) if absolute else d[j, lane]
            away = value - centre[lane]
            width_of[lane] += away * away if away == away else zero
    for lane in range(width):
        width_of[lane] = BRACKET * np.sqrt(width_of[lane] / count[lane])
    for j in range(d.shape[0]):
        for lane in range(width):
            value = abs(d[j, lane]) if absolute else d[j, lane]
            below[lane] += one if value <= centre[lane] + width_of[lane] else zero
    for j in range(d.shape[0]):
        for lane in range(width):
            value = abs(d[j, lane]) if absolute else d[j, lane]
            above[lane] += one if value >= centre[lane] - width_of[lane] else zero


@kernel
def screen_bracket(d, noise2, y, start, width, clear, single_pass, low, high, sums, suspect):
    """Clear the suspects whose level is proved to lie in a narrow bracket that no difference is far from."""
    absolute = d.shape[0] < single_pass
    count, centre, half, below, above = sums[0], sums[1], sums[2], sums[3], sums[4]
    count_bracket(d, width, absolute, count, centre, half, below, above)
    some = 0
    for lane in range(width):
        if not suspect[lane]:
            continue
        n = int(count[lane])
        bottom, top = centre[lane] - half[lane], centre[lane] + half[lane]
        least, largest = low[lane], high[lane]
        left = n
        if absolute:
            least, largest = max(low[lane], -high[lane], np.float32(0.0)), max(high[lane], -low[lane])
            # the level leaves out all that equal the largest; how many there are is counted only here
            for j in range(d.shape[0]):
                left -= abs(d[j, lane]) == largest
        enough = n >= 5 if absolute else n >= single_pass
        proved = below[lane] >= n // 2 + 1 and above[lane] - (n - left) >= left // 2 + 1 and top < largest
        reach = max(largest - bottom, top - least)
        sure = max(bottom, -top, np.float32(0.0))
        if enough and proved and reach * reach <= clear * (noise2[y, start + lane] + sure):
            suspect[lane] = False
        else:
            some += 1
    return some

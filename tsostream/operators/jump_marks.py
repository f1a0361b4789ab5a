"""What the two ways of finding jumps in a segment share: differences of a block of pixels, and bounds on their median.

Nearly every list of differences is clean, and most can be cleared without sorting it: the median lies in a bracket
about the mean that counting proves, and nothing is further from the bracket than the threshold allows.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = [
    "BRACKET",
    "JUMP",
    "LANES",
    "SEED",
    "UNUSABLE",
    "bracket_median",
    "electrons",
    "fill_differences",
    "list_moments",
]

JUMP = np.uint8(dq.JUMP_DET)
UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: a hit that spreads to its neighbours; the bit of OUTLIER, which no group flag uses, cleared at the end
SEED = np.uint8(dq.OUTLIER)
#: pixels that are worked on side by side
LANES = 64
#: half width of the bracket about the mean [standard deviations]
BRACKET = 0.25


@kernel
def electrons(data, groupdq, i, j, y, x, gain):
    """Difference between groups j and j+1 [e-], NaN where one cannot be used; each group rounded to float32."""
    if (groupdq[i, j, y, x] | groupdq[i, j + 1, y, x]) & UNUSABLE:
        return np.float32(np.nan)
    return np.float32(np.float32(data[i, j + 1, y, x] * gain) - np.float32(data[i, j, y, x] * gain))


@kernel
def fill_differences(data, groupdq, gain, start, lanes):
    """Write the differences of all integrations of some pixels, each group rounded to float32.

    Parameters
    ----------
    data, groupdq : float32, uint8 [integration, group, pixel]
        Linearised signal [DN], flags.
    gain : float32 [pixel of those]
        e-/DN.
    start : int
        The first of them.
    lanes : float32 [difference, integration, lane]
        Written [e-]; NaN where there is none.
    """
    nothing, zero, width = np.float32(np.nan), np.float32(0.0), gain.size
    stop = start + width
    for i in range(data.shape[0]):
        bad = np.uint8(0)
        for g in range(data.shape[1]):
            flags = groupdq[i, g, start:stop]
            for k in range(width):
                bad |= flags[k]
        before = data[i, 0, start:stop]
        for j in range(data.shape[1] - 1):
            after, row = data[i, j + 1, start:stop], lanes[j, i]
            for k in range(width):
                rise = np.float32(after[k] * gain[k]) - np.float32(before[k] * gain[k])
                row[k] = rise if rise - rise == zero else nothing
            for k in range(width, LANES):
                row[k] = nothing
            if bad & UNUSABLE:
                early, late = groupdq[i, j, start:stop], groupdq[i, j + 1, start:stop]
                for k in range(width):
                    if (early[k] | late[k]) & UNUSABLE:
                        row[k] = nothing
            before = after


@kernel
def list_moments(values, absolute, moments):
    """Count, mean, standard deviation, least and largest of every list.

    Parameters
    ----------
    values : float32 [value, lane]
        NaN is left out.
    absolute : bool
        Of the absolute values.
    moments : float64 [7, lane]
        The first five rows are written; all but the count mean nothing where it is zero.
    """
    for lane in range(LANES):
        moments[0, lane] = 0.0
        moments[1, lane] = 0.0
        moments[2, lane] = 0.0
        moments[3, lane] = np.inf
        moments[4, lane] = -np.inf
    for k in range(values.shape[0]):
        for lane in range(LANES):
            value = np.float64(values[k, lane])
            value = abs(value) if absolute else value
            there = value == value
            moments[0, lane] += 1.0 if there else 0.0
            moments[1, lane] += value if there else 0.0
    for lane in range(LANES):
        moments[1, lane] /= moments[0, lane]
    for k in range(values.shape[0]):
        for lane in range(LANES):
            value = np.float64(values[k, lane])
            value = abs(value) if absolute else value
            away = moments[1, lane] - value
            moments[2, lane] += away * away if value == value else 0.0
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            least, most = moments[3, lane] + 0.0, moments[4, lane] + 0.0
            moments[3, lane] = value if value < least else least
            moments[4, lane] = value if value > most else most
    for lane in range(LANES):
        moments[2, lane] = np.sqrt(moments[2, lane] / moments[0, lane])


@kernel
def bracket_median(values, absolute, moments):
    """Prove by counting that the median lies near the mean.

    Parameters
    ----------
    values, absolute
        As `list_moments`.
    moments : float64 [7, lane]
        As from `list_moments`; the sixth and seventh row receive the limits between which the median lies, NaN where
        they could not be proved. They also hold for the values without all the largest ones.
    """
    below, above, largest = np.zeros(LANES, np.int32), np.zeros(LANES, np.int32), np.zeros(LANES, np.int32)
    for lane in range(LANES):
        moments[5, lane] = moments[1, lane] - BRACKET * moments[2, lane]
        moments[6, lane] = moments[1, lane] + BRACKET * moments[2, lane]
    for k in range(values.shape[0]):
        for lane in range(LANES):
            value = np.float64(values[k, lane])
            value = abs(value) if absolute else value
            below[lane] += value <= moments[6, lane]
            above[lane] += value >= moments[5, lane]
            largest[lane] += value == moments[4, lane]
    for lane in range(LANES):
        count = moments[0, lane]
        left = count - largest[lane]
        fits = below[lane] >= count // 2 + 1 and above[lane] - largest[lane] >= left // 2 + 1
        if not (fits and moments[6, lane] < moments[4, lane]):
            moments[5, lane] = np.nan
            moments[6, lane] = np.nan

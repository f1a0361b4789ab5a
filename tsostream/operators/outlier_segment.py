"""What the official outlier detection does to a file (spec stages 2-3, C.1): rolling median, held at the edges."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = ["flag_against_median", "keep_samples", "segment_windows"]

_FLAGS = np.uint32(dq.DO_NOT_USE | dq.OUTLIER)
_LARGEST = np.float32(np.finfo(np.float32).max)


def segment_windows(
    numbers: np.ndarray, width: int, segments: tuple[tuple[int, int], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which integrations the official step compares an integration with.

    Parameters
    ----------
    numbers : int64 [integration]
        Integrations.
    width
        ``rolling_window_width``.
    segments
        First and last integration of each file.

    Returns
    -------
    windows : int64 [integration, 2]
        First and last integration of the window, which the edges of a file push inwards.
    rolling : bool [integration]
        False where the file is not longer than the window: one median of the whole file.
    """
    windows = np.empty((len(numbers), 2), np.int64)
    rolling = np.zeros(len(numbers), bool)
    for place, number in enumerate(numbers):
        first, last = next((one for one in segments if one[0] <= number <= one[1]), (number, number))
        if 1 < width < last - first + 1:
            # two at a time: the official code fills the end of the file with the last median, and its end is all of it
            start = last - 1 if width == 2 else min(max(number - width // 2, first), last - width + 1)
            windows[place], rolling[place] = (start, start + width - 1), True
        else:
            windows[place] = first, last
    return windows, rolling


@kernel
def keep_samples(data, bits, bad, planes):
    """Copy slopes, NaN where a sample has one of the bad bits.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    bits : uint32 [integration, y, x]
        DQ.
    bad : uint32 [integration]
        Bits that make a sample unfit.
    planes : float32 [integration, y, x]
        Written.
    """
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                good = (bits[i, y, x] & bad[i]) == 0
                planes[i, y, x] = data[i, y, x] if good else np.float32(np.nan)


@kernel
def flag_against_median(data, mine, planes, slots, pairs, err, snr, propagate, bits):
    """Flag samples further than ``snr`` errors from the median of their window.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    mine : int64 [window]
        Integrations of the block that are tested.
    planes : float32 [slot, y, x]
        Samples.
    slots : int64 [window, sample]
        Slots of each window; -1 for none.
    pairs : int32 [comparator, 2]
        Comparators for the window's length.
    err : float32 [integration, y, x]
        1-sigma errors; NaN counts as 0, so any difference is too much.
    snr : float32
        Limit.
    propagate : bool
        True: one NaN in the window, and nothing is tested; medians in float64. False: the median of the others, and
        differences in float32.
    bits : uint32 [integration, y, x]
        DO_NOT_USE and OUTLIER are added.
    """
    n, nx = slots.shape[1], planes.shape[2]
    lanes = np.empty((n, nx), np.float32)
    good = np.zeros(nx, np.int32)
    median = np.empty(nx, np.float64)
    for y in range(planes.shape[1]):
        for w in range(mine.size):
            same = w > 0
            for k in range(n):
                same = same and slots[w, k] == slots[w - 1, k]
            if not same:
                good[:] = 0
                for k in range(n):
                    for x in range(nx):
                        value = np.float32(np.nan)
                        if slots[w, k] >= 0:
                            value = planes[slots[w, k], y, x]
                        there = value == value
                        good[x] += there
                        lanes[k, x] = value if there else np.float32(np.inf)
                sort_lanes(lanes, pairs)
                for x in range(nx):
                    count = good[x]
                    if count == 0 or (propagate and count < n):
                        median[x] = np.nan
                    elif count % 2:
                        median[x] = lanes[count // 2, x]
                    else:
                        # added up in float32, as numpy does
                        median[x] = np.float32(lanes[count // 2 - 1, x] + lanes[count // 2, x]) * np.float32(
                            0.5
                        )
            i = mine[w]
            for x in range(nx):
                error = err[i, y, x]
                if error != error:
                    error = np.float32(0.0)
                error = min(max(error, -_LARGEST), _LARGEST)
                difference = abs(np.float64(data[i, y, x]) - median[x])
                if not propagate:
                    difference = np.float64(np.float32(difference))
                if difference > np.float64(np.float32(snr * error)):
                    bits[i, y, x] |= _FLAGS

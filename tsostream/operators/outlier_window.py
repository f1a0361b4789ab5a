"""Kernels of the streaming outlier detection: levels divided out, and samples far from their window's median.

Whether a sample lies further from the window's median than a limit does not take the median: it does when more than
half of the window's good samples lie further below, or further above, than that. Nor does most of the counting have to
be done: neighbouring integrations share more than half of their windows, and when all of those shared samples but one
are within a sample's limits, it is no outlier whatever the rest of its window holds.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["count_outliers", "divide_level"]

_FLAGS = np.uint32(dq.DO_NOT_USE | dq.OUTLIER)
#: the quick test asks for this share of the squared limit, so that no rounding settles what counting would not
SURE = np.float32(0.98)


@kernel
def _divide_row(data, bits, bad, row, columns, share, plane):
    """`divide_level` of one row; rows of their own let the compiler do several pixels at once."""
    one, nan = np.float32(1.0), np.float32(np.nan)
    for x in range(plane.size):
        value = data[x] / (one + (row * columns[x] - one) * share[x])
        # no branches; only finite values have difference 0
        good = ((bits[x] & bad) == 0) & (value - value == 0)
        plane[x] = value if good else nan


@kernel
def divide_level(data, bits, bad, rows, columns, share, planes):
    """Divide the source's level out of slopes.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    bits : uint32 [integration, y, x]
        DQ.
    bad : uint32
        Bits that make a sample unfit.
    rows, columns : float32 [integration, y], [integration, x]
        Level of the source is their product.
    share : float32 [y, x]
        Part of each pixel's light that is the source's.
    planes : float32 [integration, y, x]
        Written: what the slopes were at level 1; NaN for unfit samples.
    """
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            _divide_row(data[i, y], bits[i, y], bad, rows[i, y], columns[i], share[y], planes[i, y])


@kernel
def _share_windows(slots, held, group, shared):
    """Cut consecutive integrations into groups whose windows share one sample more than half of any of them.

    Parameters
    ----------
    slots : int64 [integration, sample]
        Slots of each integration's window; -1 for none.
    held : int64 [slot]
        Working array.
    group : int64 [integration, 2]
        Written: last integration + 1 and number of shared samples of the group that begins here.
    shared : int64 [integration, sample]
        Written: slots of the shared samples, no more than needed; none where a window is too short.
    """
    start = 0
    while start < slots.shape[0]:
        held[:] = 0
        need, stop = 0, start
        while stop < slots.shape[0]:
            count = common = 0
            for k in range(slots.shape[1]):
                if slots[stop, k] >= 0:
                    count += 1
                    common += held[slots[stop, k]] == stop - start
            needed = max(need, (count + 1) // 2 + 1)
            if stop > start and common < needed:
                break
            for k in range(slots.shape[1]):
                slot = slots[stop, k]
                if slot >= 0 and held[slot] == stop - start:
                    held[slot] += 1
            need = needed
            stop += 1
        count = 0
        for k in range(slots.shape[1]):
            slot = slots[start, k]
            if slot >= 0 and held[slot] == stop - start and count < need:
                shared[start, count] = slot
                count += 1
        group[start, 0], group[start, 1] = stop, count if count == need else 0
        start = stop


@kernel
def _take_lowest(a, b, low, second):
    """Keep the two lowest of two more samples and those before, for one row of pixels; NaN is below all."""
    nothing = np.float32(-np.inf)
    for x in range(low.size):
        one = a[x] if a[x] == a[x] else nothing
        two = b[x] if b[x] == b[x] else nothing
        lower, upper = min(one, two), max(one, two)
        least = low[x]
        # the second is a pair's own second, or the higher of the two lowest
        second[x] = min(min(upper, second[x]), max(lower, least))
        low[x] = min(lower, least)


@kernel
def _take_highest(a, b, high, second):
    """Keep the two highest of two more samples and those before, for one row of pixels; NaN is above all."""
    nothing = np.float32(np.inf)
    for x in range(high.size):
        one = a[x] if a[x] == a[x] else nothing
        two = b[x] if b[x] == b[x] else nothing
        lower, upper = min(one, two), max(one, two)
        most = high[x]
        second[x] = max(max(lower, second[x]), min(upper, most))
        high[x] = max(upper, most)


@kernel
def _set_bounds(planes, shared, y, work, nothing, lowest, highest):
    """Second lowest and second highest of the shared samples of a row of pixels.

    Parameters
    ----------
    planes : float32 [slot, y, x]
        Samples.
    shared : int64 [sample]
        Slots; at least two, or none, which bounds nothing.
    y : int
        Row.
    work, nothing : float32 [x]
        Working arrays.
    lowest, highest : float32 [x]
        Written.
    """
    inf = np.float32(np.inf)
    lowest[:] = -inf
    highest[:] = inf
    if shared.size == 0:
        return
    # two at a time; an odd one is paired with nothing, which bounds nothing
    pairs, odd = shared.size // 2, shared.size % 2
    nothing[:] = inf
    work[:] = inf
    lowest[:] = inf
    for k in range(pairs):
        _take_lowest(planes[shared[2 * k], y], planes[shared[2 * k + 1], y], work, lowest)
    if odd:
        _take_lowest(planes[shared[2 * pairs], y], nothing, work, lowest)
    nothing[:] = -inf
    work[:] = -inf
    highest[:] = -inf
    for k in range(pairs):
        _take_highest(planes[shared[2 * k], y], planes[shared[2 * k + 1], y], work, highest)
    if odd:
        _take_highest(planes[shared[2 * pairs], y], nothing, work, highest)


@kernel
def _find_doubtful(value, err, excess, row, columns, share, snr, lowest, highest, doubtful):
    """Mark samples of a row that the shared ones do not settle.

    All but one of the shared samples lie between ``lowest`` and ``highest``. Neither a root nor a division is taken:
    both sides are squared, and multiplied by the square of the level.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    limit2 = snr * snr * SURE
    for x in range(value.size):
        level = one + (row * columns[x] - one) * share[x]
        above = value[x] - lowest[x]
        below = highest[x] - value[x]
        far = above if above > below else below
        far = far if far > zero else zero
        far *= level
        error2 = err[x] * err[x] + excess[x] * (level * level)
        there = (value[x] == value[x]) & (err[x] == err[x])
        doubtful[x] = np.uint8(there & ~(far * far <= limit2 * error2))


@kernel
def _lies_outside(planes, slots, y, x, low, high):
    """Tell whether more than half of a pixel's good samples lie below, or above, the limits."""
    good = below = above = 0
    for k in range(slots.size):
        if slots[k] >= 0:
            sample = planes[slots[k], y, x]
            # NaN is neither there nor below nor above
            good += sample == sample
            below += sample < low
            above += sample > high
    return below > good // 2 or above > good // 2


@kernel
def count_outliers(planes, slots, own, err, excess, rows, columns, share, snr, bits):
    """Flag samples further than ``snr`` errors from the median of the good samples in their window.

    With an even number of samples the median is the interval between the two in the middle.

    Parameters
    ----------
    planes : float32 [slot, y, x]
        Samples at level 1; NaN for unfit ones.
    slots : int64 [integration, sample]
        Slots of each integration's window; -1 for none.
    own : int64 [integration]
        Slot of the integration itself.
    err : float32 [integration, y, x]
        1-sigma error of the slopes.
    excess : float32 [y, x]
        Variance beyond the errors that the pixel shows in time, at level 1.
    rows, columns, share
        As in `divide_level`.
    snr : float32
        Limit.
    bits : uint32 [integration, y, x]
        DO_NOT_USE and OUTLIER are added.
    """
    count, nx = slots.shape[0], planes.shape[2]
    one = np.float32(1.0)
    work, nothing = np.empty(nx, np.float32), np.empty(nx, np.float32)
    lowest, highest = np.empty(nx, np.float32), np.empty(nx, np.float32)
    # eight at a time are looked through as one number
    marks = np.zeros((nx + 7) // 8, np.uint64)
    doubtful = marks.view(np.uint8)[:nx]
    group = np.empty((count, 2), np.int64)
    shared = np.empty(slots.shape, np.int64)
    _share_windows(slots, np.empty(planes.shape[0], np.int64), group, shared)
    for y in range(planes.shape[1]):
        start = 0
        while start < count:
            stop = group[start, 0]
            _set_bounds(planes, shared[start, : group[start, 1]], y, work, nothing, lowest, highest)
            for i in range(start, stop):
                samples, errors, row, column = planes[own[i], y], err[i, y], rows[i, y], columns[i]
                _find_doubtful(
                    samples, errors, excess[y], row, column, share[y], snr, lowest, highest, doubtful
                )
                for word in range(marks.size):
                    if marks[word] == 0:
                        continue
                    for x in range(8 * word, min(8 * word + 8, nx)):
                        if doubtful[x]:
                            error = errors[x] / (one + (row * column[x] - one) * share[y, x])
                            limit = snr * np.sqrt(error * error + excess[y, x])
                            if _lies_outside(planes, slots[i], y, x, samples[x] - limit, samples[x] + limit):
                                bits[i, y, x] |= _FLAGS
            start = stop

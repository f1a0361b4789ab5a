"""Kernels of the streaming outlier detection: samples far from their window's median.

Whether a sample lies further from the window's median than a limit does not take the median: it does when more than
half of the window's good samples lie further below, or further above, than that. Nor does most of the counting have to
be done. The marks of `tsostream.operators.outlier_marks` settle nearly all samples, 64 at a time. In rows where they
do not (the scout expected something else), the samples that neighbouring integrations share do: those are more than
half of each window, and when all of them but one are within a sample's limits, it is no outlier whatever the rest of
its window holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.outlier_marks import FAR, NEAR, SURE, THERE, pack_flags

__all__ = ["count_outliers"]

_FLAGS = np.uint32(dq.DO_NOT_USE | dq.OUTLIER)
#: where marks leave more than one in so many samples of a row, the shared samples are looked at
FEW = 32
#: words that are counted side by side
CHUNK = 64
#: bits of the longest window's length
DIGITS = 10
#: samples that are added to the counters at a time
SEVEN = 7


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
def _find_unsettled(value, err, excess, row, columns, share, snr, lowest, highest, unsettled):
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
        unsettled[x] = np.uint8(~(far * far <= limit2 * error2))


@kernel
def _add_seven(space):
    """Add seven bits of each place to its counter.

    Full adders make a number of three digits of them, in registers; what that carries out of the third digit of the
    counter is left behind the digits. Everything lies in one array, at distances the compiler knows, so that it can do
    several words at once.

    Parameters
    ----------
    space : uint64 [(SEVEN + DIGITS + 1) * CHUNK]
        The seven, the digits of the counters from the lowest on, what is carried; the latter two are written.
    """
    for w in range(CHUNK):
        a, b, c, d = space[w], space[CHUNK + w], space[2 * CHUNK + w], space[3 * CHUNK + w]
        e, f, g = space[4 * CHUNK + w], space[5 * CHUNK + w], space[6 * CHUNK + w]
        ab, de = a ^ b, d ^ e
        abc, def_ = ab ^ c, de ^ f
        both = abc ^ def_
        one = both ^ g
        first, second = (a & b) | (ab & c), (d & e) | (de & f)
        third = (abc & def_) | (both & g)
        pair = first ^ second
        two, four = pair ^ third, (first & second) | (pair & third)
        digit = space[7 * CHUNK + w]
        space[7 * CHUNK + w] = digit ^ one
        carry = digit & one
        digit = space[8 * CHUNK + w]
        space[8 * CHUNK + w] = digit ^ two ^ carry
        carry = (digit & two) | ((digit ^ two) & carry)
        digit = space[9 * CHUNK + w]
        space[9 * CHUNK + w] = digit ^ four ^ carry
        space[(SEVEN + DIGITS) * CHUNK + w] = (digit & four) | ((digit ^ four) & carry)


@kernel
def _carry_on(space, digit):
    """Add what is carried to one digit of the counters, and keep what that carries."""
    last, place = (SEVEN + DIGITS) * CHUNK, (SEVEN + digit) * CHUNK
    for w in range(CHUNK):
        carry, value = space[last + w], space[place + w]
        space[place + w] = value ^ carry
        space[last + w] = value & carry


@kernel
def _find_doubtful(marks, slots, own, space, enough, doubtful):
    """Mark samples that their marks do not settle.

    Parameters
    ----------
    marks : uint64 [slot, mark, word]
        Bits of the samples.
    slots : int64 [sample]
        Slots of the window; -1 for none.
    own : int64
        Slot of the integration itself.
    space, enough : uint64 [(SEVEN + DIGITS + 1) * CHUNK], [CHUNK]
        Working arrays.
    doubtful : uint64 [word]
        Written.
    """
    everything = ~np.uint64(0)
    for first in range(0, doubtful.size, CHUNK):
        size = min(CHUNK, doubtful.size - first)
        space[:] = 0
        count = waiting = 0
        for k in range(slots.size):
            if slots[k] >= 0:
                space[waiting * CHUNK : waiting * CHUNK + size] = marks[slots[k], NEAR, first : first + size]
                count += 1
                waiting += 1
            if waiting == SEVEN or (k == slots.size - 1 and waiting > 0):
                space[waiting * CHUNK : SEVEN * CHUNK] = 0
                waiting = 0
                _add_seven(space)
                # no counter is higher than the number of samples so far
                digit = 3
                while count >> digit > 0:
                    _carry_on(space, digit)
                    digit += 1
        # whether a counter reaches half of the window, from the lowest digit upwards
        need = (count + 1) // 2
        enough[:] = everything
        for digit in range(DIGITS):
            place = (SEVEN + digit) * CHUNK
            if (need >> digit) & 1:
                for w in range(CHUNK):
                    enough[w] &= space[place + w]
            else:
                for w in range(CHUNK):
                    enough[w] |= space[place + w]
        for w in range(size):
            there, far = marks[own, THERE, first + w], marks[own, FAR, first + w]
            doubtful[first + w] = there & (far | ~enough[w])


@kernel
def _are_many(words, most):
    """Tell whether more than so many bits are set."""
    count = 0
    for i in range(words.shape[0]):
        for w in range(words.shape[1]):
            word = words[i, w]
            while word != 0:
                word &= word - np.uint64(1)
                count += 1
                if count > most:
                    return True
    return False


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
def _judge_row(planes, slots, own, y, err, excess, row, columns, share, snr, words, bits):
    """Count for the samples of a row whose bits are set, and flag the outliers."""
    one = np.float32(1.0)
    for w in range(words.size):
        if words[w] == 0:
            continue
        for b in range(64):
            if (words[w] >> np.uint64(b)) & np.uint64(1):
                x = 64 * w + b
                sample = planes[own, y, x]
                error = err[x] / (one + (row * columns[x] - one) * share[x])
                limit = snr * np.sqrt(error * error + excess[x])
                if _lies_outside(planes, slots, y, x, sample - limit, sample + limit):
                    bits[x] |= _FLAGS


@kernel
def _settle_rows(planes, shared, own, y, err, typical, rows, columns, snr, space, doubtful):
    """Take back the doubt about samples of a row that the samples shared by all windows settle.

    Parameters
    ----------
    planes, err, typical, rows, columns, snr
        As in `count_outliers`.
    shared : int64 [sample]
        Slots.
    own : int64 [integration]
        Slots of the integrations.
    y : int
        Row.
    space : Space
        Working arrays.
    doubtful : uint64 [integration, word]
        Bits of the row; changed.
    """
    nx = planes.shape[2]
    _set_bounds(planes, shared, y, space.work, space.nothing, space.lowest, space.highest)
    eights = space.unsettled.view(np.uint64)
    for i in range(own.size):
        _find_unsettled(
            planes[own[i], y], err[i, y], typical.excess[y], rows[i, y], columns[i], typical.share[y], snr,
            space.lowest, space.highest, space.unsettled[:nx],
        )  # fmt: skip
        pack_flags(eights, space.words)
        for w in range(space.words.size):
            doubtful[i, w] &= space.words[w]


class Space(NamedTuple):
    """Working arrays of a row.

    Attributes
    ----------
    work, nothing, lowest, highest : float32 [x]
    unsettled : uint8 [64 word]
    words : uint64 [word]
    """

    work: np.ndarray
    nothing: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    unsettled: np.ndarray
    words: np.ndarray


@kernel
def count_outliers(planes, marks, slots, own, err, typical, rows, columns, snr, bits):
    """Flag samples further than ``snr`` errors from the median of the good samples in their window.

    With an even number of samples the median is the interval between the two in the middle.

    Parameters
    ----------
    planes : float32 [slot, y, x]
        Samples at level 1; NaN for unfit ones.
    marks : uint64 [slot, mark, y, word]
        Their bits, from `tsostream.operators.outlier_marks.remember_samples`.
    slots : int64 [integration, sample]
        Slots of each integration's window; -1 for none.
    own : int64 [integration]
        Slot of the integration itself.
    err : float32 [integration, y, x]
        1-sigma error of the slopes.
    typical : Typical
        Of the pixels.
    rows, columns : float32 [integration, y], [integration, x]
        Level of the source is their product.
    snr : float32
        Limit.
    bits : uint32 [integration, y, x]
        DO_NOT_USE and OUTLIER are added.
    """
    count, (ny, nx) = slots.shape[0], planes.shape[1:]
    size = marks.shape[3]
    space = Space(
        np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32),
        np.zeros(64 * size, np.uint8), np.empty(size, np.uint64),
    )  # fmt: skip
    doubtful = np.empty((count, ny * size), np.uint64)
    counters, enough = np.empty((SEVEN + DIGITS + 1) * CHUNK, np.uint64), np.empty(CHUNK, np.uint64)
    flat = marks.reshape((marks.shape[0], marks.shape[1], ny * size))
    for i in range(count):
        _find_doubtful(flat, slots[i], own[i], counters, enough, doubtful[i])
    group, shared = np.empty((count, 2), np.int64), np.empty(slots.shape, np.int64)
    _share_windows(slots, np.empty(planes.shape[0], np.int64), group, shared)
    for y in range(ny):
        start = 0
        while start < count:
            stop = group[start, 0]
            own_words = doubtful[start:stop, y * size : (y + 1) * size]
            if _are_many(own_words, nx * (stop - start) // FEW):
                _settle_rows(
                    planes, shared[start, : group[start, 1]], own[start:stop], y, err[start:stop], typical,
                    rows[start:stop], columns[start:stop], snr, space, own_words,
                )  # fmt: skip
            for i in range(start, stop):
                if not own_words[i - start].any():
                    continue
                _judge_row(
                    planes, slots[i], own[i], y, err[i, y], typical.excess[y], rows[i, y], columns[i],
                    typical.share[y], snr, own_words[i - start], bits[i, y],
                )  # fmt: skip
            start = stop

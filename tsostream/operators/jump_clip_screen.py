"""Sigma clipping of lists without sorting them, where bounds decide (spec stage 1, 16.4).

Clipping needs a median, whose place sorting would tell. Counting proves that it lies in a narrow bracket about the
mean; the limits then lie in brackets, too, and only a value within those is undecided. The few values far from the mean
are kept aside, so that the rounds of clipping take away from the sums and look at nothing else. What cannot be decided
is told, and sorted by `tsostream.operators.jump_clip`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.jump_marks import BRACKET, LANES, fill_differences
from tsostream.operators.sorting import comparators

__all__ = ["ROUNDS", "ClipSpace", "clip_space", "fill_lists", "screen_list"]

#: rounds of clipping (astropy's default)
ROUNDS = 5
#: values that are further from the mean than this part of the threshold are kept aside
FAR = 0.8
#: how often a bracket that does not hold the median is moved
TRIALS = 4
#: what rounding may do to a limit, relative
ROUNDING = 1e-9


class ClipSpace(NamedTuple):
    """Scratch of one thread.

    Parameters
    ----------
    pairs : int32 [comparator, 2]
        Comparators for the number of integrations.
    lanes : float32 [difference, integration, lane]
        The lists [e-]; NaN where there is no value.
    batch : float32 [integration, lane]
        Lists to be sorted, and ``sources`` (int32 [lane]) which those are.
    sources
    suspect : uint8 [lane]
        1: not decided; later, 1: needs its median.
    hits : int32 [difference * integration * lane]
        Places of values outside the limits.
    work : float32 [difference * integration]
        Values of which the median is wanted.
    far, own : int32 [integration * lane]
        Places of the values far from the mean, of all lists and of one.
    gone : uint8 [integration]
        1: clipped.
    sums : float64 [difference, 3, lane]
        Count, sum and sum of squares, of values less ``shift``.
    shift, least, most : float32 [difference, lane]
        First, least and largest value.
    mean, variance : float64 [lane]
        Of a list; NaN where they cannot be trusted.
    bounds : float32 [4, lane]
        Bracket of the median, and beyond what values are far.
    counts : int32 [2, lane]
        Values up to the upper end of the bracket, and from the lower one on.
    levels : float64 [2, lane]
        Bounds of the median of all lists of a pixel; NaN where there are none.
    """

    pairs: np.ndarray
    lanes: np.ndarray
    batch: np.ndarray
    sources: np.ndarray
    suspect: np.ndarray
    hits: np.ndarray
    work: np.ndarray
    far: np.ndarray
    own: np.ndarray
    gone: np.ndarray
    sums: np.ndarray
    shift: np.ndarray
    least: np.ndarray
    most: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    bounds: np.ndarray
    counts: np.ndarray
    levels: np.ndarray


def clip_space(count: int, ngroups: int) -> ClipSpace:
    """Make the scratch for so many integrations and groups."""
    ndiff = ngroups - 1
    shift, least, most = (np.empty((ndiff, LANES), np.float32) for _ in range(3))
    return ClipSpace(
        comparators(count), np.empty((ndiff, count, LANES), np.float32), np.empty((count, LANES), np.float32),
        np.empty(LANES, np.int32), np.empty(LANES, np.uint8), np.empty(ndiff * count * LANES, np.int32),
        np.empty(ndiff * count, np.float32), np.empty(count * LANES, np.int32), np.empty(count, np.int32),
        np.empty(count, np.uint8), np.empty((ndiff, 3, LANES)), shift, least, most, np.empty(LANES),
        np.empty(LANES), np.empty((4, LANES), np.float32), np.empty((2, LANES), np.int32), np.empty((2, LANES)),
    )  # fmt: skip


@kernel
def _sum_list(values, shift, sums):
    """Count, sum and sum of squares of the values less ``shift``."""
    count, total, squares = sums[0], sums[1], sums[2]
    for lane in range(LANES):
        shift[lane] = values[0, lane] if values[0, lane] == values[0, lane] else np.float32(0.0)
    for i in range(values.shape[0]):
        row = values[i]
        for lane in range(LANES):
            away = np.float64(row[lane]) - np.float64(shift[lane])
            there = away == away
            away = away if there else 0.0
            count[lane] += 1.0 if there else 0.0
            total[lane] += away
            squares[lane] += away * away


@kernel
def _find_ends(values, least, most):
    """Least and largest value of a list."""
    zero = np.float32(0.0)
    for i in range(values.shape[0]):
        row = values[i]
        for lane in range(LANES):
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            value, low, high = row[lane], least[lane] + zero, most[lane] + zero
            least[lane] = value if value < low else low
            most[lane] = value if value > high else high


@kernel
def fill_lists(data, groupdq, gain, start, width, space):
    """Write the differences of all integrations of some pixels, and sum them up.

    Parameters
    ----------
    data, groupdq : float32, uint8 [integration, group, pixel]
        Signal [DN], flags.
    gain : float32 [pixel]
        e-/DN.
    start, width : int
        Which pixels.
    space
        ``lanes, shift, sums, least, most`` are written.
    """
    space.sums[:, :, :] = 0.0
    space.least[:, :] = np.inf
    space.most[:, :] = -np.inf
    fill_differences(data, groupdq, gain[start : start + width], start, space.lanes)
    for j in range(data.shape[1] - 1):
        _sum_list(space.lanes[j], space.shift[j], space.sums[j])
        _find_ends(space.lanes[j], space.least[j], space.most[j])


@kernel
def _find_bounds(space, j, rejection):
    """Mean and variance of the lists of a difference, and the bracket of the median to be proved."""
    for lane in range(LANES):
        count = space.sums[j, 0, lane]
        away, square = space.sums[j, 1, lane] / count, space.sums[j, 2, lane] / count
        variance = square - away * away
        # a first value far from all others spoils the difference of sums
        space.variance[lane] = variance if 100.0 * variance > square else np.nan
        space.mean[lane] = np.float64(space.shift[j, lane]) + away
    for lane in range(LANES):
        spread = np.sqrt(space.variance[lane])
        half = min(BRACKET, 4.0 / np.sqrt(space.sums[j, 0, lane])) * spread
        reach = FAR * rejection * spread
        space.bounds[0, lane] = space.mean[lane] - half
        space.bounds[1, lane] = space.mean[lane] + half
        space.bounds[2, lane] = space.mean[lane] - reach
        space.bounds[3, lane] = space.mean[lane] + reach


@kernel
def _count_values(values, bounds, counts):
    """Count the values up to the upper end of the bracket, and from the lower one on."""
    below, above, low, high = counts[0], counts[1], bounds[0], bounds[1]
    below[:] = 0
    above[:] = 0
    for i in range(values.shape[0]):
        row = values[i]
        for lane in range(LANES):
            below[lane] += np.int32(row[lane] <= high[lane])
            above[lane] += np.int32(row[lane] >= low[lane])


@kernel
def _prove_brackets(values, counted, bounds, counts):
    """Count, and move brackets that do not hold the median, a few times."""
    for _ in range(TRIALS):
        _count_values(values, bounds, counts)
        moved = False
        for lane in range(LANES):
            half = counted[lane] // 2 + 1
            low, high = bounds[0, lane], bounds[1, lane]
            if counts[0, lane] < half and high > low:
                bounds[0, lane] = high
                bounds[1, lane] = high + np.float32(2.0) * (high - low)
                moved = True
            elif counts[1, lane] < half and high > low:
                bounds[0, lane] = low - np.float32(2.0) * (high - low)
                bounds[1, lane] = low
                moved = True
        if not moved:
            return
    _count_values(values, bounds, counts)


@kernel
def _find_far(values, bounds, far):
    """Keep the places of values that are far from the mean; returns how many."""
    least, most, found = bounds[2], bounds[3], 0
    for i in range(values.shape[0]):
        row, some = values[i], np.int32(0)
        for lane in range(LANES):
            some |= np.int32(row[lane] < least[lane]) | np.int32(row[lane] > most[lane])
        if some:
            for lane in range(LANES):
                if row[lane] < least[lane] or row[lane] > most[lane]:
                    far[found] = i * LANES + lane
                    found += 1
    return found


@kernel
def _clip(values, lane, count, rejection, space, number):
    """Clip one list, whose far values stand in ``own[:number]``; returns lower and upper bracket of the limits.

    The first is NaN where something is not decided.
    """
    unsure = (np.nan, np.nan, np.nan, np.nan)
    low, high = np.float64(space.bounds[0, lane]), np.float64(space.bounds[1, lane])
    mean, total, squares = space.mean[lane], 0.0, count * space.variance[lane]
    enough = 1e-4 * squares
    limits = unsure
    space.gone[:number] = 0
    removed = 0.0
    for _ in range(ROUNDS):
        left = count - removed
        half = left // 2 + 1
        if (
            left < 1
            or squares < enough
            or space.counts[0, lane] - removed < half
            or space.counts[1, lane] - removed < half
        ):
            return unsure
        variance = squares / left - (total / left) * (total / left)
        if not 100.0 * variance * left > squares:
            return unsure
        reach = rejection * np.sqrt(variance)
        error = ROUNDING * (abs(low) + abs(high) + reach)
        limits = (low - reach - error, high - reach + error, low + reach - error, high + reach + error)
        if not (limits[1] <= space.bounds[2, lane] and limits[2] >= space.bounds[3, lane]):
            return unsure
        before = removed
        for k in range(number):
            value = np.float64(values[space.own[k], lane])
            if space.gone[k]:
                continue
            if value < limits[0] or value > limits[3]:
                space.gone[k] = 1
                removed += 1.0
                total -= value - mean
                squares -= (value - mean) * (value - mean)
            elif value < limits[1] or value > limits[2]:
                return unsure
        if removed == before:
            break
    return limits


@kernel
def _settle(values, j, lane, rejection, space, found, far):
    """Add the places of one list's outliers to ``hits``; returns how many there are then, -1 when it is not decided."""
    n, number = values.shape[0], 0
    for k in range(far):
        if space.far[k] % LANES == lane:
            space.own[number] = space.far[k] // LANES
            number += 1
    limits = _clip(values, lane, space.sums[j, 0, lane], rejection, space, number)
    if np.isnan(limits[0]):
        return -1
    for k in range(number):
        value = np.float64(values[space.own[k], lane])
        if value < limits[0] or value > limits[3]:
            space.hits[found] = (j * n + space.own[k]) * LANES + lane
            found += 1
        elif value < limits[1] or value > limits[2]:
            return -1
    return found


@kernel
def screen_list(j, width, rejection, space, found):
    """Find the outliers of the lists of one difference.

    Parameters
    ----------
    j, width : int
        Difference, and pixels.
    rejection : float
        Threshold [sigma].
    space
        As `fill_lists` left it; ``suspect`` is set to 1 for lists that were not decided, ``levels`` is extended by the
        bracket of the median.
    found : int
        Hits so far.

    Returns
    -------
    found
        Hits with those of this difference, in ``hits``.
    """
    values = space.lanes[j]
    _find_bounds(space, j, rejection)
    _prove_brackets(values, space.sums[j, 0], space.bounds, space.counts)
    far = _find_far(values, space.bounds, space.far)
    for lane in range(width):
        count = space.sums[j, 0, lane]
        space.suspect[lane] = 0
        if count == 0:
            continue
        low, high = np.float64(space.bounds[0, lane]), np.float64(space.bounds[1, lane])
        half = count // 2 + 1
        proved = space.counts[0, lane] >= half and space.counts[1, lane] >= half
        space.levels[0, lane] = min(space.levels[0, lane], low) if proved else np.nan
        space.levels[1, lane] = max(space.levels[1, lane], high) if proved else np.nan
        reach = rejection * np.sqrt(space.variance[lane]) * (1.0 - ROUNDING)
        if proved and space.least[j, lane] >= high - reach and space.most[j, lane] <= low + reach:
            continue
        now = _settle(values, j, lane, rejection, space, found, far) if proved else -1
        if now < 0:
            space.suspect[lane] = 1
        else:
            found = now
    return found

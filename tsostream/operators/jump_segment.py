"""jump over all integrations of a segment file, as the official step does it (spec stage 1, sections 16.2 to 16.9).

With many integrations a difference between groups is compared with the same difference of all other integrations
(sigma clipping); with few, with all differences of the pixel. Both need the whole segment at hand, so the flags depend
on where the archive cut the exposure; only the parity scope uses this.

A list of a thousand values is sorted by a network across 64 pixels at once; the rounds of clipping then only move the
two ends of the sorted list, and the median of all lists of a pixel is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.jump import Jump
from tsostream.operators.sorting import comparators, sort_lanes

__all__ = [
    "LANES",
    "JumpWorkspace",
    "SegmentJump",
    "choose_method",
    "clear_seeds",
    "clip_integrations",
    "flag_after_segment",
    "flag_within",
    "living_planes",
    "spread_seeds",
]

JUMP = np.uint8(dq.JUMP_DET)
UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: a hit that spreads to its neighbours; the bit of OUTLIER, which no group flag uses, cleared at the end
SEED = np.uint8(dq.OUTLIER)
KEEP = np.uint8(255 - dq.OUTLIER)
#: pixels whose lists are sorted side by side
LANES = 64
#: pixels whose lists are gathered side by side for the search within all differences
GATHERED = 16
#: rounds of clipping (astropy's default)
ROUNDS = 5

Method = Literal["clip", "single", "iterative", "none"]


@kernel
def _electrons(data, groupdq, i, j, y, x, gain):
    """Difference between groups j and j+1 [e-], NaN where one cannot be used; each group rounded to float32."""
    if (groupdq[i, j, y, x] | groupdq[i, j + 1, y, x]) & UNUSABLE:
        return np.float32(np.nan)
    return np.float32(np.float32(data[i, j + 1, y, x] * gain) - np.float32(data[i, j, y, x] * gain))


@kernel
def _bounds(lanes, lane, count, mean, spread, rejection):
    """Limits of the last round of clipping a sorted list (astropy's ``sigma_clip``), given the first mean and std."""
    low, high = 0, count
    lower = upper = 0.0
    for turn in range(ROUNDS):
        left = high - low
        if turn > 0:
            mean = 0.0
            for k in range(low, high):
                mean += np.float64(lanes[k, lane])
            mean /= left
            spread = 0.0
            for k in range(low, high):
                spread += (mean - np.float64(lanes[k, lane])) ** 2
            spread = np.sqrt(spread / left)
        middle = np.float64(lanes[low + left // 2, lane])
        if left % 2 == 0:
            middle = 0.5 * (middle + np.float64(lanes[low + left // 2 - 1, lane]))
        lower, upper = middle - rejection * spread, middle + rejection * spread
        before = left
        while low < high and lanes[low, lane] < lower:
            low += 1
        while high > low and lanes[high - 1, lane] > upper:
            high -= 1
        if high - low == before or high == low:
            break
    return lower, upper


@kernel
def _rank(lanes, lane, counts, value):
    """How many entries of all sorted lists of a lane are at most ``value``."""
    total = 0
    for j in range(lanes.shape[0]):
        low, high = 0, counts[j, lane]
        while low < high:
            middle = (low + high) // 2
            if lanes[j, middle, lane] <= value:
                low = middle + 1
            else:
                high = middle
        total += low
    return total


@kernel
def _joint_order(lanes, lane, counts, place):
    """Entry number ``place`` (0-based) of the union of all sorted lists of a lane, by bisection."""
    low, high = np.inf, -np.inf
    for j in range(lanes.shape[0]):
        if counts[j, lane] > 0:
            low = min(low, np.float64(lanes[j, 0, lane]))
            high = max(high, np.float64(lanes[j, counts[j, lane] - 1, lane]))
    if _rank(lanes, lane, counts, np.float32(low)) > place:
        return low
    # low has too few entries below or at it, high has enough
    while True:
        middle = np.float64(np.float32(0.5 * (low + high)))
        if not (middle > low and middle < high):
            return high
        if _rank(lanes, lane, counts, np.float32(middle)) > place:
            high = middle
        else:
            low = middle


@kernel
def _joint_median(lanes, lane, counts):
    """Median of the union of all sorted lists of a lane; NaN when they are empty."""
    total = 0
    for j in range(lanes.shape[0]):
        total += counts[j, lane]
    if total == 0:
        return np.nan
    upper = _joint_order(lanes, lane, counts, total // 2)
    if total % 2:
        return upper
    return 0.5 * (upper + _joint_order(lanes, lane, counts, total // 2 - 1))


@kernel
def _clip_lists(lanes, counts, pairs, rejection, width, bounds, moments):
    """Sort all lists and find the limits of each.

    ``bounds[0]`` and ``bounds[1]`` receive the lower and upper limits [list, lane]; NaN for an empty list.
    """
    for j in range(lanes.shape[0]):
        sort_lanes(lanes[j], pairs)
        for lane in range(LANES):
            moments[0, lane] = 0.0
            moments[1, lane] = 0.0
        for k in range(lanes.shape[1]):
            for lane in range(LANES):
                if k < counts[j, lane]:
                    moments[0, lane] += np.float64(lanes[j, k, lane])
        for lane in range(LANES):
            moments[0, lane] /= counts[j, lane]
        for k in range(lanes.shape[1]):
            for lane in range(LANES):
                if k < counts[j, lane]:
                    moments[1, lane] += (moments[0, lane] - np.float64(lanes[j, k, lane])) ** 2
        for lane in range(width):
            bounds[0, j, lane] = np.nan
            bounds[1, j, lane] = np.nan
            count = counts[j, lane]
            if count > 0:
                spread = np.sqrt(moments[1, lane] / count)
                bounds[0, j, lane], bounds[1, j, lane] = _bounds(
                    lanes[j], lane, count, moments[0, lane], spread, rejection
                )


@kernel
def clip_integrations(
    data, groupdq, gain, noise2, rejection, spread, reset, pairs, lanes, counts, bounds, moments, hits,
    marked, medians, every, y0, y1, x0, x1,
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
    counts : int32 [difference, lane]
        Scratch.
    bounds : float64 [2, difference, lane]
        Scratch.
    moments : float64 [2, lane]
        Scratch.
    hits : int32 [difference * integration * lane]
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
            for j in range(ngroups - 1):
                for lane in range(LANES):
                    counts[j, lane] = 0
                for i in range(n):
                    for lane in range(width):
                        x = start + lane
                        d = _electrons(data, groupdq, i, j, y, x, gain[y, x])
                        there = np.isfinite(d)
                        lanes[j, i, lane] = d if there else np.float32(np.inf)
                        counts[j, lane] += there
                    for lane in range(width, LANES):
                        lanes[j, i, lane] = np.float32(np.inf)
            _clip_lists(lanes, counts, pairs, rejection, width, bounds, moments)
            found = 0
            for j in range(ngroups - 1):
                some = False
                for lane in range(width):
                    count = counts[j, lane]
                    some |= count > 0 and (
                        lanes[j, 0, lane] < bounds[0, j, lane] or lanes[j, count - 1, lane] > bounds[1, j, lane]
                    )
                if not some:
                    continue
                for i in range(n):
                    for lane in range(width):
                        d = _electrons(data, groupdq, i, j, y, start + lane, gain[y, start + lane])
                        if d < bounds[0, j, lane] or d > bounds[1, j, lane]:
                            hits[found] = (j * n + i) * LANES + lane
                            found += 1
            for lane in range(width):
                moments[0, lane] = 0.0
            for k in range(found):
                moments[0, hits[k] % LANES] = 1.0
            for lane in range(width):
                if every or moments[0, lane] > 0.0:
                    medians[y, start + lane] = _joint_median(lanes, lane, counts)
            for k in range(found):
                lane, rest = hits[k] % LANES, hits[k] // LANES
                i, j, x = rest % n, rest // n, start + lane
                if reset[i, j + 1] and groupdq[i, j + 1, y, x] == 0:
                    continue
                level = medians[y, x]
                sigma = np.sqrt(abs(level) + np.float64(noise2[y, x]))
                size = abs(np.float64(_electrons(data, groupdq, i, j, y, x, gain[y, x])) - level) / sigma
                groupdq[i, j + 1, y, x] |= JUMP
                if sigma > 0.0 and size > spread[0] and size < spread[1]:
                    groupdq[i, j + 1, y, x] |= SEED
                    marked[i, y] = 1


@kernel
def _select(values, start, stop, place):
    """Move the value of rank ``place`` (0-based, among start … stop - 1) to its place; smaller ones go before it."""
    low, high = start, stop - 1
    target = start + place
    while low < high:
        pivot = values[(low + high) // 2]
        a, b = low, high
        while a <= b:
            while values[a] < pivot:
                a += 1
            while pivot < values[b]:
                b -= 1
            if a <= b:
                values[a], values[b] = values[b], values[a]
                a += 1
                b -= 1
        if target <= b:
            high = b
        elif target >= a:
            low = a
        else:
            return values[target]
    return values[target]


@kernel
def _median_of(values, count):
    """Median of the first ``count`` entries, which are reordered; in double precision."""
    upper = np.float64(_select(values, 0, count, count // 2))
    if count % 2:
        return upper
    lower = np.float64(values[0])
    for k in range(1, count // 2):
        lower = max(lower, np.float64(values[k]))
    return 0.5 * (lower + upper)


@kernel
def _level(sizes, count, work):
    """Level of the absolute differences left (16.6, step 1): without all maxima, the middle, or the smaller one."""
    top = np.float32(-1.0)
    for k in range(count):
        work[k] = sizes[k]
        top = max(top, sizes[k])
    if count == 2:
        return np.float64(min(work[0], work[1]))
    if count == 3:
        return _median_of(work, 3)
    kept = 0
    for k in range(count):
        if sizes[k] != top:
            work[kept] = sizes[k]
            kept += 1
    return _median_of(work, kept) if kept > 0 else np.nan


@kernel
def _search(sizes, places, count, noise2, limits, work):
    """Find hits among the absolute differences of a pixel, the largest first (16.6).

    ``sizes`` and ``places`` hold the finite ones; hits are moved behind the others. Returns how many are left.
    """
    first = True
    while count >= 2:
        level = _level(sizes, count, work)
        if not first:
            # from the second round on the official step keeps its level in single precision
            level = np.float64(np.float32(level))
        first = False
        sigma = np.sqrt(abs(level) + noise2)
        if not sigma > 0.0:
            break
        limit = limits[0] if count >= 4 else (limits[1] if count == 3 else limits[2])
        worst = -1.0
        for k in range(count):
            worst = max(worst, abs(np.float64(np.float32(np.float64(sizes[k]) - level))) / sigma)
        if not worst > limit:
            break
        k = 0
        while k < count:
            if abs(np.float64(np.float32(np.float64(sizes[k]) - level))) / sigma == worst:
                count -= 1
                sizes[k], sizes[count] = sizes[count], sizes[k]
                places[k], places[count] = places[count], places[k]
            else:
                k += 1
    return count


@kernel
def flag_within(
    data, groupdq, gain, noise2, limits, single, spread, gathered, sizes, places, work,
    marked, medians, every, y0, y1, x0, x1,
):  # fmt: skip
    """Flag differences that stand out among all differences of the pixel (16.5, 16.6).

    Parameters
    ----------
    data, groupdq, gain, noise2, spread, marked, medians, every, y0, y1, x0, x1
        As `clip_integrations`.
    limits : float64 [3]
        Thresholds for four or more, three and two finite differences [sigma].
    single : bool
        One pass about the signed median (16.5) rather than the iterative search (16.6).
    gathered : float32 [lane, integration * difference]
        Scratch.
    sizes, work : float32 [integration * difference]
        Scratch.
    places : int32 [integration * difference]
        Scratch.
    """
    n, ngroups = data.shape[:2]
    ndiff = ngroups - 1
    for y in range(y0, y1):
        for i in range(n):
            marked[i, y] = 0
        for start in range(x0, x1, GATHERED):
            width = min(GATHERED, x1 - start)
            for i in range(n):
                for j in range(ndiff):
                    for lane in range(width):
                        x = start + lane
                        gathered[lane, i * ndiff + j] = _electrons(data, groupdq, i, j, y, x, gain[y, x])
            for lane in range(width):
                x = start + lane
                read = np.float64(noise2[y, x])
                medians[y, x] = np.nan
                count = 0
                for k in range(n * ndiff):
                    if np.isfinite(gathered[lane, k]):
                        work[count] = gathered[lane, k]
                        sizes[count] = abs(gathered[lane, k])
                        places[count] = k
                        count += 1
                if count == 0:
                    continue
                level = sigma = np.nan
                left = count
                if single:
                    level = _median_of(work, count)
                    sigma = np.sqrt(abs(level) + read)
                    k = 0
                    while k < left and sigma > 0.0:
                        d = np.float64(gathered[lane, places[k]])
                        if abs(d - level) / sigma > limits[0]:
                            left -= 1
                            places[k], places[left] = places[left], places[k]
                        else:
                            k += 1
                else:
                    left = _search(sizes, places, count, read, limits, work)
                    if every or left < count:
                        for k in range(count):
                            work[k] = gathered[lane, places[k]]
                        level = _median_of(work, count)
                        sigma = np.sqrt(abs(level) + read)
                medians[y, x] = level
                for k in range(left, count):
                    i, j = places[k] // ndiff, places[k] % ndiff
                    groupdq[i, j + 1, y, x] |= JUMP
                    size = abs(np.float64(gathered[lane, places[k]]) - level) / sigma
                    if sigma > 0.0 and size > spread[0] and size < spread[1]:
                        groupdq[i, j + 1, y, x] |= SEED
                        marked[i, y] = 1


@kernel
def spread_seeds(groupdq, marked, y0, y1, x0, x1):
    """Flag the four neighbours of seeds, unless they are saturated or unusable (16.7).

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        JUMP_DET is set; seeds are read one row and column beyond the window.
    marked : uint8 [integration, y]
        Rows with seeds.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            above, below = y > 0 and marked[i, y - 1] != 0, y < ny - 1 and marked[i, y + 1] != 0
            if not (above or below or marked[i, y]):
                continue
            for g in range(1, ngroups):
                for x in range(x0, x1):
                    near = np.uint8(0)
                    if above:
                        near |= groupdq[i, g, y - 1, x]
                    if below:
                        near |= groupdq[i, g, y + 1, x]
                    if x > 0:
                        near |= groupdq[i, g, y, x - 1]
                    if x < nx - 1:
                        near |= groupdq[i, g, y, x + 1]
                    if near & SEED and not groupdq[i, g, y, x] & UNUSABLE:
                        groupdq[i, g, y, x] |= JUMP


@kernel
def clear_seeds(groupdq, marked, y0, y1):
    """Take the seed bits away again.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    marked : uint8 [integration, y]
        Rows with seeds.
    y0, y1 : int
        Rows.
    """
    n, ngroups, _, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            if marked[i, y]:
                for g in range(1, ngroups):
                    for x in range(nx):
                        groupdq[i, g, y, x] &= KEEP


@kernel
def flag_after_segment(data, groupdq, gain, medians, thresholds, groups_after, seeds, y0, y1, x0, x1):
    """Flag the groups after large jumps (16.8).

    Parameters
    ----------
    data, groupdq, gain, medians
        As `clip_integrations`, with all medians.
    thresholds : float64 [2]
        Jump sizes above the median [e-].
    groups_after : int64 [2]
        How many groups to flag for each size.
    seeds : uint8 [group]
        Scratch.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    n, ngroups = data.shape[:2]
    for i in range(n):
        for y in range(y0, y1):
            for x in range(x0, x1):
                some = False
                for g in range(1, ngroups):
                    seeds[g] = 0
                    if groupdq[i, g, y, x] & JUMP:
                        above = np.float64(_electrons(data, groupdq, i, g - 1, y, x, gain[y, x])) - medians[y, x]
                        for k in range(2):
                            if above >= thresholds[k]:
                                seeds[g] |= np.uint8(1 << k)
                                some = True
                if not some:
                    continue
                for g in range(1, ngroups):
                    for k in range(2):
                        if seeds[g] & np.uint8(1 << k):
                            for later in range(g, min(ngroups, g + groups_after[k] + 1)):
                                if not groupdq[i, later, y, x] & UNUSABLE:
                                    groupdq[i, later, y, x] |= JUMP


@kernel
def living_planes(groupdq, flags, alive, y0, y1, x0, x1):
    """Find the planes in which some pixel has none of the given flags.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Read.
    flags : uint8
        Bits to look for.
    alive : uint8 [integration, group]
        Set to 1; planes that are 1 already are not looked at.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    for i in range(groupdq.shape[0]):
        for g in range(groupdq.shape[1]):
            y = y0
            while y < y1 and not alive[i, g]:
                for x in range(x0, x1):
                    if not groupdq[i, g, y, x] & flags:
                        alive[i, g] = 1
                        break
                y += 1


@dataclass
class JumpWorkspace:
    """Arrays of one thread; made when first needed."""

    count: int
    ngroups: int

    @cached_property
    def clip(self) -> tuple[np.ndarray, ...]:
        """Scratch of `clip_integrations`: pairs, lanes, counts, bounds, moments, hits."""
        n, ndiff = self.count, self.ngroups - 1
        return (
            comparators(n),
            np.empty((ndiff, n, LANES), np.float32),
            np.empty((ndiff, LANES), np.int32),
            np.empty((2, ndiff, LANES)),
            np.empty((2, LANES)),
            np.empty(ndiff * n * LANES, np.int32),
        )

    @cached_property
    def within(self) -> tuple[np.ndarray, ...]:
        """Scratch of `flag_within`: gathered, sizes, places, work."""
        size = self.count * (self.ngroups - 1)
        return (
            np.empty((GATHERED, size), np.float32),
            np.empty(size, np.float32),
            np.empty(size, np.int32),
            np.empty(size, np.float32),
        )


@dataclass(frozen=True)
class SegmentJump:
    """The jump search, joined to a window of an exposure.

    Parameters
    ----------
    jump
        Parameters.
    info
        The exposure.
    gain, read : float32 [y, x]
        References of the window.
    typical_gain
        Median of the gain over the whole frame, which turns the sizes of large jumps into electrons.
    method
        How hits are found; see `choose_method`.
    """

    jump: Jump
    info: ExposureInfo
    gain: np.ndarray
    read: np.ndarray
    typical_gain: float
    method: Method
    noise2: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        read = (self.read * self.gain).astype(np.float32)
        object.__setattr__(self, "noise2", (read * read / np.float32(self.info.nframes)).astype(np.float32))

    @property
    def after(self) -> np.ndarray:
        """Groups to flag after jumps of the two sizes; int64 [2]."""
        seconds = (self.jump.after_jump_flag_time1, self.jump.after_jump_flag_time2)
        tgroup = self.info.group_time
        return np.array([int(time // tgroup) if tgroup else 0 for time in seconds], np.int64)

    def find(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        marked: np.ndarray,
        medians: np.ndarray,
        reset: np.ndarray,
        space: JumpWorkspace,
        window: tuple[int, int, int, int],
    ) -> None:
        """Flag the hits in a window ``(y0, y1, x0, x1)``, and mark those that spread."""
        jump = self.jump
        spread = np.full(2, np.inf)
        if jump.flag_4_neighbors:
            spread[:] = jump.min_jump_to_flag_neighbors, jump.max_jump_to_flag_neighbors
        every = bool(self.after.any())
        arrays = (data, groupdq, self.gain, self.noise2)
        if self.method == "clip":
            clip_integrations(
                *arrays, float(jump.rejection_threshold), spread, reset, *space.clip,
                marked, medians, every, *window,
            )  # fmt: skip
        elif self.method in ("single", "iterative"):
            thresholds = (
                jump.rejection_threshold,
                jump.four_group_rejection_threshold,
                jump.three_group_rejection_threshold,
            )
            flag_within(
                *arrays, np.array(thresholds, float), self.method == "single", spread, *space.within,
                marked, medians, every, *window,
            )  # fmt: skip
        else:
            marked[:, window[0] : window[1]] = 0

    def flag_after(
        self, data: np.ndarray, groupdq: np.ndarray, medians: np.ndarray, window: tuple[int, int, int, int]
    ) -> None:
        """Flag the groups after large jumps, once the neighbours are flagged."""
        after = self.after
        if not after.any() or self.method == "none":
            return
        sizes = np.array([self.jump.after_jump_flag_dn1, self.jump.after_jump_flag_dn2]) * self.typical_gain
        seeds = np.zeros(data.shape[1], np.uint8)
        flag_after_segment(data, groupdq, self.gain, medians, sizes, after, seeds, *window)


def choose_method(jump: Jump, nints: int, flagged: np.ndarray, ngroups: int) -> Method:
    """Choose how hits are found (16.3).

    Parameters
    ----------
    jump
        Parameters.
    nints
        Integrations in the segment.
    flagged : int [integration]
        Groups of each integration that no pixel can use.
    ngroups
        Groups of an integration.
    """
    if ngroups < 3:
        return "none"
    if nints >= jump.minimum_sigclip_groups:
        return "clip"
    usable = ngroups - int(flagged.max(initial=0))
    if usable < 3:
        return "none"
    return "single" if usable - 1 >= jump.min_diffs_single_pass else "iterative"

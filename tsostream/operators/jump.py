"""jump: cosmic-ray hits between groups, by two-point differences within the integration (spec stage 1, section 16).

The statistic is that of the official step for a single integration (16.5, 16.6): no other integration is looked at, so
the flags do not depend on how the exposure was cut.

Nearly every pixel is clean, and most can be cleared by bounds on its differences that cost no sort: the median lies
within the range of the differences, and between bounds that counting proves. Both are worked out for neighbouring
pixels side by side; only what is left over is looked at pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, PerIntegration, Window
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Memory, Operator, Part, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.jump_events import EventRules, event_scratch, flag_cores, flag_events, grow_cores
from tsostream.operators.jump_marks import median_of
from tsostream.operators.jump_screen import fill_ramp_differences, find_extremes, screen_median, screen_span
from tsostream.operators.sorting import short_median
from tsostream.operators.tile import Tile

__all__ = ["Jump", "find_jumps", "flag_after_jumps", "flag_neighbours"]

JUMP = np.uint8(dq.JUMP_DET)
UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: scratch planes: where the cores of snowballs are, and where those of the integration before were
OWN, CARRIED = "jump.cores", "jump.cores_before"
#: pixels that are screened side by side
LANES = 128
#: so few suspects among neighbouring pixels are not worth counting for
FEW = 6
#: longer lists are not sorted for their median
SHORT = 16


@kernel
def _difference(data, i, j, y, x, gain):
    """Difference between groups j and j+1 [e-], each rounded to float32 like the official step's."""
    return np.float64(np.float32(data[i, j + 1, y, x] * gain) - np.float32(data[i, j, y, x] * gain))


@kernel
def _robust_level(a, count, work):
    """Level of the absolute differences: all maxima left out (4 or more), the median (3), the smaller (2)."""
    n, top = 0, -1.0
    for j in range(count):
        if np.isfinite(a[j]):
            top = max(top, a[j])
    for j in range(count):
        if np.isfinite(a[j]) and (a[j] < top):
            work[n] = a[j]
            n += 1
    return n, top


@kernel
def _flag_pixel(d, ndiff, noise2, rejection, four, three, single_pass, a, work, flags):
    """Flag the differences of one pixel; returns the number of flags, the signed median and its sigma.

    ``d`` holds ``ndiff`` differences [e-], NaN where a group is unusable; ``noise2`` is the read-noise variance of a
    difference. ``flags[j]`` is set to 1 for a hit between groups j and j+1.
    """
    finite = 0
    for j in range(ndiff):
        flags[j] = 0
        if np.isfinite(d[j]):
            work[finite] = d[j]
            finite += 1
    if finite < 2:
        return 0, np.nan, np.nan
    median = short_median(work, finite) if finite <= SHORT else median_of(work, finite)
    sigma = np.sqrt(abs(median) + noise2)
    hits = 0
    if finite >= single_pass:
        for j in range(ndiff):
            if np.isfinite(d[j]) and abs(d[j] - median) / sigma > rejection:
                flags[j] = 1
                hits += 1
        return hits, median, sigma
    for j in range(ndiff):
        a[j] = abs(d[j])
    left = finite
    single = False
    while left >= 2:
        if left >= 4:
            kept, _ = _robust_level(a, ndiff, work)
            level = np.nan
            if kept > 0:
                level = short_median(work, kept) if kept <= SHORT else median_of(work, kept)
            limit = rejection
        else:
            kept = 0
            for j in range(ndiff):
                if np.isfinite(a[j]):
                    work[kept] = a[j]
                    kept += 1
            level = short_median(work, kept) if left == 3 else min(work[0], work[1])
            limit = four if left == 3 else three
        if single:
            # from the second round on the official step keeps its level in single precision
            level = np.float64(np.float32(level))
        scale = np.sqrt(abs(level) + noise2)
        if not scale > 0:
            break
        worst = -1.0
        for j in range(ndiff):
            if np.isfinite(a[j]):
                worst = max(worst, abs(np.float64(np.float32(a[j] - level))) / scale)
        if not worst > limit:
            break
        for j in range(ndiff):
            # equal differences go together: which of them came first must not matter
            if np.isfinite(a[j]) and abs(np.float64(np.float32(a[j] - level))) / scale == worst:
                flags[j] = 1
                a[j] = np.nan
                hits += 1
                left -= 1
        single = True
    return hits, median, sigma


@kernel
def find_jumps(
    data, groupdq, gain, noise2, limits, single_pass, spread, marks, rows, y0, y1, top
):  # fmt: skip
    """Flag jumps of every pixel.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN]; its first row is row ``top``.
    groupdq : uint8 [integration, group, y, x]
        JUMP_DET is set in the group after the hit; as ``data``.
    gain : float32 [y, x]
        e-/DN.
    noise2 : float32 [y, x]
        Read-noise variance of a group difference [e-^2]; NaN pixels are left alone.
    limits : float64 [3]
        Thresholds for 4 or more, 3 and 2 usable differences [sigma].
    single_pass : int
        From this many usable differences on, one pass instead of the iterative search.
    spread : float64 [2]
        A hit with min < sigma < max spreads to its neighbours.
    marks : uint8 [integration, group, y, x]
        1 for a hit that spreads; valid only in groups of rows that ``rows`` names.
    rows : uint8 [integration, y, group]
        Whether the group has such hits in the row; written.
    y0, y1, top : int
        Rows, and the one that ``data`` begins with.
    """
    n, ngroups, _, nx = data.shape
    ndiff = ngroups - 1
    lanes = np.empty((ndiff, LANES), np.float32)
    low = np.empty(LANES, np.float32)
    high = np.empty(LANES, np.float32)
    sums = np.empty((6, LANES), np.float32)
    suspect = np.empty(LANES, np.bool_)
    d = np.empty(ndiff, np.float64)
    a = np.empty(ndiff, np.float64)
    work = np.empty(ndiff, np.float64)
    flags = np.empty(ndiff, np.uint8)
    # the lowest threshold that can apply, a little less for the rounding of the bounds
    limit = limits[2]
    if ndiff >= 3:
        limit = min(limit, limits[1])
    if ndiff >= 4 or ndiff >= single_pass:
        limit = min(limit, limits[0])
    clear = np.float32(0.999 * limit * limit)
    sure = np.float32(0.9995 * limits[0])
    for i in range(n):
        for y in range(y0, y1):
            for g in range(ngroups):
                rows[i, y, g] = 0
            for start in range(0, nx, LANES):
                width = min(LANES, nx - start)
                fill_ramp_differences(data, groupdq, gain, i, y, start, width, lanes, top)
                find_extremes(lanes, width, low, high)
                some = screen_span(noise2, y, start, width, clear, low, high, suspect)
                if some > FEW and ndiff >= 4:
                    some = screen_median(
                        lanes, noise2, y, start, width, sure, single_pass, low, high, sums, suspect
                    )
                if not some:
                    continue
                for lane in range(width):
                    if not suspect[lane]:
                        continue
                    x = start + lane
                    for j in range(ndiff):
                        d[j] = np.float64(lanes[j, lane])
                    hits, level, sigma = _flag_pixel(
                        d, ndiff, np.float64(noise2[y, x]), limits[0], limits[1], limits[2], single_pass, a, work, flags
                    )  # fmt: skip
                    if hits == 0:
                        continue
                    for j in range(ndiff):
                        if not flags[j]:
                            continue
                        groupdq[i, j + 1, y - top, x] |= JUMP
                        if not spread[0] < abs(d[j] - level) / sigma < spread[1]:
                            continue
                        if rows[i, y, j + 1] == 0:
                            rows[i, y, j + 1] = 1
                            for k in range(nx):
                                marks[i, j + 1, y, k] = 0
                        marks[i, j + 1, y, x] = 1


@kernel
def _touch(groupdq, touched, i, g, y, x):
    """Flag a sample, if it is usable and has no flag yet."""
    if groupdq[i, g, y, x] & (UNUSABLE | JUMP) == 0:
        groupdq[i, g, y, x] |= JUMP
        touched[i, y, x] = 1
        touched[i, y, touched.shape[2] - 1] = 1


@kernel
def flag_neighbours(groupdq, marks, rows, touched, y0, y1):
    """Flag the four edge neighbours of spreading hits, in the same group, where the sample is usable.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    marks : uint8 [integration, group, y, x]
        As `find_jumps` leaves it.
    rows : uint8 [integration, y, group]
        Groups of rows with spreading hits.
    touched : uint8 [integration, y, x]
        Written: 1 for pixels that got a flag; the last column says whether one of the row did.
    y0, y1 : int
        Rows.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            touched[i, y] = 0
            for near in range(max(0, y - 1), min(ny, y + 2)):
                for g in range(1, ngroups):
                    if not rows[i, near, g]:
                        continue
                    for x in range(nx):
                        if not marks[i, g, near, x]:
                            continue
                        if near != y:
                            _touch(groupdq, touched, i, g, y, x)
                            continue
                        if x > 0:
                            _touch(groupdq, touched, i, g, y, x - 1)
                        if x < nx - 1:
                            _touch(groupdq, touched, i, g, y, x + 1)


@kernel
def flag_after_jumps(data, groupdq, gain, thresholds, groups_after, y0, y1):
    """Flag the groups after large jumps: the pixel settles slowly.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    gain : float32 [y, x]
        e-/DN.
    thresholds : float64 [2]
        Jump sizes [e-] above the median difference.
    groups_after : int64 [2]
        How many groups to flag for each size.
    y0, y1 : int
        Rows.
    """
    n, ngroups, _, nx = data.shape
    ndiff = ngroups - 1
    d = np.empty(ndiff, np.float64)
    work = np.empty(ndiff, np.float64)
    seeds = np.empty(ngroups, np.uint8)
    for i in range(n):
        for y in range(y0, y1):
            for x in range(nx):
                any_jump = False
                for g in range(1, ngroups):
                    seeds[g] = 0
                    any_jump |= (groupdq[i, g, y, x] & JUMP) != 0
                if not any_jump:
                    continue
                finite = 0
                for j in range(ndiff):
                    d[j] = np.nan
                    if not (groupdq[i, j, y, x] | groupdq[i, j + 1, y, x]) & UNUSABLE:
                        d[j] = _difference(data, i, j, y, x, gain[y, x])
                    if np.isfinite(d[j]):
                        work[finite] = d[j]
                        finite += 1
                if finite == 0:
                    continue
                level = short_median(work, finite)
                for g in range(1, ngroups):
                    if groupdq[i, g, y, x] & JUMP:
                        for k in range(2):
                            if groups_after[k] > 0 and d[g - 1] - level >= thresholds[k]:
                                seeds[g] |= 1 << k
                for g in range(1, ngroups):
                    for k in range(2):
                        if seeds[g] & (1 << k):
                            for later in range(g, min(ngroups, g + groups_after[k] + 1)):
                                if not groupdq[i, later, y, x] & UNUSABLE:
                                    groupdq[i, later, y, x] |= JUMP


@dataclass(frozen=True, kw_only=True)
class Jump(Operator):
    """Flag cosmic-ray hits within each integration.

    Parameters
    ----------
    rejection_threshold, four_group_rejection_threshold, three_group_rejection_threshold
        Thresholds [sigma] for 4 or more, 3 and 2 usable differences.
    flag_4_neighbors
        Flag the four neighbours of a hit whose size lies between the next two.
    min_jump_to_flag_neighbors, max_jump_to_flag_neighbors
        Sizes [sigma].
    after_jump_flag_dn1, after_jump_flag_time1, after_jump_flag_dn2, after_jump_flag_time2
        Flag this many seconds after jumps of at least this size [DN].
    min_diffs_single_pass
        From this many usable differences on, one pass instead of the iterative search.
    minimum_sigclip_groups
        With ``--parity jwst``: segments of at least this many integrations compare each difference with the same
        one of all other integrations. Without effect otherwise: no other integration is looked at.
    expand_large_events
        Grow snowballs: large regions of jumps about newly saturated pixels.
    min_sat_area, min_jump_area
        Least area of a saturated core, and of the jumps around it [px].
    expand_factor, max_extended_radius
        How much snowballs grow; half the longest axis that anything grows to [px].
    sat_required_snowball, edge_size
        Whether a snowball needs a saturated core in this group or the next; not so near to the edge [px], where the
        core may lie outside. With the rows of most subarrays, everything is near the edge.
    min_sat_radius_extend, sat_expand
        Cores with a longer minor axis [px] grow by so much on every side [px], from the group of the hit on.
    mask_snowball_core_next_int, snowball_time_masked_next_int
        Flag where such a core was in the next integration, too, for so long [s].
    """

    name: ClassVar[str] = "jump"
    references: ClassVar[tuple[str, ...]] = ("gain", "readnoise")

    rejection_threshold: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    three_group_rejection_threshold: Annotated[float, msgspec.Meta(gt=0)] = 6.0
    four_group_rejection_threshold: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    flag_4_neighbors: bool = True
    min_jump_to_flag_neighbors: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    max_jump_to_flag_neighbors: Annotated[float, msgspec.Meta(ge=0)] = 1000.0
    after_jump_flag_dn1: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    after_jump_flag_time1: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    after_jump_flag_dn2: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    after_jump_flag_time2: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    min_diffs_single_pass: Annotated[int, msgspec.Meta(ge=2)] = 10
    minimum_sigclip_groups: Annotated[int, msgspec.Meta(ge=1)] = 100
    expand_large_events: bool = False
    min_sat_area: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    min_jump_area: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    expand_factor: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    sat_required_snowball: bool = True
    min_sat_radius_extend: Annotated[float, msgspec.Meta(ge=0)] = 2.5
    sat_expand: Annotated[int, msgspec.Meta(ge=0)] = 2
    edge_size: Annotated[int, msgspec.Meta(ge=0)] = 25
    mask_snowball_core_next_int: bool = True
    snowball_time_masked_next_int: Annotated[int, msgspec.Meta(ge=0)] = 4000
    max_extended_radius: Annotated[int, msgspec.Meta(ge=0)] = 200

    @property
    def coupling(self) -> Coupling:
        """Snowballs mark the next integration."""
        if self.expand_large_events and self.sat_required_snowball and self.mask_snowball_core_next_int:
            return Window(before=1, after=0)
        return PerIntegration()

    @property
    def event_rules(self) -> EventRules:
        """What kernels know of snowballs."""
        return EventRules(
            float(self.min_sat_area), float(self.min_jump_area), float(self.expand_factor), self.sat_required_snowball,
            float(self.min_sat_radius_extend), 2.0 * self.sat_expand, float(self.edge_size),
            2.0 * self.max_extended_radius,
        )  # fmt: skip

    def groups_masked(self, info: ExposureInfo) -> int:
        """Tell where a snowball stops to mark the next integration, which it does from the second group on."""
        if not (self.mask_snowball_core_next_int and self.sat_required_snowball and info.group_time):
            return 0
        return min(int(self.snowball_time_masked_next_int // info.group_time), info.ngroups)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flag_4_neighbors and self.min_jump_to_flag_neighbors >= self.max_jump_to_flag_neighbors:
            raise ConfigError(
                Problem(
                    f"jump.min_jump_to_flag_neighbors = {self.min_jump_to_flag_neighbors} is not below "
                    f"jump.max_jump_to_flag_neighbors = {self.max_jump_to_flag_neighbors}",
                    todo="no hit would ever spread; set flag_4_neighbors to false if that is meant",
                    code="parameter",
                )
            )

    def bind(self, binding: Binding) -> BoundRampStep:
        """Turn gain and read noise into electrons."""
        info = binding.info
        if info.ngroups < 3:
            return BoundRampStep(self.name, binding.dq_plane, skipped="fewer than three groups")
        gain = reference_array(binding.references["gain"], "SCI", info.frame_shape, self.name)
        read = reference_array(binding.references["readnoise"], "SCI", info.frame_shape, self.name)
        unknown = ~(gain > 0)
        pixeldq = binding.dq_plane | np.where(
            unknown, np.uint32(dq.NO_GAIN_VALUE | dq.DO_NOT_USE), np.uint32(0)
        )
        scale = np.where(unknown, np.float32(1), gain).astype(np.float32)
        # the reference is the noise of a difference of two reads; averaging nframes reads on both sides divides it
        noise2 = ((read * scale) ** 2 / info.nframes).astype(np.float32)
        limits = np.array(
            [
                self.rejection_threshold,
                self.four_group_rejection_threshold,
                self.three_group_rejection_threshold,
            ]
        )
        spread = np.array([self.min_jump_to_flag_neighbors, self.max_jump_to_flag_neighbors])

        find = partial(
            _find_in,
            gain=scale,
            noise2=noise2,
            limits=limits,
            single_pass=self.min_diffs_single_pass,
            spread=spread,
        )
        passes = [RowPass(partial(_find, find=find), part=Part("jump", {"find": find}))]
        if self.flag_4_neighbors:
            passes.append(RowPass(_spread, halo=1, part=Part("spread")))
        seconds = (self.after_jump_flag_time1, self.after_jump_flag_time2)
        after = np.array(
            [int(time // info.group_time) if info.group_time else 0 for time in seconds], np.int64
        )
        if after.any():
            typical = float(np.median(gain[~unknown])) if (~unknown).any() else 1.0
            sizes = np.array([self.after_jump_flag_dn1, self.after_jump_flag_dn2]) * typical
            passes.append(RowPass(partial(_flag_after, gain=scale, thresholds=sizes, groups_after=after)))
        scratch: dict[str, tuple[tuple[int, ...], Any]] = {
            "jump.marks": ((info.ngroups, info.ny, info.nx), np.uint8),
            "jump.rows": ((info.ny, info.ngroups), np.uint8),
            "jump.touched": ((info.ny, info.nx + 1), np.uint8),
        }
        memory = None
        if self.expand_large_events:
            stop = self.groups_masked(info)
            passes.append(RowPass(partial(_grow, rules=self.event_rules, stop=stop), frame=True))
            scratch |= event_scratch(*info.frame_shape)
            scratch |= dict.fromkeys((OWN, CARRIED), (info.frame_shape, np.uint8))
            trace = partial(_trace, rules=self.event_rules)
            memory = Memory(CARRIED, np.uint8, int(stop > 1), trace, np.copyto)
        return BoundRampStep(self.name, pixeldq, tuple(passes), scratch, memory=memory)


def _find(tile: Tile, y0: int, y1: int, *, find: Callable[..., None]) -> None:
    find(tile.data, tile.groupdq, tile.scratch, y0, y1, 0)


def _find_in(
    data: np.ndarray,
    groupdq: np.ndarray,
    scratch: dict[str, np.ndarray],
    y0: int,
    y1: int,
    top: int,
    *,
    gain: np.ndarray,
    noise2: np.ndarray,
    limits: np.ndarray,
    single_pass: int,
    spread: np.ndarray,
) -> None:
    marks, rows = scratch["jump.marks"], scratch["jump.rows"]
    find_jumps(data, groupdq, gain, noise2, limits, single_pass, spread, marks, rows, y0, y1, top)


def _spread(tile: Tile, y0: int, y1: int) -> None:
    scratch = tile.scratch
    flag_neighbours(
        tile.groupdq, scratch["jump.marks"], scratch["jump.rows"], scratch["jump.touched"], y0, y1
    )


def _flag_after(
    tile: Tile, y0: int, y1: int, *, gain: np.ndarray, thresholds: np.ndarray, groups_after: np.ndarray
) -> None:
    flag_after_jumps(tile.data, tile.groupdq, gain, thresholds, groups_after, y0, y1)


def _grow(tile: Tile, _y0: int, _y1: int, *, rules: EventRules, stop: int) -> None:
    masks, queue, centres = (tile.scratch[name] for name in ("jump.masks", "jump.queue", "jump.centres"))
    flag_events(tile.groupdq, rules, masks, queue, centres, tile.scratch[OWN])
    if stop > 1:
        flag_cores(tile.groupdq, tile.scratch[CARRIED], stop)


def _trace(tile: Tile, planes: np.ndarray, *, rules: EventRules) -> None:
    masks, queue, centres = (tile.scratch[name] for name in ("jump.masks", "jump.queue", "jump.centres"))
    grow_cores(tile.groupdq, rules, masks, queue, centres, planes)

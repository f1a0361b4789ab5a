"""jump: cosmic-ray hits between groups, by two-point differences within the integration (spec stage 1, section 16).

The statistic is that of the official step for a single integration (16.5, 16.6): no other integration is looked at, so
the flags do not depend on how the exposure was cut. Light that changes within the integration for all pixels of the
source alike is no jump (`tsostream.operators.jump_light`).
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
from tsostream.integration.coupling import Coupling, Template, Window
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Memory, Operator, Part, RowPass, reference_array
from tsostream.operators.jump_events import EventRules, event_scratch, flag_cores, flag_events, grow_cores
from tsostream.operators.jump_light import LightPixels, choose_pixels, find_light, gather_ramps
from tsostream.operators.jump_search import find_jumps, flag_after_jumps, flag_neighbours
from tsostream.operators.tile import Tile

__all__ = ["Jump"]

JUMP = np.uint8(dq.JUMP_DET)
UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: scratch planes: where the cores of snowballs are, and where those of the integration before were
OWN, CARRIED = "jump.cores", "jump.cores_before"


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
    only_use_ints
        If false, they compare it with all differences of all integrations, and it is the groups of all integrations
        together that must be so many. Without effect otherwise.
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
    only_use_ints: bool = True
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
        """The scout's image tells which pixels are the source's; snowballs mark the next integration."""
        if self.expand_large_events and self.sat_required_snowball and self.mask_snowball_core_next_int:
            return Window(before=1, after=0, what=("image",))
        return Template(("image",))

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

        pixels = choose_pixels(
            info, binding.templates.get("image"), (pixeldq & dq.DO_NOT_USE) == 0, scale, noise2
        )
        find = partial(
            _find_in,
            gain=scale,
            noise2=noise2,
            limits=limits,
            single_pass=self.min_diffs_single_pass,
            spread=spread,
            stretches=pixels.stretches,
        )
        passes = [RowPass(partial(_find, find=find), part=Part("jump", {"find": find}))]
        if pixels.rows.size:
            look = partial(_find_light, pixels=pixels)
            part = Part("light", {"pixels": pixels, "find": look})
            passes.insert(0, RowPass(partial(_look, pixels=pixels, find=look), frame=True, part=part))
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
            "jump.samples": ((info.ngroups, pixels.rows.size), np.float32),
            "jump.light": ((pixels.count, info.ngroups - 1), np.float32),
            "jump.changes": ((pixels.count,), np.uint8),
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


def _look(
    tile: Tile, _y0: int, _y1: int, *, pixels: LightPixels, find: Callable[[dict[str, np.ndarray]], None]
) -> None:
    gather_ramps(tile.data, tile.groupdq, pixels.rows, pixels.columns, tile.scratch["jump.samples"])
    find(tile.scratch)


def _find_light(scratch: dict[str, np.ndarray], *, pixels: LightPixels) -> None:
    samples, light, changes = (scratch[f"jump.{name}"] for name in ("samples", "light", "changes"))
    find_light(samples, pixels.bounds, pixels.gain, pixels.noise2, light, changes)


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
    stretches: np.ndarray,
) -> None:
    light, changes = scratch["jump.light"], scratch["jump.changes"]
    marks, rows = scratch["jump.marks"], scratch["jump.rows"]
    find_jumps(
        data, groupdq, gain, noise2, limits, single_pass, spread, stretches, light, changes, marks, rows, y0, y1, top
    )  # fmt: skip


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

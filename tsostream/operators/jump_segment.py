"""jump over all integrations of a segment file, as the official step does it (spec stage 1, sections 16.2 to 16.9).

With many integrations a difference between groups is compared with the same difference of all other integrations
(`tsostream.operators.jump_clip`); with few, with all differences of the pixel (`tsostream.operators.jump_within`). Both
need the whole segment at hand, so the flags depend on where the archive cut the exposure; only the parity scope uses
this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.jump import Jump
from tsostream.operators.jump_clip import clip_everything, clip_integrations
from tsostream.operators.jump_clip_screen import ClipSpace, clip_space
from tsostream.operators.jump_marks import JUMP, LANES, SEED, UNUSABLE, electrons
from tsostream.operators.jump_within import flag_within
from tsostream.operators.rate_planes import pixels_in_line
from tsostream.operators.sorting import comparators

__all__ = [
    "JumpWorkspace",
    "Method",
    "SegmentJump",
    "choose_method",
    "clear_seeds",
    "flag_after_segment",
    "living_planes",
    "spread_seeds",
]

KEEP = np.uint8(255 - dq.OUTLIER)

Method = Literal["clip", "clip_all", "single", "iterative", "none"]


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
        As `clip_integrations`, of pixels [y, x], with all medians.
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
                        above = (
                            np.float64(electrons(data, groupdq, i, g - 1, y, x, gain[y, x])) - medians[y, x]
                        )
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
    def clip(self) -> ClipSpace:
        """Scratch of `clip_integrations`."""
        return clip_space(self.count, self.ngroups)

    @cached_property
    def within(self) -> tuple[np.ndarray, ...]:
        """Scratch of `flag_within`: pairs, lanes, batch, sizes, moments, suspect."""
        size = self.count * (self.ngroups - 1)
        return (
            comparators(size),
            np.empty((size, LANES), np.float32),
            np.empty((size, LANES), np.float32),
            np.empty(size, np.float32),
            np.empty((7, LANES)),
            np.empty(LANES, np.uint8),
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
        """Flag the hits in a window ``(y0, y1, x0, x1)``, and mark those that spread.

        Of several rows the pixels between ``x1`` and the next row's ``x0`` are searched along.
        """
        jump = self.jump
        spread = np.full(2, np.inf)
        if jump.flag_4_neighbors:
            spread[:] = jump.min_jump_to_flag_neighbors, jump.max_jump_to_flag_neighbors
        every = bool(self.after.any())
        y0, y1, x0, x1 = window
        nx = data.shape[3]
        span = (nx, y0 * nx + x0, (y1 - 1) * nx + x1)
        marked[:, y0:y1] = 0
        arrays: tuple[Any, ...] = tuple(
            pixels_in_line(one) for one in (data, groupdq, self.gain, self.noise2)
        )
        level = pixels_in_line(medians)
        if self.method in ("clip", "clip_all"):
            clip = clip_integrations if self.method == "clip" else clip_everything
            clip(
                *arrays, float(jump.rejection_threshold), spread, reset, space.clip,
                marked, level, every, *span,
            )  # fmt: skip
        elif self.method in ("single", "iterative"):
            thresholds = (
                jump.rejection_threshold,
                jump.four_group_rejection_threshold,
                jump.three_group_rejection_threshold,
            )
            flag_within(
                *arrays, np.array(thresholds, float), self.method == "single", spread, *space.within,
                marked, level, every, *span,
            )  # fmt: skip

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
    if jump.only_use_ints and nints >= jump.minimum_sigclip_groups:
        return "clip"
    if not jump.only_use_ints and nints * ngroups - int(flagged.sum()) >= jump.minimum_sigclip_groups:
        return "clip_all"
    usable = ngroups - int(flagged.max(initial=0))
    if usable < 3:
        return "none"
    return "single" if usable - 1 >= jump.min_diffs_single_pass else "iterative"

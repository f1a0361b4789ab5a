"""Snowballs by the book (spec stage 1, section 16.10): regions by labelling, ellipses drawn over the whole frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from tsostream.integration import dq

__all__ = ["EVENT_TWINS", "find_core", "grow_snowballs"]

TOUCHING = np.ones((3, 3), int)


@dataclass
class _Ellipse:
    """Ellipse with the second moments of a region: centre, axes, orientation against the rows."""

    y: float
    x: float
    minor: float
    major: float
    angle: float

    def has(self, y: float, x: float) -> bool:
        """Whether a point lies inside."""
        along = (y - self.y) * math.cos(self.angle) + (x - self.x) * math.sin(self.angle)
        across = (x - self.x) * math.cos(self.angle) - (y - self.y) * math.sin(self.angle)
        with np.errstate(divide="ignore", invalid="ignore"):
            square = np.float64(along) ** 2 / (self.major / 2) ** 2 + across**2 / (self.minor / 2) ** 2
        return bool(square <= 1)

    def mask(self, shape: tuple[int, int], minor: float, major: float) -> np.ndarray:
        """Pixels of the frame inside, with other axes whose halves are rounded; bool [y, x]."""
        half_minor, half_major = np.rint(minor / 2), np.rint(major / 2)
        if half_minor == 0 or half_major == 0:
            return np.zeros(shape, bool)
        angle = self.angle % np.pi
        dy = np.arange(shape[0])[:, None] - np.rint(self.y)
        dx = np.arange(shape[1])[None, :] - np.rint(self.x)
        along, across = dy * np.cos(angle) + dx * np.sin(angle), dx * np.cos(angle) - dy * np.sin(angle)
        inside = (along / half_major) ** 2 + (across / half_minor) ** 2 < 1
        # thin regions have a negative half axis, and a box that leaves out a part
        inside &= abs(dy) <= abs(half_major * np.cos(angle)) + half_minor * np.sin(angle)
        return inside & (abs(dx) <= half_major * np.sin(angle) + abs(half_minor * np.cos(angle)))


def _regions(plane: np.ndarray, least: float) -> Iterator[_Ellipse]:
    """Describe connected regions that cover the least area with their holes."""
    labels, count = ndimage.label(plane, TOUCHING)
    for number in range(1, count + 1):
        region = labels == number
        if ndimage.binary_fill_holes(region, TOUCHING).sum() < least:
            continue
        rows, columns = np.nonzero(region)
        y, x = rows.mean(), columns.mean()
        yy, xx = ((rows - y) ** 2).mean(), ((columns - x) ** 2).mean()
        xy = ((rows - y) * (columns - x)).mean()
        middle, half = (yy + xx) / 2, math.hypot((yy - xx) / 2, xy)
        minor, major = (4 * math.sqrt(max(0.0, middle + sign * half)) - 1 for sign in (-1, 1))
        angle = 0.5 * math.atan2(2 * xy, yy - xx)
        if math.isclose(yy, xx, rel_tol=1e-12):
            angle = math.pi / 4 if xy > 0 else -math.pi / 4
        yield _Ellipse(y, x, minor, major, angle)


def _saturate(groupdq: np.ndarray, g: int, rules: Mapping[str, Any], core: np.ndarray) -> list[_Ellipse]:
    """Grow the cores that saturate in a group; returns all of them as they were."""
    new = (groupdq[g] & dq.SATURATED > 0) & (groupdq[g - 1] & dq.SATURATED == 0)
    found = list(_regions(new, rules["min_sat_area"]))
    for one in found:
        if min(one.minor, one.major) > rules["min_sat_extend"]:
            axes = (min(axis + rules["sat_expand"], rules["longest"]) for axis in (one.minor, one.major))
            groupdq[g:, one.mask(core.shape, *axes)] = dq.SATURATED
            core |= one.mask(core.shape, one.minor, one.major)
    return found


def find_core(groupdq: np.ndarray, rules: Mapping[str, Any]) -> np.ndarray:
    """Find what the growing cores of one integration cover, and grow them.

    Parameters
    ----------
    groupdq : uint8 [group, y, x]
        Changed in place.
    rules
        As `grow_snowballs`.

    Returns
    -------
    core : bool [y, x]
    """
    core = np.zeros(groupdq.shape[1:], bool)
    for g in range(1, len(groupdq)):
        if rules["sat_required"]:
            _saturate(groupdq, g, rules, core)
    return core


def grow_snowballs(groupdq: np.ndarray, rules: Mapping[str, Any], stop: int) -> np.ndarray:
    """Grow the snowballs of all integrations; the core of each marks the next one's groups before ``stop``.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Before.
    rules
        ``min_sat_area``, ``min_jump_area``, ``expand_factor``, ``sat_required``, ``min_sat_extend``, ``sat_expand``,
        ``edge_size``, ``longest``.
    stop
        First group that is left alone.
    """
    out = groupdq.copy()
    ny, nx = out.shape[2:]
    low, high = rules["edge_size"], max(0, ny - rules["edge_size"])
    before = np.zeros((ny, nx), bool)
    for flags in out:
        core = np.zeros((ny, nx), bool)
        for g in range(1, len(flags)):
            saturated = flags & dq.SATURATED > 0
            soon = []
            if g + 1 < len(flags):
                soon = list(_regions(saturated[g + 1] & ~saturated[g], rules["min_sat_area"]))
            jumps = list(_regions(flags[g] & dq.JUMP_DET > 0, rules["min_jump_area"]))
            centres = []
            if rules["sat_required"]:
                centres = [(one.y, one.x) for one in (*soon, *_saturate(flags, g, rules, core))]
            for one in jumps:
                near_edge = min(one.x, one.y) < low or max(one.x, one.y) > high
                if rules["sat_required"] and not near_edge and not any(one.has(y, x) for y, x in centres):
                    continue
                minor = min(one.minor * rules["expand_factor"], rules["longest"])
                major = min(one.major + (rules["expand_factor"] - 1) * one.minor, rules["longest"])
                # rounded to half axes, which are doubled
                grown = one.mask((ny, nx), 2 * np.rint(minor / 2), 2 * np.rint(major / 2))
                flags[g, grown & (flags[g] & dq.SATURATED == 0)] |= dq.JUMP_DET
        flags[1:stop, before] |= dq.JUMP_DET
        before = core
    return out


EVENT_TWINS: dict[str, Callable[..., Any]] = {
    **{
        f"jump_events.{name}": grow_snowballs
        for name in (
            "_take_region", "_leave_region", "_filled_area", "_is_large", "_add_product", "_describe", "_contains",
            "_draw", "_mark_new", "_find_centres", "_grow_group", "_is_snowball", "_grow_jumps", "flag_events",
            "flag_cores",
        )
    },
    "jump_events.grow_cores": find_core,
}  # fmt: skip

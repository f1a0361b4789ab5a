"""jump: large events, snowballs, grown to what they really cover (spec stage 1, section 16.10).

A snowball is a region of jumps around newly saturated pixels. Regions are described by the ellipse with the same second
moments; that of the jumps is grown in the group of the hit, that of the saturated core in all groups from there on.
What the core covered also marks the groups of the next integration: the pixels need longer than the reset to recover.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["EventRules", "event_scratch", "flag_cores", "flag_events", "grow_cores"]

JUMP = np.uint8(dq.JUMP_DET)
SAT = np.uint8(dq.SATURATED)
TO_DEGREES = 180.0 / np.pi
TO_RADIANS = np.pi / 180.0
# what a pixel of a working mask is: set and not looked at yet, in the region at hand, in an earlier one; and whether
# the background around the region at hand reaches it
SET, HERE, DONE, REACHED = np.uint8(1), np.uint8(2), np.uint8(3), np.uint8(4)
KIND = np.uint8(3)


class EventRules(NamedTuple):
    """Parameters of the step as kernels take them.

    Parameters
    ----------
    min_sat_area, min_jump_area
        Least area of a region, holes filled [px].
    expand_factor
        Growth of a snowball's minor axis; the major axis grows by as many pixels.
    sat_required
        Whether a snowball needs a saturated core, unless it is near the edge.
    min_sat_extend
        Cores whose minor axis is longer grow [px].
    sat_expand
        Growth of a core's axes [px].
    edge_size
        What is near the edge [px].
    longest
        Longest axis that anything grows to [px].
    """

    min_sat_area: float
    min_jump_area: float
    expand_factor: float
    sat_required: bool
    min_sat_extend: float
    sat_expand: float
    edge_size: float
    longest: float


def event_scratch(ny: int, nx: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and types of the working arrays, by name, for frames of this size."""
    regions = ((ny + 1) // 2) * ((nx + 1) // 2)  # as many as fit without touching
    return {
        "jump.masks": ((3, ny, nx), np.uint8),
        "jump.queue": ((ny * nx,), np.int32),
        "jump.centres": ((2, regions, 2), np.float64),
    }


@kernel
def _take_region(mask, y, x, queue, box):
    """Collect the pixels that touch a set pixel, edges and corners; returns their number.

    ``queue`` receives ``y * nx + x`` of each, ``box`` (int64 [4]) the least and largest row and column.
    """
    ny, nx = mask.shape
    box[0] = box[1] = y
    box[2] = box[3] = x
    mask[y, x] = HERE
    queue[0] = y * nx + x
    count, done = 1, 0
    while done < count:
        row, column = queue[done] // nx, queue[done] % nx
        done += 1
        for near in range(max(0, row - 1), min(ny, row + 2)):
            for next_to in range(max(0, column - 1), min(nx, column + 2)):
                if mask[near, next_to] == SET:
                    mask[near, next_to] = HERE
                    queue[count] = near * nx + next_to
                    count += 1
                    box[0] = min(box[0], near)
                    box[1] = max(box[1], near)
                    box[2] = min(box[2], next_to)
                    box[3] = max(box[3], next_to)
    return count


@kernel
def _leave_region(mask, queue, count):
    nx = mask.shape[1]
    for k in range(count):
        mask[queue[k] // nx, queue[k] % nx] = DONE


@kernel
def _filled_area(mask, queue, count, box):
    """Area of the region at hand with its holes: what the surroundings cannot reach, over edges and corners."""
    nx = mask.shape[1]
    begin = end = count
    for y in range(box[0], box[1] + 1):
        for x in range(box[2], box[3] + 1):
            rim = (y == box[0]) | (y == box[1]) | (x == box[2]) | (x == box[3])
            if rim and mask[y, x] & KIND != HERE:
                mask[y, x] |= REACHED
                queue[end] = y * nx + x
                end += 1
    done = begin
    while done < end:
        row, column = queue[done] // nx, queue[done] % nx
        done += 1
        for y in range(max(box[0], row - 1), min(box[1], row + 1) + 1):
            for x in range(max(box[2], column - 1), min(box[3], column + 1) + 1):
                if mask[y, x] & KIND != HERE and not mask[y, x] & REACHED:
                    mask[y, x] |= REACHED
                    queue[end] = y * nx + x
                    end += 1
    for k in range(begin, end):
        mask[queue[k] // nx, queue[k] % nx] &= KIND
    return (box[1] - box[0] + 1) * (box[3] - box[2] + 1) - (end - begin)


@kernel
def _is_large(mask, queue, count, box, least):
    """Whether the region at hand covers the least area, holes filled."""
    if count >= least:
        return True
    if (box[1] - box[0] + 1) * (box[3] - box[2] + 1) < least:
        return False
    return _filled_area(mask, queue, count, box) >= least


@kernel
def _add_product(total, a, b):
    """``total + a * b``, rounded once: so the official moments are summed, and ties at the rim depend on it."""
    product = a * b
    # the rounding errors of the product and of the sum are floats themselves (Dekker 1971, Knuth)
    big = 134217729.0 * a
    a1 = big - (big - a)
    big = 134217729.0 * b
    b1 = big - (big - b)
    a2, b2 = a - a1, b - b1
    lost = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    result = total + product
    shift = result - total
    return result + (((total - (result - shift)) + (product - shift)) + lost)


@kernel
def _describe(mask, count, box, ellipse):
    """Write x, y, minor and major axis [px] and orientation [degrees] of the region at hand (float64 [5])."""
    rows = columns = 0
    for y in range(box[0], box[1] + 1):
        for x in range(box[2], box[3] + 1):
            if mask[y, x] == HERE:
                rows += y - box[0]
                columns += x - box[2]
    middle_y, middle_x = rows / count, columns / count
    yy = xx = xy = 0.0
    for x in range(box[2], box[3] + 1):
        pixels = first = second = 0.0
        for y in range(box[0], box[1] + 1):
            if mask[y, x] == HERE:
                dy = y - box[0] - middle_y
                pixels += 1.0
                first += dy
                second += dy * dy
        dx = x - box[2] - middle_x
        yy += second
        xx = _add_product(xx, pixels, dx * dx)
        xy = _add_product(xy, first, dx)
    # the tensor of inertia: each entry on the diagonal is the moment along the other axis
    a, b, c = ((yy + xx) - yy) / count, -xy / count, ((yy + xx) - xx) / count
    high, low = max(a, c), min(a, c)
    if b != 0.0:
        half = np.sqrt((0.5 * (a - c)) ** 2 + b * b)
        high, low = 0.5 * (a + c) + half, max(0.0, 0.5 * (a + c) - half)
    angle = 0.5 * np.arctan2(-2.0 * b, c - a)
    if a == c:
        angle = 0.25 * np.pi if b < 0.0 else -0.25 * np.pi
    ellipse[0], ellipse[1] = middle_x + box[2], middle_y + box[0]
    # the official axes are a pixel shorter than those of the moments
    ellipse[2], ellipse[3] = 4.0 * np.sqrt(low) - 1.0, 4.0 * np.sqrt(high) - 1.0
    ellipse[4] = angle * TO_DEGREES


@kernel
def _contains(ellipse, x, y):
    """Whether a point lies in an ellipse."""
    angle = (180.0 - ellipse[4]) * TO_RADIANS
    dx, dy = x - ellipse[0], y - ellipse[1]
    along = dx * np.cos(angle) - dy * np.sin(angle)
    across = dx * np.sin(angle) + dy * np.cos(angle)
    major, minor = 0.5 * ellipse[3], 0.5 * ellipse[2]
    return along**2 / major**2 + across**2 / minor**2 <= 1.0


@kernel
def _draw(plane, ellipse, minor, major, value, assign, protect):
    """Set or add flags in the ellipse about the region's centre with other axes, which may be negative.

    Half axes are rounded to pixels; pixels with a flag of ``protect`` stay as they are.
    """
    ny, nx = plane.shape
    x, y = int(np.rint(ellipse[0])), int(np.rint(ellipse[1]))
    radius_x, radius_y = np.rint(0.5 * minor), np.rint(0.5 * major)
    if radius_x == 0.0 or radius_y == 0.0:
        return
    turn = (ellipse[4] * TO_RADIANS) % np.pi
    cos, sin = np.cos(turn), np.sin(turn)
    # a negative half axis makes the box smaller than the ellipse, and so what is drawn
    reach_y = abs(radius_y * cos) + radius_x * sin
    reach_x = radius_y * sin + abs(radius_x * cos)
    margin = int(max(radius_x, radius_y)) + 2
    top, bottom = (
        max(0, y - margin, int(np.ceil(y - reach_y))),
        min(ny - 1, y + margin, int(np.floor(y + reach_y))),
    )
    left, right = (
        max(0, x - margin, int(np.ceil(x - reach_x))),
        min(nx - 1, x + margin, int(np.floor(x + reach_x))),
    )
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            dy, dx = np.float64(row - y), np.float64(column - x)
            u, v = (dy * cos + dx * sin) / radius_y, (dy * sin - dx * cos) / radius_x
            if u * u + v * v < 1.0 and not plane[row, column] & protect:
                plane[row, column] = value if assign else plane[row, column] | value


@kernel
def _mark_new(groupdq, i, g, mask):
    """Mark the pixels that saturate in a group (uint8 [y, x]); returns whether there are any."""
    some = False
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            new = groupdq[i, g, y, x] & SAT and not groupdq[i, g - 1, y, x] & SAT
            mask[y, x] = SET if new else np.uint8(0)
            some |= new
    return some


@kernel
def _find_centres(mask, least, queue, centres):
    """Write x and y of all regions (float64 [region, 2]); returns their number."""
    box, ellipse, found = np.empty(4, np.int64), np.empty(5), 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x] != SET:
                continue
            count = _take_region(mask, y, x, queue, box)
            if _is_large(mask, queue, count, box, least):
                _describe(mask, count, box, ellipse)
                centres[found, 0], centres[found, 1] = ellipse[0], ellipse[1]
                found += 1
            _leave_region(mask, queue, count)
    return found


@kernel
def _grow_group(groupdq, i, g, rules, mask, queue, centres, core):
    """Grow the cores that saturate in a group; returns their number, their centres in ``centres``."""
    box, ellipse, found = np.empty(4, np.int64), np.empty(5), 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x] != SET:
                continue
            count = _take_region(mask, y, x, queue, box)
            large = _is_large(mask, queue, count, box, rules.min_sat_area)
            if large:
                _describe(mask, count, box, ellipse)
                centres[found, 0], centres[found, 1] = ellipse[0], ellipse[1]
                found += 1
            _leave_region(mask, queue, count)
            if large and min(ellipse[2], ellipse[3]) > rules.min_sat_extend:
                minor, major = ellipse[2] + rules.sat_expand, ellipse[3] + rules.sat_expand
                for later in range(g, groupdq.shape[1]):
                    _draw(
                        groupdq[i, later], ellipse, min(minor, rules.longest), min(major, rules.longest), SAT, True,
                        np.uint8(0),
                    )  # fmt: skip
                _draw(core, ellipse, ellipse[2], ellipse[3], JUMP, True, np.uint8(0))
    return found


@kernel
def grow_cores(groupdq, rules, masks, queue, centres, cores):
    """Grow saturated cores, as `flag_events` does, and nothing else: what they cover depends on saturation alone.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    rules : EventRules
        Parameters.
    masks, queue, centres
        As `flag_events`.
    cores : uint8 [integration, y, x]
        Written: JUMP_DET where a core that grows was, before it grew.
    """
    for i in range(groupdq.shape[0]):
        cores[i] = 0
        for g in range(1, groupdq.shape[1]):
            if rules.sat_required and _mark_new(groupdq, i, g, masks[i, 0]):
                _grow_group(groupdq, i, g, rules, masks[i, 0], queue[i], centres[i, 0], cores[i])


@kernel
def _is_snowball(ellipse, rules, ny, centres, now, later):
    """Whether a region of jumps lies near the edge or has a core that saturates now or in the next group."""
    if not rules.sat_required:
        return True
    low, high = rules.edge_size, max(0.0, ny - rules.edge_size)
    if ellipse[0] < low or ellipse[1] < low or ellipse[0] > high or ellipse[1] > high:
        return True
    for when, count in ((0, now), (1, later)):
        for k in range(count):
            if _contains(ellipse, centres[when, k, 0], centres[when, k, 1]):
                return True
    return False


@kernel
def _grow_jumps(plane, mask, rules, queue, centres, now, later):
    """Grow the snowballs of a group (``mask``: its jumps)."""
    ny, nx = mask.shape
    box, ellipse = np.empty(4, np.int64), np.empty(5)
    for y in range(ny):
        for x in range(nx):
            if mask[y, x] != SET:
                continue
            count = _take_region(mask, y, x, queue, box)
            large = _is_large(mask, queue, count, box, rules.min_jump_area)
            if large:
                _describe(mask, count, box, ellipse)
            _leave_region(mask, queue, count)
            if not large or not _is_snowball(ellipse, rules, ny, centres, now, later):
                continue
            minor, major = (
                ellipse[2] * rules.expand_factor,
                ellipse[3] + (rules.expand_factor - 1.0) * ellipse[2],
            )
            minor, major = np.rint(0.5 * min(minor, rules.longest)), np.rint(0.5 * min(major, rules.longest))
            _draw(plane, ellipse, 2.0 * minor, 2.0 * major, JUMP, False, SAT)


@kernel
def flag_events(groupdq, rules, masks, queue, centres, cores):
    """Grow snowballs.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        JUMP_DET is added in the group of a snowball; where its core was, SATURATED takes the place of all flags from
        that group on.
    rules : EventRules
        Parameters.
    masks : uint8 [integration, 3, y, x]
        Scratch.
    queue : int32 [integration, y * x]
        Scratch.
    centres : float64 [integration, 2, region, 2]
        Scratch.
    cores : uint8 [integration, y, x]
        Written: JUMP_DET where a core that grows was, before it grew.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        cores[i] = 0
        for g in range(1, ngroups):
            now = later = 0
            jumps = False
            for y in range(ny):
                for x in range(nx):
                    hit = groupdq[i, g, y, x] & JUMP
                    masks[i, 2, y, x] = SET if hit else np.uint8(0)
                    jumps |= hit != 0
            if rules.sat_required:
                if jumps and g < ngroups - 1 and _mark_new(groupdq, i, g + 1, masks[i, 1]):
                    later = _find_centres(masks[i, 1], rules.min_sat_area, queue[i], centres[i, 1])
                if _mark_new(groupdq, i, g, masks[i, 0]):
                    now = _grow_group(groupdq, i, g, rules, masks[i, 0], queue[i], centres[i, 0], cores[i])
            if jumps:
                _grow_jumps(groupdq[i, g], masks[i, 2], rules, queue[i], centres[i], now, later)


@kernel
def flag_cores(groupdq, cores, stop):
    """Flag what the cores of the integration before covered.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place, groups ``1 … stop - 1``, whatever other flags there are.
    cores : uint8 [integration, y, x]
        Flags left by the integration before each.
    stop : int
        First group that is left alone.
    """
    for i in range(groupdq.shape[0]):
        for g in range(1, stop):
            for y in range(groupdq.shape[2]):
                for x in range(groupdq.shape[3]):
                    groupdq[i, g, y, x] |= cores[i, y, x]

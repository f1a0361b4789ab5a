"""Background of every column, from the rows of the background in the order of memory."""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.lists import DNU, FEWEST_SAMPLES
from tsostream.operators.aperture.measure import robust_level
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = ["measure_ground"]


@kernel
def _sample_run(data, vp, vr, bits, template, scale, lane, known):
    """Put the usable pixels of a stretch into a lane; what is not usable sorts behind all others."""
    zero, nothing = np.float32(0.0), np.float32(np.inf)
    for x in range(lane.size):
        value = (data[x] - template[x]) * scale[x]
        good = (value - value == zero) & (vp[x] + vr[x] >= zero) & ((bits[x] & DNU) == 0)
        lane[x] = value if good else nothing
        known[x] += np.int32(good)


@kernel
def _halve(one, other, middle):
    """Mean of two rows of samples."""
    for c in range(middle.size):
        middle[c] = np.float32(0.5) * (one[c] + other[c])


@kernel
def _set_starts(i, flat, s, work):
    """First level of each column's background and the limit about it, relative to the template."""
    a = s.lists
    sort_lanes(work.lanes, s.pairs)
    clip = a.ground_clip * a.ground_clip
    # nearly all columns have all their samples
    full = work.lanes.shape[0]
    _halve(work.lanes[(full - 1) // 2], work.lanes[full // 2], work.start)
    # the start itself is uncertain by about 1.25 sigma / sqrt(count)
    work.limit[:] = clip * (1.0 + 1.6 / max(full, 1))
    for c in range(work.start.size):
        count = np.int64(work.known[c])
        if count == full and full >= FEWEST_SAMPLES:
            continue
        if count < FEWEST_SAMPLES:
            level, count = robust_level(
                flat.data[i], flat.vp[i], flat.vr[i], flat.bits[i], a, c, True, work.values
            )
            work.start[c] = level / s.unit
        elif count % 2:
            work.start[c] = work.lanes[count // 2, c]
        else:
            work.start[c] = np.float32(0.5) * (work.lanes[count // 2 - 1, c] + work.lanes[count // 2, c])
        work.limit[c] = clip * (1.0 + 1.6 / max(count, 1))


@kernel
def _add_ground(data, vp, vr, bits, template, scale, start, limit, total, variance, used):
    """Add the pixels of a stretch that lie within the limits to the background of their columns."""
    zero = np.float32(0.0)
    for x in range(total.size):
        distance = (data[x] - template[x]) * scale[x] - start[x]
        own = vp[x] + vr[x]
        scaled = own * scale[x] * scale[x]
        good = ((bits[x] & DNU) == 0) & (own >= zero) & (distance * distance <= limit[x] * scaled)
        total[x] += np.float64(distance) if good else 0.0
        variance[x] += np.float64(scaled) if good else 0.0
        used[x] += 1.0 if good else 0.0


@kernel
def measure_ground(i, planes, index, flat, s, work, out):
    """Background per pixel of every column and its variance, in the output's unit."""
    work.lanes[:, :] = np.inf
    work.known[:] = 0
    for r in range(s.ground_run.shape[0]):
        row, x0, e0, length, lane = s.ground_run[r]
        if lane >= 0:
            x1, e1 = x0 + length, e0 + length
            _sample_run(
                planes.data[index, row, x0:x1], planes.vp[index, row, x0:x1], planes.vr[index, row, x0:x1],
                planes.bits[index, row, x0:x1], s.ground_template[e0:e1], s.ground_scale[e0:e1],
                work.lanes[lane, x0:x1], work.known[x0:x1],
            )  # fmt: skip
    _set_starts(i, flat, s, work)
    work.ground[:, :] = 0.0
    for r in range(s.ground_run.shape[0]):
        row, x0, e0, length, lane = s.ground_run[r]
        x1, e1 = x0 + length, e0 + length
        _add_ground(
            planes.data[index, row, x0:x1], planes.vp[index, row, x0:x1], planes.vr[index, row, x0:x1],
            planes.bits[index, row, x0:x1], s.ground_template[e0:e1], s.ground_scale[e0:e1],
            work.start[x0:x1], work.limit[x0:x1], work.ground[0, x0:x1], work.ground[1, x0:x1],
            work.ground[2, x0:x1],
        )  # fmt: skip
    for c in range(work.start.size):
        used = work.ground[2, c]
        level = np.float64(work.start[c])
        variance = np.nan
        if used > 0.0:
            level += work.ground[0, c] / used
            variance = work.ground[1, c] / (used * used) * s.unit * s.unit
        out.ground[i, c] = s.ground_mean[c] + level * s.unit
        out.ground_variance[i, c] = variance

"""Ramps of neighbouring pixels side by side in the streaming fit: rows end to end, as if no ramp had a flag.

Simple loops over slices with few arrays each: the compiler finds vector instructions for no others.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = [
    "RUN",
    "choose_powers",
    "collect_flags",
    "common_groups",
    "rise_of_ramps",
    "rows_alike",
    "shorter",
    "write_clean",
]

DNU, PERS = np.uint8(dq.DO_NOT_USE), np.uint8(dq.PERSISTENCE)
#: neighbouring pixels whose weights are looked at together
STRETCH = 128
#: rows are taken end to end up to so many pixels: those of narrow frames are too short for a call each
RUN = 1024


@kernel
def _is_lost(flags):
    """Tell whether no pixel of a row can be used in a group."""
    for x in range(flags.size):  # noqa: SIM110 - Numba knows no generators
        if not flags[x] & DNU:
            return False
    return True


@kernel
def common_groups(groupdq, i, y):
    """First and last + 1 of the groups that remain when those are left out that no pixel of the row can use."""
    first, last = 0, groupdq.shape[1]
    while first < last and _is_lost(groupdq[i, first, y]):
        first += 1
    while last > first and _is_lost(groupdq[i, last - 1, y]):
        last -= 1
    return first, last


@kernel
def rows_alike(groupdq, i, y, y1, first, last):
    """First row behind ``y`` whose ramps have other groups in common, or with which a run would become too long."""
    nx, end = groupdq.shape[3], y + 1
    while end < y1 and (end + 1 - y) * nx <= RUN:
        other, behind = common_groups(groupdq, i, end)
        if other != first or behind != last:
            break
        end += 1
    return end


@kernel
def collect_flags(groupdq, i, at, first, last, seen):
    """OR of the flags of the ramps from pixel ``at`` on (``groupdq``: uint8 [integration, group, pixel]).

    DO_NOT_USE does not count outside ``first … last - 1``.
    """
    for x in range(seen.size):
        seen[x] = 0
    for g in range(groupdq.shape[1]):
        flags = groupdq[i, g, at : at + seen.size]
        keep = np.uint8(0xFF) if first <= g < last else ~DNU
        for x in range(seen.size):
            seen[x] |= flags[x] & keep


@kernel
def choose_powers(start, end, expected, tgroup, steps, read2, gain, signal, classes):
    """Class of signal-to-noise of neighbouring pixels, from what the template expects or, where it is NaN, the ramp.

    ``tgroup`` [s] and ``steps`` are the length of the ramp. As `tsostream.operators.ramp_slopes.weight_power`, but
    without a look-up and branches, in loops of few arrays: the compiler finds vector instructions.
    """
    most, none = np.float32(np.inf), 0.0
    for x in range(classes.size):
        known = np.float64(expected[x]) * tgroup * steps
        signal[x] = known if abs(expected[x]) < most else np.float64(end[x] - start[x])
    for x in range(classes.size):
        electrons = signal[x] * gain[x]
        total = read2[x] + electrons
        total = total if (total > none) & (gain[x] > np.float32(0)) else np.inf
        signal[x] = electrons / np.sqrt(total)
    for x in range(classes.size):
        ratio = signal[x]
        number = np.int32(ratio >= 5.0) + np.int32(ratio >= 10.0) + np.int32(ratio >= 20.0)
        classes[x] = number + np.int32(ratio >= 50.0) + np.int32(ratio >= 100.0)


@kernel
def rise_of_ramps(data, i, at, first, last, classes, tables, rise):
    """Rise per group of the ramps from pixel ``at`` on [DN], without regard to flags.

    Of ``data`` (float32 [integration, group, pixel]) relative to the first group, so that float32 keeps the full
    precision of the rise. Neighbours mostly have the same weights: a stretch at a time needs no choice.
    """
    n = last - first
    place = n * (n - 1) // 2
    for begin in range(0, rise.size, STRETCH):
        stop = min(begin + STRETCH, rise.size)
        some, total = classes[begin:stop], rise[begin:stop]
        start = data[i, first, at + begin : at + stop]
        low, high = 5, 0
        for x in range(some.size):
            low = min(low, some[x])
            high = max(high, some[x])
        total[:] = 0.0
        for k in range(1, n):
            row = data[i, first + k, at + begin : at + stop]
            if low == high:
                weight = np.float32(tables[low, place + k])
                for x in range(total.size):
                    total[x] += weight * (row[x] - start[x])
                continue
            if high - low == 1:
                fainter, brighter = np.float32(tables[low, place + k]), np.float32(tables[high, place + k])
                for x in range(total.size):
                    total[x] += (fainter if some[x] == low else brighter) * (row[x] - start[x])
                continue
            w0, w1 = np.float32(tables[0, place + k]), np.float32(tables[1, place + k])
            w2, w3 = np.float32(tables[2, place + k]), np.float32(tables[3, place + k])
            w4, w5 = np.float32(tables[4, place + k]), np.float32(tables[5, place + k])
            # selections rather than a look-up, which would be one load a sample
            for x in range(total.size):
                c = some[x]
                below = w0 if c == 0 else (w1 if c == 1 else w2)
                above = w3 if c == 3 else (w4 if c == 4 else w5)
                total[x] += (below if c < 3 else above) * (row[x] - start[x])


@kernel
def shorter(ngroups, length):
    """Give what the variances of ramps of all groups are multiplied by when some are left out at the ends."""
    if length == ngroups:
        return np.float32(1.0), np.float32(1.0)
    scatter = 12.0 / (np.float64(length) ** 3 - length) if length > 2 else 2.0
    less = np.float32(scatter / (12.0 / (np.float64(ngroups) ** 3 - ngroups)))
    return np.float32((ngroups - 1.0) / (length - 1.0)), less


@kernel
def write_clean(
    rise, seen, static, units, reads, per_second, more, less, level, unit, read, flags, flagged
):  # fmt: skip
    """Write the results of ramps without flags, and which ramps have one."""
    for x in range(level.size):
        level[x] = rise[x] * per_second
    for x in range(level.size):
        unit[x] = units[x] * more
    for x in range(level.size):
        read[x] = reads[x] * less
    for x in range(level.size):
        flags[x] = static[x] | np.uint32(seen[x] & PERS)
    flagged[level.size :] = 0
    for x in range(level.size):
        flagged[x] = (seen[x] & ~PERS) | np.uint8(static[x] & DNU)

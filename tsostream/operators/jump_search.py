"""Jumps of one integration at a time: the kernels of the jump step (spec stage 1, section 16.5 to 16.7).

Nearly every pixel is clean, and most can be cleared by bounds on its differences that cost no sort: the median lies
within the range of the differences, and between bounds that counting proves. Both are worked out for neighbouring
pixels side by side; only what is left over is looked at pixel by pixel.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.jump_light import LANES, steady_differences
from tsostream.operators.jump_screen import fill_ramp_differences, find_extremes, screen_median, screen_span
from tsostream.operators.sorting import median_of, short_median

__all__ = ["find_jumps", "flag_after_jumps", "flag_neighbours"]

JUMP = np.uint8(dq.JUMP_DET)
UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: so few suspects among `LANES` neighbouring pixels are not worth counting for
FEW = 6
#: so many differences are looked at together, so that they stay in half of a level-1 cache; but of so many pixels at
#: least, for shorter pieces of rows that lie a frame apart are slow to come, and at most
LOOK, LEAST, MOST = 4096, 512, 1024


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
    median = median_of(work, finite)
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
                level = median_of(work, kept)
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
    data, groupdq, gain, noise2, limits, single_pass, spread, stretches, light, changes, marks, rows, y0, y1, top
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
    stretches : int16 [y, chunk]
        To which stretch of the light a row's pixels belong.
    light : float32 [integration, stretch, difference]
        Brightness of the source over its mean, as `find_light` leaves it.
    changes : uint8 [integration, stretch]
        Whether it changes; without stretches it never does.
    marks : uint8 [integration, group, y, x]
        1 for a hit that spreads; valid only in groups of rows that ``rows`` names.
    rows : uint8 [integration, y, group]
        Whether the group has such hits in the row; written.
    y0, y1, top : int
        Rows, and the one that ``data`` begins with.
    """
    n, ngroups, held, nx = data.shape
    ndiff, offset = ngroups - 1, top * nx
    # rows end to end, and several stretches of the light at once: calls for a few pixels would cost more than the work
    samples, flagged = data.reshape(n, ngroups, held * nx), groupdq.reshape(n, ngroups, held * nx)
    gains, noises = gain.reshape(gain.size), noise2.reshape(gain.size)
    most = max(LEAST, min(MOST, LOOK // ndiff // LANES * LANES))
    lanes, sums = np.empty((ndiff, most), np.float32), np.empty((6, most), np.float32)
    low, high, suspect = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.bool_)
    d, a, work = np.empty(ndiff, np.float64), np.empty(ndiff, np.float64), np.empty(ndiff, np.float64)
    flags = np.empty(ndiff, np.uint8)
    clear, sure = _sure_limits(limits, ndiff, single_pass)
    for i in range(n):
        rows[i, y0:y1] = 0
        for start in range(y0 * nx, y1 * nx, most):
            width = min(most, y1 * nx - start)
            fill_ramp_differences(samples, flagged, gains, i, start, width, lanes, offset)
            for s in range(changes.shape[1]):
                if changes[i, s]:
                    _take_light(lanes, light[i], changes[i], stretches, noises, start, width, nx, sums)
                    break
            find_extremes(lanes, width, low, high)
            some = screen_span(noises, start, width, clear, low, high, suspect)
            if some * LANES > FEW * width and ndiff >= 4:
                some = screen_median(lanes, noises, start, width, sure, single_pass, low, high, sums, suspect)
            if not some:
                continue
            for lane in range(width):
                if not suspect[lane]:
                    continue
                for j in range(ndiff):
                    d[j] = np.float64(lanes[j, lane])
                hits, level, sigma = _flag_pixel(
                    d, ndiff, np.float64(noises[start + lane]), limits[0], limits[1], limits[2], single_pass, a, work,
                    flags,
                )  # fmt: skip
                if hits:
                    y, x = (start + lane) // nx, (start + lane) % nx
                    _write_hits(groupdq, flags, d, level, sigma, spread, marks, rows, i, y, x, top)


@kernel
def _sure_limits(limits, ndiff, single_pass):
    """Limits of the screens: of the square of a span, and of a deviation [sigma]."""
    # the lowest threshold that can apply, a little less for the rounding of the bounds
    limit = limits[2]
    if ndiff >= 3:
        limit = min(limit, limits[1])
    if ndiff >= 4 or ndiff >= single_pass:
        limit = min(limit, limits[0])
    return np.float32(0.999 * limit * limit), np.float32(0.9995 * limits[0])


@kernel
def _take_light(lanes, light, changes, stretches, noises, start, width, nx, sums):
    """Take the light's change out of the differences of pixels from ``start`` on, stretch by stretch of each row."""
    at = start
    while at < start + width:
        y, x = at // nx, at % nx
        count = min(min(LANES - x % LANES, nx - x), start + width - at)
        stretch = stretches[y, x // LANES]
        if changes[stretch]:
            steady_differences(lanes, light[stretch], noises[at : at + count], at - start, count, sums)
        at += count


@kernel
def _write_hits(groupdq, flags, d, level, sigma, spread, marks, rows, i, y, x, top):
    """Flag the hits of one pixel, and mark those that spread."""
    for j in range(flags.size):
        if not flags[j]:
            continue
        groupdq[i, j + 1, y - top, x] |= JUMP
        if not spread[0] < abs(d[j] - level) / sigma < spread[1]:
            continue
        if rows[i, y, j + 1] == 0:
            rows[i, y, j + 1] = 1
            for k in range(groupdq.shape[3]):
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

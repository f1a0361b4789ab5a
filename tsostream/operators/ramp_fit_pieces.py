"""The official OLS_C fit of one ramp with flags, line by line (spec stage 1, section 21).

A ramp is two short arrays, its samples and its flags; ``g0 <= g < g1`` are the groups in use. Jumps cut it into
segments, each of which has a slope and a variance of its own.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import median_of

__all__ = ["INVALID", "error_variance", "fit_flagged", "read_variance", "segment_from"]

DNU, SAT = np.uint8(dq.DO_NOT_USE), np.uint8(dq.SATURATED)
JUMP, PERS = np.uint8(dq.JUMP_DET), np.uint8(dq.PERSISTENCE)
INVALID = np.uint32(dq.DO_NOT_USE | dq.SATURATED)


@kernel
def read_variance(length, rnoise, gain, time):
    """Variance of the slope of a segment from read noise [(DN/s)^2]; fewer than three groups count as two."""
    scatter = length * (length * length - 1.0) if length > 2 else 6.0
    return 12.0 * (rnoise / time) * (rnoise / time) / (scatter * gain * gain)


@kernel
def _weighted_slope(samples, start, length, powers, rnoise, gain, tgroup):
    """Slope of three or more groups [DN/s]."""
    rise = np.float64(samples[start + length - 1]) - np.float64(samples[start])
    total = rnoise * rnoise + rise * gain
    snr = 0.0 if total <= 0.0 or gain == 0.0 else rise * gain / np.sqrt(total)
    index = 0
    for limit in (5.0, 10.0, 20.0, 50.0, 100.0):
        if not snr < limit:
            index += 1
    sw = swx = swy = swxx = swxy = 0.0
    for k in range(length):
        weight = powers[index, length, k]
        position = np.float64(start + k)
        value = np.float64(samples[start + k])
        if np.isnan(value):
            value = 0.0
        sw += weight
        swx += position * weight
        swxx += position * position * weight
        swy += value * weight
        swxy += value * position * weight
    # the weights are divided by the read noise squared, which cancels unless there is none
    slope = (sw * swxy - swx * swy) * (1.0 / (sw * swxx - swx * swx)) / tgroup
    return slope if rnoise * rnoise > 0.0 else np.nan


@kernel
def segment_from(flags, g, g0, g1):
    """Next run of good groups from ``g`` on: (start, end); a lone jump right before it belongs to it."""
    while g < g1 and flags[g] & ~PERS:
        g += 1
    end = g
    while end < g1 and not flags[end] & ~PERS:
        end += 1
    if g > g0 and g < g1 and (flags[g - 1] & ~PERS) == JUMP:
        g -= 1
    return g, end


@kernel
def _median_rate(samples, flags, g0, g1, alone, first, times, middle, work):
    """Median rate of the ramp [DN/s] (21.3); 0 when there is none. ``middle``: of its differences, if finite."""
    tgroup, one_time = times[0], times[1]
    if g1 - g0 == 1:
        # of one group, a zero frame counts as if it had integrated as long as the group;
        # one saturated integration makes the mean of all of them unknown
        return np.nan if flags[g0] & SAT else np.float64(samples[g0]) / one_time
    if alone or first:
        rate = np.float64(samples[g0]) / (times[2] if first else one_time)
        return 0.0 if np.isnan(rate) else rate
    # the official step divides every sample first, which changes nothing in single precision
    if np.isfinite(middle):
        return middle / tgroup
    count = 0
    for g in range(g0, g1 - 1):
        if (flags[g] | flags[g + 1]) & (DNU | SAT) or flags[g + 1] & JUMP:
            continue
        delta = np.float64(samples[g + 1]) - np.float64(samples[g])
        if not np.isnan(delta):
            work[count] = delta
            count += 1
    if count > 0:
        return median_of(work, count) / tgroup
    if flags[g0] & (DNU | SAT):
        return 0.0
    rate = np.float64(samples[g0]) / tgroup
    return 0.0 if np.isnan(rate) else rate


@kernel
def _add_segment(slope, variance, time, found):
    """Add a segment to ``found``, as `fit_flagged` describes it."""
    found[0] += slope / variance
    found[1] += 1.0 / variance
    found[2] += time
    found[3] += 1


@kernel
def _fit_segments(samples, flags, g0, g1, single_time, setting, rnoise, gain, found):
    """Add slope and variance of every segment to ``found``; returns the length of the longest, 0 without any.

    Of segments of one group, only the first counts, and only if there is no longer one.
    """
    tgroup = setting.times[0]
    longest, lone, g = 0, g0, g0
    while g < g1:
        start, end = segment_from(flags, g, g0, g1)
        n = end - start
        g = max(end, g + 1)
        if n == 1 and longest == 0:
            lone = start
        longest = max(longest, n)
        if n < 2:
            continue
        if n == 2:
            slope = (np.float64(samples[start + 1]) - np.float64(samples[start])) / tgroup
        else:
            slope = _weighted_slope(samples, start, n, setting.powers, rnoise, gain, tgroup)
        _add_segment(slope, read_variance(n, rnoise, gain, tgroup), tgroup * (n - 1), found)
    if longest == 1:
        slope = np.float64(samples[lone]) / single_time
        _add_segment(slope, read_variance(1, rnoise, gain, single_time), single_time, found)
    return longest


@kernel
def fit_flagged(samples, flags, first_read, setting, rnoise, gain, middle, work, found):
    """Fit one ramp with flags.

    Parameters
    ----------
    samples, flags : float32, uint8 [group]
        The ramp [DN]; the zero frame, if it is used, and what suppression flags are written into it.
    first_read : float
        Zero frame [DN]; 0: none.
    setting
        As `tsostream.operators.ramp_fit_walks.Setting`.
    rnoise, gain : float
        Noise of one group [e-], e-/DN.
    middle : float
        Median of the ramp's differences [DN] as its flags were when it came; not finite: not known.
    work : float64 [group]
        Scratch.
    found : float64 [5]
        Written: sum of slope / variance, sum of 1 / read variance, of t (n - 1) [s], number of segments, median rate.

    Returns
    -------
    bits, fitted, saturated, changed
        DQ bits, whether there is a segment at all, whether a group is saturated, whether the ramp was changed.
    """
    g0, g1, times, suppress = setting.g0, setting.g1, setting.times, setting.suppress
    bits = np.uint32(0)
    good = strict = lost = saturated = 0
    for g in range(g0, g1):
        good += (flags[g] & ~PERS) == 0
    changed = suppress and good == 1
    if changed:
        for g in range(g0, g1):
            flags[g] |= DNU
        middle = np.nan
    if g0 > 0:
        # the groups before it were discarded, and the jump with them
        changed |= (flags[g0] & JUMP) != 0
        flags[g0] &= ~JUMP
    for g in range(g0, g1):
        bits |= np.uint32(flags[g] & (JUMP | PERS))
        strict += flags[g] == 0
        lost += (flags[g] & (DNU | SAT)) != 0
        saturated += (flags[g] & SAT) != 0
    first = not suppress and strict == 0 and first_read != 0.0
    if first:
        # the zero frame stands for the first group, whose own flag for saturation is forgotten
        samples[g0] = first_read
        changed = True
        lost -= (flags[g0] & (DNU | SAT)) != 0
        saturated -= (flags[g0] & SAT) != 0
        flags[g0] = 0
    alone = not suppress and strict == 1 and flags[g0] == 0
    for k in range(5):
        found[k] = 0.0
    found[4] = _median_rate(samples, flags, g0, g1, alone, first, times, middle, work)
    first_saturated = (flags[g0] & SAT) != 0
    if first_saturated:
        bits |= INVALID
    if lost == g1 - g0:
        bits |= np.uint32(DNU)
        if saturated == g1 - g0:
            bits |= np.uint32(SAT)
        return bits, False, saturated > 0, changed
    if first_saturated:
        return bits, False, True, changed
    single_time = times[2] if first else (times[1] if alone else times[0])
    longest = _fit_segments(samples, flags, g0, g1, single_time, setting, rnoise, gain, found)
    return bits, longest > 0, saturated > 0, changed


@kernel
def error_variance(flags, g0, g1, level, rnoise, gain, tgroup):
    """Variance of a slope made of several segments, read and photon noise combined (21.6) [(DN/s)^2]."""
    longest, lone, total, g = 0, 0, 0.0, g0
    while g < g1:
        start, end = segment_from(flags, g, g0, g1)
        n = end - start
        g = max(end, g + 1)
        longest = max(longest, n)
        lone += n == 1
        if n > 1:
            poisson = level / (tgroup * gain * (n - 1))
            total += 1.0 / (poisson + read_variance(n, rnoise, gain, tgroup))
    if longest == 1:
        alone = 1.0 / (level / (tgroup * gain) + read_variance(1, rnoise, gain, tgroup))
        for _ in range(lone):
            total += alone
    return 1.0 / total

"""ramp_fit over all integrations of a segment file, as the official OLS_C fitter does it (spec stage 1, section 21).

The weights come from each ramp's own signal, and the Poisson variance from the mean of the integrations' median
rates: both depend on where the archive cut the exposure, which is why only the parity scope uses this. Arithmetic is
in double precision, the weights' power in single precision, results are stored in single precision.

A row goes through twice: slopes and median rates of every integration, then variances and the 2-D rate product. Ramps
without flags are dot products and sorting networks across the row; others follow the official code line by line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.ramp_fit_charge_loss import charge_loss_weights, replace_read_variance
from tsostream.operators.ramp_fit_tables import fit_tables
from tsostream.operators.rate_planes import RatePlanes
from tsostream.operators.sorting import short_median

__all__ = ["SegmentFit", "fit_segment", "read_variance"]

DNU, SAT = np.uint8(dq.DO_NOT_USE), np.uint8(dq.SATURATED)
JUMP, PERS = np.uint8(dq.JUMP_DET), np.uint8(dq.PERSISTENCE)
INVALID = np.uint32(dq.DO_NOT_USE | dq.SATURATED)
#: what stands for zero frames where there are none
NO_ZERO = np.empty((0, 0, 0), np.float32)
#: variances from here on are written as 0
LARGE_VARIANCE = 1e6
#: what the first walk leaves in ``err``: no fit, one segment, several segments
EMPTY, SINGLE, SEVERAL = np.float32(0), np.float32(1), np.float32(-1)


@kernel
def read_variance(length, rnoise, gain, time):
    """Variance of the slope of a segment from read noise [(DN/s)^2]; fewer than three groups count as two."""
    scatter = length * (length * length - 1.0) if length > 2 else 6.0
    return 12.0 * (rnoise / time) * (rnoise / time) / (scatter * gain * gain)


@kernel
def _weighted_slope(data, i, y, x, start, length, powers, rnoise, gain, tgroup):
    """Slope of three or more groups [DN/s]."""
    rise = np.float64(data[i, start + length - 1, y, x]) - np.float64(data[i, start, y, x])
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
        value = np.float64(data[i, start + k, y, x])
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
def _segment_from(groupdq, i, y, x, g, g0, g1):
    """Next run of good groups from ``g`` on: (start, end); a lone jump right before it belongs to it."""
    while g < g1 and groupdq[i, g, y, x] & ~PERS:
        g += 1
    end = g
    while end < g1 and not groupdq[i, end, y, x] & ~PERS:
        end += 1
    if g > g0 and g < g1 and (groupdq[i, g - 1, y, x] & ~PERS) == JUMP:
        g -= 1
    return g, end


@kernel
def _longest_segment(groupdq, i, y, x, g0, g1):
    """Length of the longest segment; 0 when there is none."""
    longest, g = 0, g0
    while g < g1:
        start, end = _segment_from(groupdq, i, y, x, g, g0, g1)
        longest = max(longest, end - start)
        g = max(end, g + 1)
    return longest


@kernel
def _median_rate(data, groupdq, i, y, x, g0, g1, alone, first, times, work):
    """Median rate of one ramp [DN/s] with flags (21.3); 0 when there is none."""
    tgroup, one_time = times[0], times[1]
    if g1 - g0 == 1:
        # of one group, a zero frame counts as if it had integrated as long as the group;
        # one saturated integration makes the mean of all of them unknown
        return np.nan if groupdq[i, g0, y, x] & SAT else np.float64(data[i, g0, y, x]) / one_time
    if alone or first:
        rate = np.float64(data[i, g0, y, x]) / (times[2] if first else one_time)
        return 0.0 if np.isnan(rate) else rate
    count = 0
    for g in range(g0, g1 - 1):
        if (groupdq[i, g, y, x] | groupdq[i, g + 1, y, x]) & (DNU | SAT) or groupdq[i, g + 1, y, x] & JUMP:
            continue
        delta = np.float64(data[i, g + 1, y, x]) / tgroup - np.float64(data[i, g, y, x]) / tgroup
        if not np.isnan(delta):
            work[count] = delta
            count += 1
    if count > 0:
        return short_median(work, count)
    if groupdq[i, g0, y, x] & (DNU | SAT):
        return 0.0
    rate = np.float64(data[i, g0, y, x]) / tgroup
    return 0.0 if np.isnan(rate) else rate


@kernel
def _fit_flagged(
    data, groupdq, first_read, i, y, x, g0, g1, powers, suppress, rnoise, gain, times, work, found
):
    """Fit one ramp with flags.

    Returns DQ bits, whether there is a segment at all, and whether a group is saturated; ``found`` receives the sum of
    slope / variance, the sum of 1 / read variance, of t (n - 1) [s], the number of segments and the median rate.
    """
    tgroup = times[0]
    bits = np.uint32(0)
    ngroups = g1 - g0
    good = strict = lost = saturated = 0
    for g in range(g0, g1):
        good += (groupdq[i, g, y, x] & ~PERS) == 0
    if suppress and good == 1:
        for g in range(g0, g1):
            groupdq[i, g, y, x] |= DNU
    if g0 > 0:
        # the groups before it were discarded, and the jump with them
        groupdq[i, g0, y, x] &= ~JUMP
    for g in range(g0, g1):
        flags = groupdq[i, g, y, x]
        bits |= np.uint32(flags & (JUMP | PERS))
        strict += flags == 0
        lost += (flags & (DNU | SAT)) != 0
        saturated += (flags & SAT) != 0
    first = not suppress and strict == 0 and first_read != 0.0
    if first:
        # the zero frame stands for the first group, whose own flag for saturation is forgotten
        data[i, g0, y, x] = first_read
        lost -= (groupdq[i, g0, y, x] & (DNU | SAT)) != 0
        saturated -= (groupdq[i, g0, y, x] & SAT) != 0
        groupdq[i, g0, y, x] = 0
    alone = not suppress and strict == 1 and groupdq[i, g0, y, x] == 0
    for k in range(5):
        found[k] = 0.0
    found[4] = _median_rate(data, groupdq, i, y, x, g0, g1, alone, first, times, work)
    first_saturated = (groupdq[i, g0, y, x] & SAT) != 0
    if first_saturated:
        bits |= INVALID
    if lost == ngroups:
        bits |= np.uint32(DNU)
        if saturated == ngroups:
            bits |= np.uint32(SAT)
        return bits, False, saturated > 0
    longest = 0 if first_saturated else _longest_segment(groupdq, i, y, x, g0, g1)
    g = g0
    while g < g1 and longest > 0:
        start, end = _segment_from(groupdq, i, y, x, g, g0, g1)
        n = end - start
        g = max(end, g + 1)
        if n < 1 or (n == 1 and (longest > 1 or found[3] > 0)):
            continue
        time = tgroup
        if n == 1 and (alone or first):
            time = times[2] if first else times[1]
        if n == 1:
            slope = np.float64(data[i, start, y, x]) / time
        elif n == 2:
            slope = (np.float64(data[i, start + 1, y, x]) - np.float64(data[i, start, y, x])) / tgroup
        else:
            slope = _weighted_slope(data, i, y, x, start, n, powers, rnoise, gain, tgroup)
        variance = read_variance(n, rnoise, gain, time)
        found[0] += slope / variance
        found[1] += 1.0 / variance
        found[2] += time * max(n - 1, 1)
        found[3] += 1
    return bits, longest > 0, saturated > 0


@kernel
def _error_variance(groupdq, i, y, x, g0, g1, level, rnoise, gain, tgroup):
    """Variance of a slope made of several segments, read and photon noise combined (21.6) [(DN/s)^2]."""
    longest = _longest_segment(groupdq, i, y, x, g0, g1)
    total, g = 0.0, g0
    while g < g1:
        start, end = _segment_from(groupdq, i, y, x, g, g0, g1)
        n = end - start
        g = max(end, g + 1)
        if n > 1 or (n == 1 and longest == 1):
            poisson = level / (tgroup * gain * max(n - 1, 1))
            total += 1.0 / (poisson + read_variance(n, rnoise, gain, tgroup))
    return 1.0 / total


@kernel
def _fit_clean_row(data, i, y, x0, x1, g0, g1, pairs, weights, gain, rnoise, lanes, classes, rise, middle):
    """Slopes and median rates of a row as if no ramp had a flag: ``rise`` and ``middle`` [DN/group]."""
    count, zero = g1 - g0 - 1, np.float32(0.0)
    for x in range(x0, x1):
        rise[x] = 0.0
        middle[x] = 0.0
    if count < 1:
        return
    for g in range(count):
        for x in range(x0, x1):
            lanes[g, x] = data[i, g0 + g + 1, y, x] - data[i, g0 + g, y, x]
    for c in range(pairs.shape[0]):
        a, b = pairs[c, 0], pairs[c, 1]
        for x in range(x0, x1):
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            low, high = lanes[a, x] + zero, lanes[b, x] + zero
            lanes[a, x] = min(low, high)
            lanes[b, x] = max(low, high)
    for x in range(x0, x1):
        middle[x] = 0.5 * (np.float64(lanes[(count - 1) // 2, x]) + np.float64(lanes[count // 2, x]))
        # the class of signal-to-noise, without the root and the branches of `weight_power`
        signal = (np.float64(data[i, g1 - 1, y, x]) - np.float64(data[i, g0, y, x])) * np.float64(gain[y, x])
        total = np.float64(rnoise[y, x]) * np.float64(rnoise[y, x]) + signal
        total = total if signal > 0.0 else np.inf
        square = signal * signal
        number = np.int32(square >= 25.0 * total) + np.int32(square >= 100.0 * total)
        number += np.int32(square >= 400.0 * total) + np.int32(square >= 2500.0 * total)
        classes[x] = number + np.int32(square >= 10000.0 * total)
    for g in range(1, count + 1):
        for x in range(x0, x1):
            away = np.float64(data[i, g0 + g, y, x]) - np.float64(data[i, g0, y, x])
            rise[x] += weights[classes[x], g] * away


@kernel
def _prepare_row(pixeldq, gain, rnoise, tgroup, ngroups, y, x0, x1, variance, clean, rate_bits):
    """Find read variance and pixels for which ramps without flags need no care, and begin the product's DQ."""
    for x in range(x0, x1):
        rate_bits[y, x] = pixeldq[y, x]
        noise, electrons = np.float64(rnoise[y, x]), np.float64(gain[y, x])
        variance[x] = read_variance(ngroups, noise, electrons, tgroup)
        usable = noise > 0.0 and electrons > 0.0 and not pixeldq[y, x] & INVALID
        clean[x] = usable and ngroups > 1 and variance[x] < LARGE_VARIANCE


@kernel
def _add_plain(plain, variance, used, sums, x0, x1):
    """Add the ramps without flags to the sums over the integrations."""
    for x in range(x0, x1):
        if plain[1, x] > 0.0:
            sums[0, x] += plain[0, x] / variance[x]
            sums[1, x] += plain[1, x] / variance[x]
            sums[2, x] += plain[1, x] * used


@kernel
def fit_segment(
    data, groupdq, zero, pixeldq, gain, rnoise, dark, weights, powers, pairs, times, suppress, g0, g1, lanes,
    slope, err, var_poisson, var_rnoise, bits,
    rate_slope, rate_err, rate_poisson, rate_rnoise, rate_bits, y0, y1, x0, x1,
):  # fmt: skip
    """Fit every ramp of a segment, and the mean over its integrations.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal of all integrations of the segment [DN].
    groupdq : uint8 [integration, group, y, x]
        Flags; ramps with one good group lose it when ``suppress`` is set.
    zero : float32 [integration, y, x]
        Zero frames [DN], 0: bad; stand for the first group of ramps without any good group unless ``suppress``
        (``data`` and ``groupdq`` are changed). Without integrations: none.
    pixeldq : uint32 [y, x]
        Static flags.
    gain, rnoise, dark : float32 [y, x]
        e-/DN, noise of one group [e-], average dark current.
    weights : float64 [power, group]
        As `tsostream.operators.ramp_fit_tables.official_weights` for ``g1 - g0`` groups.
    powers : float64 [power, length, group]
        As `tsostream.operators.ramp_fit_tables.raw_weights`, for the pieces of ramps with flags.
    pairs : int32 [comparator, 2]
        As `tsostream.operators.sorting.comparators` for ``g1 - g0 - 1`` values.
    times : float64 [3]
        Group time, time of a group that stands alone, frame time [s].
    suppress : bool
        suppress_one_group.
    g0, g1 : int
        The groups in use.
    lanes : float32 [group, x]
        Scratch.
    slope, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Written [DN/s, DN/s, (DN/s)^2].
    bits : uint32 [integration, y, x]
        DQ, written.
    rate_slope, rate_err, rate_poisson, rate_rnoise, rate_bits : [y, x]
        The product over all integrations (21.7), written.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    n, nx, ngroups = data.shape[0], data.shape[3], g1 - g0
    seen, clean = np.empty(nx, np.uint8), np.empty(nx, np.uint8)
    any_saturated, classes = np.empty(nx, np.uint8), np.empty(nx, np.int32)
    rise, middle, variance = np.empty(nx), np.empty(nx), np.empty(nx)
    # slope / variance, 1 / read variance, t (n - 1), median rate, integrations without use, saturated ones; and of
    # ramps without flags: slopes, and how many
    sums, plain = np.empty((6, nx)), np.empty((2, nx))
    work, found = np.empty(data.shape[1]), np.empty(5)
    per_second, used = 1.0 / times[0], times[0] * (ngroups - 1)
    for y in range(y0, y1):
        sums[:, :] = 0.0
        plain[:, :] = 0.0
        any_saturated[:] = 0
        _prepare_row(pixeldq, gain, rnoise, times[0], ngroups, y, x0, x1, variance, clean, rate_bits)
        for i in range(n):
            for x in range(x0, x1):
                seen[x] = clean[x] == 0
            for g in range(g0, g1):
                for x in range(x0, x1):
                    seen[x] |= groupdq[i, g, y, x]
            _fit_clean_row(
                data, i, y, x0, x1, g0, g1, pairs, weights, gain, rnoise, lanes, classes, rise, middle
            )
            for x in range(x0, x1):
                value = rise[x] * per_second
                weight = 1.0 if seen[x] == 0 else 0.0
                slope[i, y, x] = value
                err[i, y, x] = SINGLE
                var_rnoise[i, y, x] = variance[x]
                var_poisson[i, y, x] = used * np.float64(gain[y, x])
                bits[i, y, x] = pixeldq[y, x]
                plain[0, x] += value if seen[x] == 0 else 0.0
                plain[1, x] += weight
                sums[3, x] += middle[x] * per_second if seen[x] == 0 else 0.0
            for x in range(x0, x1):
                if seen[x]:
                    first_read = zero[i, y, x] if zero.shape[0] > 0 else np.float32(0.0)
                    _fit_flagged_pixel(
                        data, groupdq, first_read, pixeldq, i, y, x, g0, g1, powers, suppress, np.float64(rnoise[y, x]),
                        np.float64(gain[y, x]), times, work, found, sums, any_saturated,
                        slope, err, var_poisson, var_rnoise, bits, rate_bits,
                    )  # fmt: skip
        _add_plain(plain, variance, used, sums, x0, x1)
        _finish_row(
            groupdq, gain, rnoise, dark, times, g0, g1, y, x0, x1, sums, any_saturated, rise,
            slope, err, var_poisson, var_rnoise,
            rate_slope, rate_err, rate_poisson, rate_rnoise, rate_bits,
        )  # fmt: skip


@kernel
def _fit_flagged_pixel(
    data, groupdq, first_read, pixeldq, i, y, x, g0, g1, powers, suppress, noise, electrons, times, work, found, sums,
    any_saturated, slope, err, var_poisson, var_rnoise, bits, rate_bits,
):  # fmt: skip
    """Fit one ramp with flags, write its results, and add them to the sums over the integrations."""
    more, fitted, saturated = _fit_flagged(
        data, groupdq, first_read, i, y, x, g0, g1, powers, suppress, noise, electrons, times, work, found
    )
    own = pixeldq[y, x] | more
    rate_bits[y, x] |= more & np.uint32(JUMP | PERS)
    sums[3, x] += found[4]
    variance = 1.0 / found[1]
    if variance >= LARGE_VARIANCE:
        variance = 0.0
    value = 0.0
    if fitted:
        value = found[0] * variance
        for k in range(3):
            sums[k, x] += found[k]
    unusable = (own & INVALID) != 0
    slope[i, y, x] = np.nan if unusable else value
    empty = unusable or not fitted
    single = found[3] < 2 and variance > 0.0
    err[i, y, x] = EMPTY if empty else (SINGLE if single else SEVERAL)
    var_rnoise[i, y, x] = 0.0 if empty else variance
    var_poisson[i, y, x] = found[2] * electrons
    sums[4, x] += (own & np.uint32(DNU)) != 0
    sums[5, x] += (own & np.uint32(SAT)) != 0
    if saturated:
        own |= np.uint32(SAT)
        any_saturated[x] = 1
    bits[i, y, x] = own


@kernel
def _photon_level(mean, dark):
    """Signal that makes photon noise [DN/s]; an unknown or negative mean rate counts as 0."""
    return (mean if mean > 0.0 else 0.0) + np.float64(dark)


@kernel
def _finish_row(
    groupdq, gain, rnoise, dark, times, g0, g1, y, x0, x1, sums, any_saturated, levels,
    slope, err, var_poisson, var_rnoise, rate_slope, rate_err, rate_poisson, rate_rnoise, rate_bits,
):  # fmt: skip
    """Turn what the first walk left into variances, and write the product over the integrations."""
    n = slope.shape[0]
    for x in range(x0, x1):
        levels[x] = _photon_level(sums[3, x] / n, dark[y, x])
    for i in range(n):
        several = 0
        for x in range(x0, x1):
            kind = err[i, y, x]
            poisson = levels[x] / np.float64(var_poisson[i, y, x])
            total = poisson + np.float64(var_rnoise[i, y, x])
            root = np.sqrt(total)
            root = 0.0 if (total > LARGE_VARIANCE) | (kind == EMPTY) else root
            err[i, y, x] = SEVERAL if kind == SEVERAL else np.float32(root)
            written = (poisson > 0.0) & (poisson < LARGE_VARIANCE) & (kind != EMPTY)
            var_poisson[i, y, x] = poisson if written else 0.0
            several += kind == SEVERAL
        if several == 0:
            continue
        for x in range(x0, x1):
            if err[i, y, x] == SEVERAL:
                total = _error_variance(
                    groupdq,
                    i,
                    y,
                    x,
                    g0,
                    g1,
                    levels[x],
                    np.float64(rnoise[y, x]),
                    np.float64(gain[y, x]),
                    times[0],
                )
                err[i, y, x] = 0.0 if total > LARGE_VARIANCE else np.sqrt(total)
    for x in range(x0, x1):
        if sums[4, x] == n:
            rate_bits[y, x] |= np.uint32(DNU)
        if sums[5, x] == n:
            rate_bits[y, x] |= np.uint32(SAT)
        poisson = levels[x] / (np.float64(gain[y, x]) * sums[2, x]) if sums[2, x] > 0.0 else 0.0
        if poisson >= LARGE_VARIANCE or not poisson > 0.0:
            poisson = 0.0
        read = 1.0 / sums[1, x] if sums[1, x] > 0.0 else sums[1, x]
        if read >= LARGE_VARIANCE:
            read = 0.0
        value = sums[0, x] * read
        error = np.sqrt(poisson + read)
        if rate_bits[y, x] & INVALID:
            value = np.nan
            poisson = read = error = 0.0
        if any_saturated[x]:
            rate_bits[y, x] |= np.uint32(SAT)
        rate_slope[y, x] = value
        rate_err[y, x] = error
        rate_poisson[y, x] = poisson
        rate_rnoise[y, x] = read


@dataclass(frozen=True)
class SegmentFit:
    """The OLS_C fit, joined to a window of an exposure.

    Parameters
    ----------
    info
        The exposure.
    gain, read : float32 [y, x]
        References of the window.
    dark : float32 [y, x]
        Average dark current of the window.
    suppress_one_group
        As the step's parameter; ramps of one group are never suppressed.
    charge_loss
        Whether charge migration may have taken groups (21.8).
    """

    info: ExposureInfo
    gain: np.ndarray
    read: np.ndarray
    dark: np.ndarray
    suppress_one_group: bool = True
    charge_loss: bool = False

    def run(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        pixeldq: np.ndarray,
        out: RatePlanes,
        rate: RatePlanes,
        window: tuple[int, int, int, int],
        groups: tuple[int, int] | None = None,
        zero: np.ndarray | None = None,
    ) -> None:
        """Fit rows ``y0 <= y < y1`` and columns ``x0 <= x < x1`` of all integrations.

        Parameters
        ----------
        data, groupdq, pixeldq
            As `fit_segment`.
        out, rate
            Written.
        window
            ``(y0, y1, x0, x1)``.
        groups
            First group in use and the one after the last; default all.
        zero
            Zero frames, if there are some.
        """
        info, (g0, g1) = self.info, groups or (0, data.shape[1])
        scale = self.gain.astype(np.float64) / np.sqrt(2.0 * info.nframes)
        noise = (self.read * scale).astype(np.float32)
        tgroup, tframe = float(np.float32(info.group_time)), float(np.float32(info.frame_time))
        times = np.array([tgroup, (info.nframes + 1.0) * tframe / 2.0, tframe])
        # a ramp of one group is never suppressed, whatever was discarded later
        suppress = self.suppress_one_group and data.shape[1] > 1
        count = g1 - g0
        tables = fit_tables(count)
        lanes = np.empty((max(count - 1, 1), data.shape[3]), np.float32)
        first = NO_ZERO if zero is None else zero
        arguments: tuple[Any, ...] = (
            data, groupdq, first, pixeldq, self.gain, noise, self.dark, *tables, times, suppress, g0, g1, lanes,
            *out.arrays(), *rate.arrays(), *window,
        )  # fmt: skip
        if not self.charge_loss:
            fit_segment(*arguments)
            return
        y0, y1, x0, x1 = window
        lost = np.empty((len(data), y1 - y0, x1 - x0))
        charge_loss_weights(groupdq, self.gain, noise, times, suppress, g0, g1, lost, *window)
        fit_segment(*arguments)
        replace_read_variance(lost, out.var_rnoise, rate.var_rnoise, *window)

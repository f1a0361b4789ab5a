"""Kernels of the streaming ramp fit, and the weights of ramps without flags (spec stage 1, section 21)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.ramp_rows import (
    RUN,
    choose_powers,
    collect_flags,
    common_groups,
    rise_of_ramps,
    rows_alike,
    shorter,
    write_clean,
)

__all__ = [
    "POWERS",
    "choose_classes",
    "clean_weights",
    "finish_variance",
    "fit_ramps",
    "fit_touched",
    "weight_power",
    "weight_tables",
]

#: upper limits of signal-to-noise and the exponents of the optimal weighting (Fixsen et al. 2000, as in spec 21.5)
SNR_LIMITS = np.array([5.0, 10.0, 20.0, 50.0, 100.0])
POWERS = np.array([0.0, 0.4, 1.0, 3.0, 6.0, 10.0])

DNU = np.uint8(dq.DO_NOT_USE)
SAT = np.uint8(dq.SATURATED)
JUMP = np.uint8(dq.JUMP_DET)
PERS = np.uint8(dq.PERSISTENCE)


@kernel
def weight_power(signal, read2, gain):
    """Index of the weight exponent for a rise of ``signal`` [DN] with read-noise variance ``read2`` [e-^2]."""
    total = read2 + signal * gain
    snr = 0.0
    if total > 0.0 and gain > 0.0:
        snr = max(signal * gain / np.sqrt(total), 0.0)
    index = 0
    for limit in SNR_LIMITS:
        if snr >= limit:
            index += 1
    return index


def clean_weights(ngroups: int) -> np.ndarray:
    """Weights whose dot product with a clean ramp is its rise per group.

    Parameters
    ----------
    ngroups
        Groups in the ramp, at least 2.

    Returns
    -------
    weights : float64 [power, group]
        One row for each exponent of `POWERS`; each row sums to zero.
    """
    x = np.arange(ngroups, dtype=np.float64)
    middle = (ngroups - 1) / 2.0
    rows = []
    for power in POWERS:
        w = np.abs((x - middle) / middle) ** power if ngroups > 2 else np.ones(2)
        centre = (w * x).sum() / w.sum()
        rows.append(w * (x - centre) / (w * (x - centre) ** 2).sum())
    return np.array(rows)


def weight_tables(ngroups: int) -> np.ndarray:
    """`clean_weights` of every length up to ``ngroups``, one after the other.

    Returns
    -------
    tables : float64 [power, place]
        The weights of a ramp of ``n`` groups begin at place ``n (n - 1) / 2``.
    """
    tables = np.zeros((len(POWERS), ngroups * (ngroups + 1) // 2))
    for n in range(2, ngroups + 1):
        tables[:, n * (n - 1) // 2 : n * (n + 1) // 2] = clean_weights(n)
    return tables


@kernel
def choose_classes(expected, gain, read2, duration, classes):
    """Choose the weights of each pixel by the signal the template expects.

    Parameters
    ----------
    expected : float32 [y, x]
        Slope of the template [DN/s]; NaN counts as no signal.
    gain : float32 [y, x]
        e-/DN.
    read2 : float32 [y, x]
        Read-noise variance of one group [e-^2].
    duration : float
        Time from the first to the last group [s].
    classes : int32 [y, x]
        Index of the exponent, written.
    """
    for y in range(expected.shape[0]):
        for x in range(expected.shape[1]):
            signal = np.float64(expected[y, x]) * duration
            classes[y, x] = weight_power(signal if np.isfinite(signal) else 0.0, read2[y, x], gain[y, x])


@kernel
def _fit_segment(data, i, y, x, start, length, power, tables, tgroup):
    """Slope [DN/s] of ``length >= 2`` groups by weighted least squares."""
    place = length * (length - 1) // 2
    origin = np.float64(data[i, start, y, x])
    rise = 0.0
    for k in range(1, length):
        rise += tables[power, place + k] * (np.float64(data[i, start + k, y, x]) - origin)
    return rise / tgroup


@kernel
def _next_segment(groupdq, i, y, x, start):
    """Next run of good groups from ``start`` on: (start, end). A jump opens the run it precedes."""
    ngroups = groupdq.shape[1]
    g = start
    while g < ngroups and groupdq[i, g, y, x] & ~PERS:
        g += 1
    end = g
    while end < ngroups and not groupdq[i, end, y, x] & ~PERS:
        end += 1
    if g > 0 and g < ngroups and (groupdq[i, g - 1, y, x] & ~PERS) == JUMP:
        g -= 1
    return g, end


@kernel
def _fit_flagged(
    data, groupdq, first_read, i, y, x, gain, read2, expected, tables, tgroup, first_time, tframe, suppress
):  # fmt: skip
    """Fit one flagged ramp; ``first_read`` [DN] is what is known where no group is good, 0 for nothing.

    Returns slope [DN/s], read-noise variance [(DN/s)^2], number of differences K (0: no slope; fewer than one for a
    single group that integrates longer than a group time) and DQ bits.
    """
    ngroups = groupdq.shape[1]
    bits = np.uint32(0)
    good = unflagged = 0
    for g in range(ngroups):
        flags = groupdq[i, g, y, x]
        bits |= np.uint32(flags & (JUMP | PERS | SAT))
        good += (flags & ~PERS) == 0
        unflagged += flags == 0
    if good == 0 and not suppress and first_read != 0.0 and np.isfinite(first_read):
        # one read, a frame time after the reset, before the pixel saturated
        ratio = tframe / tgroup
        return first_read / tframe, 2.0 * read2 / (tframe * gain) ** 2, ratio, bits
    if good == 0 or (suppress and good == 1) or groupdq[i, 0, y, x] & SAT:
        return np.nan, np.nan, 0.0, bits | np.uint32(DNU)
    longest, g = 0, 0
    while g < ngroups:
        start, end = _next_segment(groupdq, i, y, x, g)
        longest = max(longest, end - start)
        g = max(end, g + 1)
    # read-noise variances relative to that of a unit: the weights do not depend on the pixel's read noise
    weight = slope = used = 0.0
    unit = read2 / (tgroup * gain) ** 2
    g = 0
    while g < ngroups:
        start, end = _next_segment(groupdq, i, y, x, g)
        n = end - start
        g = max(end, g + 1)
        if n < 1 or (n == 1 and (longest > 1 or used > 0)):
            continue
        if n == 1:
            # the only good group of a ramp is its first: it has integrated from the reset on
            time = first_time if unflagged == 1 and groupdq[i, 0, y, x] == 0 else tgroup
            one = data[i, start, y, x] / time
            variance = 2.0 * (tgroup / time) ** 2
            used = time / tgroup
        elif n == 2:
            one = np.float64(data[i, start + 1, y, x] - data[i, start, y, x]) / tgroup
            variance = 2.0
            used += 1.0
        else:
            rise = np.float64(data[i, end - 1, y, x] - data[i, start, y, x])
            if np.isfinite(expected):
                rise = expected * tgroup * (n - 1)
            one = _fit_segment(data, i, y, x, start, n, weight_power(rise, read2, gain), tables, tgroup)
            variance = 12.0 / (np.float64(n) ** 3 - n)
            used += n - 1.0
        weight += 1.0 / variance
        slope += one / variance
    return slope / weight, unit / weight, used, bits


@kernel
def fit_ramps(
    data, groupdq, zero, pixeldq, gain, read2, expected, tables, fixed, clean_unit, clean_rnoise, tgroup,
    first_time, tframe, suppress, slope, unit_variance, var_rnoise, bits, y0, y1, top,
):  # fmt: skip
    """Fit every ramp.

    Groups that no pixel of a row can use, at either end, shorten the ramps of the row; they cost nothing else.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN]; its first row is row ``top``.
    groupdq : uint8 [integration, group, y, x]
        Flags; as ``data``.
    zero : float32 [integration, y, x]
        Zero frames [DN], used where no group is good unless ``suppress``; 0: bad. Without integrations: none.
    pixeldq : uint32 [y, x]
        Static flags, copied into ``bits``.
    gain : float32 [y, x]
        e-/DN.
    read2 : float32 [y, x]
        Read-noise variance of one group [e-^2].
    expected : float32 [y, x]
        The template's slope [DN/s] for the choice of weights, NaN to take it from the ramp.
    tables : float64 [power, place]
        As `weight_tables`.
    fixed : int32 [y, x]
        As `choose_classes`, where the template has chosen; without rows: chosen here from each ramp.
    clean_unit, clean_rnoise : float32 [y, x]
        ``unit_variance`` and ``var_rnoise`` of a ramp of all groups without flags.
    tgroup : float
        Group time [s].
    first_time : float
        Time a one-group ramp integrates [s].
    tframe : float
        Frame time: what the zero frame integrates [s].
    suppress : bool
        suppress_one_group.
    slope : float32 [integration, y, x]
        [DN/s], written; NaN where there is none.
    unit_variance : float32 [integration, y, x]
        Poisson variance for a slope of 1 DN/s, written.
    var_rnoise : float32 [integration, y, x]
        [(DN/s)^2], written.
    bits : uint32 [integration, y, x]
        DQ, written.
    y0, y1, top : int
        Rows, and the one that ``data`` begins with.
    """
    n, ngroups, held, nx = data.shape
    samples, marks = data.reshape(n, ngroups, held * nx), groupdq.reshape(n, ngroups, held * nx)
    longest = nx * max(RUN // nx, 1)
    # by eights for a quick look at which ramps have a flag at all
    seen, care = np.empty(longest, np.uint8), np.zeros((longest + 7) // 8, np.uint64)
    flagged = care.view(np.uint8)
    classes, rise, signal = np.empty(longest, np.int32), np.empty(longest, np.float32), np.empty(longest)
    per_second = np.float32(1.0 / (tgroup if ngroups > 1 else first_time))
    static, units, reads = (
        pixeldq.reshape(pixeldq.size),
        clean_unit.reshape(gain.size),
        clean_rnoise.reshape(gain.size),
    )
    for i in range(n):
        y = y0
        while y < y1:
            first, last = common_groups(groupdq, i, y - top)
            end = rows_alike(groupdq, i, y - top, y1 - top, first, last) + top
            low, high, width = y * nx, end * nx, (end - y) * nx
            at, behind = low - top * nx, high - top * nx
            if last - first < min(ngroups, 2):
                first, last = 0, ngroups
            collect_flags(marks, i, at, first, last, seen[:width])
            if ngroups == 1:
                rise[:width] = samples[i, 0, at:behind]
            else:
                if fixed.shape[0] > 0 and last - first == ngroups:
                    classes[:width] = fixed.reshape(gain.size)[low:high]
                else:
                    choose_powers(
                        samples[i, first, at:behind], samples[i, last - 1, at:behind],
                        expected.reshape(gain.size)[low:high], tgroup, last - first - 1,
                        read2.reshape(gain.size)[low:high], gain.reshape(gain.size)[low:high], signal, classes[:width],
                    )  # fmt: skip
                rise_of_ramps(samples, i, at, first, last, classes[:width], tables, rise[:width])
            more, less = shorter(ngroups, last - first)
            write_clean(
                rise, seen, static[low:high], units[low:high], reads[low:high], per_second, more, less,
                slope[i, y:end].reshape(width), unit_variance[i, y:end].reshape(width),
                var_rnoise[i, y:end].reshape(width), bits[i, y:end].reshape(width), flagged,
            )  # fmt: skip
            for k in range((width + 7) // 8):
                if care[k] == 0:
                    continue
                for p in range(8 * k, min(8 * k + 8, width)):
                    if flagged[p]:
                        _fit_one(
                            data, groupdq, zero, gain, read2, expected, tables, tgroup, first_time, tframe, suppress,
                            slope, unit_variance, var_rnoise, bits, i, y + p // nx, p % nx, top,
                        )  # fmt: skip
            y = end


@kernel
def _fit_one(
    data, groupdq, zero, gain, read2, expected, tables, tgroup, first_time, tframe, suppress,
    slope, unit_variance, var_rnoise, bits, i, y, x, top,
):  # fmt: skip
    """Fit one ramp with flags and write what comes of it; arguments as in `fit_ramps`."""
    first_read = np.float64(zero[i, y, x]) if zero.shape[0] > 0 else 0.0
    value, variance, used, found = _fit_flagged(
        data, groupdq, first_read, i, y - top, x, np.float64(gain[y, x]), np.float64(read2[y, x]),
        np.float64(expected[y, x]), tables, tgroup, first_time, tframe, suppress,
    )  # fmt: skip
    bits[i, y, x] |= found
    if used > 0 and not bits[i, y, x] & DNU:
        slope[i, y, x] = value
        unit_variance[i, y, x] = 1.0 / (tgroup * gain[y, x] * used)
        var_rnoise[i, y, x] = variance
    else:
        slope[i, y, x] = np.nan
        unit_variance[i, y, x] = np.nan
        var_rnoise[i, y, x] = np.nan


@kernel
def fit_touched(
    data, groupdq, touched, zero, pixeldq, gain, read2, expected, tables, tgroup, first_time, tframe, suppress,
    slope, unit_variance, var_rnoise, bits, y0, y1,
):  # fmt: skip
    """Fit again the ramps that got flags after `fit_ramps`.

    Parameters
    ----------
    touched : uint8 [integration, y, x]
        1 for such pixels; the last column says whether the row has one.
    data, groupdq, zero, pixeldq, gain, read2, expected, tables, tgroup, first_time, tframe, suppress
        As `fit_ramps`.
    slope, unit_variance, var_rnoise, bits
        As `fit_ramps`, written for these pixels.
    y0, y1 : int
        Rows.
    """
    n, _, _, nx = data.shape
    for i in range(n):
        for y in range(y0, y1):
            if not touched[i, y, nx]:
                continue
            for x in range(nx):
                if touched[i, y, x]:
                    bits[i, y, x] = pixeldq[y, x]
                    _fit_one(
                        data, groupdq, zero, gain, read2, expected, tables, tgroup, first_time, tframe, suppress,
                        slope, unit_variance, var_rnoise, bits, i, y, x, 0,
                    )  # fmt: skip


@kernel
def finish_variance(slope, unit_variance, var_rnoise, err, template, dark, scale, y0, y1):
    """Turn the unit variance into the Poisson variance, and add up the error.

    Parameters
    ----------
    slope : float32 [integration, y, x]
        [DN/s]; read where the template is NaN.
    unit_variance : float32 [integration, y, x]
        In: variance per DN/s. Out: Poisson variance [(DN/s)^2].
    var_rnoise : float32 [integration, y, x]
        [(DN/s)^2].
    err : float32 [integration, y, x]
        [DN/s], written.
    template : float32 [y, x]
        Slope of the template [DN/s], NaN to use the integration's own.
    dark : float32 [y, x]
        Average dark current, added to the slope.
    scale : float64 [integration]
        Flux scale of each integration.
    y0, y1 : int
        Rows.
    """
    for i in range(slope.shape[0]):
        factor = np.float32(scale[i])
        for y in range(y0, y1):
            for x in range(slope.shape[2]):
                level = template[y, x] * factor
                if np.isnan(level):
                    level = slope[i, y, x]
                unit_variance[i, y, x] *= max(level, np.float32(0.0)) + dark[y, x]
                err[i, y, x] = np.sqrt(unit_variance[i, y, x] + var_rnoise[i, y, x])

"""The official OLS_C fit over all integrations of a file, for a run of pixels (spec stage 1, section 21).

Pixels are one axis here: a run of them goes through twice, slopes and median rates of every integration, then variances
and the 2-D rate product. Ramps without flags are dot products and sorting networks across the run
(`tsostream.operators.ramp_fit_lanes`), and those of a pixel share all but the slope; others follow the official code
line by line (`tsostream.operators.ramp_fit_pieces`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.ramp_fit_lanes import (
    LANES,
    find_places,
    fit_clean,
    make_lanes,
    see_flags,
    take_ramps,
    take_rows,
)
from tsostream.operators.ramp_fit_pieces import INVALID, error_variance, fit_flagged, read_variance

__all__ = ["Pixels", "Planes", "Ramps", "Setting", "fit_segment"]

DNU, SAT = np.uint32(dq.DO_NOT_USE), np.uint32(dq.SATURATED)
MARKS = np.uint32(dq.JUMP_DET | dq.PERSISTENCE)
#: variances from here on are written as 0
LARGE_VARIANCE = 1e6
#: what the first walk leaves in ``err``: no fit, one segment, several segments, a ramp without flags
EMPTY, SINGLE, SEVERAL, PLAIN = np.float32(0), np.float32(1), np.float32(-1), np.float32(2)
#: pixels that are taken through all integrations before the next ones
CHUNK = 512


class Ramps(NamedTuple):
    """All integrations of some pixels.

    Parameters
    ----------
    data : float32 [integration, group, pixel]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, pixel]
        Flags; ramps with one good group lose it when it is to be suppressed.
    zero : float32 [integration, pixel]
        Zero frames [DN], 0: bad; stand for the first group of ramps without any good group unless that is suppressed
        (``data`` and ``groupdq`` are changed). Without integrations: none.
    """

    data: np.ndarray
    groupdq: np.ndarray
    zero: np.ndarray


class Pixels(NamedTuple):
    """What is known of each pixel.

    Parameters
    ----------
    bits : uint32 [pixel]
        Static flags.
    gain, noise, dark : float32 [pixel]
        e-/DN, noise of one group [e-], average dark current [DN/s].
    """

    bits: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    dark: np.ndarray


class Setting(NamedTuple):
    """What is the same for all ramps.

    Parameters
    ----------
    weights, powers, pairs
        As `tsostream.operators.ramp_fit_tables.fit_tables` for ``g1 - g0`` groups: float64 [power, group],
        float64 [power, length, group], int32 [comparator, 2].
    times : float64 [3]
        Group time, time of a group that stands alone, frame time [s].
    suppress : bool
        suppress_one_group.
    g0, g1 : int
        The groups in use.
    """

    weights: np.ndarray
    powers: np.ndarray
    pairs: np.ndarray
    times: np.ndarray
    suppress: bool
    g0: int
    g1: int


class Planes(NamedTuple):
    """Results, written: float32 [DN/s, DN/s, (DN/s)^2, (DN/s)^2] and uint32.

    [integration, pixel], or [pixel] for the product over all integrations (21.7).
    """

    slope: np.ndarray
    err: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    bits: np.ndarray


class _Run(NamedTuple):
    """What the first walk finds out about a run of pixels.

    Parameters
    ----------
    sums : float64 [6, pixel]
        Slope / variance, 1 / read variance, t (n - 1), median rate, integrations without use, saturated ones.
    plain : float64 [2, pixel]
        Of ramps without flags: slopes, and how many.
    variance : float64 [pixel]
        Read variance of a ramp without flags.
    care : uint8 [pixel]
        1: even ramps without flags need care.
    saturated : uint8 [pixel]
        1: some group is.
    several : uint8 [integration, block]
        1: some ramp has flags, or needs care.
    work, found
        Scratch of one ramp.
    """

    sums: np.ndarray
    plain: np.ndarray
    variance: np.ndarray
    care: np.ndarray
    saturated: np.ndarray
    several: np.ndarray
    work: np.ndarray
    found: np.ndarray


@kernel
def _begin(ramps, pixels, setting, mean, start, stop):
    """Find read variance and pixels for which ramps without flags need no care, and begin the product's DQ."""
    n, total, width = ramps.data.shape[0], ramps.data.shape[1], stop - start
    run = _Run(
        np.zeros((6, width)), np.zeros((2, width)), np.empty(width), np.empty(width, np.uint8),
        np.zeros(width, np.uint8), np.zeros((n, (width + LANES - 1) // LANES), np.uint8),
        np.empty(total), np.empty(5),
    )  # fmt: skip
    ngroups = setting.g1 - setting.g0
    for k in range(width):
        p = start + k
        mean.bits[p] = pixels.bits[p]
        noise, electrons = np.float64(pixels.noise[p]), np.float64(pixels.gain[p])
        run.variance[k] = read_variance(ngroups, noise, electrons, setting.times[0])
        usable = noise > 0.0 and electrons > 0.0 and not pixels.bits[p] & INVALID
        run.care[k] = not (usable and ngroups > 1 and run.variance[k] < LARGE_VARIANCE)
    return run


@kernel
def _add_clean(lanes, per_second, slope, plain, rates, flagged):
    """Write the slopes of a block, and add those of ramps without flags to the sums over the integrations."""
    width = slope.size
    rise, middle, seen = lanes.rise[:width], lanes.middle[:width], lanes.seen[:width]
    for k in range(width):
        slope[k] = rise[k] * per_second
    if flagged == 0:
        for k in range(width):
            plain[0, k] += rise[k] * per_second
            rates[k] += middle[k] * per_second
        for k in range(width):
            plain[1, k] += 1.0
        return
    for k in range(width):
        plain[0, k] += rise[k] * per_second if seen[k] == 0 else 0.0
        rates[k] += middle[k] * per_second if seen[k] == 0 else 0.0
    for k in range(width):
        plain[1, k] += 1.0 if seen[k] == 0 else 0.0


@kernel
def _walk_integrations(ramps, pixels, setting, out, mean, run, lanes, start, stop):
    """Slopes and median rates of every integration of a run of pixels."""
    per_second = 1.0 / setting.times[0]
    for i in range(ramps.data.shape[0]):
        for first in range(start, stop, LANES):
            offset = first - start
            width = min(LANES, stop - first)
            end, to = first + width, offset + width
            gain, noise = pixels.gain[first:end], pixels.noise[first:end]
            flagged = see_flags(
                ramps.groupdq, i, first, run.care[offset:to], setting.g0, setting.g1, lanes.seen
            )
            take_rows(ramps.data, i, first, width, lanes.samples)
            if flagged > 0:
                take_rows(ramps.groupdq, i, first, width, lanes.flags)
            fit_clean(offset, gain, noise, setting, lanes, flagged > 0)
            _add_clean(
                lanes,
                per_second,
                out.slope[i, first:end],
                run.plain[:, offset:to],
                run.sums[3, offset:to],
                flagged,
            )
            if flagged == 0:
                continue
            run.several[i, offset // LANES] = 1
            out.err[i, first:end] = PLAIN
            _fit_flagged(ramps, pixels, setting, out, mean, run, lanes, i, first, offset, width)


@kernel
def _fit_flagged(ramps, pixels, setting, out, mean, run, lanes, i, first, offset, width):
    """Fit the ramps with flags of a block, write their results, and add them to the sums over the integrations.

    One call for all of them: so many arrays take longer to pass than a short ramp to fit.
    """
    found = run.found
    count = find_places(lanes.seen, width, lanes.places)
    take_ramps(lanes.samples, lanes.places, count, lanes.ramps)
    take_ramps(lanes.flags, lanes.places, count, lanes.marks)
    for place in range(count):
        lane, samples, flags = lanes.places[place], lanes.ramps[place], lanes.marks[place]
        p, k = first + lane, offset + lane
        first_read = ramps.zero[i, p] if ramps.zero.shape[0] > 0 else np.float32(0.0)
        electrons, noise = np.float64(pixels.gain[p]), np.float64(pixels.noise[p])
        more, fitted, saturated, changed = fit_flagged(
            samples, flags, first_read, setting, noise, electrons, lanes.middle[lane], run.work, found
        )
        if changed:
            ramps.data[i, setting.g0, p] = samples[setting.g0]
            for g in range(flags.size):
                ramps.groupdq[i, g, p] = flags[g]
        own = pixels.bits[p] | more
        mean.bits[p] |= more & MARKS
        run.sums[3, k] += found[4]
        variance = 1.0 / found[1]
        if variance >= LARGE_VARIANCE:
            variance = 0.0
        value = 0.0
        if fitted:
            value = found[0] * variance
            for j in range(3):
                run.sums[j, k] += found[j]
        unusable = (own & INVALID) != 0
        out.slope[i, p] = np.nan if unusable else value
        empty = unusable or not fitted
        single = found[3] < 2 and variance > 0.0
        out.err[i, p] = EMPTY if empty else (SINGLE if single else SEVERAL)
        out.var_rnoise[i, p] = 0.0 if empty else variance
        out.var_poisson[i, p] = found[2] * electrons
        run.sums[4, k] += (own & DNU) != 0
        run.sums[5, k] += (own & SAT) != 0
        if saturated:
            own |= SAT
            run.saturated[k] = 1
        out.bits[i, p] = own


@kernel
def _add_plain(run, used):
    """Add the ramps without flags to the sums over the integrations."""
    for k in range(run.variance.size):
        if run.plain[1, k] > 0.0:
            run.sums[0, k] += run.plain[0, k] / run.variance[k]
            run.sums[1, k] += run.plain[1, k] / run.variance[k]
            run.sums[2, k] += run.plain[1, k] * used


@kernel
def _photon_level(mean, dark):
    """Signal that makes photon noise [DN/s]; an unknown or negative mean rate counts as 0."""
    return (mean if mean > 0.0 else 0.0) + np.float64(dark)


@kernel
def _single_error(level, time, read):
    """Error and photon variance of a slope of one segment, from t (n - 1) times the gain and the read variance."""
    poisson = level / np.float64(time)
    total = poisson + np.float64(read)
    root = 0.0 if total > LARGE_VARIANCE else np.sqrt(total)
    return np.float32(root), np.float32(poisson if (poisson > 0.0) & (poisson < LARGE_VARIANCE) else 0.0)


@kernel
def _finish_flagged(lanes, pixels, setting, out, run, levels, i, first):
    """Turn what the first walk left of a block's ramps with flags into variances.

    ``lanes.seen`` tells which; ``levels``: float64 [lane].
    """
    tgroup = setting.times[0]
    count = find_places(lanes.seen, levels.size, lanes.places)
    take_ramps(lanes.flags, lanes.places, count, lanes.marks)
    for place in range(count):
        p, level = first + lanes.places[place], levels[lanes.places[place]]
        kind = out.err[i, p]
        error, poisson = _single_error(level, out.var_poisson[i, p], out.var_rnoise[i, p])
        out.err[i, p] = np.float32(0.0) if kind == EMPTY else error
        out.var_poisson[i, p] = np.float32(0.0) if kind == EMPTY else poisson
        if kind == SEVERAL:
            noise, electrons = np.float64(pixels.noise[p]), np.float64(pixels.gain[p])
            total = error_variance(
                lanes.marks[place], setting.g0, setting.g1, level, noise, electrons, tgroup
            )
            out.err[i, p] = 0.0 if total > LARGE_VARIANCE else np.sqrt(total)


@kernel
def _finish_integrations(ramps, pixels, setting, out, run, lanes, start, stop):
    """Write errors and variances of every integration of a run of pixels."""
    n, width = ramps.data.shape[0], stop - start
    used = setting.times[0] * (setting.g1 - setting.g0 - 1)
    levels = np.empty(width)
    # those of ramps without flags are the same in all integrations
    errors, photons, reads = (
        np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    )  # fmt: skip
    for k in range(width):
        p = start + k
        levels[k] = _photon_level(run.sums[3, k] / n, pixels.dark[p])
        reads[k] = run.variance[k]
        errors[k], photons[k] = _single_error(
            levels[k], np.float32(used * np.float64(pixels.gain[p])), reads[k]
        )
    for i in range(n):
        for b in range(run.several.shape[1]):
            offset = b * LANES
            to = min(offset + LANES, width)
            first, end = start + offset, start + to
            if run.several[i, b] == 0:
                out.err[i, first:end] = errors[offset:to]
                out.var_poisson[i, first:end] = photons[offset:to]
                out.var_rnoise[i, first:end] = reads[offset:to]
                out.bits[i, first:end] = pixels.bits[first:end]
                continue
            take_rows(ramps.groupdq, i, first, to - offset, lanes.flags)
            for k in range(offset, to):
                p = start + k
                lanes.seen[k - offset] = out.err[i, p] != PLAIN
                if out.err[i, p] == PLAIN:
                    out.err[i, p] = errors[k]
                    out.var_poisson[i, p] = photons[k]
                    out.var_rnoise[i, p] = reads[k]
                    out.bits[i, p] = pixels.bits[p]
            _finish_flagged(lanes, pixels, setting, out, run, levels[offset:to], i, first)
    return levels


@kernel
def _finish_mean(pixels, mean, run, levels, n, start):
    """Write the product over the integrations (21.7)."""
    for k in range(levels.size):
        p = start + k
        if run.sums[4, k] == n:
            mean.bits[p] |= DNU
        if run.sums[5, k] == n:
            mean.bits[p] |= SAT
        seconds = run.sums[2, k]
        poisson = levels[k] / (np.float64(pixels.gain[p]) * seconds) if seconds > 0.0 else 0.0
        if poisson >= LARGE_VARIANCE or not poisson > 0.0:
            poisson = 0.0
        read = 1.0 / run.sums[1, k] if run.sums[1, k] > 0.0 else run.sums[1, k]
        if read >= LARGE_VARIANCE:
            read = 0.0
        value = run.sums[0, k] * read
        error = np.sqrt(poisson + read)
        if mean.bits[p] & INVALID:
            value = np.nan
            poisson = read = error = 0.0
        if run.saturated[k]:
            mean.bits[p] |= SAT
        mean.slope[p] = value
        mean.err[p] = error
        mean.var_poisson[p] = poisson
        mean.var_rnoise[p] = read


@kernel
def fit_segment(ramps, pixels, setting, out, mean, start, stop):
    """Fit every ramp of some pixels, and the mean over the integrations.

    Parameters
    ----------
    ramps, pixels, setting, out, mean
        `Ramps`, `Pixels`, `Setting`, and `Planes` of the integrations and of their mean.
    start, stop : int
        Which pixels.
    """
    used = setting.times[0] * (setting.g1 - setting.g0 - 1)
    for left in range(start, stop, CHUNK):
        right = min(left + CHUNK, stop)
        run = _begin(ramps, pixels, setting, mean, left, right)
        lanes = make_lanes(ramps.data.shape[1], setting.g1 - setting.g0, right - left)
        _walk_integrations(ramps, pixels, setting, out, mean, run, lanes, left, right)
        _add_plain(run, used)
        levels = _finish_integrations(ramps, pixels, setting, out, run, lanes, left, right)
        _finish_mean(pixels, mean, run, levels, ramps.data.shape[0], left)

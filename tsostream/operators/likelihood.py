"""The likelihood fit of a ramp, and its search for jumps (spec stage 1, 21.11; Brandt 2024, PASP 136, 045004, 045005).

Differences of neighbouring groups have a tridiagonal covariance: photon noise of a rate that is guessed, and read
noise. The slope is their generalised least-squares mean. A jump adds a free offset to one difference, or to the two
that share the group it fell into; how much that lowers chi-squared follows from the same solution, without fitting
again. Differences are dropped, the best one or pair first, until none lowers chi-squared by more than the threshold.

Everything goes over neighbouring pixels side by side; only pixels in which something was dropped are solved again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.likelihood_solve import LANES, has_no_root, search_drops, slope_noise, solve_lanes
from tsostream.operators.rate_planes import RatePlanes
from tsostream.operators.sorting import comparators, sort_lanes
from tsostream.operators.window_fit import WindowFit

__all__ = ["LIKELY_GROUPS", "LikelyTables", "SegmentLikely", "fit_likely", "likely_tables", "mean_rate"]

#: with fewer groups the official step takes OLS_C
LIKELY_GROUPS = 4
DNU, SAT, JUMP = np.uint8(dq.DO_NOT_USE), np.uint8(dq.SATURATED), np.uint8(dq.JUMP_DET)


@dataclass(frozen=True)
class LikelyTables:
    """What depends on the read times only.

    Parameters
    ----------
    times : float64 [difference]
        Time between the mean times of neighbouring groups [s].
    covariance : float64 [4, difference]
        Photon noise (for a rate of 1 and a gain of 1) and read noise (of 1): diagonal, then the element to the next
        difference (last one 0), of each.
    shared : bool [difference]
        Whether the group between this difference and the next averages several reads, so that a hit within it spoils
        both.
    pairs : int32 [comparator, 2]
        Comparators for the differences.
    """

    times: np.ndarray
    covariance: np.ndarray
    shared: np.ndarray
    pairs: np.ndarray


def likely_tables(info: ExposureInfo, *, zeroframe: bool = False) -> LikelyTables:
    """Work out means and covariance of the groups' read times.

    Parameters
    ----------
    info
        The exposure.
    zeroframe
        The first read stands alone, before a first group of the other reads.
    """
    return _tables(info.ngroups, info.nframes, info.groupgap, float(info.frame_time), zeroframe)


@cache
def _tables(ngroups: int, nframes: int, groupgap: int, frame_time: float, zeroframe: bool) -> LikelyTables:
    frames = np.arange(1, nframes + 1)
    step = nframes + groupgap
    reads = [(frames + group * step) * frame_time for group in range(ngroups)]
    if zeroframe:
        reads = [reads[0][:1], reads[0][1:], *reads[1:]]
    n = np.array([len(one) for one in reads], np.float64)
    mean = np.array([one.mean() for one in reads])
    tau = np.array(
        [((2 * len(one) + 1 - 2 * np.arange(1, len(one) + 1)) * one).sum() / len(one) ** 2 for one in reads]
    )
    times = np.diff(mean)
    covariance = np.zeros((4, len(times)))
    covariance[0] = (tau[:-1] + tau[1:] - 2 * mean[:-1]) / times**2
    covariance[1, :-1] = (mean[1:-1] - tau[1:-1]) / (times[1:] * times[:-1])
    covariance[2] = (1 / n[:-1] + 1 / n[1:]) / times**2
    covariance[3, :-1] = -1 / (n[1:-1] * times[1:] * times[:-1])
    shared = np.append(n[1:-1] > 1, False)
    return LikelyTables(times, covariance, shared, comparators(len(times)))


@kernel
def _differences(data, groupdq, zero, nframes, times, i, y, start, width, values, used):
    """Rate between neighbouring groups, and whether it can be used: neither group may have a flag.

    ``values, used`` (float64 [difference, lane]) are written; lanes beyond the width hold zeros. Simple loops with few
    arrays each, here and below: the compiler finds vector instructions for no others.
    """
    stop, ngroups = start + width, data.shape[1]
    extra = 1 if zero.shape[0] > 0 else 0
    values[:, width:] = 0.0
    used[:, width:] = 1.0
    for g in range(1, ngroups):
        k = g - 1 + extra
        rate, good = values[k], used[k]
        per_second = 1.0 / times[k]
        before, after = data[i, g - 1, y, start:stop], data[i, g, y, start:stop]
        for lane in range(width):
            rate[lane] = np.float64(after[lane] - before[lane]) * per_second
        flags, later = groupdq[i, g - 1, y, start:stop], groupdq[i, g, y, start:stop]
        for lane in range(width):
            good[lane] = 1.0 if (flags[lane] | later[lane]) == 0 else 0.0
    if extra:
        for lane in range(width):
            x = start + lane
            alone = zero[i, y, x]
            rest = (data[i, 0, y, x] * np.float32(nframes) - alone) / np.float32(nframes - 1)
            values[0, lane] = np.float64(rest - alone) / times[0]
            values[1, lane] = np.float64(data[i, 1, y, x] - rest) / times[1]
            used[0, lane] = 1.0 if groupdq[i, 0, y, x] == 0 else 0.0


@kernel
def _middle_rate(values, pairs, spare, rate):
    """Median of all differences, used or not, where it is positive; 0 elsewhere, NaN with a NaN among them."""
    n = values.shape[0]
    rate[:] = 0.0
    for k in range(n):
        row, copied = values[k], spare[k]
        for lane in range(LANES):
            rate[lane] += row[lane]
        copied[:] = row
    sort_lanes(spare, pairs)
    for lane in range(LANES):
        middle = 0.5 * (spare[(n - 1) // 2, lane] + spare[n // 2, lane])
        rate[lane] = max(middle, 0.0) if rate[lane] == rate[lane] else np.nan


@kernel
def _row_bits(groupdq, i, y, start, width, seen, lost):
    """OR of the flags of each ramp, and whether none of its groups is left (``seen, lost``: uint8 [lane], written)."""
    seen[:] = 0
    lost[:] = 1
    for g in range(groupdq.shape[1]):
        flags = groupdq[i, g, y, start : start + width]
        for lane in range(width):
            seen[lane] |= flags[lane]
        for lane in range(width):
            lost[lane] &= (flags[lane] & DNU) | ((flags[lane] & SAT) >> np.uint8(1))


@kernel
def fit_likely(
    data, groupdq, zero, nframes, pixeldq, gain, readnoise, dark, times, covariance, shared, pairs, official,
    slope, err, var_poisson, var_rnoise, bits, y0, y1, x0, x1,
):  # fmt: skip
    """Fit every ramp.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Flags; any flag takes both neighbouring differences out.
    zero : float32 [integration, y, x]
        Zero frame [DN], or an array without integrations.
    nframes : int
        Reads averaged in a group.
    pixeldq : uint32 [y, x]
        Static flags.
    gain, readnoise, dark : float32 [y, x]
        e-/DN; noise of a difference of two reads [DN]; average dark current, added to the rate.
    times, covariance, shared, pairs
        As `LikelyTables`.
    official : bool
        Write what the official step writes for ramps without a slope; else NaN and DO_NOT_USE.
    slope, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Written [DN/s, DN/s, (DN/s)^2].
    bits : uint32 [integration, y, x]
        DQ, written.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    n = times.size
    values, used = np.empty((n, LANES)), np.empty((n, LANES))
    kept = np.empty((n, LANES))
    lists, rows = np.empty((5, n, LANES)), np.empty((5, LANES))
    sums, variances = np.empty((3, LANES)), np.empty((2, LANES))
    photon, read, rate = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    seen, lost = np.empty(LANES, np.uint8), np.empty(LANES, np.uint8)
    for i in range(data.shape[0]):
        for y in range(y0, y1):
            for start in range(x0, x1, LANES):
                width = min(LANES, x1 - start)
                _differences(data, groupdq, zero, nframes, times, i, y, start, width, values, used)
                _middle_rate(values, pairs, lists[0], rate)
                kept[:] = used
                for lane in range(LANES):
                    x = start + lane if lane < width else start
                    noise = np.float64(readnoise[y, x]) / np.sqrt(2.0)
                    read[lane] = noise * noise
                    photon[lane] = rate[lane] / np.float64(gain[y, x])
                search_drops(values, used, photon, read, covariance, shared, rate, lists, rows, sums)
                for lane in range(LANES):
                    x = start + lane if lane < width else start
                    level = max(rate[lane], 0.0) if rate[lane] == rate[lane] else np.nan
                    if not gain[y, x] > 0.0 and has_no_root(lists[0], lane):
                        level = np.nan
                    photon[lane] = (level + np.float64(dark[y, x])) / np.float64(gain[y, x])
                solve_lanes(
                    values, used, photon, read, covariance, 0, LANES,
                    lists[0], lists[1], lists[2], lists[3], rows[0], sums,
                )  # fmt: skip
                slope_noise(lists[2], photon, read, covariance, sums, variances)
                _row_bits(groupdq, i, y, start, width, seen, lost)
                dropped = rows[1]
                dropped[:] = 0.0
                for k in range(n):
                    before, now = kept[k], used[k]
                    for lane in range(LANES):
                        dropped[lane] += before[lane] - now[lane]
                for lane in range(width):
                    x = start + lane
                    found = pixeldq[y, x] | np.uint32(seen[lane] & (SAT | JUMP))
                    if lost[lane]:
                        found |= np.uint32(DNU)
                    if dropped[lane] > 0.0:
                        found |= np.uint32(JUMP)
                    value, total = sums[1, lane] / sums[2, lane], sums[2, lane]
                    photons, reads = variances[0, lane], variances[1, lane]
                    if not gain[y, x] > 0.0 and has_no_root(lists[0], lane):
                        value = total = photons = reads = np.nan
                    if not official and (not np.isfinite(value) or (found & np.uint32(DNU)) != 0):
                        found |= np.uint32(DNU)
                        value = total = photons = reads = np.nan
                    slope[i, y, x] = value
                    err[i, y, x] = np.sqrt(1.0 / total)
                    var_poisson[i, y, x] = photons
                    var_rnoise[i, y, x] = reads
                    bits[i, y, x] = found


def _middle(values: np.ndarray) -> np.ndarray:
    """Median over the first axis without NaN, in the values' own precision."""
    ordered = np.sort(values, axis=0)
    count = (~np.isnan(values)).sum(axis=0)[None]
    low, high = (
        np.take_along_axis(ordered, at, axis=0)[0] for at in (np.maximum(count - 1, 0) // 2, count // 2)
    )
    return np.where(count[0] > 0, (low + high) / np.float32(2), np.float32(np.nan))


def mean_rate(
    slope: np.ndarray, err: np.ndarray, poisson: np.ndarray, rnoise: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Combine the integrations of a file as the official step does for LIKELY.

    Parameters
    ----------
    slope, err, poisson, rnoise : float32 [integration, ...]
        Slopes, errors and variances.
    bits : uint32 [integration, ...]
        DQ.

    Returns
    -------
    slope, err, poisson, rnoise, bits
        Without the first axis. Weights are inverse variances whose photon part is that of the mean slope.
    """
    if len(slope) == 1:
        return slope[0], err[0], poisson[0], rnoise[0], bits[0]
    unusable = np.uint32(dq.DO_NOT_USE)
    merged = np.bitwise_or.reduce(bits, axis=0) & ~unusable
    merged |= np.bitwise_and.reduce(bits, axis=0) & unusable

    def total(values: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(values).all(axis=0), np.float32(np.nan), np.nansum(values, axis=0))

    with np.errstate(invalid="ignore", divide="ignore"):
        level = _middle(slope)
        for _ in range(2):
            ratio = level / slope
            ratio[~np.isfinite(ratio) | (ratio < 0)] = 0
            photons = poisson * ratio
            weight = 1 / (photons + rnoise)
            weight /= np.nansum(weight, axis=0)
            level = total(slope * weight)
        var_poisson, var_rnoise = total(photons * weight**2), total(rnoise * weight**2)
        return level, np.sqrt(var_poisson + var_rnoise), var_poisson, var_rnoise, merged


@dataclass(frozen=True)
class SegmentLikely(WindowFit):
    """The likelihood fit of a window of an exposure, for all integrations of a segment; discards no groups."""

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
        """Fit a window as `WindowFit.run`; zero frames are a resultant of their own."""
        tables = likely_tables(self.info, zeroframe=zero is not None)
        first = np.empty((0, 0, 0), np.float32) if zero is None else zero
        fit_likely(
            data, groupdq, first, self.info.nframes, pixeldq, self.gain, self.read, self.dark,
            tables.times, tables.covariance, tables.shared, tables.pairs, True,
            out.data, out.err, out.var_poisson, out.var_rnoise, out.dq, *window,
        )  # fmt: skip
        y0, y1, x0, x1 = window
        planes = (one[:, y0:y1, x0:x1] for one in out.arrays())
        for kept, one in zip(rate.arrays(), mean_rate(*planes), strict=True):
            kept[y0:y1, x0:x1] = one

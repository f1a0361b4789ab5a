"""Twins of the jump search and the ramp fit over all integrations of a segment (spec stage 1, sections 16 and 21)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq

__all__ = [
    "SegmentSlope",
    "charge_loss_variance",
    "clip_list",
    "fit_pixel",
    "flag_segment",
    "planes_alive",
    "search_within",
    "weights_of_length",
]

DNU, SAT, JUMP, PERS = dq.DO_NOT_USE, dq.SATURATED, dq.JUMP_DET, dq.PERSISTENCE


def clip_list(values: np.ndarray, k: float, rounds: int = 5) -> np.ndarray:
    """Say which values lie outside the limits of the last round of sigma clipping (bool [value])."""
    kept = values[np.isfinite(values)].astype(np.float64)
    low = high = np.nan
    for _ in range(rounds):
        if kept.size == 0:
            break
        low = np.median(kept) - k * np.std(kept)
        high = np.median(kept) + k * np.std(kept)
        inside = kept[(kept >= low) & (kept <= high)]
        if inside.size == kept.size:
            break
        kept = inside
    with np.errstate(invalid="ignore"):
        return (values < low) | (values > high)


def search_within(
    d: np.ndarray, noise2: float, thresholds: tuple[float, float, float], *, single: bool
) -> np.ndarray:
    """Find the hits among all differences of a pixel (16.5, 16.6): bool [integration, difference]."""
    hits = np.zeros(d.shape, bool)
    if not np.isfinite(d).any():
        return hits
    if single:
        middle = np.nanmedian(d)
        sigma = np.sqrt(abs(middle) + noise2)
        with np.errstate(invalid="ignore"):
            return (np.abs(d - middle) / sigma > thresholds[0]) if sigma > 0 else hits
    a = np.abs(d).astype(np.float64)
    first = True
    while True:
        left = a[np.isfinite(a)]
        if left.size < 2:
            return hits
        if left.size >= 4:
            rest, limit = left[left != left.max()], thresholds[0]
            level = np.median(rest) if rest.size else np.nan
        elif left.size == 3:
            level, limit = np.median(left), thresholds[1]
        else:
            level, limit = left.min(), thresholds[2]
        level = level if first else float(np.float32(level))
        first = False
        sigma = np.sqrt(abs(level) + noise2)
        if not sigma > 0:
            return hits
        ratio = np.abs((a - level).astype(np.float32)).astype(np.float64) / sigma
        worst = np.nanmax(ratio)
        if not worst > limit:
            return hits
        hits |= ratio == worst
        a[ratio == worst] = np.nan


def flag_segment(
    data: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    *,
    method: str,
    nframes: int = 1,
    thresholds: tuple[float, float, float] = (4.0, 5.0, 6.0),
    neighbours: tuple[float, float] | None = (10.0, 1000.0),
    after: tuple[tuple[float, int], ...] = (),
) -> np.ndarray:
    """Flag the jumps of a whole segment.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Before.
    gain, readnoise : float32 [y, x]
        References.
    method
        ``clip``, ``clip_all``, ``single`` or ``iterative``.
    nframes, thresholds, neighbours, after
        As `tsostream.testing.naive.jumps.flag_jumps`.
    """
    out = groupdq.copy()
    n, ngroups, ny, nx = data.shape
    electrons = (data * gain).astype(np.float32)
    electrons[(groupdq & (DNU | SAT)) != 0] = np.nan
    d = np.diff(electrons, axis=1).astype(np.float64)
    read = (readnoise * gain).astype(np.float32)
    noise2 = (read * read / np.float32(nframes)).astype(np.float64)
    hits = np.zeros(d.shape, bool)
    for y, x in np.ndindex(ny, nx):
        if method == "clip":
            for j in range(ngroups - 1):
                hits[:, j, y, x] = clip_list(d[:, j, y, x], thresholds[0])
        elif method == "clip_all":
            hits[..., y, x] = clip_list(d[..., y, x].ravel(), thresholds[0]).reshape(n, ngroups - 1)
        else:
            one = search_within(d[..., y, x], noise2[y, x], thresholds, single=method == "single")
            hits[..., y, x] = one
    out[:, 1:][hits] |= JUMP
    if method in ("clip", "clip_all"):
        for i, g in np.ndindex(n, ngroups):
            if np.all(out[i, g] & (JUMP | DNU)):
                out[i, g][out[i, g] == JUMP] = 0
    middle = np.full((ny, nx), np.nan)
    for y, x in np.ndindex(ny, nx):
        if np.isfinite(d[..., y, x]).any():
            middle[y, x] = np.nanmedian(d[..., y, x])
    sigma = np.sqrt(np.abs(middle) + noise2)
    seeds = (out[:, 1:] & JUMP) != 0
    if neighbours is not None:
        for i, j, y, x in zip(*np.nonzero(seeds), strict=True):
            size = abs(d[i, j, y, x] - middle[y, x]) / sigma[y, x] if sigma[y, x] > 0 else np.nan
            if not neighbours[0] < size < neighbours[1]:
                continue
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < ny and 0 <= u < nx and not out[i, j + 1, v, u] & (DNU | SAT):
                    out[i, j + 1, v, u] |= JUMP
    flagged = np.argwhere(out & JUMP)
    amplitude = d - middle
    for size, count in after:
        for i, g, y, x in flagged:
            if g > 0 and count > 0 and amplitude[i, g - 1, y, x] >= size:
                for later in range(g, min(g + count, ngroups - 1) + 1):
                    if not out[i, later, y, x] & (DNU | SAT):
                        out[i, later, y, x] |= JUMP
    return out


def planes_alive(groupdq: np.ndarray, flags: int) -> np.ndarray:
    """Say which planes have a pixel with none of the flags; bool [integration, group]."""
    return np.array([[bool(np.any((plane & flags) == 0)) for plane in one] for one in groupdq])


def weights_of_length(length: int, power: float) -> np.ndarray:
    """Weights of the optimal fit; float64 [group]."""
    middle = (length - 1) / 2
    return np.array(
        [float(np.float32(abs(k - middle) / middle) ** np.float32(power)) for k in range(length)], np.float64
    )


@dataclass(frozen=True)
class SegmentSlope:
    """Result for one pixel: arrays [integration], and the product over the integrations.

    Every entry is (slope, error, photon variance, read variance, DQ).
    """

    integrations: list[tuple[float, float, float, float, int]]
    mean: tuple[float, float, float, float, int]


def _segments(q: list[int]) -> list[tuple[int, int]]:
    found, g = [], 0
    while g < len(q):
        if q[g]:
            g += 1
            continue
        start = g - 1 if g > 0 and q[g - 1] == JUMP else g
        while g < len(q) and not q[g]:
            g += 1
        found.append((start, g))
    return [one for one in found if one[1] - one[0] > 1] or found[:1]


def _median_rate(z: np.ndarray, flags: list[int], tgroup: float) -> float:
    v = z / tgroup
    v[[bool(f & DNU) for f in flags]] = np.nan
    steps = np.diff(v)
    steps[[bool(f & JUMP) for f in flags[1:]]] = np.nan
    if np.isfinite(steps).any():
        return float(np.nanmedian(steps))
    return 0.0 if np.isnan(v[0]) else float(v[0])


def fit_pixel(
    data: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: int,
    gain: float,
    r: float,
    dark: float,
    *,
    tgroup: float,
    first_time: float,
    suppress: bool,
    groups: tuple[int, int],
    zero: np.ndarray | None = None,
    tframe: float = np.nan,
) -> SegmentSlope:
    """Fit all ramps of one pixel as the official C code does, in double precision.

    Parameters
    ----------
    data, groupdq : [integration, group]
        Signal [DN] and flags.
    pixeldq
        Static flags.
    gain, r, dark
        e-/DN, noise of one group [e-], average dark current.
    tgroup, first_time
        Group time, and that of a group that stands alone [s].
    suppress
        suppress_one_group.
    groups
        First group in use and the one after the last.
    zero, tframe
        Zero frames [integration] [DN], 0 for none, and the time they integrate [s].
    """
    ramps, flags_of, seen_of, first_of = [], [], [], []
    zeros = np.zeros(len(data)) if zero is None else zero
    for z, f, read_0 in zip(data.astype(np.float64), groupdq, zeros, strict=True):
        flags = [int(one) for one in f]
        if suppress and sum((one & ~PERS) == 0 for one in flags) == 1:
            flags = [one | DNU for one in flags]
        flags, z = flags[slice(*groups)], z[slice(*groups)].copy()
        if groups[0] > 0:
            flags[0] &= ~JUMP
        seen_of.append(list(flags))
        first_of.append(not suppress and flags.count(0) == 0 and read_0 != 0)
        if first_of[-1]:
            z[0], flags[0] = read_0, 0
        z[[bool(one & SAT) for one in flags]] = np.nan
        ramps.append(z)
        flags_of.append(flags)
    ngroups = groups[1] - groups[0]
    alone = [not suppress and f.count(0) == 1 and f[0] == 0 for f in seen_of]
    rates = []
    for z, f, one, first in zip(ramps, flags_of, alone, first_of, strict=True):
        if first and ngroups > 1:
            rates.append(float(z[0]) / tframe)
        elif ngroups == 1 or one:
            rates.append(float(z[0]) / first_time)
        else:
            rates.append(_median_rate(z.copy(), f, tgroup))
    mean_rate = float(np.sum(rates)) / len(rates)
    level = (mean_rate if mean_rate > 0 else 0.0) + dark
    lines = []
    total = np.zeros(3)
    bits_of_mean, lost, saturated, any_sat = int(pixeldq), 0, 0, False
    for z, f, one, seen, first in zip(ramps, flags_of, alone, seen_of, first_of, strict=True):
        bits = int(pixeldq)
        for name in (JUMP, PERS):
            bits |= name if any(k & name for k in seen) else 0
        bits_of_mean |= bits
        pieces = _segments([k & ~PERS for k in f])
        if f[0] & SAT:
            bits |= DNU | SAT
            pieces = []
        if all(k & (DNU | SAT) for k in f):
            bits |= DNU | (SAT if all(k & SAT for k in f) else 0)
            pieces = []
        slope = error = poisson = read = 0.0
        if pieces:
            parts = np.array(
                [
                    _fit_piece(
                        z, s, e, level, gain, r, tframe if first else (first_time if one else tgroup), tgroup
                    )
                    for s, e in pieces
                ]
            )
            with np.errstate(all="ignore"):
                weight = float((1 / parts[:, 2]).sum())
                photon = float((1 / parts[parts[:, 1] > 0, 1]).sum())
                poisson = 1 / photon if photon > 0 else 0.0
                read = 1 / weight
                poisson, read = (0.0 if v >= 1e6 else v for v in (poisson, read))
                slope = float((parts[:, 0] / parts[:, 2]).sum()) * read
                variance = 1 / float((1 / (parts[:, 1] + parts[:, 2])).sum())
                error = 0.0 if variance > 1e6 else float(np.sqrt(variance))
                total += [float((parts[:, 0] / parts[:, 2]).sum()), weight, photon]
        if bits & (DNU | SAT):
            slope, error, poisson, read = np.nan, 0.0, 0.0, 0.0
        lost += bool(bits & DNU)
        saturated += bool(bits & SAT)
        if any(k & SAT for k in f):
            bits |= SAT
            any_sat = True
        lines.append((slope, error, poisson, read, bits))
    bits_of_mean |= DNU if lost == len(lines) else 0
    bits_of_mean |= SAT if saturated == len(lines) else 0
    poisson, read = (1 / v if v > 0 else 0.0 for v in (total[2], total[1]))
    poisson, read = (0.0 if v >= 1e6 else v for v in (poisson, read))
    mean = (float(total[0]) * read, float(np.sqrt(poisson + read)), poisson, read)
    if bits_of_mean & (DNU | SAT):
        mean = (np.nan, 0.0, 0.0, 0.0)
    return SegmentSlope(lines, (*mean, bits_of_mean | (SAT if any_sat else 0)))


def charge_loss_variance(
    groupdq: np.ndarray,
    var_rnoise: np.ndarray,
    gain: float,
    r: float,
    *,
    tgroup: float,
    first_time: float,
    suppress: bool,
) -> tuple[np.ndarray, float | None]:
    """Read variances of a pixel with the groups that charge migration took (21.8).

    Parameters
    ----------
    groupdq : [integration, group]
        Flags before the fit.
    var_rnoise : [integration]
        Read variance of the groups in use [(DN/s)^2].
    gain, r
        e-/DN and noise of one group [e-].
    tgroup, first_time, suppress
        As `fit_pixel`.

    Returns
    -------
    variances : float64 [integration]
        Changed where a ramp lost groups.
    mean
        That of the mean over the integrations; None where it stays as it is.
    """
    out = var_rnoise.astype(np.float64)
    weights, changed = [], False
    for i, ramp in enumerate(groupdq):
        flags = [int(one) for one in ramp]
        if not any(one & dq.CHARGELOSS for one in flags):
            weights.append(1 / out[i] if out[i] > 0 else 0.0)
            continue
        changed = True
        alone = not suppress and flags.count(0) == 1 and flags[0] == 0
        flags = [one ^ (dq.CHARGELOSS | DNU) if one & dq.CHARGELOSS else one for one in flags]
        parts = [
            _fit_piece(np.zeros(len(flags)), s, e, 0.0, gain, r, first_time if alone else tgroup, tgroup)[2]
            for s, e in _segments([one & ~PERS for one in flags])
        ]
        weights.append(sum(1 / one for one in parts if one > 0))
        out[i] = 1 / weights[-1] if weights[-1] > 1e-6 else 0.0
    total = sum(weights)
    if not changed or total == 0:
        return out, None
    return out, 1 / total if total > 1e-6 else 0.0


def _fit_piece(
    z: np.ndarray, start: int, end: int, level: float, gain: float, r: float, alone: float, tgroup: float
) -> tuple[float, float, float]:
    """Slope, photon and read variance of one segment."""
    n = end - start
    y = np.nan_to_num(z[start:end])
    if n == 1:
        return y[0] / alone, level / (alone * gain), 12 * (r / alone) ** 2 / (6 * gain**2)
    if n == 2:
        return (y[1] - y[0]) / tgroup, level / (tgroup * gain), 12 * (r / tgroup) ** 2 / (6 * gain**2)
    rise = y[-1] - y[0]
    noise = r * r + rise * gain
    snr = max(rise * gain / np.sqrt(noise), 0.0) if noise > 0 and gain != 0 else 0.0
    power = next((p for limit, p in ((5, 0), (10, 0.4), (20, 1), (50, 3), (100, 6)) if snr < limit), 10)
    w = weights_of_length(n, power) / (r * r) if r else np.full(n, np.nan)
    x = np.arange(start, end, dtype=np.float64)
    slope = (w.sum() * (w * x * y).sum() - (w * x).sum() * (w * y).sum()) / (
        w.sum() * (w * x * x).sum() - (w * x).sum() ** 2
    )
    return slope / tgroup, level / (tgroup * gain * (n - 1)), 12 * (r / tgroup) ** 2 / ((n**3 - n) * gain**2)

"""Twins of the ramp fit and what follows it (spec stage 1, sections 21 and 22)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq

__all__ = [
    "Slope",
    "fit_all",
    "fit_one",
    "flux_ratio",
    "poisson_and_error",
    "scale_slopes",
    "signal_to_noise",
]

#: exponent of the weights below each signal-to-noise, and above the last
CLASSES = ((5.0, 0.0), (10.0, 0.4), (20.0, 1.0), (50.0, 3.0), (100.0, 6.0))


@dataclass(frozen=True)
class Slope:
    """Result for one ramp.

    Parameters
    ----------
    slope
        [DN/s]; NaN where there is none.
    unit_variance
        Poisson variance for a slope of 1 DN/s.
    var_rnoise
        [(DN/s)^2].
    bits
        DQ.
    """

    slope: float
    unit_variance: float
    var_rnoise: float
    bits: int


def signal_to_noise(rise: float, r: float, gain: float) -> float:
    """Signal-to-noise of a segment that rises by ``rise`` [DN], with single-read noise ``r`` [e-]."""
    total = r * r + rise * gain
    return max(rise * gain / np.sqrt(total), 0.0) if total > 0 and gain != 0 else 0.0


def _power(snr: float) -> float:
    for limit, power in CLASSES:
        if snr < limit:
            return power
    return 10.0


def _segments(flags: np.ndarray) -> list[tuple[int, int]]:
    q = [int(value) & ~dq.PERSISTENCE for value in flags]
    found, g = [], 0
    while g < len(q):
        if q[g] == 0:
            start = g - 1 if g > 0 and q[g - 1] == dq.JUMP_DET else g
            while g < len(q) and q[g] == 0:
                g += 1
            found.append((start, g))
        else:
            g += 1
    long = [one for one in found if one[1] - one[0] > 1]
    return long or found[:1]


def fit_one(
    data: np.ndarray,
    flags: np.ndarray,
    pixeldq: int,
    gain: float,
    r: float,
    *,
    tgroup: float,
    first_time: float,
    suppress: bool,
    expected: float = np.nan,
    zero: float = 0.0,
    tframe: float = np.nan,
) -> Slope:
    """Fit one ramp, segment after segment.

    Where the official step writes zeros for a ramp without slope, here stand NaN and DO_NOT_USE.

    Parameters
    ----------
    data, flags : [group]
        Signal [DN] and group flags.
    pixeldq
        Static flags.
    gain, r
        e-/DN and single-read noise of a group [e-].
    tgroup, first_time
        Time between groups, and of a group that stands alone [s].
    suppress
        suppress_one_group.
    expected
        Slope that decides the weights [DN/s]; NaN: the segment's own rise.
    zero, tframe
        Zero frame [DN], 0 if there is none, and the time it integrates [s].
    """
    ngroups = len(data)
    bits = int(pixeldq)
    for name in (dq.JUMP_DET, dq.PERSISTENCE, dq.SATURATED):
        if any(int(value) & name for value in flags):
            bits |= name
    good = sum((int(value) & ~dq.PERSISTENCE) == 0 for value in flags)
    clean = sum(int(value) == 0 for value in flags)
    hopeless = good == 0 or bool(int(flags[0]) & dq.SATURATED) or (suppress and ngroups > 1 and good == 1)
    if good == 0 and not suppress and zero != 0 and not bits & dq.DO_NOT_USE:
        return Slope(zero / tframe, 1.0 / (tframe * gain), 12 * (r / tframe) ** 2 / (6 * gain**2), bits)
    if hopeless:
        bits |= dq.DO_NOT_USE
    if bits & dq.DO_NOT_USE:
        return Slope(np.nan, np.nan, np.nan, bits)
    value = data.astype(np.float64)
    slopes, poisson, read = [], [], []
    for start, end in _segments(flags):
        n = end - start
        z = value[start:end]
        if n == 1:
            alone = ngroups == 1 or (clean == 1 and int(flags[0]) == 0)
            time = first_time if alone else tgroup
            slopes.append(z[0] / time)
            poisson.append(1.0 / (time * gain))
            read.append(12 * (r / time) ** 2 / (6 * gain**2))
        elif n == 2:
            slopes.append((z[1] - z[0]) / tgroup)
            poisson.append(1.0 / (tgroup * gain))
            read.append(12 * (r / tgroup) ** 2 / (6 * gain**2))
        else:
            rise = z[-1] - z[0] if np.isnan(expected) else expected * tgroup * (n - 1)
            power = _power(signal_to_noise(rise, r, gain))
            k = np.arange(n)
            middle = (n - 1) / 2
            w = np.array([abs((one - middle) / middle) ** power if power else 1.0 for one in k])
            slopes.append(np.polynomial.polynomial.polyfit(k, z, 1, w=np.sqrt(w))[1] / tgroup)
            poisson.append(1.0 / (tgroup * gain * (n - 1)))
            read.append(12 * (r / tgroup) ** 2 / ((n**3 - n) * gain**2))
    # the weights are those of the read noise; a common factor cancels, so a noise of zero does no harm
    scale = 1.0 if r == 0 else r * r
    weight = [1.0 / (one / scale) if one > 0 else 1.0 for one in read]
    if r == 0:
        lengths = [end - start for start, end in _segments(flags)]
        weight = [(n**3 - n) / 12 if n > 2 else 0.5 for n in lengths]
    slope = sum(a * b for a, b in zip(weight, slopes, strict=True)) / sum(weight)
    var_rnoise = 0.0 if r == 0 else 1.0 / sum(1.0 / one for one in read)
    return Slope(float(slope), 1.0 / sum(1.0 / one for one in poisson), var_rnoise, bits)


def fit_all(
    data: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    r: np.ndarray,
    expected: np.ndarray,
    *,
    tgroup: float,
    first_time: float,
    suppress: bool,
    zero: np.ndarray | None = None,
    tframe: float = np.nan,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit every ramp with `fit_one`: slope, unit_variance, var_rnoise and bits, each [integration, y, x]."""
    shape = (data.shape[0], *data.shape[2:])
    slope, unit, read = (np.empty(shape) for _ in range(3))
    bits = np.empty(shape, np.uint32)
    for i, y, x in np.ndindex(shape):
        one = fit_one(
            data[i, :, y, x],
            groupdq[i, :, y, x],
            int(pixeldq[y, x]),
            float(gain[y, x]),
            float(r[y, x]),
            tgroup=tgroup,
            first_time=first_time,
            suppress=suppress,
            expected=float(expected[y, x]),
            zero=0.0 if zero is None else float(zero[i, y, x]),
            tframe=tframe,
        )
        slope[i, y, x], unit[i, y, x], read[i, y, x] = one.slope, one.unit_variance, one.var_rnoise
        bits[i, y, x] = one.bits
    return slope, unit, read, bits


def flux_ratio(slope: np.ndarray, pixels: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Median of slope over template per integration, over the finite ones; 1 where there are none."""
    out = []
    for image in slope.reshape(len(slope), -1):
        ratios = [
            float(image[p]) / float(t) for p, t in zip(pixels, template, strict=True) if np.isfinite(image[p])
        ]
        out.append(float(np.median(ratios)) if ratios else 1.0)
    return np.array(out)


def poisson_and_error(
    slope: np.ndarray, unit: np.ndarray, read: np.ndarray, template: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poisson variance of the template at this integration's level (or of the slope), and the total error."""
    level = template.astype(np.float64) * scale[:, None, None]
    level = np.where(np.isnan(template), slope, level)
    poisson = unit * np.where(level > 0, level, 0.0)
    return poisson, np.sqrt(poisson + read)


def scale_slopes(arrays: tuple[np.ndarray, ...], factor: float) -> tuple[np.ndarray, ...]:
    """Slope and error times the factor, both variances times its square (float64)."""
    powers = (1, 1, 2, 2)
    return tuple(
        array.astype(np.float64) * factor**power for array, power in zip(arrays, powers, strict=True)
    )

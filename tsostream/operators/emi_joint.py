"""emicorr, algorithm ``joint``: waves fitted along with the ramps (stage 1, section 5.1).

The four interleaved outputs see the same wave at a phase that the readout clock gives. Pixels are sorted
into bins of phase, so that an integration shrinks to a table of sums: per bin and group the signal of the
good pixels, and per bin their number. How well a wave of given phase and amplitude straightens the ramps
is a quadratic function of the amplitude, whose two coefficients are linear in those tables. So per
integration and frequency there are 500 pairs of coefficients, from which one phase and amplitude follow;
the coefficients of several integrations add up (`combine_tables`), which is what the official step does
with all integrations of a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.emi_clock import Setting, frame_clocks
from tsostream.operators.jit import kernel

__all__ = [
    "PHASES",
    "Wave",
    "accumulate",
    "best_amplitude",
    "best_phase",
    "combine_tables",
    "fit_coefficients",
    "group_scatter",
    "make_wave",
    "subtract_wave",
    "template_index",
]

#: trial phases
PHASES = 500


@kernel
def group_scatter(data, scatter):
    """Find the standard deviation of each ramp's samples, in float32 throughout.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal of one integration [DN].
    scatter : float32 [y, x]
        Written [DN].
    """
    ngroups, ny, nx = data.shape
    count = np.float32(ngroups)
    mean = np.empty(nx, np.float32)
    for y in range(ny):
        mean[:] = 0
        for g in range(ngroups):
            for x in range(nx):
                mean[x] += data[g, y, x]
        for x in range(nx):
            mean[x] /= count
            scatter[y, x] = 0
        for g in range(ngroups):
            for x in range(nx):
                off = data[g, y, x] - mean[x]
                scatter[y, x] += off * off
        for x in range(nx):
            scatter[y, x] = np.sqrt(scatter[y, x] / count)


@kernel
def accumulate(data, scatter, limit, usable, bins, signal, number):
    """Sum the quiet pixels of each bin of phase.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal of one integration [DN].
    scatter : float32 [y, x]
        As from `group_scatter`.
    limit : float32
        Pixels below it are quiet [DN].
    usable : bool [y, x]
        Pixels without a DQ flag.
    bins : int32 [y, column]
        Bin of each column of four outputs.
    signal : float64 [group, bin]
        Sum of the pixels, written.
    number : float64 [bin]
        How many pixels, written.
    """
    ngroups, ny, _ = data.shape
    signal[:] = 0.0
    number[:] = 0.0
    for y in range(ny):
        for column in range(bins.shape[1]):
            if column == 1 or column == 2:
                continue
            b = bins[y, column]
            for x in range(4 * column, 4 * column + 4):
                if usable[y, x] and scatter[y, x] < limit:
                    number[b] += 1.0
                    for g in range(ngroups):
                        signal[g, b] += data[g, y, x]


@kernel
def fit_coefficients(signal, number, templates, a, b):
    """Chi-squared of a wave of amplitude c is ``a c^2 + b c`` (and a constant), for each trial phase.

    Parameters
    ----------
    signal : float64 [group, bin]
        As from `accumulate`.
    number : float64 [bin]
        As from `accumulate`.
    templates : float64 [bin, group, phase]
        The wave in each bin and group.
    a, b : float64 [phase]
        Written.
    """
    nbins, ngroups, nphases = templates.shape
    t = ngroups * (ngroups - 1) / 2.0
    tt = (ngroups - 1) * ngroups * (2 * ngroups - 1) / 6.0
    delta = ngroups * tt - t * t
    s, ts, ss = np.empty(nphases), np.empty(nphases), np.empty(nphases)
    a[:] = 0.0
    b[:] = 0.0
    for k in range(nbins):
        if number[k] == 0.0:
            continue
        s[:] = 0.0
        ts[:] = 0.0
        ss[:] = 0.0
        sy, sty = 0.0, 0.0
        for g in range(ngroups):
            y = signal[g, k]
            sy += y
            sty += g * y
            for m in range(nphases):
                z = templates[k, g, m]
                s[m] += z
                ts[m] += g * z
                ss[m] += z * z
                b[m] -= 2.0 * z * y
        for m in range(nphases):
            a[m] += (
                number[k]
                / delta
                * (-tt * s[m] * s[m] + 2 * t * s[m] * ts[m] - ngroups * ts[m] * ts[m] + ss[m] * delta)
            )
            b[m] += 2.0 / delta * (tt * s[m] * sy - t * ts[m] * sy - t * s[m] * sty + ngroups * ts[m] * sty)


@kernel
def template_index(phase):
    """Trial phase at or above ``phase`` (modulo 1), rounded as the official step rounds."""
    guess = int(np.ceil((phase % 1.0) * PHASES))
    best, least = 0, 2.0
    for step in range(-1, 2):
        k = (guess + step) % PHASES
        distance = (k * 1.0 / PHASES - phase) % 1.0
        if distance < least or (distance == least and k < best):
            best, least = k, distance
    return best


@kernel
def best_phase(a, b):
    """Phase of the smallest chi-squared: the vertex of a parabola through it and its neighbours.

    Parameters
    ----------
    a, b : float64 [phase]
        Coefficients of each trial phase; where they tell nothing, the phase is left out.
    """
    n = a.size
    best, least = -1, np.inf
    for m in range(n):
        value = _least_chisq(a[m], b[m])
        if value < least:
            best, least = m, value
    if best < 0:
        return 0.0
    before, after = (best - 1) % n, (best + 1) % n
    y0, y1, y2 = _least_chisq(a[before], b[before]), least, _least_chisq(a[after], b[after])
    if not (np.isfinite(y0) and np.isfinite(y2)) or (y0 == y1 and y1 == y2):
        return best / n
    # phases beside the first and last one are not unwrapped, like in the official step
    x0, x1, x2 = before / n, best / n, after / n
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return 0.5 * (x0 + x1) - 0.5 * left / curvature


@kernel
def _least_chisq(a, b):
    """Chi-squared at the best amplitude; NaN where the coefficients tell nothing."""
    if abs(a) <= 1e-8 or not np.isfinite(a) or not np.isfinite(b):
        return np.nan
    return -b * b / (4.0 * a)


@kernel
def best_amplitude(a, b):
    """Give the best amplitude; 0 where the coefficients tell nothing."""
    if abs(a) <= 1e-8 or not np.isfinite(a) or not np.isfinite(b):
        return 0.0
    return -b / (2.0 * a)


@kernel
def subtract_wave(data, phases, step, start, amplitude, knots, where):
    """Subtract the wave from all four outputs.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal of one integration [DN], or a window of it; changed in place.
    phases : float64 [y, column]
        Phase of each column of four outputs in the first group, of the whole frame.
    step : float
        Phase from group to group.
    start : float
        Phase of the integration.
    amplitude : float
        Factor of the wave.
    knots : float64 [power, interval]
        Cubic pieces of the wave, highest power first; the first interval begins half an interval before
        phase 0.
    where : tuple
        First row and column of the window in the frame, and which of its rows: ``(top, left, y0, y1)``.
    """
    ngroups, nx = data.shape[0], data.shape[2]
    top, left, y0, y1 = where
    size = knots.shape[1] - 1
    first, last = left // 4, min((left + nx + 3) // 4, phases.shape[1])
    for g in range(ngroups):
        for y in range(y0, y1):
            for column in range(first, last):
                place = (phases[top + y, column] + step * g + start) % 1.0 * size + 0.5
                k = min(int(place), size)
                d = (place - k) / size
                value = ((knots[0, k] * d + knots[1, k]) * d + knots[2, k]) * d + knots[3, k]
                value *= amplitude
                for x in range(max(4 * column - left, 0), min(4 * column + 4 - left, nx)):
                    data[g, y, x] = np.float64(data[g, y, x]) - value


@kernel
def combine_tables(tables, step, a, b):
    """Add up the coefficients of several integrations, each at its own phase.

    Parameters
    ----------
    tables : float64 [integration, 2, phase]
        As from `fit_coefficients`.
    step : float
        Phase from integration to integration.
    a, b : float64 [phase]
        Written.
    """
    a[:] = 0.0
    b[:] = 0.0
    for m in range(a.size):
        for i in range(tables.shape[0]):
            k = template_index(m / PHASES + step * i)
            a[m] += tables[i, 0, k]
            b[m] += tables[i, 1, k]


@dataclass(frozen=True)
class Wave:
    """One frequency, prepared for an exposure.

    Parameters
    ----------
    phases : float64 [y, column]
        Phase of each column of four outputs in the first group.
    bins : int32 [y, column]
        The same as an index of the bins.
    step, step_integration
        Phase from group to group, and from integration to integration.
    templates : float64 [bin, group, phase]
        The wave for each trial phase.
    knots : float64 [power, interval]
        Cubic pieces of the wave.
    """

    phases: np.ndarray
    bins: np.ndarray
    step: float
    step_integration: float
    templates: np.ndarray
    knots: np.ndarray


def make_wave(info: ExposureInfo, setting: Setting, frequency: float, amplitudes: np.ndarray) -> Wave:
    """Prepare a frequency.

    Parameters
    ----------
    info
        The exposure.
    setting
        Clocks of its readout.
    frequency
        [Hz].
    amplitudes : float64 [bin]
        Reference wave over one period.
    """
    from scipy.interpolate import CubicSpline

    period = (1.0 / frequency) / 10.0e-6
    size = len(amplitudes)
    frame = frame_clocks(info, setting)
    times = np.arange(info.ny)[:, None] * setting.row + np.arange(info.nx // 4) * setting.samples
    phases = (times / period) % 1
    step = (frame / period) % 1
    between = step * info.ngroups + setting.reset / period
    wrapped = np.concatenate([amplitudes[-1:], amplitudes, amplitudes[:1]]).astype(np.float64)
    places = (np.arange(size + 2) - 0.5) / size
    spline = CubicSpline(places, wrapped, bc_type="not-a-knot")
    bins = (places[1:-1, None] + np.arange(info.ngroups) * step) % 1
    templates = spline((bins[:, :, None] + np.arange(PHASES) / PHASES) % 1)
    return Wave(
        phases, (phases * size).astype(np.int32), float(step), float(between), templates, spline.c.copy()
    )

"""Twins of emicorr (spec stage 1, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "INTERFERENCE_TWINS",
    "add_tables",
    "leftover",
    "nearest_template",
    "phased_means",
    "remove_table",
    "remove_wave",
    "sample_phases",
    "scatter_of_groups",
    "straightness",
    "sum_quiet",
    "vertex_phase",
    "wave_table",
]


def scatter_of_groups(data: np.ndarray) -> np.ndarray:
    """Find the standard deviation over the groups (float64 [y, x]) of one integration."""
    return data.astype(np.float64).std(axis=0)


def sum_quiet(
    data: np.ndarray, quiet: np.ndarray, bins: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the quiet pixels (bool [y, x]) per bin; signal float64 [group, bin] and number float64 [bin]."""
    signal, number = np.zeros((len(data), size)), np.zeros(size)
    for y, x in np.ndindex(data.shape[1:]):
        column = x // 4
        if column < bins.shape[1] and column not in (1, 2) and quiet[y, x]:
            signal[:, bins[y, column]] += data[:, y, x]
            number[bins[y, column]] += 1
    return signal, number


def straightness(signal: np.ndarray, number: np.ndarray, wave: np.ndarray) -> tuple[float, float]:
    """Coefficients of chi-squared from what straight lines leave of the wave and of the signal.

    Parameters
    ----------
    signal : float64 [group, bin]
        Summed signal.
    number : float64 [bin]
        Pixels per bin.
    wave : float64 [bin, group]
        The wave for one trial phase.
    """

    def rest(values: np.ndarray) -> np.ndarray:
        t = np.arange(len(values))
        return values - np.polyval(np.polyfit(t, values, 1), t)

    a = b = 0.0
    for k in range(len(number)):
        shape = rest(wave[k])
        a += number[k] * float(shape @ shape)
        b -= 2.0 * float(shape @ rest(signal[:, k])) if number[k] else 0.0
    return a, b


def nearest_template(phase: float, count: int = 500) -> int:
    """Index of the trial phase that follows ``phase`` most closely."""
    return int(np.argmin(np.abs((np.arange(count) * 1.0 / count - phase) % 1)))


def add_tables(tables: np.ndarray, step: float) -> np.ndarray:
    """Add coefficients [integration, 2, phase] of several integrations; float64 [2, phase]."""
    total = np.zeros(tables.shape[1:])
    for m in range(tables.shape[2]):
        for i in range(len(tables)):
            total[:, m] += tables[i, :, nearest_template(m / tables.shape[2] + step * i, tables.shape[2])]
    return total


def vertex_phase(a: np.ndarray, b: np.ndarray) -> float:
    """Phase of the vertex of a parabola through the smallest chi-squared and its neighbours."""
    with np.errstate(divide="ignore", invalid="ignore"):
        chisq = np.where(np.abs(a) <= 1e-8, np.nan, -(b**2) / (4 * a))
    if not np.isfinite(chisq).any():
        return 0.0
    best, n = int(np.nanargmin(chisq)), len(a)
    index = [(best - 1) % n, best, (best + 1) % n]
    values = chisq[index]
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return best / n
    centre = np.mean(index) / n
    curve, slope, _ = np.polyfit(np.array(index) / n - centre, values, 2)
    return float(centre - slope / (2 * curve))


def remove_wave(
    data: np.ndarray, phases: np.ndarray, step: float, start: float, amplitude: float, wave: Sequence[float]
) -> np.ndarray:
    """Subtract a wave given by its values in the bins, interpolated by a cubic spline; float64 [group, y, x]."""
    from scipy.interpolate import interp1d

    size = len(wave)
    curve = interp1d((np.arange(size + 2) - 0.5) / size, [wave[-1], *wave, wave[0]], kind="cubic")
    out = data.astype(np.float64)
    for g, y, x in np.ndindex(data.shape):
        if x // 4 < phases.shape[1]:
            out[g, y, x] -= amplitude * float(curve((phases[y, x // 4] + step * g + start) % 1))
    return out


def leftover(data: np.ndarray) -> np.ndarray:
    """Take a line and a bias off each ramp, and average the four outputs; float64 [group, y, column]."""
    ngroups, ny, nx = data.shape
    rest = np.zeros((ngroups, ny, nx))
    for y, x in np.ndindex(ny, nx):
        ramp = data[:, y, x].astype(np.float64)
        inner = slice(1, ngroups - 1)
        slope = np.polyfit(np.arange(ngroups - 2), ramp[inner], 1)[0]
        flat = ramp - slope * np.arange(ngroups)
        rest[:, y, x] = flat - (np.median(flat[inner]) if ngroups > 4 else flat[inner].min())
    mean = rest[..., : nx // 4 * 4].reshape(ngroups, ny, nx // 4, 4).mean(axis=3)
    mean[..., 1] = mean[..., 2] = (mean[..., 0] + mean[..., 3]) / 2
    return mean - np.median(mean, axis=(1, 2), keepdims=True)


def sample_phases(shape: tuple[int, int, int], start: float, clock: np.ndarray) -> np.ndarray:
    """Phase of every sample [group, y, column], one after the other as they are read."""
    row, frame, samples, late, period = clock
    phases = np.empty(shape)
    for g, y, column in np.ndindex(shape):
        time = start + g * frame + y * row + column * samples + (2**32 + 3 if column == late else 0)
        phases[g, y, column] = time / period % 1
    return phases


def phased_means(rest: np.ndarray, phases: np.ndarray, bins: int) -> np.ndarray:
    """Clipped mean of the samples in each bin of phase, NaN of none."""
    from astropy.stats import sigma_clip

    means = np.full(bins, np.nan)
    for k in range(bins):
        inside = rest[(phases > k / bins) & (phases <= (k + 1) / bins)].astype(np.float64)
        if inside.size:
            means[k] = sigma_clip(inside, sigma=3, maxiters=5, masked=False).mean()
    return means


def wave_table(means: np.ndarray, period: float, shape: np.ndarray, *, scale: bool) -> np.ndarray:
    """Wave over one period: of the bins, or of a reference turned, and scaled, to be like them."""

    def take(values: np.ndarray, length: float) -> np.ndarray:
        step = len(values) / length
        return np.array([values[int(k * step)] for k in range(int(np.ceil(len(values) / step)))])

    wave = means - np.median(means)
    table = take(wave, period)
    if shape.size:
        like = take(wave, len(shape))
        alike = [np.corrcoef(np.roll(shape, k), like)[0, 1] for k in range(len(shape))]
        turned = take(np.roll(shape, int(np.argmax(alike))), period)
        table = turned * (np.polyfit(turned, table, 1)[0] if scale else 1.0)
    return table


def remove_table(data: np.ndarray, phases: np.ndarray, table: np.ndarray, period: float) -> np.ndarray:
    """Subtract a table by the phase of each sample; float64 [group, y, x]."""
    out = data.astype(np.float64)
    for g, y, column in np.ndindex(phases.shape):
        out[g, y, 4 * column : 4 * column + 4] -= table[int(phases[g, y, column] * period)]
    return out


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
INTERFERENCE_TWINS: dict[str, Callable[..., Any]] = {
    "emi_joint.group_scatter": scatter_of_groups,
    "emi_joint.accumulate": sum_quiet,
    "emi_joint.fit_coefficients": straightness,
    "emi_joint.template_index": nearest_template,
    "emi_joint.best_phase": vertex_phase,
    "emi_joint._least_chisq": vertex_phase,
    "emi_joint.best_amplitude": straightness,
    "emi_joint.subtract_wave": remove_wave,
    "emi_joint.combine_tables": add_tables,
    "emi_sequential._middle_group": leftover,
    "emi_sequential.leave_waves": leftover,
    "emi_sequential._phase": sample_phases,
    "emi_sequential._bin": phased_means,
    "emi_sequential.count_samples": phased_means,
    "emi_sequential.put_samples": phased_means,
    "emi_sequential.clipped_mean": phased_means,
    "emi_sequential.subtract_table": remove_table,
}

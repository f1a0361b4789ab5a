"""Twins of emicorr (spec stage 1, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "INTERFERENCE_TWINS",
    "add_tables",
    "nearest_template",
    "remove_wave",
    "scatter_of_groups",
    "straightness",
    "sum_quiet",
    "vertex_phase",
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


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
INTERFERENCE_TWINS: dict[str, Callable[..., Any]] = {
    "emicorr.group_scatter": scatter_of_groups,
    "emicorr.accumulate": sum_quiet,
    "emicorr.fit_coefficients": straightness,
    "emicorr.template_index": nearest_template,
    "emicorr.best_phase": vertex_phase,
    "emicorr._least_chisq": vertex_phase,
    "emicorr._amplitude": straightness,
    "emicorr.subtract_wave": remove_wave,
    "emicorr.combine_tables": add_tables,
}

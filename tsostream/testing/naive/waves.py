"""Twins of the waves that clean_flicker_noise fits to the readout's clock (spec stage 1, section 17.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["WAVE_TWINS", "clean_waves", "fit_waves", "pass_band", "quiet_pixels"]

PAUSE, CLOCK = 12, 1.0e-5


def quiet_pixels(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Background (bool [y, x]) without outliers beyond four robust widths, and without their four neighbours."""
    middle = np.median(image[good])
    width = 1.4825 * np.median(np.abs(image[good] - middle))
    bad = good & (np.abs(image - middle) > 4 * width)
    keep = good & ~bad
    for y, x in np.argwhere(bad):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < image.shape[0] and 0 <= u < image.shape[1]:
                keep[v, u] = False
    return keep


def pass_band(ticks: int) -> np.ndarray:
    """Gain of each frequency of a series of ``ticks`` clocks."""
    gain = []
    for k in range(ticks // 2 + 1):
        f = k / (ticks * CLOCK)
        if f < 1061:
            gain.append(1.0)
        elif f < 1211:
            gain.append(0.5 * (1 + np.cos(np.pi * (f - 1061) / 150)))
        elif f < 49943:
            gain.append(0.0)
        elif f < 49957:
            gain.append(0.5 * (1 + np.cos(np.pi * (f - 49943) / 14 + np.pi)))
        else:
            gain.append(1.0)
    return np.where(np.array(gain) > 1e-8, gain, 0.0)


def fit_waves(rows: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Fit a block of detector rows; the model of all its pixels, float64 [row, column]."""
    ny, nx = rows.shape
    ticks = ny * (nx + PAUSE)
    place = np.arange(ny)[:, None] * (nx + PAUSE) + np.arange(nx)
    marks = np.zeros(ticks)
    marks[place[good]] = 1
    sigma = 1 / 1136 / CLOCK / 8
    # a Gaussian about half the series, one clock late, closed to a ring
    off = np.arange(ticks) - (ticks // 2 + 1)
    heights = np.fft.ifftshift(np.exp(-0.5 * (off / sigma) ** 2) / sigma / np.sqrt(2 * np.pi))
    density = np.fft.irfft(np.fft.rfft(marks) * np.fft.rfft(heights), ticks)
    weight = 1 / density[place[good]]
    gain = pass_band(ticks)
    chosen = np.flatnonzero(gain)
    basis = np.exp(2j * np.pi * place[good][:, None] * chosen / ticks)
    found, *_ = np.linalg.lstsq(weight[:, None] * basis, weight * rows[good].astype(float), rcond=None)
    spectrum = np.zeros(ticks // 2 + 1, complex)
    spectrum[chosen] = found * ticks * gain[chosen]
    return np.fft.irfft(spectrum, ticks).reshape(ny, -1)[:, :nx]


def clean_waves(image: np.ndarray, good: np.ndarray, *, flip: bool) -> np.ndarray:
    """Subtract the waves, block of rows after block of rows, each weighted most in its middle."""
    clean = quiet_pixels(image, good)
    rows, keep = image.T, clean.T
    if flip:
        rows, keep = rows[::-1], keep[::-1]
    number = keep.sum(axis=1)
    used = np.flatnonzero(number)
    total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
    first, last = int(used[0]), int(used[-1])
    while True:
        stop = last + 1
        for end in range(first + 1, last + 2):
            if number[first:end].sum() > 512 and number[first:].sum() > 1.5 * 512:
                stop = end
                break
        part, mask = rows[first:stop], keep[first:stop]
        model = fit_waves(part, mask) if mask.mean() > 0.05 else np.zeros(part.shape)
        weight = 1.001 - np.abs(np.linspace(-1, 1, stop - first))[:, None]
        total[first:stop] += weight * model
        weights[first:stop] += weight
        if stop == last + 1:
            break
        first += max(round((stop - first) / 2), 1)
        if first > last:
            break
    weights[total == 0] = 1
    out = rows - total / weights
    return out[::-1].T if flip else out.T


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
WAVE_TWINS: dict[str, Callable[..., Any]] = {
    "flicker_waves._mark_outliers": quiet_pixels,
    "flicker_waves._weigh": fit_waves,
    "flicker_waves._solve": fit_waves,
    "flicker_waves._fit_block": fit_waves,
    "flicker_waves.subtract_waves": clean_waves,
}

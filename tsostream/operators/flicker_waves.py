"""Slow waves of the readout's clock, fitted to the background of an image (clean_flicker_noise, ``fit_method=fft``).

The method of Rauscher (2024, "NSClean"), for subarrays as stage 1, section 17.2 has it. Pixels are samples of one long
series, in the order and with the pauses in which they were read. The noise is a sum of the lowest frequencies and of
those beside the highest one (alternating columns). Their amplitudes follow from the background pixels by least
squares, each pixel weighted by how few others are near it in time. An image is fitted in overlapping blocks of rows
(rows of the detector, columns of the image) with enough background each, and blocks fade into each other.

The normal equations hold only differences of frequencies, so their matrix follows from one sum per difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.ranks import middle_value

__all__ = ["WAVE_SCRATCH", "WaveTables", "subtract_waves", "wave_scratch", "wave_tables"]

#: clocks between rows, and seconds of a clock
PAUSE, CLOCK = 12, float(np.float32(1.0e-5))
#: frequencies [Hz]: kept below the first, faded out to the second, gone to the third, faded in to the fourth
PASS = (1061.0, 1211.0, 49943.0, 49957.0)
PASS_ALLSLITS = (150.0, 200.0, 49943.0, 49957.0)
#: background pixels a block has, and the smallest part of it that they may be
BLOCK, LEAST = 512, 0.05
#: values further from the median are no background [robust standard deviations]
OUTLIER = 4.0
#: weights look so far [standard deviations of their kernel]
REACH = 8.0
#: working arrays of `subtract_waves`
WAVE_SCRATCH = (
    "usable",
    "clean",
    "model",
    "total",
    "density",
    "turn",
    "sums",
    "matrix",
    "solution",
    "values",
)


@kernel
def _mark_outliers(image, good, values, usable, clean):
    """Copy the background without outliers and the four neighbours of each; ``usable`` has them by row of the image."""
    ny, nx = image.shape
    count = 0
    for y in range(ny):
        for x in range(nx):
            if good[y, x]:
                values[count] = image[y, x]
                count += 1
    if count == 0:
        return 0
    middle = middle_value(values, count)
    count = 0
    for y in range(ny):
        for x in range(nx):
            if good[y, x]:
                values[count] = abs(image[y, x] - middle)
                count += 1
    limit = np.float32(OUTLIER) * (np.float32(1.4825) * middle_value(values, count))
    for y in range(ny):
        for x in range(nx):
            usable[y, x] = good[y, x] and not abs(image[y, x] - middle) > limit
    count = 0
    for y in range(ny):
        for x in range(nx):
            keep = usable[y, x]
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                v, u = y + dy, x + dx
                if keep and 0 <= v < ny and 0 <= u < nx and good[v, u] and not usable[v, u]:
                    keep = False
            clean[y, x] = keep
            count += keep
    return count


@kernel
def _weigh(clean, first, rows, flip, sigma, density, marks):
    """Write the weight of each clock of a block: one over the number of usable pixels near it (0 where none is)."""
    ny, nx = clean.shape
    ticks = rows * (ny + PAUSE)
    marks[:ticks] = 0.0
    density[:ticks] = 0.0
    for r in range(rows):
        x = nx - 1 - (first + r) if flip else first + r
        for y in range(ny):
            if clean[y, x]:
                marks[r * (ny + PAUSE) + y] = 1.0
    # as in the official step the kernel is moved by one clock, and the series is closed to a ring
    half = ticks - ticks // 2
    for lag in range(ticks):
        off = lag - 1 if lag < half else lag - 1 - ticks
        if abs(off) > REACH * sigma:
            continue
        height = np.exp(-0.5 * (off / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)
        for t in range(ticks - lag):
            density[t + lag] += height * marks[t]
        for t in range(ticks - lag, ticks):
            density[t + lag - ticks] += height * marks[t]
    for t in range(ticks):
        density[t] = 1.0 / density[t] if marks[t] > 0.0 and density[t] > 0.0 else 0.0


@kernel
def _solve(matrix, solution, size):
    """Solve a Hermitian system in place by Cholesky's method; False when it is singular.

    Parameters
    ----------
    matrix : complex128 [row, column]
        Lower triangle; replaced by the factor.
    solution : complex128 [row]
        Right side; replaced by the solution.
    size : int
        Of the system.
    """
    for j in range(size):
        pivot = matrix[j, j].real
        start = pivot
        for k in range(j):
            pivot -= matrix[j, k].real ** 2 + matrix[j, k].imag ** 2
        if not pivot > 1e-13 * start:
            return False
        root = np.sqrt(pivot)
        matrix[j, j] = root
        for i in range(j + 1, size):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * np.conj(matrix[j, k])
            matrix[i, j] = value / root
    for i in range(size):
        value = solution[i]
        for k in range(i):
            value -= matrix[i, k] * solution[k]
        solution[i] = value / matrix[i, i].real
    for i in range(size - 1, -1, -1):
        value = solution[i]
        for k in range(i + 1, size):
            value -= np.conj(matrix[k, i]) * solution[k]
        solution[i] = value / matrix[i, i].real
    return True


@kernel
def _fit_block(image, clean, first, rows, flip, sigma, low, high, gains, work):
    """Fit a block; returns whether that was possible.

    Parameters
    ----------
    image : float32 [y, x]
        Values.
    clean : bool [y, x]
        Background.
    first, rows : int
        Rows of the detector.
    flip : bool
        Rows of the detector run against x.
    sigma : float
        Width of the weights' kernel [clock].
    low, high : int
        Frequencies below ``low`` and from ``high`` on, in units of one over the block's length, are fitted.
    gains : float64 [frequency]
        What is kept of each fitted frequency.
    work : tuple
        ``density, marks, turn, sums, matrix, solution, model``; the model, float64 [row, y], is written.
    """
    density, marks, turn, sums, matrix, solution, model = work
    ny, nx = clean.shape
    line = ny + PAUSE
    ticks = rows * line
    top = ticks // 2
    size = gains.size
    _weigh(clean, first, rows, flip, sigma, density, marks)
    for t in range(ticks):
        angle = 2 * np.pi * t / ticks
        turn[t] = complex(np.cos(angle), np.sin(angle))
    # differences of frequencies: below low, and from high - low + 1 on
    gap = max(high - low + 1, low)
    for d in range(top + 1):
        sums[d] = 0.0
    solution[:size] = 0.0
    for r in range(rows):
        x = nx - 1 - (first + r) if flip else first + r
        for y in range(ny):
            t = r * line + y
            if density[t] == 0.0:
                continue
            weight = density[t] * density[t]
            place, step = 0, t
            for d in range(low):
                sums[d] += weight * turn[place]
                place = (place + step) % ticks
            place = t * gap % ticks
            for d in range(gap, top + 1):
                sums[d] += weight * turn[place]
                place = (place + step) % ticks
            weight *= np.float64(image[y, x])
            place = 0
            for k in range(low):
                solution[k] += weight * np.conj(turn[place])
                place = (place + step) % ticks
            place = t * high % ticks
            for k in range(low, size):
                solution[k] += weight * np.conj(turn[place])
                place = (place + step) % ticks
    for i in range(size):
        k = i if i < low else high + i - low
        for j in range(i + 1):
            m = j if j < low else high + j - low
            matrix[i, j] = np.conj(sums[k - m])
    if not _solve(matrix, solution, size):
        return False
    for i in range(size):
        k = i if i < low else high + i - low
        share = 1.0 if k == 0 or k == top else 2.0
        solution[i] = share * gains[i] * solution[i]
    for r in range(rows):
        for y in range(ny):
            t = r * line + y
            value, place = 0.0, 0
            for i in range(low):
                if i > 0:
                    value += solution[i].real * turn[place].real - solution[i].imag * turn[place].imag
                else:
                    value += solution[i].real
                place = (place + t) % ticks
            place = t * high % ticks
            for i in range(low, size):
                if high + i - low == top:
                    value += solution[i].real * turn[place].real
                else:
                    value += solution[i].real * turn[place].real - solution[i].imag * turn[place].imag
                place = (place + t) % ticks
            model[r, y] = value
    return True


@kernel
def subtract_waves(
    image, good, flip, sigma, lows, highs, starts, gains,
    usable, clean, model, total, density, turn, sums, matrix, solution, values,
):  # fmt: skip
    """Fit the waves to the background of an image and subtract them.

    Parameters
    ----------
    image : float32 [y, x]
        Changed in place.
    good : bool [y, x]
        Background.
    flip : bool
        Rows of the detector run against x.
    sigma : float
        Width of the weights' kernel [clock].
    lows, highs, starts : int64 [rows]
        Of blocks of so many rows: which frequencies are fitted, and where their gains begin.
    gains : float64 [gain]
        What is kept of each fitted frequency.
    usable, clean : bool [y, x]
        Working arrays.
    model : float64 [2, x, y]
        Working array.
    total : float64 [x]
        Working array.
    density : float64 [2, clock]
        Working array.
    turn, sums : complex128 [clock]
        Working arrays.
    matrix : complex128 [frequency, frequency]
        Working array.
    solution : complex128 [frequency]
        Working array.
    values : float32 [pixel]
        Working array.

    Returns
    -------
    done : bool
        False when there is no background, or it does not tell the waves apart; the image is as it was.
    """
    ny, nx = image.shape
    if _mark_outliers(image, good, values, usable, clean) == 0:
        return False
    whole, part = model[0], model[1]
    whole[:] = 0.0
    total[:] = 0.0
    begin, last, left = -1, -1, 0
    for r in range(nx):
        count = 0
        for y in range(ny):
            count += clean[y, nx - 1 - r if flip else r]
        if count > 0:
            begin, last = r if begin < 0 else begin, r
        left += count
    work = (density[0], density[1], turn, sums, matrix, solution, part)
    first = begin
    while first <= last:
        # as many rows as hold a block of background, or all that are left
        stop, count = last + 1, 0
        for r in range(first, last + 1):
            for y in range(ny):
                count += clean[y, nx - 1 - r if flip else r]
            if count > BLOCK and left > 1.5 * BLOCK:
                stop = r + 1
                break
        rows = stop - first
        part[:rows] = 0.0
        if count / (rows * ny) > LEAST:
            size = starts[rows + 1] - starts[rows]
            own = gains[starts[rows] : starts[rows] + size]
            if not _fit_block(image, clean, first, rows, flip, sigma, lows[rows], highs[rows], own, work):
                return False
        for r in range(rows):
            place = 2.0 * r / (rows - 1) - 1.0 if rows > 1 else -1.0
            weight = 1.001 - abs(place)
            total[first + r] += weight
            for y in range(ny):
                whole[first + r, y] += weight * part[r, y]
        if stop == last + 1:
            break
        step = max(int(np.round(rows / 2)), 1)
        for r in range(first, first + step):
            for y in range(ny):
                left -= clean[y, nx - 1 - r if flip else r]
        first += step
    for r in range(nx):
        x = nx - 1 - r if flip else r
        for y in range(ny):
            if whole[r, y] != 0.0:
                image[y, x] = image[y, x] - whole[r, y] / total[r]
    return True


@dataclass(frozen=True)
class WaveTables:
    """Which frequencies are fitted, by the number of rows of a block.

    Parameters
    ----------
    flip
        Rows of the detector run against x.
    sigma
        Width of the weights' kernel [clock].
    lows, highs, starts : int64 [rows]
        Frequencies below the first and from the second on; where their gains begin.
    gains : float64 [gain]
        What is kept of each.
    """

    flip: bool
    sigma: float
    lows: np.ndarray
    highs: np.ndarray
    starts: np.ndarray
    gains: np.ndarray

    @property
    def most(self) -> int:
        """Frequencies of the largest block."""
        return int(np.diff(self.starts).max())

    def arguments(self) -> tuple[Any, ...]:
        """In the order of the kernel's."""
        return self.flip, self.sigma, self.lows, self.highs, self.starts, self.gains


def wave_tables(info: ExposureInfo) -> WaveTables:
    """Prepare the frequencies for an exposure (NIRSpec: rows of the detector are columns of the image)."""
    limits = PASS_ALLSLITS if info.subarray.upper() == "ALLSLITS" else PASS
    lows, highs, starts, gains = [0], [0], [0, 0], []
    for rows in range(1, info.nx + 1):
        kept = _gain(rows * (info.ny + PAUSE), limits)
        chosen = np.flatnonzero(kept > 0)
        low = int(np.argmax(kept <= 0)) if (kept <= 0).any() else len(kept)
        lows.append(low)
        highs.append(int(chosen[low]) if len(chosen) > low else len(kept))
        gains.append(kept[chosen])
        starts.append(starts[-1] + len(chosen))
    sigma = 1.0 / ((limits[0] + limits[1]) / 2.0) / CLOCK / 2.0 / 4.0
    flip = info.detector.upper() != "NRS1"
    tables = [np.array(one, np.int64) for one in (lows, highs, starts)]
    return WaveTables(flip, sigma, tables[0], tables[1], tables[2], np.concatenate(gains))


def _gain(ticks: int, limits: tuple[float, ...]) -> np.ndarray:
    """Tell how much is kept of each frequency of a series; float64 [frequency]."""
    # in single precision, like the official step: a gain that is nearly zero is zero or it is not
    frequency = (np.arange(ticks // 2 + 1) / (ticks * CLOCK)).astype(np.float32)
    a, b, c, d = (np.float32(one) for one in limits)
    down = np.float32(0.5) * (np.cos(np.float32(np.pi / (b - a)) * (frequency - a)) + 1)
    up = np.float32(0.5) * (np.cos(np.float32(np.pi / (d - c)) * (frequency - c) + np.float32(np.pi)) + 1)
    gain = np.where(frequency < a, 1.0, np.where(frequency < b, down, 0.0))
    return np.where(frequency >= d, 1.0, np.where(frequency >= c, up, gain))


def wave_scratch(plane: tuple[int, ...], most: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Working arrays of `subtract_waves` for a plane [y, x] and so many frequencies, by name."""
    ny, nx = plane
    ticks = nx * (ny + PAUSE)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "usable": (plane, np.bool_), "clean": (plane, np.bool_), "model": ((2, nx, ny), np.float64),
        "total": ((nx,), np.float64), "density": ((2, ticks), np.float64), "turn": ((ticks,), np.complex128),
        "sums": ((ticks,), np.complex128), "matrix": ((most, most), np.complex128),
        "solution": ((most,), np.complex128), "values": ((nx * ny,), np.float32),
    }  # fmt: skip
    return {f"clean_flicker_noise.wave_{name}": shapes[name] for name in WAVE_SCRATCH}

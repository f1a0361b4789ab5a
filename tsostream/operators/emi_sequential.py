"""emicorr, algorithm ``sequential``: waves found in what straight lines leave of the ramps (stage 1, section 5.2).

The samples of some integrations are sorted by the phase of the wave; the clipped mean of each bin of phase is the wave
as it was. With a reference it only tells the reference's phase and amplitude. The wave is then a table over one period,
in clocks, which is subtracted from every sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.emi_clock import Setting, frame_clocks
from tsostream.operators.jit import kernel
from tsostream.operators.ranks import clipped_stretch, middle_value, sort_values, sums_of_squares

__all__ = [
    "Clock",
    "bin_means",
    "count_samples",
    "find_table",
    "leave_waves",
    "put_samples",
    "subtract_table",
]

#: limit of the clip of a bin [sigma]
SIGMA = 3.0
#: more bins than the first are made the second
MOST_BINS, CUT_BINS = 501, 500
#: last column of whole frames: a reference pixel, read so many clocks late (in the official step's unsigned sum)
LAST_COLUMN, LATE = 258, float(3 + 2**32)


@kernel
def _middle_group(values, count):
    """Median of few values, which are reordered; the smallest of one or two."""
    if count <= 2:
        return min(values[0], values[count - 1])
    return middle_value(values, count)


@kernel
def leave_waves(data, rest, groups, plane):
    """Take source and bias off, and average the four outputs.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal of one integration [DN]; at least three groups.
    rest : float32 [group, y, column]
        Written.
    groups : float32 [group]
        Working array.
    plane : float32 [y * column]
        Working array.
    """
    ngroups, ny, _ = data.shape
    columns = rest.shape[2]
    count = ngroups - 2
    # sums over the groups but the first and the last, counted from 0
    sx = count * (count - 1) / 2.0
    sxx = (count - 1) * count * (2 * count - 1) / 6.0
    for y in range(ny):
        for column in range(columns):
            rest[:, y, column] = 0
            for x in range(4 * column, 4 * column + 4):
                sy, sxy = 0.0, 0.0
                for k in range(count):
                    sy += data[k + 1, y, x]
                    sxy += k * np.float64(data[k + 1, y, x])
                slope = (count * sxy - sx * sy) / (count * sxx - sx * sx)
                for k in range(count):
                    groups[k] = np.float64(data[k + 1, y, x]) - slope * (k + 1)
                bias = _middle_group(groups, count)
                for g in range(ngroups):
                    value = np.float32(np.float64(data[g, y, x]) - slope * g)
                    rest[g, y, column] += value - bias
            for g in range(ngroups):
                rest[g, y, column] /= np.float32(4.0)
    for g in range(ngroups):
        for y in range(ny):
            if columns > 3:
                # bad reference columns
                mean = (rest[g, y, 0] + rest[g, y, 3]) / np.float32(2.0)
                rest[g, y, 1] = mean
                rest[g, y, 2] = mean
        count = 0
        for y in range(ny):
            for column in range(columns):
                plane[count] = rest[g, y, column]
                count += 1
        middle = middle_value(plane, count)
        for y in range(ny):
            for column in range(columns):
                rest[g, y, column] -= middle


@kernel
def _phase(time, column, clock):
    """Phase of a sample that is read ``time`` clocks after the first one."""
    if column == clock[3]:
        time += LATE
    cycles = time / clock[4]
    return cycles - np.floor(cycles)


@kernel
def _bin(phase, size):
    """Bin of a phase, borders belong to the bin below; -1 for phase 0."""
    k = int(np.ceil(phase * size)) - 1
    if k >= 0 and not phase > k / size:
        k -= 1
    elif phase > (k + 1) / size:
        k += 1
    return min(k, size - 1)


@kernel
def count_samples(shape, start, clock, counts):
    """Count the samples of each bin.

    Parameters
    ----------
    shape : tuple
        Groups, rows and columns of four outputs.
    start : float
        Clock at the beginning of the integration.
    clock : float64 [5]
        Clocks of a row, of a frame, of a pixel; the column that is read late (-1: none); the period.
    counts : int64 [bin]
        Written.
    """
    counts[:] = 0
    size = counts.size
    for g in range(shape[0]):
        for y in range(shape[1]):
            time = start + g * clock[1] + y * clock[0]
            for column in range(shape[2]):
                k = _bin(_phase(time + column * clock[2], column, clock), size)
                if k >= 0:
                    counts[k] += 1


@kernel
def put_samples(rest, start, clock, places, values):
    """Put samples where those of their bin are collected.

    Parameters
    ----------
    rest : float32 [group, y, column]
        As from `leave_waves`.
    start, clock
        As in `count_samples`.
    places : int64 [bin]
        Where the next sample of each bin goes; moved on.
    values : float32 [sample]
        Written.
    """
    size = places.size
    for g in range(rest.shape[0]):
        for y in range(rest.shape[1]):
            time = start + g * clock[1] + y * clock[0]
            for column in range(rest.shape[2]):
                k = _bin(_phase(time + column * clock[2], column, clock), size)
                if k >= 0:
                    values[places[k]] = rest[g, y, column]
                    places[k] += 1


@kernel
def clipped_mean(values, count, spare, sums, squares):
    """Mean of values after clipping about their median; NaN of none.

    Parameters
    ----------
    values, spare : float32 [value]
        Sorted in place; working array.
    count : int
        How many.
    sums, squares : float64 [value + 1]
        Working arrays.
    """
    for k in range(count):
        if np.isnan(values[k]):
            return np.nan
    if count == 0:
        return np.nan
    sort_values(values, spare, count)
    zero = np.float64(values[count // 2])
    sums_of_squares(values, 0, count, zero, sums, squares)
    first, last, _, _ = clipped_stretch(values, 0, count, SIGMA, zero, sums, squares)
    return zero + (sums[last] - sums[first]) / (last - first)


@kernel
def subtract_table(data, start, clock, table, where):
    """Subtract a wave from all four outputs.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal of one integration [DN], or a window of it; changed in place.
    start, clock
        As in `count_samples`.
    table : float64 [clock of a period]
        The wave.
    where : tuple
        First row and column of the window in the frame, and which of its rows: ``(top, left, y0, y1)``.
    """
    ngroups, nx = data.shape[0], data.shape[2]
    top, left, y0, y1 = where
    period = clock[4]
    for g in range(ngroups):
        for y in range(y0, y1):
            time = start + g * clock[1] + (top + y) * clock[0]
            for column in range(left // 4, (left + nx + 3) // 4):
                phase = _phase(time + column * clock[2], column, clock)
                value = table[min(int(phase * period), table.size - 1)]
                for x in range(max(4 * column - left, 0), min(4 * column + 4 - left, nx)):
                    data[g, y, x] = np.float64(data[g, y, x]) - value


@dataclass(frozen=True)
class Clock:
    """How samples of an exposure follow each other, for one wave.

    Parameters
    ----------
    numbers : float64 [5]
        As the kernels take them.
    integration
        Clocks from the beginning of one integration to that of the next.
    bins
        Bins of phase.
    shape : float64 [bin]
        Reference wave; empty when it is found on the fly.
    """

    numbers: np.ndarray
    integration: float
    bins: int
    shape: np.ndarray

    @classmethod
    def make(cls, info: ExposureInfo, setting: Setting, wave: int, bins: int | None) -> Clock:
        """Prepare a wave of an exposure."""
        period = (1.0 / setting.frequencies[wave]) / 10.0e-6
        frame = frame_clocks(info, setting)
        late = info.nx // 4 - 1 if int(info.nx / 4 + info.xstart - 1) == LAST_COLUMN else -1
        count = int(period / 2.0) if bins is None else bins
        shape = setting.shapes[wave] if setting.shapes else np.empty(0)
        return cls(
            np.array([setting.row, frame, setting.samples, float(late), period]),
            frame * info.ngroups + setting.reset,
            CUT_BINS if count > MOST_BINS else count,
            shape,
        )

    @property
    def period(self) -> float:
        """Of the wave [clock]."""
        return float(self.numbers[4])


def bin_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Clipped mean of each bin, float64 [bin]; ``values`` [sample] lie bin after bin, ``counts`` [bin] in each."""
    most = int(counts.max(initial=0))
    spare, sums, squares = np.empty(most, np.float32), np.empty(most + 1), np.empty(most + 1)
    means, stops = np.empty(len(counts)), np.cumsum(counts)
    for k, (count, stop) in enumerate(zip(counts, stops, strict=True)):
        part = np.array(values[stop - count : stop])
        means[k] = clipped_mean(part, int(count), spare, sums, squares)
    return means


def _resample(values: np.ndarray, length: float) -> np.ndarray:
    """Take the value at or before each of ``length`` equal steps."""
    step = len(values) / length
    return values[(np.arange(int(np.ceil(len(values) / step))) * step).astype(int)]


def find_table(means: np.ndarray, clock: Clock, *, scale: bool) -> np.ndarray:
    """Make the wave's table from the means of the bins.

    Parameters
    ----------
    means : float64 [bin]
        As from `bin_means`.
    clock
        The wave.
    scale
        Give a reference wave the amplitude of the data.

    Returns
    -------
    table : float64 [clock of a period]
        Zeros where the wave cannot be found.
    """
    wave = means - np.median(means)
    table = _resample(wave, clock.period)
    if clock.shape.size:
        table = _reference_table(wave, table, clock, scale=scale)
    return np.where(np.isfinite(table), table, 0.0)


def _reference_table(wave: np.ndarray, table: np.ndarray, clock: Clock, *, scale: bool) -> np.ndarray:
    """Turn the reference to the phase at which it is most like the wave, and scale it."""
    # rounding may give one value too many, on which the official step fails
    shape, like = clock.shape, _resample(wave, len(clock.shape))[: len(clock.shape)]
    with np.errstate(invalid="ignore", divide="ignore"):
        # what rolling does to the correlation is all in the product of the two
        products = [np.dot(np.roll(shape, k), like - like.mean()) for k in range(len(shape))]
    turned = _resample(np.roll(shape, int(np.argmax(products))), clock.period)
    if not scale:
        return turned
    count = min(len(turned), len(table))
    turned, table = turned[:count], table[:count]
    off = turned - turned.mean()
    spread = float(np.dot(off, off))
    return turned * (float(np.dot(off, table - table.mean())) / spread if spread > 0 else np.nan)

"""refpix: kernels that find the levels of reference pixels and subtract them (spec stage 1, sections 9.2 and 9.3).

Sums are in double precision, where the official step uses single precision for subarrays with one output; results agree
to the rounding of the latter. The segment scope asks for that rounding too (`single_mean`).
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = [
    "clipped_mean",
    "mean_levels",
    "side_levels",
    "single_mean",
    "spread_levels",
    "subtract_profiles",
]

#: rows whose medians are found side by side
LANES = 64
#: NaN and infinity lie beyond it
LARGEST = float(np.finfo(np.float64).max)


@kernel
def _kept_moments(values, start, stop, zero, low, high):
    """Count, sum and sum of squares of ``value - zero`` over the values in [low, high], four at a time."""
    n0 = n1 = n2 = n3 = 0
    s0 = s1 = s2 = s3 = 0.0
    q0 = q1 = q2 = q3 = 0.0
    whole = start + (stop - start) // 4 * 4
    for k in range(start, whole, 4):
        a, b = np.float64(values[k]), np.float64(values[k + 1])
        c, d = np.float64(values[k + 2]), np.float64(values[k + 3])
        ka, kb = a >= low and a <= high, b >= low and b <= high
        kc, kd = c >= low and c <= high, d >= low and d <= high
        p, q = (a - zero if ka else 0.0), (b - zero if kb else 0.0)
        r, t = (c - zero if kc else 0.0), (d - zero if kd else 0.0)
        n0 += ka
        n1 += kb
        n2 += kc
        n3 += kd
        s0 += p
        s1 += q
        s2 += r
        s3 += t
        q0 += p * p
        q1 += q * q
        q2 += r * r
        q3 += t * t
    for k in range(whole, stop):
        a = np.float64(values[k])
        if a >= low and a <= high:
            n0 += 1
            s0 += a - zero
            q0 += (a - zero) * (a - zero)
    return n0 + n1 + n2 + n3, (s0 + s1) + (s2 + s3), (q0 + q1) + (q2 + q3)


@kernel
def clipped_mean(values, start, stop, limit):
    """Mean of the values within ``limit`` standard deviations of the mean, repeated until none is dropped.

    Parameters
    ----------
    values : float32 [value]
        Samples [DN].
    start, stop : int
        Which of them.
    limit : float
        siglimit.
    """
    zero = 0.0
    for k in range(start, stop):
        if np.isfinite(values[k]):
            zero = np.float64(values[k])
            break
    low, high = -LARGEST, LARGEST
    before = stop - start
    mean = zero
    while True:
        count, first, second = _kept_moments(values, start, stop, zero, low, high)
        if count == 0:
            return np.nan
        offset = first / count
        mean = zero + offset
        if low > -LARGEST and count == before:
            return mean
        spread = second / count - offset * offset
        if not spread > 0.0:
            return mean
        width = limit * np.sqrt(spread)
        before = count
        # a value once dropped stays dropped
        low, high = max(low, mean - width), min(high, mean + width)


@kernel
def _block_sum(values, start, count):
    """Sum of at most 128 values in single precision: eight running sums, then the rest."""
    if count < 8:
        total = np.float32(0.0)
        for k in range(start, start + count):
            total += values[k]
        return total
    a, b, c, d = values[start], values[start + 1], values[start + 2], values[start + 3]
    e, f, g, h = values[start + 4], values[start + 5], values[start + 6], values[start + 7]
    whole = start + count - count % 8
    for k in range(start + 8, whole, 8):
        a += values[k]
        b += values[k + 1]
        c += values[k + 2]
        d += values[k + 3]
        e += values[k + 4]
        f += values[k + 5]
        g += values[k + 6]
        h += values[k + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for k in range(whole, start + count):
        total += values[k]
    return total


@kernel
def _pairwise_sum(values, start, count):
    """Sum in single precision, in the order NumPy takes: more than 128 values are summed by halves."""
    # a tree walked with a stack: where each node begins, its length, 0/1/2 parts summed, the sum of its first part
    begins, lengths, parts = np.empty(32, np.int64), np.empty(32, np.int64), np.empty(32, np.int64)
    firsts = np.empty(32, np.float32)
    begins[0], lengths[0], parts[0] = start, count, 0
    depth, total = 0, np.float32(0.0)
    while depth >= 0:
        half = lengths[depth] // 2
        half -= half % 8
        if lengths[depth] <= 128:
            total = _block_sum(values, begins[depth], lengths[depth])
            depth -= 1
        elif parts[depth] == 0:
            parts[depth] = 1
            begins[depth + 1], lengths[depth + 1], parts[depth + 1] = begins[depth], half, 0
            depth += 1
        elif parts[depth] == 1:
            firsts[depth] = total
            parts[depth] = 2
            begins[depth + 1], lengths[depth + 1], parts[depth + 1] = (
                begins[depth] + half,
                lengths[depth] - half,
                0,
            )
            depth += 1
        else:
            total = firsts[depth] + total
            depth -= 1
    return total


@kernel
def single_mean(values, start, stop, limit, spare):
    """`clipped_mean` in single precision, rounded like the official step's.

    Parameters
    ----------
    values : float32 [value]
        Samples [DN]; those that are kept are moved together.
    start, stop : int
        Which of them.
    limit : float
        siglimit.
    spare : float32 [value]
        Working array.
    """
    count, factor = stop - start, np.float32(limit)
    while count > 0:
        mean = np.float32(np.float64(_pairwise_sum(values, start, count)) / count)
        for k in range(start, start + count):
            away = values[k] - mean
            spare[k] = away * away
        spread = np.sqrt(np.float32(np.float64(_pairwise_sum(spare, start, count)) / count))
        low, high = (
            np.float32(mean - np.float32(spread * factor)),
            np.float32(mean + np.float32(spread * factor)),
        )
        kept = start
        for k in range(start, start + count):
            if values[k] >= low and values[k] <= high:
                values[kept] = values[k]
                kept += 1
        if kept - start == count:
            return np.float64(mean)
        count = kept - start
    return np.nan


@kernel
def mean_levels(data, rows, columns, bounds, halves, limit, single, levels):
    """Level of each group of columns from its reference pixels.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN]; only the listed pixels are read.
    rows, columns : int32 [pixel]
        Reference pixels, list after list.
    bounds : int32 [list + 1]
        Where each list begins.
    halves : int32 [level, 2]
        The one or two lists whose mean is the level; -1: no list.
    limit : float
        siglimit.
    single : bool
        In single precision, rounded like the official step's.
    levels : float64 [integration, group, level]
        Written [DN].
    """
    values, spare = np.empty(rows.size, np.float32), np.empty(rows.size, np.float32)
    means = np.empty(bounds.size - 1, np.float64)
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            frame = data[i, g]
            for k in range(rows.size):
                values[k] = frame[rows[k], columns[k]]
            for k in range(means.size):
                if single:
                    means[k] = single_mean(values, bounds[k], bounds[k + 1], limit, spare)
                else:
                    means[k] = clipped_mean(values, bounds[k], bounds[k + 1], limit)
            for k in range(halves.shape[0]):
                a, b = halves[k, 0], halves[k, 1]
                levels[i, g, k] = means[a] if b < 0 else 0.5 * (means[a] + means[b])


@kernel
def side_levels(data, levels, pixels, level_of, windows, pairs, gain, profile):
    """Find the running median of the side reference pixels, after the levels are subtracted.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN]; only side pixels are read.
    levels : float64 [integration, group, level]
        As from `mean_levels`.
    pixels : int32 [side, row, column, 2]
        (y, x) of the side pixels of each detector row; -1 where there is none or it must not be used.
    level_of : int32 [side, column]
        Level subtracted from each side column, -1 if none.
    windows : int32 [place, row]
        Detector rows in the window about each row; -1 beyond the subarray.
    pairs : int32 [comparator, 2]
        Comparators for ``4 * place`` values.
    gain : float
        side_gain.
    profile : float64 [integration, group, row]
        Mean of the two sides (or the one there is) times the gain, written [DN].
    """
    places, nrows = windows.shape
    column = np.empty((nrows, 4), np.float32)
    lanes = np.empty((4 * places, LANES), np.float32)
    counts = np.empty((2, nrows), np.int32)
    medians = np.empty((2, nrows), np.float64)
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for side in range(2):
                for r in range(nrows):
                    for c in range(4):
                        y, x = pixels[side, r, c, 0], pixels[side, r, c, 1]
                        value = np.float32(np.inf)  # sorts behind all others
                        if y >= 0:
                            level = levels[i, g, level_of[side, c]] if level_of[side, c] >= 0 else 0.0
                            sample = np.float32(np.float64(data[i, g, y, x]) - level)
                            value = sample if np.isfinite(sample) else value
                        column[r, c] = value
                for start in range(0, nrows, LANES):
                    width = min(LANES, nrows - start)
                    counts[side, start : start + width] = 0
                    for k in range(places):
                        for lane in range(width):
                            row = windows[k, start + lane]
                            for c in range(4):
                                value = column[row, c] if row >= 0 else np.float32(np.inf)
                                lanes[4 * k + c, lane] = value
                                counts[side, start + lane] += value < np.inf
                    sort_lanes(lanes, pairs)
                    for lane in range(width):
                        count = counts[side, start + lane]
                        low = np.float64(lanes[max(0, (count - 1) // 2), lane])
                        medians[side, start + lane] = 0.5 * (low + np.float64(lanes[count // 2, lane]))
            for r in range(nrows):
                left, right = counts[0, r] > 0, counts[1, r] > 0
                total = (medians[0, r] if left else 0.0) + (medians[1, r] if right else 0.0)
                profile[i, g, r] = gain * (0.5 * total if left and right else total)


@kernel
def spread_levels(levels, level_of, profile):
    """Write each column's level into a profile.

    Parameters
    ----------
    levels : float64 [integration, group, level]
        As from `mean_levels`.
    level_of : int32 [column]
        Which level a column takes, -1 for none.
    profile : float [integration, group, column]
        Written.
    """
    for i in range(levels.shape[0]):
        for g in range(levels.shape[1]):
            for k in range(level_of.size):
                profile[i, g, k] = levels[i, g, level_of[k]] if level_of[k] >= 0 else 0.0


@kernel
def subtract_profiles(data, along_x, along_y, y0, y1):
    """Subtract a profile along x and one along y from every group.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place.
    along_x : float [integration, group, x]
        What all rows have in common.
    along_y : float [integration, group, y]
        What all columns have in common.
    y0, y1 : int
        Rows.
    """
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(y0, y1):
                level = along_y[i, g, y]
                for x in range(data.shape[3]):
                    data[i, g, y, x] = (data[i, g, y, x] - along_x[i, g, x]) - level

"""Lost pixels from the median profile of the neighbouring columns, scaled to their own (spec stages 2-3, B.11)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["fit_scale", "replace_profiles"]

_LOST = np.uint32(dq.DO_NOT_USE)
_OUTSIDE = np.uint32(dq.NON_SCIENCE)
_ESTIMATED = np.uint32(dq.FLUX_ESTIMATED)
#: below this signal-to-noise profiles are not normalised
_LEAST = 5.0


@kernel
def _sum_short(terms, first, count):
    """Sum of up to 128 float32 numbers in the order of numpy's, whose last bit decides where a search ends."""
    total = np.float32(0.0)
    if count < 8:
        for k in range(first, first + count):
            total += terms[k]
        return total
    a, b, c, d = terms[first], terms[first + 1], terms[first + 2], terms[first + 3]
    e, f, g, h = terms[first + 4], terms[first + 5], terms[first + 6], terms[first + 7]
    whole = count - count % 8
    for k in range(first + 8, first + whole, 8):
        a, b, c, d = a + terms[k], b + terms[k + 1], c + terms[k + 2], d + terms[k + 3]
        e, f, g, h = e + terms[k + 4], f + terms[k + 5], g + terms[k + 6], h + terms[k + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for k in range(first + whole, first + count):
        total += terms[k]
    return total


@kernel
def _sum(terms, count):
    """Sum of float32 numbers in pieces of at most 128."""
    if count <= 128:
        return _sum_short(terms, 0, count)
    # halves of halves, as deep as it takes; the stack holds pieces still to be summed
    first, length, total = np.empty(32, np.int64), np.empty(32, np.int64), np.empty(32, np.float32)
    state, n = np.zeros(32, np.int64), 1
    first[0], length[0] = 0, count
    result = np.float32(0.0)
    while n > 0:
        k = n - 1
        if length[k] <= 128:
            result = _sum_short(terms, first[k], length[k])
            n -= 1
            continue
        half = length[k] // 2
        half -= half % 8
        if state[k] == 0:
            state[k], first[n], length[n], state[n] = 1, first[k], half, 0
            n += 1
        elif state[k] == 1:
            total[k], state[k] = result, 2
            first[n], length[n], state[n] = first[k] + half, length[k] - half, 0
            n += 1
        else:
            result = total[k] + result
            n -= 1
    return result


@kernel
def _misfit(scale, profile, values, terms, count):
    for k in range(count):
        one = abs(values[k]) - abs(profile[k]) * scale
        one = one * one
        terms[k] = one if one == one else np.float32(0.0)
    return float(_sum(terms, count) / np.float32(count))


@kernel
def fit_scale(profile, values, count, start):
    """Scale of a profile, by the official minimiser: a simplex of two points, ended at 1e-4.

    The least squares have a closed form; the official result differs from it by up to 1e-4, and is what products of
    the official pipeline hold.

    Parameters
    ----------
    profile, values : float32 [pixel]
        Profile, and the column divided by its maximum; absolute values are compared.
    count : int
        Elements that count.
    start : float32
        Where the search begins.

    Returns
    -------
    float32
        The scale.
    """
    terms = np.empty(count, np.float32)
    low, high = start, np.float32(1.05 * start)
    f_low, f_high = _misfit(low, profile, values, terms, count), _misfit(high, profile, values, terms, count)
    if f_high < f_low:
        low, high, f_low, f_high = high, low, f_high, f_low
    calls = 2
    for _ in range(200):
        if calls >= 200 or (abs(high - low) <= 1e-4 and abs(f_high - f_low) <= 1e-4):
            break
        # the centroid of all points but the worst is the best one
        reflected = np.float32(2.0) * low - high
        f_reflected = _misfit(reflected, profile, values, terms, count)
        calls += 1
        if f_reflected < f_low:
            further = np.float32(3.0) * low - np.float32(2.0) * high
            f_further = _misfit(further, profile, values, terms, count)
            calls += 1
            if f_further < f_reflected:
                high, f_high = further, f_further
            else:
                high, f_high = reflected, f_reflected
        else:
            # with two points the best is also the last but one, so a reflection that is no better is contracted
            if f_reflected < f_high:
                tried = np.float32(1.5) * low - np.float32(0.5) * high
                f_tried = _misfit(tried, profile, values, terms, count)
                better = f_tried <= f_reflected
            else:
                tried = np.float32(0.5) * low + np.float32(0.5) * high
                f_tried = _misfit(tried, profile, values, terms, count)
                better = f_tried < f_high
            calls += 1
            if better:
                high, f_high = tried, f_tried
            else:
                high = low + np.float32(0.5) * (high - low)
                f_high = _misfit(high, profile, values, terms, count)
                calls += 1
        if f_high < f_low:
            low, high, f_low, f_high = high, low, f_high, f_low
    return low


@kernel
def _median(values, count):
    """Median of the first ``count`` values, NaN without any; NaN never stands among them."""
    if count == 0:
        return np.float32(np.nan)
    part = np.sort(values[:count])
    half = count // 2
    return part[half] if count % 2 else np.float32(0.5) * (part[half - 1] + part[half])


@kernel
def _limits(bits, i, axis):
    """First and last row (axis 0) or column (axis 1) that has a pixel without DO_NOT_USE; last < first: none."""
    first, last = bits.shape[1 + axis], -1
    for y in range(bits.shape[1]):
        for x in range(bits.shape[2]):
            if (bits[i, y, x] & _LOST) == 0:
                k = y if axis == 0 else x
                first, last = min(first, k), max(last, k)
    return first, last


@kernel
def _collect(plane, i, lost, columns, norms, top, bottom, root, work, out):
    """Median over the neighbouring columns of a plane divided by each column's norm."""
    for y in range(top, bottom):
        n = 0
        for k in range(columns.size):
            x = columns[k]
            if x < 0 or lost[y, x]:
                continue
            value = plane[i, y, x]
            value = (np.sqrt(value) if root else value) / norms[k]
            if value == value:
                work[n] = value
                n += 1
        out[y] = _median(work, n)


@kernel
def _norms(data, err, i, lost, columns, top, bottom, norms):
    """Largest absolute value of each neighbouring column; 1 where nothing in them is significant."""
    snr = np.float32(-1.0)
    for k in range(columns.size):
        norms[k] = np.float32(np.nan)
        if columns[k] < 0:
            continue
        for y in range(top, bottom):
            if lost[y, columns[k]]:
                continue
            value = abs(data[i, y, columns[k]])
            if value == value and not (norms[k] >= value):
                norms[k] = value
            ratio = value / err[i, y, columns[k]]
            if ratio == ratio and ratio > snr:
                snr = ratio
    if 0.0 <= snr < _LEAST:
        for k in range(columns.size):
            if columns[k] >= 0:
                norms[k] = 1.0


@kernel
def replace_profiles(data, err, var_poisson, var_rnoise, var_flat, bits, reach):
    """Replace the lost pixels of columns by the scaled median profile of their neighbours.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place; columns are profiles.
    var_flat : float32 [integration, y, x]
        The same; with no integrations where there is no such variance.
    bits : uint32 [integration, y, x]
        DO_NOT_USE says what is lost; replaced pixels get FLUX_ESTIMATED instead.
    reach : int
        Columns on each side.
    """
    ny, nx = data.shape[1], data.shape[2]
    has_flat = var_flat.shape[0] > 0
    lost, outside = np.empty((ny, nx), np.bool_), np.empty((ny, nx), np.bool_)
    # float32 throughout, as the official step: its search for the scale ends where rounding decides
    columns, norms = np.empty(2 * reach, np.int64), np.empty(2 * reach, np.float32)
    work, profiles = np.empty(2 * reach, np.float32), np.empty((5, ny), np.float32)
    model, values = np.empty(ny, np.float32), np.empty(ny, np.float32)
    for i in range(data.shape[0]):
        top, bottom = _limits(bits, i, 0)
        left, right = _limits(bits, i, 1)
        bottom, right = bottom + 1, right + 1
        for y in range(ny):
            for x in range(nx):
                lost[y, x] = (bits[i, y, x] & _LOST) != 0
                outside[y, x] = (bits[i, y, x] & _OUTSIDE) != 0
        for x in range(left, right):
            if not _has_lost(lost, outside, x, top, bottom):
                continue
            found = False
            for k in range(2 * reach):
                other = x - reach + k if k < reach else x - reach + k + 1
                good = left <= other < right and _has_good(lost, outside, other, top, bottom)
                columns[k] = other if good else -1
                found |= good
            if not found:
                continue
            _norms(data, err, i, lost, columns, top, bottom, norms)
            _collect(data, i, lost, columns, norms, top, bottom, False, work, profiles[0])
            _collect(err, i, lost, columns, norms, top, bottom, False, work, profiles[1])
            _collect(var_poisson, i, lost, columns, norms, top, bottom, True, work, profiles[2])
            _collect(var_rnoise, i, lost, columns, norms, top, bottom, True, work, profiles[3])
            if has_flat:
                _collect(var_flat, i, lost, columns, norms, top, bottom, True, work, profiles[4])
            count, largest = 0, np.float32(-np.inf)
            for y in range(top, bottom):
                value = data[i, y, x]
                if not lost[y, x] and value == value:
                    model[count], values[count] = profiles[0, y], value
                    largest = max(largest, value)
                    count += 1
            if count == 0:
                continue
            fitted, scale = np.float32(1.0), np.float32(1.0)
            if _worth_fitting(norms, columns, model, values, largest, count, work):
                start = np.float32(-np.inf)
                for k in range(count):
                    values[k] /= largest
                    start = max(start, values[k])
                fitted, scale = fit_scale(model, values, count, abs(start)), largest
            for y in range(top, bottom):
                if not lost[y, x]:
                    continue
                if outside[y, x]:
                    data[i, y, x] = np.float32(np.nan)
                    continue
                value = profiles[0, y] * fitted * scale
                data[i, y, x] = value
                err[i, y, x] = profiles[1, y] * fitted * scale
                var_poisson[i, y, x] = (profiles[2, y] * fitted * scale) ** 2
                var_rnoise[i, y, x] = (profiles[3, y] * fitted * scale) ** 2
                if has_flat:
                    var_flat[i, y, x] = (profiles[4, y] * fitted * scale) ** 2
                if value == value:
                    bits[i, y, x] = bits[i, y, x] ^ _LOST ^ _ESTIMATED


@kernel
def _has_lost(lost, outside, x, top, bottom):
    """Whether a column has something to replace, and something to go by."""
    bad, rest = 0, 0
    for y in range(top, bottom):
        if outside[y, x]:
            rest += 1
        elif lost[y, x]:
            bad += 1
    return bad > 0 and bad + rest < bottom - top


@kernel
def _has_good(lost, outside, x, top, bottom):
    found = False
    for y in range(top, bottom):
        found |= not lost[y, x] and not outside[y, x]
    return found


@kernel
def _worth_fitting(norms, columns, model, values, largest, count, work):
    """Whether profiles were normalised, and profile and column are finite somewhere and nowhere huge."""
    n = 0
    for k in range(columns.size):
        if columns[k] >= 0 and norms[k] == norms[k]:
            work[n] = norms[k]
            n += 1
    if _median(work, n) == 1.0:
        return False
    high_model, high_value = -1.0, -1.0
    for k in range(count):
        if abs(model[k]) > high_model:
            high_model = abs(model[k])
        ratio = abs(values[k] / largest)
        if ratio > high_value:
            high_value = ratio
    return 0.0 <= high_model < 1e20 and 0.0 <= high_value < 1e20

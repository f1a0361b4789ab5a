"""Traces, profiles, backgrounds and pixel lists, made once per exposure from the scout's template (numpy).

Arrays here are oriented ``[cross, disp]``: the trace runs along the second axis, whatever the instrument does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.errors import InputError, Problem
from tsostream.operators.smoothing import gaussian, running_mean

__all__ = [
    "Trace",
    "box_weights",
    "column_profile",
    "derivatives",
    "find_trace",
    "ground_mask",
    "pixel_lists",
    "robust_spread",
    "sampled_rows",
    "smoothed",
]


#: a spectrum is at least this long: several times the length over which the search smooths [px]
SHORTEST = 16


@dataclass(frozen=True)
class Trace:
    """Where the spectrum lies.

    Parameters
    ----------
    centre : float64 [disp]
        Position across [px].
    degree : int
        Degree of the polynomial.
    scatter : float
        Scatter of the centroids about it [px].
    """

    centre: np.ndarray
    degree: int
    scatter: float


def robust_spread(values: np.ndarray) -> float:
    """Estimate the standard deviation from the median absolute deviation, NaN ignored; 0 for no values."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(finite - np.median(finite))))


def _fill(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Bad pixels by the normalised Gaussian mean of their good neighbours along the trace."""
    good = np.where(bad, 0.0, 1.0)
    value = np.where(bad, 0.0, image)
    for sigma in (1.0, 4.0, 16.0):
        if good.all():
            break
        norm = gaussian(good, sigma, axis=1)
        mean = gaussian(value * good, sigma, axis=1)
        hole = (good == 0) & (norm > 1e-3)
        value = np.where(hole, mean / np.where(norm > 0, norm, 1.0), value)
        good = np.where(hole, 1.0, good)
    return value


def _no_spectrum() -> InputError:
    return InputError(
        Problem(
            "no spectrum found in the template of the exposure",
            todo="give its trace: --set extract_1d.trace_coeffs=[c0,c1,...] (pixel across = c0 + c1*pixel along ...)",
            code="no-trace",
        )
    )


def find_trace(image: np.ndarray, bad: np.ndarray, *, half_width: float, max_degree: int = 9) -> Trace:
    """Follow the brightest spectrum through the image.

    The ridge of a smoothed image is walked from its brightest column outwards, refined to flux-weighted centroids and
    fitted by a polynomial whose degree the Bayesian information criterion chooses.

    Parameters
    ----------
    image : float64 [cross, disp]
        Template.
    bad : bool [cross, disp]
        Pixels to ignore.
    half_width
        Half the width of the centroid window [px].
    max_degree
        Largest degree tried.

    Raises
    ------
    InputError
        No source, or one that is no longer than noise is.
    """
    ncross, ndisp = image.shape
    filled = _fill(image, bad)
    filled = filled - np.median(filled, axis=0)
    smooth = gaussian(gaussian(filled, 1.2, axis=0), 4.0, axis=1)
    noise = max(robust_spread(smooth), 1e-30)
    peak = smooth.max(axis=0)
    seed = int(np.argmax(running_mean(peak, min(15, ndisp))))
    if not peak[seed] > 4 * noise:
        raise _no_spectrum()
    ridge = np.full(ndisp, np.nan)
    ridge[seed] = np.argmax(smooth[:, seed])
    columns = np.ascontiguousarray(smooth.T)
    for direction in (1, -1):
        history = [float(ridge[seed])]
        column = seed + direction
        while 0 <= column < ndisp:
            slope = (history[-1] - history[max(0, len(history) - 25)]) / max(min(len(history) - 1, 24), 1)
            guess = min(max(history[-1] + slope, 0.0), ncross - 1.0)
            low = max(0, round(guess) - 3)
            window = columns[column, low : round(guess) + 4]
            found = low + int(window.argmax())
            if columns[column, found] > 4 * noise:
                ridge[column] = found
                # a running mean keeps the walk from following single bad columns
                history.append(0.5 * (found + guess))
            else:
                history.append(guess)
            column += direction
    # among many columns of noise some stand out, but they do not line up
    if np.isfinite(ridge).sum() < max(SHORTEST, ndisp // 16):
        raise _no_spectrum()
    cross = np.arange(ncross)[:, None]
    window = (np.abs(cross - np.where(np.isfinite(ridge), ridge, -1e9)) <= half_width) & (filled > 0)
    flux = np.where(window, filled, 0.0)
    total = flux.sum(axis=0)
    ok = (total > 0) & np.isfinite(ridge)
    centroid = np.where(ok, (flux * cross).sum(axis=0) / np.where(ok, total, 1.0), np.nan)
    return _fit_trace(centroid, np.sqrt(np.where(ok, total, 0.0)), max_degree)


def _fit_trace(centroid: np.ndarray, weight: np.ndarray, max_degree: int) -> Trace:
    ndisp = centroid.size
    u = np.linspace(-1.0, 1.0, ndisp)
    ok = np.isfinite(centroid) & (weight > 0.02 * np.nanmax(weight))
    best: tuple[float, Trace] | None = None
    for degree in range(min(max_degree, max(0, ok.sum() // 20), 9) + 1):
        keep = ok.copy()
        coefficients = np.zeros(1)
        scatter = 0.0
        for _ in range(4):
            coefficients = np.polynomial.chebyshev.chebfit(u[keep], centroid[keep], degree, w=weight[keep])
            residual = centroid - np.polynomial.chebyshev.chebval(u, coefficients)
            scatter = max(robust_spread(residual[ok]), 1e-3)
            before, keep = keep, ok & (np.abs(residual) < 5 * scatter)
            if np.array_equal(before, keep):
                break
        criterion = 2 * ok.sum() * np.log(scatter) + (degree + 1) * np.log(max(ok.sum(), 2)) * 4
        trace = Trace(np.polynomial.chebyshev.chebval(u, coefficients), degree, scatter)
        if best is None or criterion < best[0]:
            best = (criterion, trace)
    if best is None:
        raise _no_spectrum()
    # outside the columns that have flux a polynomial runs away: hold its ends
    first, last = np.flatnonzero(ok)[[0, -1]]
    centre = best[1].centre.copy()
    centre[:first], centre[last + 1 :] = centre[first], centre[last]
    return Trace(centre, best[1].degree, best[1].scatter)


def box_weights(centre: np.ndarray, width: float, ncross: int) -> np.ndarray:
    """Fraction of each pixel inside a box of ``width`` pixels about ``centre``.

    Parameters
    ----------
    centre : float64 [disp]
        Pixel centres are integers.
    width
        Full width [px].
    ncross
        Pixels across.

    Returns
    -------
    weight : float64 [cross, disp]
        In [0, 1].
    """
    cross = np.arange(ncross)[:, None]
    upper = np.minimum(cross + 0.5, centre + width / 2)
    lower = np.maximum(cross - 0.5, centre - width / 2)
    return np.clip(upper - lower, 0.0, 1.0)


def smoothed(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Fill bad pixels of an image, and smooth it along the dispersion: what `ground_mask` looks at."""
    return gaussian(_fill(image, bad), 5.0, axis=1)


def ground_mask(
    smooth: np.ndarray, bad: np.ndarray, centre: np.ndarray, inner: float, outer: float | None
) -> np.ndarray:
    """Pixels for the background: away from the trace, and not visibly part of another source.

    Parameters
    ----------
    smooth : float64 [cross, disp]
        Template, `smoothed`.
    bad : bool [cross, disp]
        Pixels that are never used.
    centre : float64 [disp]
        Trace.
    inner, outer
        Distances from the trace between which the background lies [px].
    """
    distance = np.abs(np.arange(smooth.shape[0])[:, None] - centre)
    mask = (distance >= inner) & ~bad
    if outer is not None:
        mask &= distance <= outer
    candidates = np.where(mask & np.isfinite(smooth), smooth, np.nan)
    count = np.isfinite(candidates).sum(axis=0)
    judged = count >= 6
    values, count = np.sort(candidates[:, judged], axis=0), count[judged]
    # the lower half of the distribution is background even where other orders cover a part of the column
    low = _quantiles(values, count, 0.3)
    below = (values <= low).sum(axis=0)
    middle = _quantiles(values, count, 0.5)
    robust = 1.4826 * _quantiles(np.sort(np.abs(values - middle), axis=0), count, 0.5)
    spread = np.maximum(robust * 0.5, 1.4826 * (low - _quantiles(values, below, 0.5)) * 2.0)
    mask[:, judged] &= ~(candidates[:, judged] > low + 5 * spread + 1e-30)
    return mask


def _quantiles(values: np.ndarray, count: np.ndarray, fraction: float) -> np.ndarray:
    """Quantile of the first ``count`` values of each column, float64 [column]; the columns are sorted."""
    place = fraction * (count - 1)
    lower = np.floor(place).astype(np.int64)
    upper = np.minimum(lower + 1, count - 1)
    columns = np.arange(values.shape[1])
    first, second = values[lower, columns], values[upper, columns]
    return first + (second - first) * (place - lower)


def sampled_rows(ground: np.ndarray, count: int) -> np.ndarray:
    """Rows that a first look at the background is taken from: evenly spaced, about ``count`` pixels in each column.

    Parameters
    ----------
    ground : bool [cross, disp]
        Background pixels.
    count
        Pixels wanted of a column, of those that have so many.

    Returns
    -------
    bool [cross]
    """
    each = ground.sum(axis=0)
    usual = int(np.median(each[each > 0])) if each.any() else 0
    rows = np.flatnonzero(ground.any(axis=1))[:: max(1, usual // count)]
    return np.isin(np.arange(len(ground)), rows)


def column_profile(
    image: np.ndarray, bad: np.ndarray, centre: np.ndarray, weight: np.ndarray, ground: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Background-subtracted template with its holes filled, and the background level of each column.

    Holes are filled from the neighbouring columns at the same distance from the trace, scaled to the column.

    Parameters
    ----------
    image : float64 [cross, disp]
        Template.
    bad : bool [cross, disp]
        Holes.
    centre : float64 [disp]
        Trace.
    weight : float64 [cross, disp]
        Aperture weights.
    ground : bool [cross, disp]
        Background pixels.

    Returns
    -------
    source : float64 [cross, disp]
        Template without background.
    level : float64 [disp]
        Background.
    """
    values = np.where(ground, image, np.nan)
    count = ground.sum(axis=0)
    level = np.zeros(image.shape[1])
    has = count > 0
    if has.any():
        level[has] = np.nanmedian(values[:, has], axis=0)
        level = np.interp(np.arange(level.size), np.flatnonzero(has), level[has])
    source = np.where(bad, np.nan, image - level)
    ncross, ndisp = image.shape
    half = int(np.ceil(np.sum(weight, axis=0).max() / 2)) + 3
    offsets = np.arange(-half, half + 1)
    rows = np.rint(centre).astype(int)
    index = rows[None, :] + offsets[:, None]
    inside = (index >= 0) & (index < ncross)
    index = np.clip(index, 0, ncross - 1)
    columns = np.broadcast_to(np.arange(ndisp), index.shape)
    strip = np.where(inside, source[index, columns], np.nan)
    total = np.nansum(np.where(np.isfinite(strip), np.clip(strip, 0, None), 0.0), axis=0)
    scaled = strip / np.where(total > 0, total, np.nan)
    for row, column in zip(*np.nonzero(np.isnan(strip) & inside), strict=True):
        near = np.r_[max(0, column - 4) : column, column + 1 : min(ndisp, column + 5)]
        shape = scaled[row, near]
        if np.isfinite(shape).any() and total[column] > 0:
            # the total lacks the hole itself: T = total + f T
            fraction = float(np.clip(np.nanmedian(shape), 0.0, 0.9))
            source[index[row, column], column] = fraction / (1.0 - fraction) * total[column]
    return np.nan_to_num(source, nan=0.0), level


def derivatives(source: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative along an axis, at the samples of the natural cubic spline through them.

    Finite differences would underestimate the slope of a profile that is barely sampled by some ten per cent.
    """
    if source.shape[axis] < 4:
        return np.zeros_like(source), np.zeros_like(source)
    values = np.moveaxis(source, axis, 0).reshape(source.shape[axis], -1)
    # scipy.interpolate has it, but takes a fifth of a second to load: a slope without jumps at every sample means
    # m[i-1] + 4 m[i] + m[i+1] = 6 (f[i-1] - 2 f[i] + f[i+1]), eliminated from above and put in from below
    second = np.zeros(values.shape)
    second[1:-1] = 6.0 * np.diff(values, 2, axis=0)
    pivot = np.zeros(len(values))
    for i in range(1, len(values) - 1):
        pivot[i] = 1.0 / (4.0 - pivot[i - 1])
        second[i] = (second[i] - second[i - 1]) * pivot[i]
    for i in range(len(values) - 3, 0, -1):
        second[i] -= pivot[i] * second[i + 1]
    step = np.diff(values, axis=0)
    first = np.empty(values.shape)
    first[:-1] = step - (2.0 * second[:-1] + second[1:]) / 6.0
    first[-1] = step[-1] + (second[-2] + 2.0 * second[-1]) / 6.0
    shape = np.moveaxis(source, axis, 0).shape
    return np.moveaxis(first.reshape(shape), 0, axis), np.moveaxis(second.reshape(shape), 0, axis)


def pixel_lists(selected: np.ndarray, *, along_y: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat indices of the selected pixels, column after column.

    Parameters
    ----------
    selected : bool [cross, disp]
        Pixels to list.
    along_y
        Whether the image is stored as [disp, cross] (dispersion along y).

    Returns
    -------
    start : int32 [column + 1]
        Where each column begins.
    flat : int32 [pixel]
        Flat index into the stored image [y, x].
    place : int64 [2, pixel]
        (cross, disp) of each pixel.
    """
    disp, cross = np.nonzero(selected.T)
    ncross, ndisp = selected.shape
    flat = disp * ncross + cross if along_y else cross * ndisp + disp
    start = np.zeros(ndisp + 1, np.int32)
    np.cumsum(np.bincount(disp, minlength=ndisp), out=start[1:])
    return start, flat.astype(np.int32), np.stack([cross, disp])

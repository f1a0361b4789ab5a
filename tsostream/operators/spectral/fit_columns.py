"""Kernels of the fits of a spectrum's profile: the pixels of a column, the fit without those far off, its sums.

See `tsostream.operators.spectral.fitting` for what is fitted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.aperture.closing import MOST_MOVED, take_ratios
from tsostream.operators.aperture.lists import COEFFICIENTS, DNU, ESTIMATED, OUTLIER, SAT
from tsostream.operators.aperture.solving import is_usable, solve_symmetric
from tsostream.operators.jit import kernel

__all__ = ["fit_columns"]

#: rows of `Work.parts`: the profile over all pixels, at its usual place, and what a shift moves over the edge; squared
#: error of the profile in the lost pixels; then, over the pixels of the fit, variances, weight in the amplitude, area
#: and profile
WHOLE, NOMINAL, MOVED, MISSING, POISSON, RNOISE, FLAT, TOTAL, AREA, COVER = range(10)
PARTS = 10


class Work(NamedTuple):
    """Working arrays of one column: its pixels, the normal equations, sums.

    Attributes
    ----------
    value, weight, spread, profile, place : float64 [pixel]
        Signal, weight in the fit, variance, profile and distance across.
    member : int64 [pixel]
        Place in the lists of the aperture or, behind its pixels, of the background.
    used : bool [pixel]
        Whether the pixel is in the fit.
    matrix, vector, solution, diagonal, terms : float64 [term, term], [term] each
        Normal equations, their solution, diagonal of the inverse, terms of one pixel.
    parts : float64 [10]
        Sums.
    """

    value: np.ndarray
    weight: np.ndarray
    spread: np.ndarray
    profile: np.ndarray
    place: np.ndarray
    member: np.ndarray
    used: np.ndarray
    matrix: np.ndarray
    vector: np.ndarray
    solution: np.ndarray
    diagonal: np.ndarray
    terms: np.ndarray
    parts: np.ndarray


@kernel
def _make_work(a, p):
    most, n = 1, 1 + p.terms
    for c in range(a.start.size - 1):
        ground = (a.ground_start[c + 1] - a.ground_start[c]) * (p.terms > 0)
        most = max(most, a.start[c + 1] - a.start[c] + ground)
    return Work(
        np.empty(most), np.empty(most), np.empty(most), np.empty(most), np.empty(most), np.empty(most, np.int64),
        np.empty(most, np.bool_), np.empty((n, n)), np.empty(n), np.empty(n), np.empty(n), np.empty(n),
        np.empty(PARTS),
    )  # fmt: skip


@kernel
def _take_pixel(work, m, sign):
    """Add a pixel to the normal equations, or take it out again."""
    x, n = work.terms, work.vector.size
    _set_terms(x, work.profile[m], work.place[m], n)
    for j in range(n):
        work.vector[j] += sign * work.weight[m] * x[j] * work.value[m]
        for k in range(n):
            work.matrix[j, k] += sign * work.weight[m] * x[j] * x[k]


@kernel
def _set_terms(x, profile, place, n):
    x[0] = profile
    power = 1.0
    for j in range(1, n):
        x[j] = power
        power *= place


@kernel
def _put(work, m, value, weight, spread, profile, place, member):
    work.value[m], work.weight[m], work.spread[m] = value, weight, spread
    work.profile[m], work.place[m] = profile, place
    work.member[m], work.used[m] = member, True


@kernel
def _gather_source(i, c, planes, a, p, ratio, level, work):
    """List the usable pixels of the aperture, and sum the profile over all of them.

    Returns
    -------
    count, lost : int
        Pixels that are usable and those that are not.
    saturated : bool
        Whether one is lost to saturation that is good in other integrations.
    """
    count = lost = 0
    saturated = False
    work.parts[:] = 0.0
    for k in range(a.start[c], a.start[c + 1]):
        q = a.pixel[k]
        shape = 0.0
        for j in range(COEFFICIENTS):
            shape += ratio[j] * a.shape[k, j]
        scale = np.float64(a.scale[q])
        variance = np.float64(planes.vp[i, q] + planes.vr[i, q])
        work.parts[WHOLE] += a.weight[k] * shape
        work.parts[NOMINAL] += a.weight[k] * a.shape[k, 0]
        if a.correct_across:
            work.parts[MOVED] += a.weight[k] * ratio[1] * a.shape[k, 1]
        if a.correct_along:
            work.parts[MOVED] += a.weight[k] * ratio[3] * a.shape[k, 3]
        good = is_usable(planes.data[i, q], variance, planes.bits[i, q])
        if a.lost_always[k] or not good or not p.inverse[k] > 0.0:
            lost += 1
            work.parts[MISSING] += (a.weight[k] * a.shape_error[k]) ** 2
            # as in measure: an outlier is not lost to saturation
            saturated |= (not a.lost_always[k]) and (planes.bits[i, q] & (SAT | OUTLIER)) == SAT
            continue
        value = (planes.data[i, q] - (p.level[c] if p.terms > 0 else 0.0)) * scale - level
        _put(work, count, value, p.inverse[k], variance * scale * scale, shape, p.place[k], k)
        count += 1
    return count, lost, saturated


@kernel
def _gather_ground(i, c, planes, a, p, count, work):
    """Add the usable pixels of the background to the list; returns its length."""
    for k in range(a.ground_start[c], a.ground_start[c + 1]):
        q = a.ground[k]
        scale = np.float64(a.scale[q])
        variance = np.float64(planes.vp[i, q] + planes.vr[i, q])
        if is_usable(planes.data[i, q], variance, planes.bits[i, q]) and p.ground_inverse[k] > 0.0:
            value = (planes.data[i, q] - a.ground_template[k]) * scale
            _put(work, count, value, p.ground_inverse[k], variance * scale * scale, 0.0, p.ground_place[k], k)
            count += 1
    return count


@kernel
def _worst_pixel(work, count, inside, a, clip):
    """Pixel that lies furthest from the model, in units of its error; -1 when all lie within the limit."""
    worst, far = -1, clip * clip
    n = work.vector.size
    for m in range(count):
        if not work.used[m]:
            continue
        _set_terms(work.terms, work.profile[m], work.place[m], n)
        model = 0.0
        for j in range(n):
            model += work.solution[j] * work.terms[j]
        slack = work.spread[m]
        if m < inside:
            slack += (work.solution[0] * a.shape_error[work.member[m]]) ** 2
        distance = (work.value[m] - model) ** 2 / slack if slack > 0.0 else 0.0
        if distance > far:
            worst, far = m, distance
    return worst


@kernel
def _fit_column(work, count, inside, a, clip, possible):
    """Fit the listed pixels, and leave out the worst as long as it is too far from the model.

    Returns
    -------
    solved : bool
    amplitude, offset : float
        Of the profile, and of the background.
    """
    n = work.vector.size
    work.matrix[:, :] = 0.0
    work.vector[:] = 0.0
    for m in range(count):
        _take_pixel(work, m, 1.0)
    allowed, rejected = max(1, count // 3), 0
    while True:
        work.solution[:] = work.vector
        solved = count > n and possible and solve_symmetric(work.matrix, work.solution, n, work.diagonal)
        if not solved or rejected >= allowed:
            break
        worst = _worst_pixel(work, count, inside, a, clip)
        if worst < 0:
            break
        work.used[worst] = False
        rejected += 1
        _take_pixel(work, worst, -1.0)
    amplitude = work.solution[0]
    offset = work.solution[1] if n > 1 and solved else 0.0
    # the first column of the inverse gives the weight of every pixel in the amplitude
    work.solution[:] = 0.0
    work.solution[0] = 1.0
    if solved:
        solved = solve_symmetric(work.matrix, work.solution, n, work.diagonal)
    return solved, amplitude, offset


@kernel
def _add_up(i, planes, a, count, inside, work):
    """Sum variances, weights and profile of the pixels in the fit; returns how many of the aperture are not."""
    n, parts = work.vector.size, work.parts
    rejected = 0
    for m in range(count):
        k = work.member[m]
        if not work.used[m]:
            if m < inside:
                rejected += 1
                parts[MISSING] += (a.weight[k] * a.shape_error[k]) ** 2
            continue
        _set_terms(work.terms, work.profile[m], work.place[m], n)
        h = 0.0
        for j in range(n):
            h += work.solution[j] * work.terms[j]
        h *= work.weight[m]
        q = a.pixel[k] if m < inside else a.ground[k]
        factor = (h * np.float64(a.scale[q])) ** 2
        parts[POISSON] += factor * planes.vp[i, q]
        parts[RNOISE] += factor * planes.vr[i, q]
        if planes.vf.shape[1] > 0:
            parts[FLAT] += factor * planes.vf[i, q]
        if m < inside:
            parts[TOTAL] += h
            parts[AREA] += a.weight[k]
            parts[COVER] += a.weight[k] * work.profile[m]
    return rejected


@kernel
def _write_column(i, c, a, p, fitted, lost_pixels, saturated, parts, flags, out):
    """Write the results of a column; ``fitted`` as `_fit_column` returns it."""
    solved, amplitude, _ = fitted
    lost = 0.0
    if lost_pixels > 0:
        lost = 1.0 - parts[COVER] / parts[WHOLE] if parts[WHOLE] > 0.0 else 1.0
    held = 1.0
    if parts[NOMINAL] > 0.0:
        moved = min(max(parts[MOVED] / parts[NOMINAL], -MOST_MOVED), MOST_MOVED)
        held = parts[WHOLE] / (1.0 + moved)
    amplitude *= held
    poisson, rnoise, flat = (
        parts[POISSON] * (held * held), parts[RNOISE] * (held * held), parts[FLAT] * (held * held),
    )  # fmt: skip
    usable = solved and not saturated and lost <= a.max_lost
    if lost_pixels > 0:
        flags |= ESTIMATED if usable else DNU
    if not usable:
        amplitude = poisson = rnoise = flat = np.nan
        flags |= DNU
    shared = out.ground_variance[i, c] * (parts[TOTAL] * held) ** 2 if p.terms == 0 else 0.0
    out.flux[i, c] = amplitude
    out.var_poisson[i, c] = poisson
    out.var_rnoise[i, c] = rnoise
    out.var_flat[i, c] = flat
    out.error[i, c] = np.sqrt(poisson + rnoise + flat + shared + amplitude * amplitude * parts[MISSING])
    out.dq[i, c] = flags
    out.npixels[i, c] = parts[AREA]
    out.lost[i, c] = min(max(lost, 0.0), 1.0)
    out.counts[i, c, 3] = lost_pixels


@kernel
def fit_columns(planes, a, p, out):
    """Replace the box sums of a block by fits of the profile.

    Parameters
    ----------
    planes : Planes
        Arrays [integration, pixel], as in `tsostream.operators.aperture.measure.measure`, which must have been run
        before.
    a : Aperture
        Pixel lists and profile.
    p : ProfileFit
        Weights and background.
    out : Sums
        ``flux``, variances, ``error``, ``ground`` (joint fit), ``dq``, ``npixels``, ``lost`` and ``counts`` are
        written anew; position and, for optimal extraction, background are read.

    Notes
    -----
    A pixel is left out when its distance from the model exceeds ``clip`` times the error of the pixel and of the
    profile together; the worst goes first, at most a third of the aperture. What the left-out pixels hold of the
    profile counts as lost.

    The flux is what the fitted profile holds in the aperture, corrected as the box sum is. The profile's own norm must
    not decide: shifted along the dispersion it holds as much more light as the neighbouring column has, and the shift
    is measured on a spectrum whose colour changes in a transit.
    """
    work = _make_work(a, p)
    ratio = np.empty(COEFFICIENTS)
    for i in range(planes.data.shape[0]):
        take_ratios(out.fit[i], ratio)
        for c in range(a.start.size - 1):
            level = out.ground[i, c] if p.terms == 0 else 0.0
            inside, lost, saturated = _gather_source(i, c, planes, a, p, ratio, level, work)
            count = _gather_ground(i, c, planes, a, p, inside, work) if p.terms > 0 else inside
            fitted = _fit_column(work, count, inside, a, p.clip, np.isfinite(level))
            rejected = _add_up(i, planes, a, count, inside, work)
            flags = out.dq[i, c] & ~(ESTIMATED | DNU)
            if rejected > 0:
                out.counts[i, c, 2] += rejected
                flags |= OUTLIER
            _write_column(i, c, a, p, fitted, lost + rejected, saturated, work.parts, flags, out)
            if p.terms > 0:
                solved, _, offset = fitted
                middle = a.pixel[a.start[c]] if a.start[c + 1] > a.start[c] else 0
                out.ground[i, c] = p.level[c] * a.scale[middle] + offset if solved else np.nan
                out.ground_variance[i, c] = work.diagonal[1] if solved else np.nan

"""Optimal extraction (Horne 1986, PASP 98, 609) and the joint fit of profile and background.

Both are linear in the data of a column: ``F = sum h D`` with weights fixed for the exposure but for lost pixels, so
that no weight follows the flux. Optimal extraction takes the background that was measured beside the trace and weighs
the pixels of the aperture by profile over variance; the joint fit solves for the amplitude of the profile and the
background of the column, a constant or a polynomial across, at once, which takes out what a column shares (1/f noise)
as well as its pixels allow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.integration.payload import Rate
from tsostream.operators.aperture.lists import COEFFICIENTS, Aperture, Sums
from tsostream.operators.aperture.solving import solve_symmetric
from tsostream.operators.jit import kernel

__all__ = ["MOST_TERMS", "ProfileFit", "fit_block", "fit_columns", "linear_weights"]

DNU = np.uint32(dq.DO_NOT_USE)
SAT = np.uint32(dq.SATURATED)
OUTLIER = np.uint32(dq.OUTLIER)
ESTIMATED = np.uint32(dq.FLUX_ESTIMATED)

#: amplitude, and a background up to the second degree
MOST_TERMS = 4


class ProfileFit(NamedTuple):
    """What the fit knows beyond the `Aperture`.

    Attributes
    ----------
    inverse : float32 [source]
        Inverse variance of the aperture's pixels in one integration, from the template [1/output unit squared].
    ground_inverse : float32 [background]
        Likewise for the background pixels.
    place, ground_place : float32 [source], [background]
        Distance across from the trace, in units of half the frame.
    level : float64 [column]
        Background of the template [input unit].
    terms : int
        Terms of the background: 0 where it is measured beside the trace, 1 for a constant, 2 and 3 for polynomials.
    clip : float
        Pixels further than this from the model are left out, the worst first [sigma].
    """

    inverse: np.ndarray
    ground_inverse: np.ndarray
    place: np.ndarray
    ground_place: np.ndarray
    level: np.ndarray
    terms: int
    clip: float


@kernel
def _take_pixel(matrix, vector, x, value, weight, n, sign):
    """Add a pixel to the normal equations, or take it out again."""
    for j in range(n):
        vector[j] += sign * weight * x[j] * value
        for k in range(n):
            matrix[j, k] += sign * weight * x[j] * x[k]


@kernel
def _set_terms(x, profile, place, n):
    x[0] = profile
    power = 1.0
    for j in range(1, n):
        x[j] = power
        power *= place


@kernel
def fit_columns(data, vp, vr, vf, bits, a, p, out):
    """Replace the box sums of a block by fits of the profile.

    Parameters
    ----------
    data, vp, vr, vf : float32 [integration, pixel]
        As in `tsostream.operators.aperture.measure.measure`, which must have been run before.
    bits : uint32 [integration, pixel]
        DQ.
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
    n = 1 + p.terms
    columns = a.start.size - 1
    most = 1
    for c in range(columns):
        most = max(
            most, a.start[c + 1] - a.start[c] + (a.ground_start[c + 1] - a.ground_start[c]) * (p.terms > 0)
        )
    value, weight, spread = np.empty(most), np.empty(most), np.empty(most)
    profile, place = np.empty(most), np.empty(most)
    pixel = np.empty(most, np.int64)
    state = np.empty(most, np.int8)
    matrix, vector, first = np.empty((n, n)), np.empty(n), np.empty(n)
    diagonal, x = np.empty(n), np.empty(n)
    ratio = np.empty(COEFFICIENTS)
    for i in range(data.shape[0]):
        for j in range(COEFFICIENTS):
            usable = np.isfinite(out.fit[i, j]) and out.fit[i, 0] > 0.0
            ratio[j] = out.fit[i, j] / out.fit[i, 0] if usable else (1.0 if j == 0 else 0.0)
        for c in range(columns):
            flags = out.dq[i, c] & ~(ESTIMATED | DNU)
            count = inside = n_lost = 0
            whole = nominal = moved = missing2 = 0.0
            saturated = False
            matrix[:, :] = 0.0
            vector[:] = 0.0
            level = out.ground[i, c] if p.terms == 0 else 0.0
            for k in range(a.start[c], a.start[c + 1]):
                q = a.pixel[k]
                shape = 0.0
                for j in range(COEFFICIENTS):
                    shape += ratio[j] * a.shape[k, j]
                scale = np.float64(a.scale[q])
                variance = np.float64(vp[i, q] + vr[i, q])
                whole += a.weight[k] * shape
                nominal += a.weight[k] * a.shape[k, 0]
                if a.correct_across:
                    moved += a.weight[k] * ratio[1] * a.shape[k, 1]
                if a.correct_along:
                    moved += a.weight[k] * ratio[3] * a.shape[k, 3]
                good = np.isfinite(data[i, q]) and variance >= 0.0 and not bits[i, q] & DNU
                if a.lost_always[k] or not good or not p.inverse[k] > 0.0:
                    n_lost += 1
                    missing2 += (a.weight[k] * a.shape_error[k]) ** 2
                    # as in measure: an outlier is not lost to saturation
                    saturated |= (not a.lost_always[k]) and (bits[i, q] & (SAT | OUTLIER)) == SAT
                    continue
                value[count] = (data[i, q] - (p.level[c] if p.terms > 0 else 0.0)) * scale - level
                weight[count] = p.inverse[k]
                spread[count] = variance * scale * scale
                profile[count] = shape
                place[count] = p.place[k]
                pixel[count] = k
                state[count] = 1
                count += 1
            inside = count
            if p.terms > 0:
                for k in range(a.ground_start[c], a.ground_start[c + 1]):
                    q = a.ground[k]
                    scale = np.float64(a.scale[q])
                    variance = np.float64(vp[i, q] + vr[i, q])
                    good = np.isfinite(data[i, q]) and variance >= 0.0 and not bits[i, q] & DNU
                    if not good or not p.ground_inverse[k] > 0.0:
                        continue
                    value[count] = (data[i, q] - a.ground_template[k]) * scale
                    weight[count] = p.ground_inverse[k]
                    spread[count] = variance * scale * scale
                    profile[count] = 0.0
                    place[count] = p.ground_place[k]
                    pixel[count] = k
                    state[count] = 1
                    count += 1
            for m in range(count):
                _set_terms(x, profile[m], place[m], n)
                _take_pixel(matrix, vector, x, value[m], weight[m], n, 1.0)
            solved = False
            allowed = max(1, count // 3)
            rejected = 0
            while True:
                for j in range(n):
                    first[j] = vector[j]
                solved = count > n and np.isfinite(level) and solve_symmetric(matrix, first, n, diagonal)
                if not solved or rejected >= allowed:
                    break
                worst, far = -1, p.clip * p.clip
                for m in range(count):
                    if state[m] == 0:
                        continue
                    _set_terms(x, profile[m], place[m], n)
                    model = 0.0
                    for j in range(n):
                        model += first[j] * x[j]
                    slack = spread[m]
                    if m < inside:
                        slack += (first[0] * a.shape_error[pixel[m]]) ** 2
                    distance = (value[m] - model) ** 2 / slack if slack > 0.0 else 0.0
                    if distance > far:
                        worst, far = m, distance
                if worst < 0:
                    break
                state[worst] = 0
                rejected += 1
                _set_terms(x, profile[worst], place[worst], n)
                _take_pixel(matrix, vector, x, value[worst], weight[worst], n, -1.0)
            amplitude = first[0]
            offset = first[1] if p.terms > 0 and solved else 0.0
            # the first column of the inverse gives the weight of every pixel in the amplitude
            for j in range(n):
                first[j] = 1.0 if j == 0 else 0.0
            if solved:
                solved = solve_symmetric(matrix, first, n, diagonal)
            poisson = rnoise = flat = total_weight = area = cover = 0.0
            for m in range(count):
                if state[m] == 0:
                    if m < inside:
                        k = pixel[m]
                        n_lost += 1
                        out.counts[i, c, 2] += 1
                        flags |= OUTLIER
                        missing2 += (a.weight[k] * a.shape_error[k]) ** 2
                    continue
                _set_terms(x, profile[m], place[m], n)
                h = 0.0
                for j in range(n):
                    h += first[j] * x[j]
                h *= weight[m]
                q = a.pixel[pixel[m]] if m < inside else a.ground[pixel[m]]
                factor = (h * np.float64(a.scale[q])) ** 2
                poisson += factor * vp[i, q]
                rnoise += factor * vr[i, q]
                if vf.shape[1] > 0:
                    flat += factor * vf[i, q]
                if m < inside:
                    total_weight += h
                    area += a.weight[pixel[m]]
                    cover += a.weight[pixel[m]] * profile[m]
            lost = 0.0
            if n_lost > 0:
                lost = 1.0 - cover / whole if whole > 0.0 else 1.0
            if nominal > 0.0:
                held = whole / (1.0 + min(max(moved / nominal, -0.05), 0.05))
                amplitude *= held
                poisson *= held * held
                rnoise *= held * held
                flat *= held * held
                total_weight *= held
            usable = solved and not saturated and lost <= a.max_lost
            if n_lost > 0:
                flags |= ESTIMATED if usable else DNU
            if not usable:
                amplitude = poisson = rnoise = flat = np.nan
                flags |= DNU
            shared = out.ground_variance[i, c] * total_weight**2 if p.terms == 0 else 0.0
            out.flux[i, c] = amplitude
            out.var_poisson[i, c] = poisson
            out.var_rnoise[i, c] = rnoise
            out.var_flat[i, c] = flat
            out.error[i, c] = np.sqrt(poisson + rnoise + flat + shared + amplitude * amplitude * missing2)
            if p.terms > 0:
                middle = a.pixel[a.start[c]] if a.start[c + 1] > a.start[c] else 0
                out.ground[i, c] = p.level[c] * a.scale[middle] + offset if solved else np.nan
                out.ground_variance[i, c] = diagonal[1] if solved else np.nan
            out.dq[i, c] = flags
            out.npixels[i, c] = area
            out.lost[i, c] = min(max(lost, 0.0), 1.0)
            out.counts[i, c, 3] = n_lost


def fit_block(block: Rate, aperture: Aperture, fit: ProfileFit, box: Sums) -> Sums:
    """Fit a block whose box sums are known; those are left as they are.

    Parameters
    ----------
    block
        Slopes.
    aperture, fit
        Pixels and weights.
    box
        From `tsostream.operators.aperture.sums.measure_block` with the same aperture.
    """
    n = block.count
    out = Sums(
        *(array if name in ("fit", "fit_error") else array.copy() for name, array in box._asdict().items())
    )
    flat = block.var_flat if block.var_flat is not None else np.empty((n, 0), np.float32)
    fit_columns(
        block.data.reshape(n, -1),
        block.var_poisson.reshape(n, -1),
        block.var_rnoise.reshape(n, -1),
        flat.reshape(n, -1),
        block.dq.reshape(n, -1),
        aperture,
        fit,
        out,
    )
    return out


def linear_weights(aperture: Aperture, fit: ProfileFit, shape: tuple[int, int]) -> np.ndarray:
    """Weight of every pixel [y, x] in the amplitude of its column, when none is lost.

    For optimal extraction the background's weight is spread evenly over the background pixels.

    Returns
    -------
    float64 [y, x]
        In the output's unit per input unit.
    """
    weights = np.zeros(shape[0] * shape[1])
    for c in range(aperture.start.size - 1):
        source = slice(aperture.start[c], aperture.start[c + 1])
        ground = slice(aperture.ground_start[c], aperture.ground_start[c + 1])
        pixel, beside = aperture.pixel[source], aperture.ground[ground]
        inverse = np.where(aperture.lost_always[source], 0.0, fit.inverse[source].astype(float))
        terms = [aperture.shape[source, 0].astype(float)]
        terms += [fit.place[source].astype(float) ** j for j in range(fit.terms)]
        basis, each = np.stack(terms, axis=1), inverse
        if fit.terms:
            place = fit.ground_place[ground].astype(float)
            wide = np.stack([np.zeros(place.size), *(place**j for j in range(fit.terms))], axis=1)
            basis, each = np.concatenate([basis, wide]), np.concatenate([inverse, fit.ground_inverse[ground]])
        normal = basis.T @ (basis * each[:, None])
        size = np.sqrt(np.diag(normal))
        if not (size > 0).all():
            continue
        scaled = normal / np.outer(size, size)
        if np.linalg.cond(scaled) > WORST_CONDITION:
            continue
        first = np.linalg.solve(scaled, np.eye(len(size))[0]) / size / size[0]
        h = each * (basis @ first)
        inside = h[: pixel.size]
        weights[pixel] += inside * aperture.scale[pixel]
        if fit.terms:
            weights[beside] += h[pixel.size :] * aperture.scale[beside]
        elif aperture.subtract and beside.size:
            weights[beside] -= inside.sum() / beside.size * aperture.scale[beside]
    return weights.reshape(shape)


#: a normal matrix worse than this has no solution
WORST_CONDITION = 1e10

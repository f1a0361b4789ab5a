"""The kernel that measures one integration through an aperture: background, position, flux, lost pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import short_median

__all__ = ["COEFFICIENTS", "Aperture", "Sums", "measure", "solve_symmetric"]

DNU = np.uint32(dq.DO_NOT_USE)
SAT = np.uint32(dq.SATURATED)
JUMP = np.uint32(dq.JUMP_DET)
OUTLIER = np.uint32(dq.OUTLIER)
ESTIMATED = np.uint32(dq.FLUX_ESTIMATED)

#: pixels further from the fitted template than so many sigma plus this share of it do not decide the position
FIT_CLIP = 8.0
FIT_SHARE = 0.15
#: template, first and second derivative across, first and second derivative along
COEFFICIENTS = 5


class Aperture(NamedTuple):
    """Pixels of one source and how to read them; everything that is fixed for the exposure.

    Attributes
    ----------
    start : int32 [column + 1]
        Source pixels of column *c* are ``start[c] … start[c+1] - 1``.
    pixel : int32 [source]
        Flat indices into [y, x].
    weight : float32 [source]
        Fraction of the pixel inside the aperture.
    shape : float32 [source, 5]
        Normalised profile (its weighted sum over a column is 1) and its derivatives across and along.
    shape_error : float32 [source]
        Uncertainty of the profile.
    lost_always : bool [source]
        Pixels that are bad in every integration.
    ground_start : int32 [column + 1]
        Likewise for the background.
    ground : int32 [background]
        Flat indices.
    ground_template : float32 [background]
        Template there (input unit): outliers are told by their distance from it, and a lost pixel does not tilt
        the mean of a background that is not flat.
    fit_pixel : int32 [fit]
        Flat indices of the pixels that decide position and width.
    fit_column : int32 [fit]
        Their columns.
    basis : float32 [fit, basis]
        Template (input unit) and its derivatives.
    fit_weight : float32 [fit]
        Inverse variance.
    scale : float32 [y, x]
        Factor from the input's unit to the output's.
    ground_sample : int
        How many background pixels of a column its robust level is taken from.
    ground_clip : float
        Background pixels further than this from the level are left out [sigma].
    max_lost : float
        Largest fraction of a column's profile that is filled.
    subtract : bool
        Whether a background is subtracted.
    correct_across, correct_along : bool
        Whether light that a shift of the source moves across the aperture's edge is put back.
    """

    start: np.ndarray
    pixel: np.ndarray
    weight: np.ndarray
    shape: np.ndarray
    shape_error: np.ndarray
    lost_always: np.ndarray
    ground_start: np.ndarray
    ground: np.ndarray
    ground_template: np.ndarray
    fit_pixel: np.ndarray
    fit_column: np.ndarray
    basis: np.ndarray
    fit_weight: np.ndarray
    scale: np.ndarray
    ground_sample: int
    ground_clip: float
    max_lost: float
    subtract: bool
    correct_across: bool
    correct_along: bool


class Sums(NamedTuple):
    """Results, written by `measure`.

    Attributes
    ----------
    flux, var_poisson, var_rnoise, var_flat, error : float64 [integration, column]
        Flux, its variances from the pixels themselves, and its total error (background and filling included).
    ground, ground_variance : float64 [integration, column]
        Background per pixel and its variance.
    dq : uint32 [integration, column]
        Flags of the column.
    npixels : float64 [integration, column]
        Weighted number of pixels used.
    lost : float64 [integration, column]
        Fraction of the profile that was filled.
    counts : int32 [integration, column, 4]
        Aperture pixels with a jump, saturated, outlier, lost.
    fit : float64 [integration, 5]
        Coefficients of the template and its derivatives.
    fit_error : float64 [integration, 5]
        Their errors.
    """

    flux: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    var_flat: np.ndarray
    error: np.ndarray
    ground: np.ndarray
    ground_variance: np.ndarray
    dq: np.ndarray
    npixels: np.ndarray
    lost: np.ndarray
    counts: np.ndarray
    fit: np.ndarray
    fit_error: np.ndarray


@kernel
def solve_symmetric(matrix, vector, n, diagonal):
    """Solve a small symmetric positive definite system.

    Parameters
    ----------
    matrix : float64 [n, n]
        The system; read.
    vector : float64 [n]
        Right-hand side; overwritten by the solution, untouched when there is none.
    n : int
        Order.
    diagonal : float64 [n]
        Diagonal of the inverse, written.

    Returns
    -------
    bool
        False when the matrix is singular.
    """
    right = vector.copy()
    work = np.zeros((n, 2 * n))
    for i in range(n):
        if not matrix[i, i] > 0.0:
            return False
    for i in range(n):
        for j in range(n):
            # unit diagonal first: the derivatives have other sizes than the template
            work[i, j] = matrix[i, j] / np.sqrt(matrix[i, i] * matrix[j, j])
        work[i, n + i] = 1.0
    for k in range(n):
        pivot = work[k, k]
        if not abs(pivot) > 1e-10:
            return False
        for j in range(2 * n):
            work[k, j] /= pivot
        for i in range(n):
            if i != k:
                factor = work[i, k]
                for j in range(2 * n):
                    work[i, j] -= factor * work[k, j]
    for i in range(n):
        vector[i] = 0.0
        for j in range(n):
            inverse = work[i, n + j] / np.sqrt(matrix[i, i] * matrix[j, j])
            vector[i] += inverse * right[j]
            if i == j:
                diagonal[i] = inverse
    return True


@kernel
def _usable(value, variance, flags):
    return np.isfinite(value) and variance >= 0.0 and not flags & DNU


@kernel
def _measure_ground(data, vp, vr, bits, a, values, level, level_variance):
    """Background per pixel of every column and its variance, in the output's unit."""
    limit = a.ground_clip * a.ground_clip
    for column in range(level.size):
        begin, end = a.ground_start[column], a.ground_start[column + 1]
        total = end - begin
        level[column] = np.nan
        level_variance[column] = np.nan
        if total == 0:
            continue
        stride = max(1, total // a.ground_sample)
        count = 0
        for k in range(begin, end, stride):
            p = a.ground[k]
            if _usable(data[p], vp[p] + vr[p], bits[p]) and count < values.size:
                values[count] = np.float64(data[p] - a.ground_template[k]) * a.scale[p]
                count += 1
        if count == 0:
            continue
        # robust start: a cosmic ray must not decide which pixels are outliers
        start = short_median(values, count)
        mean = variance = template = 0.0
        used = 0
        # the start itself is uncertain by about 1.25 sigma / sqrt(count)
        widened = limit * (1.0 + 1.6 / count)
        for k in range(begin, end):
            p = a.ground[k]
            scale = np.float64(a.scale[p])
            template += a.ground_template[k] * scale
            pixel_variance = np.float64(vp[p] + vr[p])
            if not _usable(data[p], pixel_variance, bits[p]):
                continue
            distance = np.float64(data[p] - a.ground_template[k]) * scale - start
            pixel_variance *= scale * scale
            if distance * distance <= widened * pixel_variance:
                mean += distance
                variance += pixel_variance
                used += 1
        level[column] = template / total + start
        if used > 0:
            level[column] += mean / used
            level_variance[column] = variance / used**2


@kernel
def _add_pixel(matrix, vector, basis, value, weight, sign):
    """Add a pixel to the normal equations (lower half), or take it out again."""
    for j in range(vector.size):
        vector[j] += sign * (weight * value) * basis[j]
        weighted = sign * weight * basis[j]
        for k in range(j + 1):
            matrix[j, k] += weighted * basis[k]


@kernel
def _solve_template(matrix, vector, solution, diagonal):
    """Solve the normal equations of the template; their lower half is given."""
    n = vector.size
    for j in range(n):
        solution[j] = vector[j]
        for k in range(j):
            matrix[k, j] = matrix[j, k]
    return solve_symmetric(matrix, solution, n, diagonal)


@kernel
def _fit_template(data, vp, vr, bits, a, ground, matrix, vector, solution, diagonal, fit, fit_error):
    """Amplitudes of the template and its derivatives by weighted least squares.

    Lost pixels are left out, and after a first solution those that are far off: one cosmic ray that nobody flagged
    would move the source in all columns.
    """
    n = a.basis.shape[1]
    for j in range(n):
        vector[j] = 0.0
        for k in range(n):
            matrix[j, k] = 0.0
    for q in range(a.fit_pixel.size):
        p = a.fit_pixel[q]
        level = ground[a.fit_column[q]]
        if _usable(data[p], vp[p] + vr[p], bits[p]) and not np.isnan(level):
            value = data[p] - level / a.scale[p]
            _add_pixel(matrix, vector, a.basis[q], value, a.fit_weight[q], 1.0)
    solved = _solve_template(matrix, vector, solution, diagonal)
    if solved:
        rejected = 0
        for q in range(a.fit_pixel.size):
            p = a.fit_pixel[q]
            level = ground[a.fit_column[q]]
            if not _usable(data[p], vp[p] + vr[p], bits[p]) or np.isnan(level):
                continue
            model = 0.0
            for j in range(n):
                model += solution[j] * a.basis[q, j]
            value = data[p] - level / a.scale[p]
            limit = FIT_CLIP / np.sqrt(a.fit_weight[q]) + FIT_SHARE * abs(model)
            if abs(value - model) > limit:
                _add_pixel(matrix, vector, a.basis[q], value, a.fit_weight[q], -1.0)
                rejected += 1
        if rejected > 0:
            solved = _solve_template(matrix, vector, solution, diagonal)
    for j in range(fit.size):
        fit[j] = solution[j] if solved and j < n else np.nan
        fit_error[j] = np.sqrt(diagonal[j]) if solved and j < n else np.nan


@kernel
def measure(data, vp, vr, vf, bits, a, out):
    """Measure every integration of a block.

    Parameters
    ----------
    data : float32 [integration, pixel]
        Slopes; a pixel is used when it is finite, has a variance and no DO_NOT_USE.
    vp, vr, vf : float32 [integration, pixel]
        Poisson, read-noise and flat-field variances (``vf`` may have no pixels).
    bits : uint32 [integration, pixel]
        DQ.
    a : Aperture
        Pixel lists and templates.
    out : Sums
        Results.

    Notes
    -----
    With D the data, B the background, w the aperture weights and P the profile at this integration's position, the
    flux of a column is ``sum_good w (D - B) / sum_good w P * sum_all w P``; its variance scales with the square and
    gains ``F^2 sum_lost (w dP)^2`` for what was filled. A column is NaN when more than ``max_lost`` of its profile
    is missing or a pixel that is good in other integrations is lost to saturation (and not as an outlier).

    A shift s of the source changes what the aperture holds by ``- s sum w P'``; with ``correct_across`` or
    ``correct_along`` the flux is divided by that, which takes first-order aperture losses out of the light curve.
    """
    columns = a.start.size - 1
    nbasis = a.basis.shape[1]
    values = np.empty(2 * a.ground_sample, np.float64)
    matrix = np.empty((nbasis, nbasis))
    vector = np.empty(nbasis)
    solution = np.empty(nbasis)
    diagonal = np.empty(nbasis)
    ratio = np.empty(COEFFICIENTS)
    for i in range(data.shape[0]):
        # all columns in one call: handing over the lists costs as much as measuring a column
        if a.subtract:
            _measure_ground(data[i], vp[i], vr[i], bits[i], a, values, out.ground[i], out.ground_variance[i])
        else:
            out.ground[i, :] = 0.0
            out.ground_variance[i, :] = 0.0
        _fit_template(
            data[i],
            vp[i],
            vr[i],
            bits[i],
            a,
            out.ground[i],
            matrix,
            vector,
            solution,
            diagonal,
            out.fit[i],
            out.fit_error[i],
        )
        for j in range(COEFFICIENTS):
            usable = np.isfinite(out.fit[i, j]) and out.fit[i, 0] > 0.0
            ratio[j] = out.fit[i, j] / out.fit[i, 0] if usable else (1.0 if j == 0 else 0.0)
        for c in range(columns):
            flux = poisson = rnoise = flat = used_area = cover = whole = missing2 = 0.0
            nominal = moved = 0.0
            flags = np.uint32(0)
            saturated = False
            for k in range(4):
                out.counts[i, c, k] = 0
            for k in range(a.start[c], a.start[c + 1]):
                p = a.pixel[k]
                w = np.float64(a.weight[k])
                pixel_bits = bits[i, p]
                profile = 0.0
                for j in range(COEFFICIENTS):
                    profile += ratio[j] * a.shape[k, j]
                whole += w * profile
                nominal += w * a.shape[k, 0]
                if a.correct_across:
                    moved += w * ratio[1] * a.shape[k, 1]
                if a.correct_along:
                    moved += w * ratio[3] * a.shape[k, 3]
                flags |= pixel_bits & (SAT | JUMP | OUTLIER)
                out.counts[i, c, 0] += (pixel_bits & JUMP) != 0
                out.counts[i, c, 1] += (pixel_bits & SAT) != 0
                out.counts[i, c, 2] += (pixel_bits & OUTLIER) != 0
                if a.lost_always[k] or not _usable(data[i, p], vp[i, p] + vr[i, p], pixel_bits):
                    out.counts[i, c, 3] += 1
                    missing2 += (w * a.shape_error[k]) ** 2
                    # what saturates in this integration only is never filled: the brightest would follow the flux;
                    # an outlier had a slope, from the groups before it was full, and is lost for another reason
                    saturated |= (not a.lost_always[k]) and (pixel_bits & (SAT | OUTLIER)) == SAT
                    continue
                scale = np.float64(a.scale[p])
                flux += w * (data[i, p] * scale - out.ground[i, c])
                poisson += (w * scale) ** 2 * vp[i, p]
                rnoise += (w * scale) ** 2 * vr[i, p]
                if vf.shape[1] > 0:
                    flat += (w * scale) ** 2 * vf[i, p]
                cover += w * profile
                used_area += w
            lost, fill = 0.0, 1.0
            if out.counts[i, c, 3] > 0:
                # where the profile is not positive, nothing is known of what is missing
                lost = 1.0 - cover / whole if whole > 0.0 else 1.0
                fill = whole / cover if cover > 0.0 else 1.0
            if nominal > 0.0:
                # a column almost without light has no usable profile: never more than a twentieth
                fill /= 1.0 + min(max(moved / nominal, -0.05), 0.05)
            usable = (
                used_area > 0.0 and not saturated and lost <= a.max_lost and np.isfinite(out.ground[i, c])
            )
            if out.counts[i, c, 3] > 0:
                flags |= ESTIMATED if usable else DNU
            if not usable:
                flux = poisson = rnoise = flat = np.nan
                flags |= DNU
            flux *= fill
            out.flux[i, c] = flux
            out.var_poisson[i, c] = poisson * fill * fill
            out.var_rnoise[i, c] = rnoise * fill * fill
            out.var_flat[i, c] = flat * fill * fill
            shared = out.ground_variance[i, c] * (used_area * fill) ** 2
            out.error[i, c] = np.sqrt(
                (poisson + rnoise + flat) * fill * fill + shared + flux * flux * missing2
            )
            out.dq[i, c] = flags
            out.npixels[i, c] = used_area
            out.lost[i, c] = min(max(lost, 0.0), 1.0)

"""Small least-squares problems: the template and its derivatives in one integration."""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.lists import DNU, FIT_CLIP, FIT_SHARE
from tsostream.operators.jit import kernel

__all__ = [
    "add_pixel", "fit_template", "gather_template", "is_usable", "pixel_is_far", "solve_symmetric",
    "solve_template", "write_fit",
]  # fmt: skip


@kernel
def is_usable(value, variance, flags):
    """Tell whether a pixel can be used: finite, with a variance, not flagged DO_NOT_USE."""
    return np.isfinite(value) and variance >= 0.0 and not flags & DNU


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
def add_pixel(matrix, vector, basis, value, weight, sign):
    """Add a pixel to the normal equations (lower half), or take it out again."""
    for j in range(vector.size):
        vector[j] += sign * (weight * value) * basis[j]
        weighted = sign * weight * basis[j]
        for k in range(j + 1):
            matrix[j, k] += weighted * basis[k]


@kernel
def solve_template(matrix, vector, solution, diagonal):
    """Solve the normal equations of the template; their lower half is given."""
    n = vector.size
    for j in range(n):
        solution[j] = vector[j]
        for k in range(j):
            matrix[k, j] = matrix[j, k]
    return solve_symmetric(matrix, solution, n, diagonal)


@kernel
def gather_template(data, vp, vr, bits, a, ground, matrix, vector):
    """Set up the normal equations of the template and its derivatives over all usable pixels (lower half).

    Parameters
    ----------
    data, vp, vr : float32 [pixel]
        Slopes and variances of one integration.
    bits : uint32 [pixel]
        DQ.
    a : Aperture
        Pixels of the fit.
    ground : float64 [column]
        Background, in the output's unit; columns without one do not count.
    matrix : float64 [basis, basis]
        Written.
    vector : float64 [basis]
        Written.
    """
    for j in range(vector.size):
        vector[j] = 0.0
        for k in range(vector.size):
            matrix[j, k] = 0.0
    for q in range(a.fit_pixel.size):
        p = a.fit_pixel[q]
        level = ground[a.fit_column[q]]
        if is_usable(data[p], vp[p] + vr[p], bits[p]) and not np.isnan(level):
            value = data[p] - level / a.scale[p]
            add_pixel(matrix, vector, a.basis[q], value, a.fit_weight[q], 1.0)


@kernel
def pixel_is_far(q, value, a, solution):
    """Tell whether a pixel of the fit is far from the model.

    Parameters
    ----------
    q : int
        Which one.
    value : float
        Its slope without background.
    a : Aperture
        Pixels of the fit.
    solution : float64 [basis]
        Coefficients.
    """
    model = 0.0
    for j in range(solution.size):
        model += solution[j] * a.basis[q, j]
    return abs(value - model) > FIT_CLIP / np.sqrt(a.fit_weight[q]) + FIT_SHARE * abs(model)


@kernel
def write_fit(solved, solution, diagonal, fit, fit_error):
    """Write coefficients and their errors; NaN for those that there are not."""
    for j in range(fit.size):
        there = solved and j < solution.size
        fit[j] = solution[j] if there else np.nan
        fit_error[j] = np.sqrt(diagonal[j]) if there else np.nan


@kernel
def fit_template(data, vp, vr, bits, a, ground, matrix, vector, fit, fit_error):
    """Amplitudes of the template and its derivatives by weighted least squares.

    Lost pixels are left out, and after a first solution those that are far off: one cosmic ray that nobody flagged
    would move the source in all columns.

    Parameters
    ----------
    data, vp, vr, bits, a, ground
        As in `gather_template`.
    matrix, vector : float64 [basis, basis], [basis]
        Working arrays.
    fit, fit_error : float64 [5]
        Written.
    """
    solution, diagonal = np.empty(vector.size), np.empty(vector.size)
    gather_template(data, vp, vr, bits, a, ground, matrix, vector)
    solved = solve_template(matrix, vector, solution, diagonal)
    if solved:
        rejected = 0
        for q in range(a.fit_pixel.size):
            p = a.fit_pixel[q]
            level = ground[a.fit_column[q]]
            if not is_usable(data[p], vp[p] + vr[p], bits[p]) or np.isnan(level):
                continue
            value = data[p] - level / a.scale[p]
            if pixel_is_far(q, value, a, solution):
                add_pixel(matrix, vector, a.basis[q], value, a.fit_weight[q], -1.0)
                rejected += 1
        if rejected > 0:
            solved = solve_template(matrix, vector, solution, diagonal)
    write_fit(solved, solution, diagonal, fit, fit_error)

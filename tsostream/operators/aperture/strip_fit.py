"""The fit of the template to the aperture's rows: sums fixed for the exposure, less the pixels that are lost."""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.closing import AREA, MISSING, note_flags
from tsostream.operators.aperture.lists import COEFFICIENTS, DNU, FIT_SHARE
from tsostream.operators.aperture.solving import (
    add_pixel,
    gather_template,
    pixel_is_far,
    solve_template,
    write_fit,
)
from tsostream.operators.aperture.strip_work import NOTABLE
from tsostream.operators.aperture.strips import FIT_LEVEL, FIT_LIMIT, FIT_TERMS, FIT_WEIGHT
from tsostream.operators.jit import kernel

__all__ = ["fit_strips"]

#: the quick test for pixels far from the model asks for this share of the limit
NEARLY = np.float32(0.99)


@kernel
def _note_pixels(i, s, work, out, matrix, vector):
    """Count flags, and take lost pixels off what is fixed for the exposure.

    Returns
    -------
    int
        Pixels of the fit that are lost.
    """
    a = s.lists
    lost_fits = 0
    for r in range(s.run.shape[0]):
        if work.seen[r] == 0:
            continue
        _, x0, e0, length, _ = s.run[r]
        marks = work.marks[e0 : e0 + length]
        for x in range(length):
            # nearly all pixels are nothing but good: their place in the lists is not even looked up
            if marks[x] == 0:
                continue
            e, c = e0 + x, x0 + x
            k = s.member[e]
            if k < 0:
                continue
            always = a.lost_always[k]
            lost = not always and (work.marks[e] & DNU) != 0
            out.dq[i, c] = note_flags(
                np.uint32(work.marks[e] & NOTABLE), lost, always, out.dq[i, c], out.counts[i, c]
            )
            if not lost:
                continue
            w = np.float64(a.weight[k])
            work.parts[AREA, c] -= w
            work.parts[MISSING, c] += (w * a.shape_error[k]) ** 2
            for j in range(COEFFICIENTS):
                work.cover[j, c] -= w * a.shape[k, j]
            q, level = s.fit_member[e], out.ground[i, c]
            if q >= 0 and not np.isnan(level):
                lost_fits += 1
                # the data were never added, the background was
                add_pixel(matrix, vector, a.basis[q], -level / a.scale[a.pixel[k]], a.fit_weight[q], -1.0)
    return lost_fits


@kernel
def _start_equations(i, s, out, matrix, vector):
    """Matrix of the fit as if no pixel were lost, and what the background puts into its right-hand side.

    Returns
    -------
    int
        Pixels of the fit.
    """
    ground = out.ground[i]
    count = unknown = 0
    for c in range(ground.size):
        known = ground[c] == ground[c]
        count += s.fit_count[c] if known else 0
        unknown += not known
    if unknown == 0:
        matrix[:, :] = s.normal_sum
    else:
        matrix[:, :] = 0.0
        for c in range(ground.size):
            if ground[c] == ground[c]:
                for j in range(FIT_TERMS):
                    for k in range(j + 1):
                        matrix[j, k] += s.normal[c, j, k]
    v0 = v1 = v2 = v3 = 0.0
    for c in range(ground.size):
        level = ground[c]
        if level == level:
            v0 -= level * s.fit_level[0, c]
            v1 -= level * s.fit_level[1, c]
            v2 -= level * s.fit_level[2, c]
            v3 -= level * s.fit_level[3, c]
    vector[0], vector[1], vector[2], vector[3] = v0, v1, v2, v3
    return count


@kernel
def _add_data(ground, terms, vector):
    """Add what the pixels of the columns put into the right-hand side, where the background is known."""
    v0, v1, v2, v3 = vector[0], vector[1], vector[2], vector[3]
    for c in range(ground.size):
        if ground[c] == ground[c]:
            v0 += terms[0, c]
            v1 += terms[1, c]
            v2 += terms[2, c]
            v3 += terms[3, c]
    vector[0], vector[1], vector[2], vector[3] = v0, v1, v2, v3


@kernel
def _any_far(data, level, marks, fit, solution):
    """Tell whether a pixel of a stretch may be far from the model."""
    zero, share = np.float32(0.0), np.float32(FIT_SHARE)
    s0, s1 = np.float32(solution[0]), np.float32(solution[1])
    s2, s3 = np.float32(solution[2]), np.float32(solution[3])
    found = 0
    for x in range(data.size):
        model = s0 * fit[0, x] + s1 * fit[1, x] + s2 * fit[2, x] + s3 * fit[3, x]
        off = abs(data[x] * fit[FIT_WEIGHT, x] - level[x] * fit[FIT_LEVEL, x] - model)
        limit = NEARLY * (fit[FIT_LIMIT, x] + share * abs(model))
        found += (off > limit) & (fit[FIT_WEIGHT, x] > zero) & ((marks[x] & DNU) == 0)
    return found > 0


@kernel
def _drop_far(i, planes, index, s, work, out, matrix, vector, solution):
    """Take pixels far from the model out of the equations.

    Returns
    -------
    int
        How many.
    """
    a = s.lists
    for c in range(work.level.size):
        work.level[c] = out.ground[i, c]
    rejected = 0
    for r in range(s.run.shape[0]):
        row, x0, e0, length, fitted = s.run[r]
        x1, e1 = x0 + length, e0 + length
        if not fitted or not _any_far(
            planes.data[index, row, x0:x1], work.level[x0:x1], work.marks[e0:e1], s.fit[:, e0:e1], solution
        ):
            continue
        for e in range(e0, e1):
            q, level = s.fit_member[e], out.ground[i, x0 + (e - e0)]
            if q < 0 or (work.marks[e] & DNU) != 0 or np.isnan(level):
                continue
            value = planes.data[index, row, x0 + (e - e0)] - level / a.scale[a.fit_pixel[q]]
            if pixel_is_far(q, value, a, solution):
                add_pixel(matrix, vector, a.basis[q], value, a.fit_weight[q], -1.0)
                rejected += 1
    return rejected


@kernel
def fit_strips(i, planes, index, flat, s, work, out, matrix, vector):
    """Count flags and fit the template, as `tsostream.operators.aperture.solving.fit_template` does."""
    solution, diagonal = np.empty(FIT_TERMS), np.empty(FIT_TERMS)
    count = _start_equations(i, s, out, matrix, vector)
    lost = _note_pixels(i, s, work, out, matrix, vector)
    if 2 * lost > count:
        # little would be left of large sums: count what is there
        gather_template(
            flat.data[i], flat.vp[i], flat.vr[i], flat.bits[i], s.lists, out.ground[i], matrix, vector
        )
    else:
        _add_data(out.ground[i], work.terms, vector)
    solved = solve_template(matrix, vector, solution, diagonal)
    if solved and _drop_far(i, planes, index, s, work, out, matrix, vector, solution) > 0:
        solved = solve_template(matrix, vector, solution, diagonal)
    write_fit(solved, solution, diagonal, out.fit[i], out.fit_error[i])

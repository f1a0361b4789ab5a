"""Measuring a spectrum in one pass over its pixels, row after row, all columns of a stretch side by side.

The same results as `tsostream.operators.aperture.measure.measure` gives from the pixel lists, within rounding. A column
that loses no pixel needs nothing but sums of products with constants; what is lost or flagged is found on the way, and
taken off the constants pixel by pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.aperture.closing import (
    AREA,
    COVER,
    FLAT,
    FLUX,
    MISSING,
    MOVED,
    NOMINAL,
    PARTS,
    POISSON,
    RNOISE,
    WHOLE,
    close_columns,
    note_flags,
    take_ratios,
)
from tsostream.operators.aperture.lists import (
    COEFFICIENTS,
    DNU,
    FEWEST_SAMPLES,
    FIT_SHARE,
    JUMP,
    OUTLIER,
    SAT,
)
from tsostream.operators.aperture.measure import robust_level
from tsostream.operators.aperture.solving import (
    add_pixel,
    gather_template,
    pixel_is_far,
    solve_template,
    write_fit,
)
from tsostream.operators.aperture.strips import FIT_LEVEL, FIT_LIMIT, FIT_TERMS, FIT_WEIGHT
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes

__all__ = ["Planes", "measure_strips"]

#: what makes a pixel more than a term of the sums; DO_NOT_USE stands for lost ones
NOTABLE = np.uint32(SAT | JUMP | OUTLIER)
#: the quick test for pixels far from the model asks for this share of the limit
NEARLY = np.float32(0.99)


class Planes(NamedTuple):
    """A block, oriented [cross, disp].

    Attributes
    ----------
    data, vp, vr, vf : float32 [integration, cross, disp]
        Slopes and variances; ``vf`` may have no pixels.
    bits : uint32 [integration, cross, disp]
        DQ.
    """

    data: np.ndarray
    vp: np.ndarray
    vr: np.ndarray
    vf: np.ndarray
    bits: np.ndarray


class Work(NamedTuple):
    """Working arrays of one integration.

    Attributes
    ----------
    marks : uint32 [entry]
        Notable bits of the aperture's pixels, DO_NOT_USE for all that are lost.
    seen : uint32 [run]
        The same of a whole stretch.
    parts : float64 [10, column]
        As in `close_columns`.
    cover : float64 [5, column]
        Weighted sums of the profile's terms over the pixels that are not lost.
    terms : float64 [4, column]
        Data in the normal equations of the fit.
    lanes : float32 [lane, column]
        Samples of the background.
    known : int32 [column]
        How many there are.
    start, limit : float32 [column]
        First level of the background, and squared limit about it.
    ground : float64 [3, column]
        Sum, variance and number of the background pixels within the limit.
    level : float32 [column]
        Background.
    values : float32 [value]
        Background pixels of a column.
    """

    marks: np.ndarray
    seen: np.ndarray
    parts: np.ndarray
    cover: np.ndarray
    terms: np.ndarray
    lanes: np.ndarray
    known: np.ndarray
    start: np.ndarray
    limit: np.ndarray
    ground: np.ndarray
    level: np.ndarray
    values: np.ndarray


@kernel
def _make_work(s):
    columns = s.area.size
    most = 1
    for c in range(columns):
        most = max(most, s.lists.ground_start[c + 1] - s.lists.ground_start[c])
    return Work(
        np.zeros(s.pixel.size, np.uint32),
        np.zeros(s.run.shape[0], np.uint32),
        np.zeros((PARTS, columns)),
        np.empty((COEFFICIENTS, columns)),
        np.empty((FIT_TERMS, columns)),
        np.empty((s.lanes, columns), np.float32),
        np.empty(columns, np.int32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty((3, columns)),
        np.empty(columns, np.float32),
        np.empty(most, np.float32),
    )


@kernel
def _turn(plane, turned):
    """Exchange the axes of a plane."""
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            turned[x, y] = plane[y, x]


# --- background ---------------------------------------------------------------------------------------------


@kernel
def _sample_run(data, vp, vr, bits, template, scale, lane, known):
    """Put the usable pixels of a stretch into a lane; what is not usable sorts behind all others."""
    zero, nothing = np.float32(0.0), np.float32(np.inf)
    for x in range(lane.size):
        value = (data[x] - template[x]) * scale[x]
        good = (value - value == zero) & (vp[x] + vr[x] >= zero) & ((bits[x] & DNU) == 0)
        lane[x] = value if good else nothing
        known[x] += np.int32(good)


@kernel
def _set_starts(i, flat, s, work, index):
    """First level of each column's background and the limit about it, relative to the template."""
    a = s.lists
    sort_lanes(work.lanes, s.pairs)
    clip = a.ground_clip * a.ground_clip
    for c in range(work.start.size):
        count = np.int64(work.known[c])
        if count < FEWEST_SAMPLES:
            level, count = robust_level(
                flat.data[i], flat.vp[i], flat.vr[i], flat.bits[i], a, c, True, work.values
            )
            work.start[c] = level / s.unit
        elif count % 2:
            work.start[c] = work.lanes[count // 2, c]
        else:
            work.start[c] = np.float32(0.5) * (work.lanes[count // 2 - 1, c] + work.lanes[count // 2, c])
        # the start itself is uncertain by about 1.25 sigma / sqrt(count)
        work.limit[c] = clip * (1.0 + 1.6 / max(count, 1))


@kernel
def _add_ground(data, vp, vr, bits, template, scale, start, limit, total, variance, used):
    """Add the pixels of a stretch that lie within the limits to the background of their columns."""
    zero = np.float32(0.0)
    for x in range(total.size):
        distance = (data[x] - template[x]) * scale[x] - start[x]
        own = vp[x] + vr[x]
        scaled = own * scale[x] * scale[x]
        good = ((bits[x] & DNU) == 0) & (own >= zero) & (distance * distance <= limit[x] * scaled)
        total[x] += np.float64(distance) if good else 0.0
        variance[x] += np.float64(scaled) if good else 0.0
        used[x] += 1.0 if good else 0.0


@kernel
def _measure_ground(i, planes, index, flat, s, work, out):
    """Background per pixel of every column and its variance, in the output's unit."""
    work.lanes[:, :] = np.inf
    work.known[:] = 0
    for r in range(s.ground_run.shape[0]):
        row, x0, e0, length, lane = s.ground_run[r]
        if lane >= 0:
            x1, e1 = x0 + length, e0 + length
            _sample_run(
                planes.data[index, row, x0:x1], planes.vp[index, row, x0:x1], planes.vr[index, row, x0:x1],
                planes.bits[index, row, x0:x1], s.ground_template[e0:e1], s.ground_scale[e0:e1],
                work.lanes[lane, x0:x1], work.known[x0:x1],
            )  # fmt: skip
    _set_starts(i, flat, s, work, index)
    work.ground[:, :] = 0.0
    for r in range(s.ground_run.shape[0]):
        row, x0, e0, length, lane = s.ground_run[r]
        x1, e1 = x0 + length, e0 + length
        _add_ground(
            planes.data[index, row, x0:x1], planes.vp[index, row, x0:x1], planes.vr[index, row, x0:x1],
            planes.bits[index, row, x0:x1], s.ground_template[e0:e1], s.ground_scale[e0:e1],
            work.start[x0:x1], work.limit[x0:x1], work.ground[0, x0:x1], work.ground[1, x0:x1],
            work.ground[2, x0:x1],
        )  # fmt: skip
    for c in range(work.start.size):
        used = work.ground[2, c]
        level = np.float64(work.start[c])
        variance = np.nan
        if used > 0.0:
            level += work.ground[0, c] / used
            variance = work.ground[1, c] / (used * used) * s.unit * s.unit
        out.ground[i, c] = s.ground_mean[c] + level * s.unit
        out.ground_variance[i, c] = variance


# --- the aperture -------------------------------------------------------------------------------------------


@kernel
def _add_source(data, vp, vr, bits, weight, flux, poisson, rnoise, marks):
    """Add the usable pixels of a stretch to the sums of their columns, and mark those that are more than that."""
    zero = np.float32(0.0)
    seen = np.uint32(0)
    for x in range(flux.size):
        value, first, second = data[x], vp[x], vr[x]
        good = (value - value == zero) & (first + second >= zero) & ((bits[x] & DNU) == 0)
        mark = (bits[x] & NOTABLE) | (np.uint32(0) if good else DNU)
        factor = np.float64(weight[x])
        square = factor * factor
        # without a weight not even an infinite variance counts
        good &= weight[x] != zero
        flux[x] += factor * np.float64(value) if good else 0.0
        poisson[x] += square * np.float64(first) if good else 0.0
        rnoise[x] += square * np.float64(second) if good else 0.0
        marks[x] = mark
        seen |= mark
    return seen


@kernel
def _add_flat(vf, weight, marks, flat):
    """Add the flat-field variances of a stretch to those of their columns."""
    for x in range(flat.size):
        factor = np.float64(weight[x])
        good = ((marks[x] & DNU) == 0) & (weight[x] != np.float32(0.0))
        flat[x] += factor * factor * np.float64(vf[x]) if good else 0.0


@kernel
def _add_terms(data, marks, a0, a1, a2, a3, t0, t1, t2, t3):
    """Add the usable pixels of a stretch to the right-hand sides of the fit."""
    for x in range(t0.size):
        value = np.float64(data[x]) if (marks[x] & DNU) == 0 else 0.0
        t0[x] += value * np.float64(a0[x])
        t1[x] += value * np.float64(a1[x])
        t2[x] += value * np.float64(a2[x])
        t3[x] += value * np.float64(a3[x])


@kernel
def _sum_source(planes, index, s, work):
    """Sum the usable pixels of the aperture, and mark those that are lost or flagged."""
    work.parts[: AREA + 1] = 0.0
    work.terms[:, :] = 0.0
    has_flat = planes.vf.shape[2] > 0
    for r in range(s.run.shape[0]):
        row, x0, e0, length, fitted = s.run[r]
        x1, e1 = x0 + length, e0 + length
        data, marks, weight = planes.data[index, row, x0:x1], work.marks[e0:e1], s.weight[e0:e1]
        work.seen[r] = _add_source(
            data, planes.vp[index, row, x0:x1], planes.vr[index, row, x0:x1], planes.bits[index, row, x0:x1],
            weight, work.parts[FLUX, x0:x1], work.parts[POISSON, x0:x1], work.parts[RNOISE, x0:x1], marks,
        )  # fmt: skip
        if has_flat:
            _add_flat(planes.vf[index, row, x0:x1], weight, marks, work.parts[FLAT, x0:x1])
        if fitted:
            _add_terms(
                data, marks, s.fit[0, e0:e1], s.fit[1, e0:e1], s.fit[2, e0:e1], s.fit[3, e0:e1],
                work.terms[0, x0:x1], work.terms[1, x0:x1], work.terms[2, x0:x1], work.terms[3, x0:x1],
            )  # fmt: skip


@kernel
def _note_pixels(i, flat, s, work, out, matrix, vector):
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
        for e in range(e0, e0 + length):
            k = s.member[e]
            if work.marks[e] == 0 or k < 0:
                continue
            c = x0 + (e - e0)
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


# --- the fit of the template --------------------------------------------------------------------------------


@kernel
def _start_equations(i, s, out, matrix, vector):
    """Matrix of the fit as if no pixel were lost, and what the background puts into its right-hand side.

    Returns
    -------
    int
        Pixels of the fit.
    """
    matrix[:, :] = 0.0
    vector[:] = 0.0
    count = 0
    for c in range(s.area.size):
        level = out.ground[i, c]
        if np.isnan(level):
            continue
        count += s.fit_count[c]
        for j in range(FIT_TERMS):
            vector[j] -= level * s.fit_level[j, c]
            for k in range(j + 1):
                matrix[j, k] += s.normal[c, j, k]
    return count


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
def _fit_strips(i, planes, index, flat, s, work, out, matrix, vector):
    """Count flags and fit the template, as `tsostream.operators.aperture.solving.fit_template` does."""
    solution, diagonal = np.empty(FIT_TERMS), np.empty(FIT_TERMS)
    count = _start_equations(i, s, out, matrix, vector)
    lost = _note_pixels(i, flat, s, work, out, matrix, vector)
    if 2 * lost > count:
        # little would be left of large sums: count what is there
        gather_template(
            flat.data[i], flat.vp[i], flat.vr[i], flat.bits[i], s.lists, out.ground[i], matrix, vector
        )
    else:
        for c in range(s.area.size):
            if not np.isnan(out.ground[i, c]):
                for j in range(FIT_TERMS):
                    vector[j] += work.terms[j, c]
    solved = solve_template(matrix, vector, solution, diagonal)
    if solved and _drop_far(i, planes, index, s, work, out, matrix, vector, solution) > 0:
        solved = solve_template(matrix, vector, solution, diagonal)
    write_fit(solved, solution, diagonal, out.fit[i], out.fit_error[i])


# --- all together -------------------------------------------------------------------------------------------


@kernel
def _start_columns(i, s, work, out):
    """Fill the columns with what they are when no pixel is lost in this integration."""
    work.cover[:, :] = s.cover
    for c in range(s.area.size):
        work.parts[AREA, c] = s.area[c]
        work.parts[MISSING, c] = s.missing[c]
        out.dq[i, c] = 0
        for k in range(3):
            out.counts[i, c, k] = 0
        out.counts[i, c, 3] = s.lost[c]


@kernel
def _finish_columns(i, s, work, out, ratio):
    """Bring sums to the output's unit, and the profile to the position of this integration."""
    take_ratios(out.fit[i], ratio)
    unit, square = s.unit, s.unit * s.unit
    across, along = s.lists.correct_across * ratio[1], s.lists.correct_along * ratio[3]
    for c in range(s.area.size):
        whole = cover = 0.0
        for j in range(COEFFICIENTS):
            whole += ratio[j] * s.whole[j, c]
            cover += ratio[j] * work.cover[j, c]
        work.parts[WHOLE, c], work.parts[COVER, c] = whole, cover
        work.parts[NOMINAL, c] = s.whole[0, c]
        work.parts[MOVED, c] = across * s.whole[1, c] + along * s.whole[3, c]
        work.parts[FLUX, c] *= unit
        work.parts[POISSON, c] *= square
        work.parts[RNOISE, c] *= square
        work.parts[FLAT, c] *= square
    close_columns(i, work.parts, s.lists.max_lost, out)


@kernel
def measure_strips(block, flat, s, out):
    """Measure every integration of a block.

    Parameters
    ----------
    block : Planes
        Of the block [integration, y, x].
    flat : Planes
        The same arrays as [integration, pixel].
    s : Strips
        Pixels and templates.
    out : Sums
        Results; see `tsostream.operators.aperture.measure.measure`.
    """
    n, ny, nx = block.data.shape
    work = _make_work(s)
    matrix, vector = np.empty((FIT_TERMS, FIT_TERMS)), np.empty(FIT_TERMS)
    ratio = np.empty(COEFFICIENTS)
    shape = (1, nx, ny) if s.along_y else (1, 1, 1)
    has_flat = block.vf.shape[2] > 0
    turned = Planes(
        np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32),
        np.empty(shape if has_flat else (1, 1, 0), np.float32), np.empty(shape, np.uint32),
    )  # fmt: skip
    for i in range(n):
        planes, index = block, i
        if s.along_y:
            _turn(block.data[i], turned.data[0])
            _turn(block.vp[i], turned.vp[0])
            _turn(block.vr[i], turned.vr[0])
            _turn(block.bits[i], turned.bits[0])
            if has_flat:
                _turn(block.vf[i], turned.vf[0])
            planes, index = turned, 0
        if s.lists.subtract:
            _measure_ground(i, planes, index, flat, s, work, out)
        else:
            out.ground[i, :] = 0.0
            out.ground_variance[i, :] = 0.0
        _sum_source(planes, index, s, work)
        _start_columns(i, s, work, out)
        _fit_strips(i, planes, index, flat, s, work, out, matrix, vector)
        _finish_columns(i, s, work, out, ratio)

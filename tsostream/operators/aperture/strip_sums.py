"""Measuring a spectrum in one pass over its pixels, row after row, all columns of a stretch side by side.

The same results as `tsostream.operators.aperture.measure.measure` gives from the pixel lists, within rounding. A column
that loses no pixel needs nothing but sums of products with constants; what is lost or flagged is found on the way, and
taken off the constants pixel by pixel.
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.closing import (
    AREA,
    COVER,
    FLAT,
    FLUX,
    MISSING,
    MOVED,
    NOMINAL,
    POISSON,
    RNOISE,
    WHOLE,
    close_columns,
    take_ratios,
)
from tsostream.operators.aperture.lists import COEFFICIENTS, DNU
from tsostream.operators.aperture.strip_fit import fit_strips
from tsostream.operators.aperture.strip_ground import measure_ground
from tsostream.operators.aperture.strip_work import NOTABLE, Planes, make_work
from tsostream.operators.aperture.strips import FIT_TERMS
from tsostream.operators.jit import kernel

__all__ = ["measure_strips"]


@kernel
def _turn(plane, turned):
    """Exchange the axes of a plane."""
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            turned[x, y] = plane[y, x]


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
def _shape(terms, ratio, total):
    """Sum the profile's terms at the position of an integration, for every column."""
    r0, r1, r2, r3, r4 = ratio[0], ratio[1], ratio[2], ratio[3], ratio[4]
    t0, t1, t2, t3, t4 = terms[0], terms[1], terms[2], terms[3], terms[4]
    for c in range(total.size):
        total[c] = r0 * t0[c] + r1 * t1[c] + r2 * t2[c] + r3 * t3[c] + r4 * t4[c]


@kernel
def _move(across, along, by_across, by_along, moved):
    """Find what a shift of the source moves over the edge of the aperture, for every column."""
    for c in range(moved.size):
        moved[c] = across * by_across[c] + along * by_along[c]


@kernel
def _scale(values, factor):
    """Multiply sums by a factor."""
    for c in range(values.size):
        values[c] *= factor


@kernel
def _finish_columns(i, s, work, out, ratio):
    """Bring sums to the output's unit, and the profile to the position of this integration."""
    take_ratios(out.fit[i], ratio)
    unit, square = s.unit, s.unit * s.unit
    across, along = s.lists.correct_across * ratio[1], s.lists.correct_along * ratio[3]
    _shape(s.whole, ratio, work.parts[WHOLE])
    _shape(work.cover, ratio, work.parts[COVER])
    work.parts[NOMINAL] = s.whole[0]
    _move(across, along, s.whole[1], s.whole[3], work.parts[MOVED])
    _scale(work.parts[FLUX], unit)
    _scale(work.parts[POISSON], square)
    _scale(work.parts[RNOISE], square)
    _scale(work.parts[FLAT], square)
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
    work = make_work(s)
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
            measure_ground(i, planes, index, flat, s, work, out)
        else:
            out.ground[i, :] = 0.0
            out.ground_variance[i, :] = 0.0
        _sum_source(planes, index, s, work)
        _start_columns(i, s, work, out)
        fit_strips(i, planes, index, flat, s, work, out, matrix, vector)
        _finish_columns(i, s, work, out, ratio)

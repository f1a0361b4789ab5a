"""Measuring one source from its pixel lists: background, position, flux, lost pixels (images; spectra: `strips`)."""

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
    PARTS,
    POISSON,
    RNOISE,
    WHOLE,
    close_columns,
    note_flags,
    take_ratios,
)
from tsostream.operators.aperture.lists import COEFFICIENTS, FEWEST_SAMPLES
from tsostream.operators.aperture.solving import fit_template, is_usable
from tsostream.operators.jit import kernel
from tsostream.operators.ranks import middle_value

__all__ = ["measure", "robust_level"]


@kernel
def robust_level(data, vp, vr, bits, a, column, everything, values):
    """First level of a column's background above its template, in the output's unit.

    Parameters
    ----------
    data, vp, vr : float32 [pixel]
        Slopes and variances of one integration.
    bits : uint32 [pixel]
        DQ.
    a : Aperture
        Pixel lists.
    column : int
        Which column.
    everything : bool
        Take it from all background pixels, not only from the sample.
    values : float32 [value]
        Working array with room for the column's background pixels.

    Returns
    -------
    level : float
        Median; NaN without usable pixels.
    count : int
        Usable pixels.
    """
    count = 0
    for k in range(a.ground_start[column], a.ground_start[column + 1]):
        p = a.ground[k]
        if (everything or a.ground_sampled[k]) and is_usable(data[p], vp[p] + vr[p], bits[p]):
            values[count] = (data[p] - a.ground_template[k]) * a.scale[p]
            count += 1
    return (np.float64(middle_value(values, count)) if count > 0 else np.nan), count


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
        # robust start: a cosmic ray must not decide which pixels are outliers
        start, count = robust_level(data, vp, vr, bits, a, column, False, values)
        if count < FEWEST_SAMPLES:
            start, count = robust_level(data, vp, vr, bits, a, column, True, values)
        if count == 0:
            continue
        mean = variance = template = 0.0
        used = 0
        # the start itself is uncertain by about 1.25 sigma / sqrt(count)
        widened = limit * (1.0 + 1.6 / count)
        for k in range(begin, end):
            p = a.ground[k]
            scale = np.float64(a.scale[p])
            template += a.ground_template[k] * scale
            pixel_variance = np.float64(vp[p] + vr[p])
            if not is_usable(data[p], pixel_variance, bits[p]):
                continue
            distance = np.float64(data[p] - a.ground_template[k]) * scale - start
            pixel_variance *= scale * scale
            beyond = max(abs(distance) - np.float64(a.ground_wing[k]), 0.0)
            if beyond * beyond <= widened * pixel_variance:
                mean += distance
                variance += pixel_variance
                used += 1
        level[column] = template / total + start
        if used > 0:
            level[column] += mean / used
            level_variance[column] = variance / used**2


@kernel
def _sum_column(i, c, data, vp, vr, vf, bits, a, ratio, parts, out):
    """Sum over the pixels of one column of one integration."""
    flux = poisson = rnoise = flat = area = cover = whole = missing2 = nominal = moved = 0.0
    flags = np.uint32(0)
    for k in range(4):
        out.counts[i, c, k] = 0
    for k in range(a.start[c], a.start[c + 1]):
        p = a.pixel[k]
        w = np.float64(a.weight[k])
        profile = 0.0
        for j in range(COEFFICIENTS):
            profile += ratio[j] * a.shape[k, j]
        whole += w * profile
        nominal += w * a.shape[k, 0]
        moved += w * (
            a.correct_across * ratio[1] * a.shape[k, 1] + a.correct_along * ratio[3] * a.shape[k, 3]
        )
        lost = a.lost_always[k] or not is_usable(data[i, p], vp[i, p] + vr[i, p], bits[i, p])
        flags = note_flags(bits[i, p], lost, a.lost_always[k], flags, out.counts[i, c])
        if lost:
            missing2 += (w * a.shape_error[k]) ** 2
            continue
        scale = w * np.float64(a.scale[p])
        flux += scale * data[i, p]
        poisson += scale * scale * vp[i, p]
        rnoise += scale * scale * vr[i, p]
        if vf.shape[1] > 0:
            flat += scale * scale * vf[i, p]
        cover += w * profile
        area += w
    out.dq[i, c] = flags
    parts[FLUX, c], parts[POISSON, c], parts[RNOISE, c], parts[FLAT, c] = flux, poisson, rnoise, flat
    parts[AREA, c], parts[MISSING, c], parts[WHOLE, c], parts[COVER, c] = area, missing2, whole, cover
    parts[NOMINAL, c], parts[MOVED, c] = nominal, moved


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
    most = 1
    for c in range(columns):
        most = max(most, a.ground_start[c + 1] - a.ground_start[c])
    values = np.empty(most, np.float32)
    matrix = np.empty((nbasis, nbasis))
    vector = np.empty(nbasis)
    ratio = np.empty(COEFFICIENTS)
    parts = np.empty((PARTS, columns))
    for i in range(data.shape[0]):
        # all columns in one call: handing over the lists costs as much as measuring a column
        if a.subtract:
            _measure_ground(data[i], vp[i], vr[i], bits[i], a, values, out.ground[i], out.ground_variance[i])
        else:
            out.ground[i, :] = 0.0
            out.ground_variance[i, :] = 0.0
        fit_template(
            data[i], vp[i], vr[i], bits[i], a, out.ground[i], matrix, vector, out.fit[i], out.fit_error[i]
        )
        take_ratios(out.fit[i], ratio)
        for c in range(columns):
            _sum_column(i, c, data, vp, vr, vf, bits, a, ratio, parts, out)
        close_columns(i, parts, a.max_lost, out)

"""From sums over pixels to the flux of a column: background, what is filled, light that a shift moved, flags, error."""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.lists import COEFFICIENTS, DNU, ESTIMATED, JUMP, OUTLIER, SAT
from tsostream.operators.jit import kernel

__all__ = [
    "AREA", "COVER", "FLAT", "FLUX", "MISSING", "MOST_MOVED", "MOVED", "NOMINAL", "PARTS", "POISSON", "RNOISE", "WHOLE",
    "close_columns", "note_flags", "take_ratios",
]  # fmt: skip

#: rows of the sums: weighted data and variances over the usable pixels, their weight, the squared error of the
#: profile over the lost ones, the profile over all pixels, over the usable ones and at its usual place, and what a
#: shift moves over the aperture's edge
FLUX, POISSON, RNOISE, FLAT, AREA, MISSING, WHOLE, COVER, NOMINAL, MOVED = range(10)
PARTS = 10
#: a column almost without light has no usable profile: never more is put back than this
MOST_MOVED = 0.05


@kernel
def take_ratios(fit, ratio):
    """Write coefficients of the derivatives relative to the template's: what shapes the profile in an integration.

    Parameters
    ----------
    fit : float64 [5]
        From the fit of the template.
    ratio : float64 [5]
        Written; the template as it is where the fit says nothing.
    """
    for j in range(COEFFICIENTS):
        usable = np.isfinite(fit[j]) and fit[0] > 0.0
        ratio[j] = fit[j] / fit[0] if usable else (1.0 if j == 0 else 0.0)


@kernel
def note_flags(bits, lost, always, flags, counts):
    """Count a pixel's flags.

    Parameters
    ----------
    bits : uint32
        Of the pixel.
    lost, always : bool
        Whether the pixel is lost, and whether it is in every integration.
    flags : uint32
        Of the column so far.
    counts : int32 [4]
        Pixels with a jump, saturated, outlier, lost; changed.

    Returns
    -------
    uint32
        The column's flags, with DO_NOT_USE when a pixel that is good in other integrations is lost to saturation.
    """
    flags |= bits & (SAT | JUMP | OUTLIER)
    counts[0] += (bits & JUMP) != 0
    counts[1] += (bits & SAT) != 0
    counts[2] += (bits & OUTLIER) != 0
    if lost:
        counts[3] += 1
        # what saturates in this integration only is never filled: the brightest would follow the flux;
        # an outlier had a slope, from the groups before it was full, and is lost for another reason
        if not always and (bits & (SAT | OUTLIER)) == SAT:
            flags |= DNU
    return flags


@kernel
def close_columns(i, parts, max_lost, out):
    """Write the results of one integration.

    Parameters
    ----------
    i : int
        Place of the integration.
    parts : float64 [10, column]
        Sums.
    max_lost : float
        Largest fraction of a column's profile that is filled.
    out : Sums
        ``ground``, ``ground_variance``, ``counts`` and the columns' flags (`note_flags`) are read, the rest is written.
    """
    for c in range(parts.shape[1]):
        whole, cover, nominal, area = parts[WHOLE, c], parts[COVER, c], parts[NOMINAL, c], parts[AREA, c]
        flags, ground = out.dq[i, c], out.ground[i, c]
        saturated = (flags & DNU) != 0
        flags &= ~DNU
        lost, fill = 0.0, 1.0
        if out.counts[i, c, 3] > 0:
            # where the profile is not positive, nothing is known of what is missing
            lost = 1.0 - cover / whole if whole > 0.0 else 1.0
            fill = whole / cover if cover > 0.0 else 1.0
        if nominal > 0.0:
            fill /= 1.0 + min(max(parts[MOVED, c] / nominal, -MOST_MOVED), MOST_MOVED)
        usable = area > 0.0 and not saturated and lost <= max_lost and np.isfinite(ground)
        if out.counts[i, c, 3] > 0:
            flags |= ESTIMATED if usable else DNU
        if not usable:
            fill = np.nan
            flags |= DNU
        flux = (parts[FLUX, c] - ground * area) * fill
        square = fill * fill
        poisson, rnoise, flat = parts[POISSON, c] * square, parts[RNOISE, c] * square, parts[FLAT, c] * square
        shared = out.ground_variance[i, c] * area * area * square
        out.flux[i, c] = flux
        out.var_poisson[i, c] = poisson
        out.var_rnoise[i, c] = rnoise
        out.var_flat[i, c] = flat
        out.error[i, c] = np.sqrt(poisson + rnoise + flat + shared + flux * flux * parts[MISSING, c])
        out.dq[i, c] = flags
        out.npixels[i, c] = area
        out.lost[i, c] = min(max(lost, 0.0), 1.0)

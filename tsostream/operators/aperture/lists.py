"""Pixel lists of a source, and the arrays a measurement writes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration import dq

__all__ = ["COEFFICIENTS", "FEWEST_SAMPLES", "FIT_CLIP", "FIT_SHARE", "Aperture", "Sums", "empty_sums"]

#: pixels further from the fitted template than so many sigma plus this share of it do not decide the position
FIT_CLIP = 8.0
FIT_SHARE = 0.15
#: template, first and second derivative across, first and second derivative along
COEFFICIENTS = 5
#: a robust level is taken from at least so many pixels, if there are as many
FEWEST_SAMPLES = 3

#: bits that the kernels look at
DNU = np.uint32(dq.DO_NOT_USE)
SAT = np.uint32(dq.SATURATED)
JUMP = np.uint32(dq.JUMP_DET)
OUTLIER = np.uint32(dq.OUTLIER)
ESTIMATED = np.uint32(dq.FLUX_ESTIMATED)


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
    ground_wing : float32 [background]
        How far the source's own light there is from level (output's unit): it fades and grows with the source, and so
        far from the template a pixel is no outlier.
    ground_sampled : bool [background]
        Pixels that a column's first, robust level is taken from; where fewer than `FEWEST_SAMPLES` of them are usable
        it is taken from all.
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
    ground_wing: np.ndarray
    ground_sampled: np.ndarray
    fit_pixel: np.ndarray
    fit_column: np.ndarray
    basis: np.ndarray
    fit_weight: np.ndarray
    scale: np.ndarray
    ground_clip: float
    max_lost: float
    subtract: bool
    correct_across: bool
    correct_along: bool


class Sums(NamedTuple):
    """Results of a measurement.

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


def empty_sums(count: int, columns: int) -> Sums:
    """Make room for the results of ``count`` integrations."""
    flux, poisson, rnoise, flat, error, ground, ground_variance, npixels, lost = np.empty((9, count, columns))
    return Sums(
        flux,
        poisson,
        rnoise,
        flat,
        error,
        ground,
        ground_variance,
        dq=np.empty((count, columns), np.uint32),
        npixels=npixels,
        lost=lost,
        counts=np.empty((count, columns, 4), np.int32),
        fit=np.empty((count, COEFFICIENTS)),
        fit_error=np.empty((count, COEFFICIENTS)),
    )

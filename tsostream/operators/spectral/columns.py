"""Sums over the columns of a spectrum: white light, and bins of wavelength.

The columns of a sum are fixed for the run. A column that is lost in one integration is filled from the scout's
spectrum, scaled by the columns that are there, so that NaN does not bias the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tsostream.operators.aperture.covariance import excess_variance
from tsostream.operators.jit import kernel

__all__ = ["BinnedSums", "ColumnBins", "bin_columns", "shared_variance", "sum_bins"]


class ColumnBins(NamedTuple):
    """Which columns belong to which bin.

    Attributes
    ----------
    start : int32 [bin + 1]
        Columns of bin *b* are ``start[b] … start[b+1] - 1`` of ``column``.
    column : int32 [member]
        Columns.
    spectrum : float64 [member]
        The scout's flux in them, not negative; for filling.
    max_lost : float
        Bins that miss more than this fraction of the light become NaN.
    """

    start: np.ndarray
    column: np.ndarray
    spectrum: np.ndarray
    max_lost: float


@dataclass
class BinnedSums:
    """Sums of a block, float64 [integration, bin].

    Parameters
    ----------
    flux, variance
        Sum and its variance from the columns' own errors, both scaled up for what was filled.
    var_poisson, var_rnoise
        Parts of it.
    ground, ground_error
        Mean background per pixel.
    lost
        Fraction of the light that was filled, pixels and columns together.
    counts : int64 [integration, bin, 4]
        Pixels with a jump, saturated, outlier, lost.
    dq : uint32 [integration, bin]
        Flags of the columns.
    """

    flux: np.ndarray
    variance: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    ground: np.ndarray
    ground_error: np.ndarray
    lost: np.ndarray
    counts: np.ndarray
    dq: np.ndarray


@kernel
def sum_bins(
    flux,
    error,
    var_poisson,
    var_rnoise,
    ground,
    ground_error,
    lost,
    counts,
    flags,
    bins,
    sums,
    totals,
    out_flags,
):
    """Sum columns into bins, integration by integration, column by column.

    Parameters
    ----------
    flux, error, var_poisson, var_rnoise, ground, ground_error, lost : float64 [integration, column]
        Of the spectra.
    counts : int32 [integration, column, 4]
        Pixel counts.
    flags : uint32 [integration, column]
        DQ.
    bins : ColumnBins
        Members.
    sums : float64 [7, integration, bin]
        Written: flux, variance, Poisson and read-noise variance, background, its error, lost fraction.
    totals : int64 [integration, bin, 4]
        Written.
    out_flags : uint32 [integration, bin]
        Written: all flags of the columns that are there.
    """
    for i in range(flux.shape[0]):
        for b in range(bins.start.size - 1):
            total = variance = poisson = rnoise = cover = whole = missing = 0.0
            level = level_variance = 0.0
            there = known = 0
            bits = np.uint32(0)
            for k in range(4):
                totals[i, b, k] = 0
            for m in range(bins.start[b], bins.start[b + 1]):
                c = bins.column[m]
                share = bins.spectrum[m]
                whole += share
                for k in range(4):
                    totals[i, b, k] += counts[i, c, k]
                if np.isfinite(ground[i, c]) and np.isfinite(ground_error[i, c]):
                    level += ground[i, c]
                    level_variance += ground_error[i, c] ** 2
                    known += 1
                if not (np.isfinite(flux[i, c]) and np.isfinite(error[i, c])):
                    missing += share
                    continue
                total += flux[i, c]
                variance += error[i, c] ** 2
                poisson += var_poisson[i, c]
                rnoise += var_rnoise[i, c]
                missing += share * lost[i, c]
                cover += share
                bits |= flags[i, c]
                there += 1
            fill = 1.0
            if there < bins.start[b + 1] - bins.start[b]:
                # a spectrum without light cannot fill anything
                usable = cover > 0.0 and whole - cover <= bins.max_lost * whole
                fill = whole / cover if usable else np.nan
            if there == 0:
                fill = np.nan
            sums[0, i, b] = total * fill
            sums[1, i, b] = variance * fill * fill
            sums[2, i, b] = poisson * fill * fill
            sums[3, i, b] = rnoise * fill * fill
            sums[4, i, b] = level / known if known > 0 else np.nan
            sums[5, i, b] = np.sqrt(level_variance) / known if known > 0 else np.nan
            sums[6, i, b] = missing / whole if whole > 0.0 else (0.0 if there > 0 else 1.0)
            out_flags[i, b] = bits


def bin_columns(spectra: Mapping[str, np.ndarray], key: int, bins: ColumnBins) -> BinnedSums:
    """Sum the columns of one series of a block.

    Parameters
    ----------
    spectra
        Of the extraction, [integration, key, column].
    key
        Which series.
    bins
        Members.
    """
    n, size = spectra["flux"].shape[0], bins.start.size - 1
    names = ("flux", "own_err", "flux_var_poisson", "flux_var_rnoise", "background", "background_err", "lost")
    given = [np.ascontiguousarray(spectra[name][:, key], np.float64) for name in names]
    counts = np.ascontiguousarray(spectra["counts"][:, key], np.int32)
    flags = np.ascontiguousarray(spectra["dq"][:, key], np.uint32)
    sums = np.empty((7, n, size))
    totals = np.empty((n, size, 4), np.int64)
    out_flags = np.empty((n, size), np.uint32)
    sum_bins(*given, counts, flags, bins, sums, totals, out_flags)
    flux, variance, var_poisson, var_rnoise, ground, ground_error, missing = sums
    return BinnedSums(
        flux, variance, var_poisson, var_rnoise, ground, ground_error, missing, totals, out_flags
    )


def shared_variance(weights: np.ndarray, chosen: np.ndarray, covariance: np.ndarray) -> float:
    """Variance that shared (1/f) noise adds to a sum over columns.

    Parameters
    ----------
    weights : float64 [cross, disp]
        Weight of each pixel in the columns' sums, background included.
    chosen : bool [disp]
        Columns of the sum.
    covariance : float64 [2 * lag_cross + 1, 2 * lag_disp + 1]
        As in `tsostream.operators.aperture.covariance`.
    """
    members = np.flatnonzero(chosen)
    if members.size == 0:
        return 0.0
    # only the columns from the first to the last matter, and distances between them
    part = (weights * chosen)[:, members[0] : members[-1] + 1]
    cross, disp = (length // 2 for length in covariance.shape)
    reach, across = min(disp, part.shape[1] - 1), min(cross, part.shape[0] - 1)
    near = covariance[cross - across : cross + across + 1, disp - reach : disp + reach + 1]
    return excess_variance(part, near)

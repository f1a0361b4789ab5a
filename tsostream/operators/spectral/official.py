"""Box extraction of one integration as the official pipeline computes it (spec stages 2-3, B.8).

The background of a column is a polynomial by least squares, every usable pixel counting alike, or a median; lost pixels
are left out of the sum and nothing replaces them. Everything in float64, all columns at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

__all__ = ["GroundFit", "OfficialSums", "extract_box"]

#: a normal matrix worse than this is not solved: the background is 0 there
WORST_CONDITION = 1e10
#: error of a median against that of a mean
MEDIAN_PENALTY = 1.2


@dataclass(frozen=True)
class GroundFit:
    """How the background is found.

    Parameters
    ----------
    mask : float64 [cross, disp]
        Weights; all that are not 0 count alike.
    kind
        ``poly`` or ``median``.
    order
        Degree of the polynomial.
    smoothing
        Boxcar along the dispersion [px]; 0 for none.
    """

    mask: np.ndarray
    kind: str = "poly"
    order: int = 0
    smoothing: int = 0


@dataclass
class OfficialSums:
    """Sums of one integration, float64 [disp] each.

    Parameters
    ----------
    flux
        NaN where no pixel counts.
    variance
        Poisson, read noise, flat field, [3, disp]; the background's included.
    ground
        Sum of the background under the aperture.
    ground_variance
        Its variances, [3, disp].
    npixels
        Sum of the weights that count.
    """

    flux: np.ndarray
    variance: np.ndarray
    ground: np.ndarray
    ground_variance: np.ndarray
    npixels: np.ndarray


def extract_box(
    image: np.ndarray, variance: np.ndarray, weight: np.ndarray, ground: GroundFit | None
) -> OfficialSums:
    """Extract one integration.

    Parameters
    ----------
    image : float64 [cross, disp]
        NaN where a pixel is lost.
    variance : float64 [3, cross, disp]
        Poisson, read noise, flat field.
    weight : float64 [cross, disp]
        Aperture.
    ground
        None where no background is subtracted.
    """
    ndisp = image.shape[1]
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(image) & np.isfinite(variance.sum(axis=0))
    level: np.ndarray | None = None
    ground_variance = np.zeros((3, ndisp))
    source = image
    if ground is not None:
        fit = _median if ground.kind == "median" else _polynomial
        level, ground_variance = fit(image, variance, weight, usable, ground)
        source = image - level
        if ground.kind == "median" and ground.smoothing < 3:
            # officially this one stays in the single precision of the image
            source = (image.astype(np.float32) - level.astype(np.float32)).astype(np.float64)
    counts = np.where(np.isfinite(source), weight, 0.0)
    flux = (np.where(counts != 0, source, 0.0) * counts).sum(axis=0)
    npixels = counts.sum(axis=0)
    own = _sum_finite(variance, counts**2)
    total = np.zeros(ndisp)
    if level is not None:
        with np.errstate(invalid="ignore"):
            total = (level * counts).sum(axis=0)
        total = np.where(np.isfinite(total), total, 0.0)
    flux = np.where(np.isclose(npixels, 0), np.nan, flux)
    return OfficialSums(flux, own + ground_variance, total, ground_variance, npixels)


def _sum_finite(variance: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Sum of variance x factor over the pixels across, without NaN; infinities stay where they count."""
    with np.errstate(invalid="ignore", over="ignore"):
        values = variance * factor
        return np.where(np.isnan(values), 0.0, values).sum(axis=-2)


def _smooth(image: np.ndarray, length: int) -> np.ndarray:
    """Take the running mean along the dispersion over what is not NaN; the ends go on with their last value."""
    if length < 3:
        return image
    half = length // 2
    wide = np.pad(image, ((0, 0), (half, half)), mode="edge")
    there = ~np.isnan(wide)
    value = np.where(there, wide, 0.0)
    windows = [slice(start, start + image.shape[1]) for start in range(length)]
    total = sum(value[:, one] for one in windows)
    count = sum(there[:, one].astype(float) for one in windows)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1.0), np.nan)


def _median(
    image: np.ndarray, variance: np.ndarray, weight: np.ndarray, usable: np.ndarray, ground: GroundFit
) -> tuple[np.ndarray, np.ndarray]:
    inside = ground.mask != 0
    values = np.where(inside, _smooth(image, ground.smoothing), np.nan)
    if ground.smoothing < 3:
        values = values.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without background
        level = np.nanmedian(values, axis=0)
    share = (usable & inside).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = share / share.sum(axis=0)
    return level[None, :].astype(np.float64), MEDIAN_PENALTY**2 * weight.sum(axis=0) ** 2 * _sum_finite(
        variance, share**2
    )


def _polynomial(
    image: np.ndarray, variance: np.ndarray, weight: np.ndarray, usable: np.ndarray, ground: GroundFit
) -> tuple[np.ndarray, np.ndarray]:
    smooth = _smooth(image, ground.smoothing)
    powers = np.linspace(-1.0, 1.0, image.shape[0])[None, :] ** np.arange(ground.order + 1)[:, None]
    used = ((ground.mask != 0) & np.isfinite(smooth) & usable).astype(float)
    normal = np.einsum("cd,ic,jc->dij", used, powers, powers)
    right = np.einsum("cd,ic->di", np.where(used > 0, smooth, 0.0), powers)
    with np.errstate(all="ignore"):
        condition = np.linalg.cond(normal)
    solvable = condition < WORST_CONDITION
    inverse = np.zeros_like(normal)
    inverse[solvable] = np.linalg.inv(normal[solvable])
    coefficients = np.einsum("dij,dj->di", inverse, right)
    level = np.einsum("di,ic->cd", coefficients, powers)
    # weight of each background pixel in the sum under the aperture
    moments = np.einsum("cd,ic->di", weight, powers)
    effect = np.einsum("cd,jc,dij,di->cd", used, powers, inverse, moments, optimize=True)
    return level, _sum_finite(variance, effect**2)

"""Noise that neighbouring pixels share (1/f), measured on the background and carried to sums of pixels.

The covariance of two pixels is taken to depend on their distance only. It is measured on pixels without source, as the
masked autocorrelation of residual images; a sum of pixels with weights *u* then has, beyond its independent noise, the
variance ``sum over lags of A_u(lag) C(lag)`` with ``A_u`` the autocorrelation of the weights. Weights of a
background-subtracted flux add up to zero in each column, so an offset common to a column drops out by itself.
"""

from __future__ import annotations

import numpy as np
from numpy import fft

__all__ = ["column_excess", "excess_variance", "shared_covariance", "sum_weights"]

#: lines along the slow readout direction over which 1/f noise is followed
SLOW_LAGS = 400
#: a distance counts when at least this many pairs of pixels have it
FEWEST_PAIRS = 30


def _fast_length(least: int) -> int:
    """Next length without prime factors over five, as ``scipy.fft.next_fast_len``; most runs load no SciPy."""
    powers = range(least.bit_length() + 1)
    lengths = (2**a * 3**b * 5**c for a in powers for b in powers for c in powers)
    return min(length for length in lengths if length >= least)


def _sizes(ny: int, nx: int) -> tuple[int, int]:
    return _fast_length(2 * ny - 1), _fast_length(2 * nx - 1)


def _centred(correlation: np.ndarray, lag_y: int, lag_x: int) -> np.ndarray:
    """Lags -lag … lag of a circular correlation, zero lag in the middle."""
    rows = np.arange(-lag_y, lag_y + 1) % correlation.shape[0]
    columns = np.arange(-lag_x, lag_x + 1) % correlation.shape[1]
    return correlation[np.ix_(rows, columns)]


def shared_covariance(
    residuals: np.ndarray, mask: np.ndarray, *, independent: float, slow_is_x: bool
) -> np.ndarray:
    """Covariance of pixels by their distance, beyond the noise that each has for itself.

    Parameters
    ----------
    residuals : float32 [image, y, x]
        Images without their mean; finite where ``mask`` is set.
    mask : bool [y, x]
        Pixels without source.
    independent
        Variance that the pixels have for themselves (photon and read noise); taken off at distance zero.
    slow_is_x
        Whether lines follow each other along x (the fast direction is y).

    Returns
    -------
    covariance : float64 [2 * lag_y + 1, 2 * lag_x + 1]
        By distance (y, x), centred; all distances along the fast direction, `SLOW_LAGS` along the slow one. Zero
        where too few pairs of pixels have the distance.
    """
    ny, nx = mask.shape
    lag_y, lag_x = (ny - 1, min(SLOW_LAGS, nx - 1)) if slow_is_x else (min(SLOW_LAGS, ny - 1), nx - 1)
    size = _sizes(ny, nx)
    power = np.zeros((size[0], size[1] // 2 + 1), np.float32)
    count = max(int(mask.sum()), 1)
    for image in residuals:
        # a level common to the whole image is a background, which is subtracted anyway
        clean = np.where(mask, image, np.float32(0.0))
        clean = np.where(mask, clean - np.float32(clean.sum(dtype=np.float64) / count), np.float32(0.0))
        power += np.abs(fft.rfft2(clean, size)) ** 2
    pairs = _centred(fft.irfft2(np.abs(fft.rfft2(mask.astype(np.float32), size)) ** 2, size), lag_y, lag_x)
    total = _centred(fft.irfft2(power, size), lag_y, lag_x).astype(np.float64)
    enough = pairs > FEWEST_PAIRS
    covariance = np.where(enough, total / np.where(enough, pairs * max(len(residuals), 1), 1.0), 0.0)
    covariance[lag_y, lag_x] = max(covariance[lag_y, lag_x] - independent, 0.0)
    return covariance


def sum_weights(weight: np.ndarray, ground: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Weight of each pixel in the background-subtracted sums of the columns.

    Parameters
    ----------
    weight : float64 [cross, disp]
        Aperture weights.
    ground : bool [cross, disp]
        Background pixels; none where no background is subtracted.
    scale : float64 [cross, disp]
        Factor to the output's unit.

    Returns
    -------
    weights : float64 [cross, disp]
    """
    count = ground.sum(axis=0)
    share = np.where(count > 0, weight.sum(axis=0) / np.maximum(count, 1), 0.0)
    return (weight - ground * share) * scale


def excess_variance(weights: np.ndarray, covariance: np.ndarray) -> float:
    """Variance that shared noise adds to a weighted sum of all pixels; never negative.

    Parameters
    ----------
    weights : float64 [y, x]
        Weight of each pixel in the sum.
    covariance : float64 [2 * lag_y + 1, 2 * lag_x + 1]
        As `shared_covariance`.
    """
    size = _sizes(*weights.shape)
    lag_y, lag_x = (length // 2 for length in covariance.shape)
    overlap = _centred(fft.irfft2(np.abs(fft.rfft2(weights, size)) ** 2, size), lag_y, lag_x)
    return max(float((overlap * covariance).sum()), 0.0)


def column_excess(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Variance that shared noise adds to the sum of each column by itself.

    Parameters
    ----------
    weights : float64 [cross, disp]
        Weight of each pixel.
    covariance : float64 [2 * lag_cross + 1, 2 * lag_disp + 1]
        As `shared_covariance`, oriented likewise.

    Returns
    -------
    variance : float64 [disp]
        Not negative.
    """
    size = _fast_length(2 * weights.shape[0] - 1)
    lag, middle = covariance.shape[0] // 2, covariance.shape[1] // 2
    power = np.abs(fft.rfft(weights, size, axis=0)) ** 2
    overlap = fft.irfft(power, size, axis=0)[np.arange(-lag, lag + 1) % size]
    return np.clip((overlap * covariance[:, middle][:, None]).sum(axis=0), 0.0, None)

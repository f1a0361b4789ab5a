"""What pointing jitter makes each pixel of the source vary, from the scout's templates.

Where the image is steep, a source that moves a little makes pixels vary beyond their errors. A pixel's own scatter in a
few integrations tells that only roughly, and by chance some of many pixels see little of it; but the movement is the
same for all pixels, so it is measured on all of them: the excess variance is ``gx^2 sx^2 + gy^2 sy^2``, with g the
gradient of the image and s the jitter along x and y.
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.aperture.geometry import derivatives
from tsostream.operators.smoothing import beside, filled_from_neighbours

__all__ = ["measure_jitter", "pointing_variance"]

#: rounds of leaving out pixels that vary for another reason, and how far beyond the model those are [sigma]
ROUNDS, CLIP = 4, 4.0
#: the jitter seen in n integrations may be too small by 1 + FEW / n
FEW = 8.0
#: fewest pixels that can tell
LEAST_PIXELS = 6


def measure_jitter(
    gradients: np.ndarray, excess: np.ndarray, scatter: np.ndarray, count: int
) -> tuple[float, float]:
    """Find the variance of the pointing along two axes, by least squares over pixels.

    Parameters
    ----------
    gradients : float64 [2, pixel]
        Gradient of the image along either axis.
    excess : float64 [pixel]
        Variance in time beyond the errors.
    scatter : float64 [pixel]
        Standard deviation in time, positive.
    count
        Integrations it was measured on.

    Returns
    -------
    tuple of float
        [px squared]; not negative.
    """
    terms = gradients**2
    # a variance from n samples is known to about 2 / sqrt(n) when it comes from two percentiles
    error = 2.0 / np.sqrt(max(count, 1)) * scatter**2
    kept = np.ones(excess.size, bool)
    found = np.zeros(2)
    for _ in range(ROUNDS):
        if kept.sum() < LEAST_PIXELS:
            return 0.0, 0.0
        found = _positive_fit(terms[:, kept] / error[kept], excess[kept] / error[kept])
        kept = excess - found @ terms < CLIP * error
    return float(found[0]), float(found[1])


def _positive_fit(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares with coefficients that are not negative, for two terms."""
    found = np.linalg.lstsq(terms.T, values, rcond=None)[0]
    if (found >= 0).all():
        return found
    norm = (terms**2).sum(axis=1)
    alone = np.clip((terms @ values) / np.where(norm > 0, norm, 1.0), 0.0, None)
    # one of them is zero: the other one by itself, whichever explains more
    best = int(np.argmax(alone**2 * norm))
    return np.where(np.arange(2) == best, alone, 0.0)


def pointing_variance(
    image: np.ndarray, scatter: np.ndarray, variance: np.ndarray, share: np.ndarray, count: int
) -> np.ndarray:
    """Variance that pointing jitter gives each pixel of the source.

    Parameters
    ----------
    image, scatter, variance : float [y, x]
        Scout's templates: median, standard deviation in time, and mean variance of one integration.
    share : float [y, x]
        Part of each pixel's light that is the source's.
    count
        Integrations of the template.

    Returns
    -------
    float64 [y, x]
        To second order in the movement; 0 outside the source.
    """
    image, scatter, variance = (np.asarray(one, np.float64) for one in (image, scatter, variance))
    known = np.isfinite(image)
    if not known.any():
        return np.zeros(image.shape)
    whole = filled_from_neighbours(image, known)
    (gy, gyy), (gx, gxx) = (derivatives(whole, axis) for axis in (0, 1))
    # the slope beside a pixel that is not known is made up
    sure = ~beside(~known)
    with np.errstate(invalid="ignore"):
        use = sure & (share > 0) & np.isfinite(scatter) & np.isfinite(variance) & (scatter > 0)
        use &= whole * share > 5.0 * np.sqrt(np.clip(variance, 0.0, None))
    excess = scatter[use] ** 2 - variance[use]
    found = measure_jitter(np.stack([gy[use], gx[use]]), excess, scatter[use], count)
    # only so many movements were seen, the same by all pixels: by chance they may have been small
    along_y, along_x = (one * (1.0 + FEW / max(count, 1)) ** 2 for one in found)
    first = gy**2 * along_y + gx**2 * along_x
    second = 0.5 * (gyy**2 * along_y**2 + gxx**2 * along_x**2)
    return np.where(share > 0, first + second, 0.0)

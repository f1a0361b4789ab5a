"""Twins of the official photometry's kernels (spec stages 2-3, C.3), with NumPy and SciPy, image by image."""

from __future__ import annotations

import numpy as np

from tsostream.testing.naive.statistics import circle_overlap

__all__ = ["aperture_image", "centre_of_mass", "gaussian_in_box"]


def _box(shape: tuple[int, int], x: float, y: float, size: int) -> tuple[slice, slice]:
    y0, x0 = int(np.ceil(y - size / 2)), int(np.ceil(x - size / 2))
    return slice(max(y0, 0), min(y0 + size, shape[0])), slice(max(x0, 0), min(x0 + size, shape[1]))


def centre_of_mass(
    image: np.ndarray, masked: np.ndarray, x: float, y: float, radius: float, size: int
) -> tuple[float, float, float]:
    """X and y of the light in a box above the median of all pixels outside a circle, and that median."""
    grid = np.indices(image.shape)
    yy, xx = grid[0], grid[1]
    level = float(np.nanmedian(image[(xx - x) ** 2 + (yy - y) ** 2 >= radius**2]))
    if not (0 <= x <= image.shape[1] - 1 and 0 <= y <= image.shape[0] - 1):
        return np.nan, np.nan, level
    box = _box(image.shape, x, y, size)
    good = ~masked[box] & np.isfinite(image[box])
    light = np.where(good, image[box].astype(float) - level, 0.0)
    if masked[box].all() or abs(light.sum()) < 1e-30:
        return np.nan, np.nan, level
    cx, cy = ((grid[axis][box] * light).sum() / light.sum() for axis in (1, 0))
    inside = 0 <= cx < image.shape[1] and 0 <= cy < image.shape[0]
    return (float(cx), float(cy), level) if inside else (np.nan, np.nan, level)


def gaussian_in_box(
    image: np.ndarray, masked: np.ndarray, level: float, x: float, y: float, size: int
) -> tuple[float, float, float]:
    """1-sigma widths and flux of a Gaussian, averaged over each pixel, at a fixed place."""
    from scipy.optimize import least_squares
    from scipy.special import erf

    box = _box(image.shape, x, y, size)
    yy, xx = (np.indices(image.shape)[axis][box].astype(float) for axis in (0, 1))
    good = ~masked[box]
    values = image[box].astype(float) - level

    def model(parameters: np.ndarray) -> np.ndarray:
        flux, wx, wy = parameters
        sx, sy = (width / (2 * np.sqrt(2 * np.log(2))) * np.sqrt(2) for width in (wx, wy))
        along = (erf((xx - x + 0.5) / sx) - erf((xx - x - 0.5) / sx)) / 2
        across = (erf((yy - y + 0.5) / sy) - erf((yy - y - 0.5) / sy)) / 2
        return flux * along * across

    guess = [max(values[good].sum(), 1e-12), size / 2, size / 2]
    scale = max(abs(guess[0]), 1e-12)
    found = least_squares(
        lambda p: ((model(p) - values) / scale)[good],
        guess,
        bounds=([0, 1e-3, 1e-3], [np.inf, size, size]),
        x_scale=[scale, 1.0, 1.0],
        xtol=1e-12,
        ftol=1e-14,
        gtol=1e-14,
    )
    flux, wx, wy = found.x
    return wx / 2.3548200450309493, wy / 2.3548200450309493, flux


def aperture_image(
    image: np.ndarray,
    error: np.ndarray,
    place: tuple[float, float],
    radius: float,
    inner: float,
    outer: float,
) -> np.ndarray:
    """Sum, error and area of a circle, then of an annulus, over finite pixels; NaN where there is none."""
    out = np.full(6, np.nan)
    ring = circle_overlap(image.shape, *place, outer) - circle_overlap(image.shape, *place, inner)
    for k, weight in ((0, circle_overlap(image.shape, *place, radius)), (3, ring)):
        used = np.isfinite(image) & (weight > 0)
        if used.any():
            out[k] = (weight * image.astype(float))[used].sum()
            out[k + 1] = np.sqrt((weight * error.astype(float) ** 2)[used].sum())
            out[k + 2] = weight[used].sum()
    return out

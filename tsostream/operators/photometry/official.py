"""Centroid, Gaussian fit and aperture of the official photometry (spec stages 2-3, C.3), image by image.

A pixel is *masked* for the centroid and the fit when it is not finite or carries DO_NOT_USE; the apertures leave out
only pixels that are not finite.
"""

from __future__ import annotations

import math

import numpy as np

from tsostream.integration import dq
from tsostream.operators.circle import pixel_weight
from tsostream.operators.jit import kernel

__all__ = ["FIT", "SUMS", "aperture_sums", "centroids", "fit_gaussians"]

JUMP = np.uint8(dq.JUMP_DET)
SAT = np.uint8(dq.SATURATED)
OUTLIER = np.uint8(dq.OUTLIER)

#: columns of `fit_gaussians`: 1-sigma widths and flux
FIT = 3
#: columns of `aperture_sums`: sum, its error and area of the aperture, then of the annulus
SUMS = 6
#: widths are not fitted below this [px]
_NARROWEST = 1e-3
#: a Gaussian's full width at half maximum in units of sigma
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


@kernel
def _box(centre, size, length):
    """First and behind the last pixel of a box about a place, cut at the frame's edge."""
    low = math.ceil(centre - 0.5 * size)
    return max(low, 0), min(low + size, length)


@kernel
def _ground_level(image, x, y, radius, values):
    """Median of the finite pixels outside a circle."""
    count = 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if (column - x) ** 2 + (row - y) ** 2 < radius * radius:
                continue
            if not np.isnan(image[row, column]):
                values[count] = image[row, column]
                count += 1
    return np.median(values[:count]) if count > 0 else np.nan


@kernel
def centroids(data, masked, x, y, radius, size, level, out):
    """Centre of mass of each image in a box, above the median of what is outside the source.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Images.
    masked : uint8 [integration, y, x]
        Pixels that do not count.
    x, y : float
        Expected position [px].
    radius : float
        Within this radius the source is expected [px].
    size : int
        Size of the box, odd [px].
    level : float64 [integration]
        Background that was subtracted, written.
    out : float64 [integration, 2]
        x and y [px], written; NaN where there is none, or outside the image.
    """
    ny, nx = data.shape[1:]
    values = np.empty(ny * nx, data.dtype)
    outside = not (x >= 0 and y >= 0 and x <= nx - 1 and y <= ny - 1)
    for i in range(data.shape[0]):
        level[i] = _ground_level(data[i], x, y, radius, values)
        out[i, 0] = out[i, 1] = np.nan
        if outside:
            continue
        y0, y1 = _box(y, size, ny)
        x0, x1 = _box(x, size, nx)
        total = along = across = 0.0
        used = 0
        for row in range(y0, y1):
            for column in range(x0, x1):
                if masked[i, row, column]:
                    continue
                used += 1
                value = np.float64(data[i, row, column]) - level[i]
                if np.isfinite(value):
                    total += value
                    along += value * column
                    across += value * row
        if used == 0 or not abs(total) >= 1e-30:
            continue
        cx, cy = along / total, across / total
        if cx >= 0 and cy >= 0 and cx < nx and cy < ny:
            out[i, 0], out[i, 1] = cx, cy


@kernel
def _profile(first, count, centre, fwhm, values, slopes):
    """Fraction of a Gaussian in each pixel of a line, and its derivative by the width."""
    sigma = fwhm / _FWHM
    for k in range(count):
        left = (first + k - 0.5 - centre) / sigma
        right = left + 1.0 / sigma
        values[k] = 0.5 * (math.erf(right / math.sqrt(2.0)) - math.erf(left / math.sqrt(2.0)))
        slope = left * math.exp(-0.5 * left * left) - right * math.exp(-0.5 * right * right)
        slopes[k] = slope / math.sqrt(2.0 * math.pi) / fwhm


@kernel
def _residuals(image, masked, level, box, place, fwhm, work, sums):
    """Best flux for two widths, and what least squares needs: see `fit_gaussians`."""
    y0, y1, x0, x1 = box
    across, along, d_across, d_along = work
    _profile(y0, y1 - y0, place[1], fwhm[1], across, d_across)
    _profile(x0, x1 - x0, place[0], fwhm[0], along, d_along)
    norm = flux = 0.0
    for row in range(y0, y1):
        for column in range(x0, x1):
            if not masked[row, column]:
                model = across[row - y0] * along[column - x0]
                norm += model * model
                flux += model * (np.float64(image[row, column]) - level)
    flux = max(flux / norm, 0.0) if norm > 0.0 else 0.0
    sums[:] = 0.0
    for row in range(y0, y1):
        for column in range(x0, x1):
            if masked[row, column]:
                continue
            a, b = across[row - y0], along[column - x0]
            rest = np.float64(image[row, column]) - level - flux * a * b
            dx, dy, dm = flux * a * d_along[column - x0], flux * d_across[row - y0] * b, a * b
            sums[0] += rest * rest
            sums[1] += rest * dx
            sums[2] += rest * dy
            sums[3] += dx * dx
            sums[4] += dx * dy
            sums[5] += dy * dy
            sums[6] += dm * dx
            sums[7] += dm * dy
    # the flux follows the widths: what it can explain is taken out of their derivatives
    if norm > 0.0:
        sums[3] -= sums[6] * sums[6] / norm
        sums[4] -= sums[6] * sums[7] / norm
        sums[5] -= sums[7] * sums[7] / norm
    return flux


@kernel
def _fit(image, masked, level, place, size, out, work, sums):
    """Fit one image: Levenberg-Marquardt in the two widths, the flux being linear."""
    y0, y1 = _box(place[1], size, image.shape[0])
    x0, x1 = _box(place[0], size, image.shape[1])
    used = 0
    for row in range(y0, y1):
        for column in range(x0, x1):
            used += not masked[row, column]
    if used < FIT:
        return
    box = (y0, y1, x0, x1)
    fwhm_x = fwhm_y = 0.5 * size
    flux = _residuals(image, masked, level, box, place, (fwhm_x, fwhm_y), work, sums)
    damping = 1e-3
    for _ in range(200):
        chi, gx, gy, xx, xy, yy = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
        better = False
        step_x = step_y = 0.0
        while damping < 1e12:
            a, c = xx * (1.0 + damping), yy * (1.0 + damping)
            determinant = a * c - xy * xy
            if not determinant > 0.0:
                damping *= 10.0
                continue
            new_x = min(max(fwhm_x + (c * gx - xy * gy) / determinant, _NARROWEST), float(size))
            new_y = min(max(fwhm_y + (a * gy - xy * gx) / determinant, _NARROWEST), float(size))
            step_x, step_y = abs(new_x - fwhm_x), abs(new_y - fwhm_y)
            new_flux = _residuals(image, masked, level, box, place, (new_x, new_y), work, sums)
            if sums[0] <= chi:
                fwhm_x, fwhm_y, flux = new_x, new_y, new_flux
                damping = max(damping * 0.1, 1e-12)
                better = True
                break
            damping *= 10.0
        if not better or (step_x <= 1e-9 * fwhm_x and step_y <= 1e-9 * fwhm_y):
            break
    out[0], out[1], out[2] = fwhm_x / _FWHM, fwhm_y / _FWHM, flux


@kernel
def fit_gaussians(data, masked, level, place, size, out):
    """Fit a Gaussian, integrated over the pixels, at a fixed place in each image.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Images.
    masked : uint8 [integration, y, x]
        Pixels that do not count.
    level : float64 [integration]
        Background to subtract.
    place : float64 [integration, 2]
        x and y [px]; no fit where they are NaN.
    size : int
        Size of the box about the place, odd [px]; also the largest full width at half maximum.
    out : float64 [integration, FIT]
        1-sigma widths along x and y [px], and flux, written; NaN where there is no fit.

    Notes
    -----
    Least squares without weights, as the official step asks photutils for. The flux is linear, so for given widths it
    is known (variable projection); the widths are found by Levenberg-Marquardt steps with the projected derivatives.
    """
    work = (np.empty(size), np.empty(size), np.empty(size), np.empty(size))
    sums = np.empty(8)
    for i in range(data.shape[0]):
        out[i, :] = np.nan
        if np.isfinite(place[i, 0]) and np.isfinite(place[i, 1]) and np.isfinite(level[i]):
            _fit(data[i], masked[i], level[i], (place[i, 0], place[i, 1]), size, out[i], work, sums)


@kernel
def aperture_sums(data, error, bits, place, radius, inner, outer, out, counts):
    """Sum a circle and an annulus of each image; pixels count by the area they share, exactly.

    Parameters
    ----------
    data, error : float32 [integration, y, x]
        Images and their errors; pixels that are not finite are left out.
    bits : uint8 [integration, y, x]
        Low eight DQ bits.
    place : float64 [integration, 2]
        Centre [px]; NaN gives NaN.
    radius, inner, outer : float
        Radii of aperture and annulus [px].
    out : float64 [integration, SUMS]
        Written: sum, error, area of the aperture; sum, error, area of the annulus. NaN where no pixel counts.
    counts : int32 [integration, 4]
        Written: pixels of the aperture with a jump, saturated, outliers, left out.
    """
    ny, nx = data.shape[1:]
    reach = max(radius, outer)
    for i in range(data.shape[0]):
        out[i, :] = np.nan
        counts[i, :] = 0
        x, y = place[i, 0], place[i, 1]
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        y0, y1 = max(math.floor(y - reach + 0.5), 0), min(math.ceil(y + reach + 0.5) + 1, ny)
        x0, x1 = max(math.floor(x - reach + 0.5), 0), min(math.ceil(x + reach + 0.5) + 1, nx)
        total = variance = area = total2 = variance2 = area2 = 0.0
        for row in range(y0, y1):
            for column in range(x0, x1):
                value = np.float64(data[i, row, column])
                weight = pixel_weight(column, row, x, y, radius)
                if weight > 0.0:
                    flags = bits[i, row, column]
                    counts[i, 0] += (flags & JUMP) != 0
                    counts[i, 1] += (flags & SAT) != 0
                    counts[i, 2] += (flags & OUTLIER) != 0
                    counts[i, 3] += not np.isfinite(value)
                if not np.isfinite(value):
                    continue
                sigma = np.float64(error[i, row, column])
                if weight > 0.0:
                    total += weight * value
                    variance += weight * sigma * sigma
                    area += weight
                weight = pixel_weight(column, row, x, y, outer) - pixel_weight(column, row, x, y, inner)
                if weight > 0.0:
                    total2 += weight * value
                    variance2 += weight * sigma * sigma
                    area2 += weight
        if area > 0.0:
            out[i, 0], out[i, 1], out[i, 2] = total, math.sqrt(variance), area
        if area2 > 0.0:
            out[i, 3], out[i, 4], out[i, 5] = total2, math.sqrt(variance2), area2

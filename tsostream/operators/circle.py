"""Area that a circle and a pixel have in common, exactly."""

from __future__ import annotations

import math

import numpy as np

from tsostream.operators.jit import kernel

__all__ = ["circle_weights", "pixel_weight"]


@kernel
def _segment_area(x, radius):
    """Integral of sqrt(radius^2 - t^2) from 0 to x."""
    x = min(max(x, -radius), radius)
    return 0.5 * (x * math.sqrt(max(radius * radius - x * x, 0.0)) + radius * radius * math.asin(x / radius))


@kernel
def _quadrant_overlap(x0, x1, y0, y1, radius):
    """Overlap of the circle about the origin with a rectangle in the first quadrant."""
    if radius <= 0.0 or x0 * x0 + y0 * y0 >= radius * radius:
        return 0.0
    # where the circle meets the rectangle's upper and lower sides
    top = math.sqrt(max(radius * radius - y1 * y1, 0.0)) if y1 < radius else 0.0
    bottom = math.sqrt(radius * radius - y0 * y0)
    left = min(max(top, x0), x1)
    right = min(max(bottom, x0), x1)
    area = (left - x0) * (y1 - y0)
    if right > left:
        area += _segment_area(right, radius) - _segment_area(left, radius) - y0 * (right - left)
    return area


@kernel
def pixel_weight(x, y, x_centre, y_centre, radius):
    """Fraction of a pixel inside a circle.

    Parameters
    ----------
    x, y : int
        The pixel, which covers x - 0.5 … x + 0.5.
    x_centre, y_centre, radius : float
        Circle [px].
    """
    left, right = x - 0.5 - x_centre, x + 0.5 - x_centre
    low, high = y - 0.5 - y_centre, y + 0.5 - y_centre
    total = 0.0
    for sx in (-1.0, 1.0):
        a = max(left, 0.0) if sx > 0 else max(-right, 0.0)
        b = max(right, 0.0) if sx > 0 else max(-left, 0.0)
        if b <= a:
            continue
        for sy in (-1.0, 1.0):
            c = max(low, 0.0) if sy > 0 else max(-high, 0.0)
            d = max(high, 0.0) if sy > 0 else max(-low, 0.0)
            if d > c:
                total += _quadrant_overlap(a, b, c, d, radius)
    return total


@kernel
def circle_weights(weights, x_centre, y_centre, radius):
    """Fraction of each pixel inside a circle.

    Parameters
    ----------
    weights : float64 [y, x]
        Written; pixel (y, x) covers x - 0.5 … x + 0.5.
    x_centre, y_centre, radius : float
        Circle [px].

    Notes
    -----
    The circle is cut along both axes through its centre; in each quadrant the overlap with a rectangle is a difference
    of integrals of ``sqrt(r^2 - t^2)``.
    """
    for y in range(weights.shape[0]):
        for x in range(weights.shape[1]):
            weights[y, x] = pixel_weight(x, y, x_centre, y_centre, radius)
    return np.sum(weights)

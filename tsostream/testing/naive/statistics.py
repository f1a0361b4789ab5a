"""Twins of the sorting network, the stack statistics and the circle weights."""

from __future__ import annotations

import numpy as np

__all__ = ["circle_overlap", "middle_value", "robust_stack", "sort_columns"]


def sort_columns(lanes: np.ndarray) -> np.ndarray:
    """Every column sorted by Python's own sort."""
    out = lanes.copy()
    for x in range(lanes.shape[1]):
        out[:, x] = sorted(lanes[:, x])
    return out


def middle_value(values: np.ndarray) -> float:
    """Median by its definition: as many values lie below as above."""
    ordered = sorted(float(value) for value in values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def robust_stack(stack: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, half the 16-84 percentile range and number of the finite values of each pixel.

    Parameters
    ----------
    stack : float32 [image, y, x]
        Images.
    scale : float64 [image]
        Each is divided by its scale.
    """
    shape = stack.shape[1:]
    median, scatter = np.full(shape, np.nan), np.full(shape, np.nan)
    count = np.zeros(shape, np.int32)
    for y, x in np.ndindex(shape):
        values = stack[:, y, x].astype(np.float64) / scale
        values = values[np.isfinite(values)]
        count[y, x] = values.size
        if values.size:
            median[y, x] = np.median(values)
            low, high = np.percentile(values, [15.87, 84.13])
            scatter[y, x] = (high - low) / 2
    return median, scatter, count


def circle_overlap(
    shape: tuple[int, int], x_centre: float, y_centre: float, radius: float, samples: int = 4000
) -> np.ndarray:
    """Fraction of each pixel inside a circle: its mean height over many thin slices of the pixel.

    Parameters
    ----------
    shape
        (y, x).
    x_centre, y_centre, radius
        Circle [px].
    samples
        Slices; the error falls with their number to the power 1.5.
    """
    out = np.zeros(shape)
    part = (np.arange(samples) + 0.5) / samples - 0.5
    for y, x in np.ndindex(shape):
        half = np.sqrt(np.clip(radius**2 - (x + part - x_centre) ** 2, 0.0, None))
        top = np.minimum(y + 0.5, y_centre + half)
        bottom = np.maximum(y - 0.5, y_centre - half)
        out[y, x] = np.clip(top - bottom, 0.0, None).mean()
    return out

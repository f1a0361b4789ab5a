"""Blocks taken through the measuring kernels, and what position and width their results mean."""

from __future__ import annotations

import numpy as np

from tsostream.integration.payload import Rate
from tsostream.operators.aperture.lists import Aperture, Sums, empty_sums
from tsostream.operators.aperture.measure import measure
from tsostream.operators.aperture.strip_sums import measure_strips
from tsostream.operators.aperture.strip_work import Planes
from tsostream.operators.aperture.strips import Strips

__all__ = ["Position", "flat_planes", "measure_block", "measure_spectrum", "position"]


def measure_block(block: Rate, aperture: Aperture) -> Sums:
    """Measure a block of slopes from pixel lists."""
    out = empty_sums(block.count, aperture.start.size - 1)
    measure(*flat_planes(block), aperture, out)
    return out


def measure_spectrum(block: Rate, strips: Strips) -> Sums:
    """Measure a block of slopes of a spectrum, row after row."""
    out = empty_sums(block.count, strips.area.size)
    measure_strips(_planes(block, *block.data.shape), flat_planes(block), strips, out)
    return out


def flat_planes(block: Rate) -> Planes:
    """Slopes, variances and DQ as [integration, pixel]."""
    return _planes(block, block.count, -1)


def _planes(block: Rate, *shape: int) -> Planes:
    """Slopes, variances and DQ in some shape; flat-field variances without pixels where there are none."""
    none = np.empty((block.count, *(0 for _ in shape[1:])), np.float32)
    flat = none if block.var_flat is None else block.var_flat.reshape(shape)
    data, poisson, rnoise = (
        array.reshape(shape) for array in (block.data, block.var_poisson, block.var_rnoise)
    )
    return Planes(data, poisson, rnoise, flat, block.dq.reshape(shape))


class Position:
    """Shift and width of the source, from the fitted template and its derivatives.

    A profile shifted by *s* and broadened is, to second order, ``T - s T' + (s^2 + d) T'' / 2`` with *d* the change of
    its variance; so the ratios of the coefficients give both (along and across alike).

    Parameters
    ----------
    fit, fit_error : float64 [integration, 5]
        From the kernel.
    first, second
        Columns of the first and second derivative.
    width
        Width of the template [px].
    """

    def __init__(self, fit: np.ndarray, fit_error: np.ndarray, first: int, second: int, width: float):
        amplitude = np.where(fit[:, 0] > 0, fit[:, 0], np.nan)
        self.shift = -fit[:, first] / amplitude
        self.shift_error = fit_error[:, first] / amplitude
        change = 2.0 * fit[:, second] / amplitude - self.shift**2
        self.width = np.sqrt(np.clip(width**2 + change, 0.0, None))


def position(out: Sums, first: int, second: int, width: float) -> Position:
    """Shorthand for `Position`."""
    return Position(out.fit, out.fit_error, first, second, width)

"""Result arrays of the measuring kernel, and what position and width they mean."""

from __future__ import annotations

import numpy as np

from tsostream.integration.payload import Rate
from tsostream.operators.aperture.measure import COEFFICIENTS, Aperture, Sums, measure

__all__ = ["Position", "measure_block", "position"]


def measure_block(block: Rate, aperture: Aperture) -> Sums:
    """Run the kernel over a block of slopes."""
    n, columns = block.count, aperture.start.size - 1
    flux, poisson, rnoise, flat_field, error, ground, ground_variance = (
        np.empty((n, columns)) for _ in range(7)
    )
    out = Sums(
        flux,
        poisson,
        rnoise,
        flat_field,
        error,
        ground,
        ground_variance,
        dq=np.empty((n, columns), np.uint32),
        npixels=np.empty((n, columns)),
        lost=np.empty((n, columns)),
        counts=np.empty((n, columns, 4), np.int32),
        fit=np.empty((n, COEFFICIENTS)),
        fit_error=np.empty((n, COEFFICIENTS)),
    )
    flat = block.var_flat if block.var_flat is not None else np.empty((n, 0), np.float32)
    measure(
        block.data.reshape(n, -1),
        block.var_poisson.reshape(n, -1),
        block.var_rnoise.reshape(n, -1),
        flat.reshape(n, -1),
        block.dq.reshape(n, -1),
        aperture,
        out,
    )
    return out


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

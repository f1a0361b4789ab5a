"""gain_scale: bring exposures taken at another gain to the standard one (spec stage 1, section 22)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["GainScale", "scale_rate"]


@kernel
def scale_rate(data, err, var_poisson, var_rnoise, factor, y0, y1):
    """Multiply slopes and errors by a factor, variances by its square.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place.
    factor : float32
        GAINFACT.
    y0, y1 : int
        Rows.
    """
    square = factor * factor
    for i in range(data.shape[0]):
        for y in range(y0, y1):
            for x in range(data.shape[2]):
                data[i, y, x] *= factor
                err[i, y, x] *= factor
                var_poisson[i, y, x] *= square
                var_rnoise[i, y, x] *= square


@dataclass(frozen=True, kw_only=True)
class GainScale(Operator):
    """Multiply by the gain reference's GAINFACT where it has one."""

    name: ClassVar[str] = "gain_scale"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("gain",)

    def bind(self, binding: Binding) -> BoundRampStep:
        """Read the factor."""
        value = binding.references["gain"].keywords.get("GAINFACT")
        if value is None:
            return BoundRampStep(
                self.name, binding.dq_plane, skipped="the gain reference has no GAINFACT", produces="rate"
            )
        factor = np.float32(value)

        run = partial(_scale, factor=factor)
        return BoundRampStep(self.name, binding.dq_plane, (RowPass(run),), produces="rate")


def _scale(tile: Tile, y0: int, y1: int, *, factor: np.float32) -> None:
    rate = tile.rate
    if rate is not None:
        scale_rate(rate.data, rate.err, rate.var_poisson, rate.var_rnoise, factor, y0, y1)

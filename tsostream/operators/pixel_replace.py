"""pixel_replace: estimates for lost pixels from their neighbours (spec stages 2-3, B.11)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.jit import kernel
from tsostream.operators.profile_replace import replace_profiles
from tsostream.operators.rate_sync import flat_variance

__all__ = ["PixelReplace", "replace_gradient"]

_LOST = np.uint32(dq.DO_NOT_USE)
_OUTSIDE = np.uint32(dq.NON_SCIENCE)
_ESTIMATED = np.uint32(dq.FLUX_ESTIMATED)


@kernel
def _mean(plane, i, y, x, dy, dx):
    return (plane[i, y - dy, x - dx] + plane[i, y + dy, x + dx]) * np.float32(0.5)


@kernel
def _mean_variance(plane, i, y, x, dy, dx):
    one = (np.sqrt(plane[i, y - dy, x - dx]) + np.sqrt(plane[i, y + dy, x + dx])) * np.float32(0.5)
    return one * one


@kernel
def replace_gradient(data, err, var_poisson, var_rnoise, var_flat, bits, lost):
    """Give lost pixels the mean of two neighbours, along the axis on which these differ less.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place; lost is what has no finite signal.
    var_flat : float32 [integration, y, x]
        The same; with no integrations where there is no such variance.
    bits : uint32 [integration, y, x]
        Replaced pixels lose DO_NOT_USE (but for NON_SCIENCE ones) and get FLUX_ESTIMATED.
    lost : bool [y, x]
        Working memory.
    """
    ny, nx = data.shape[1], data.shape[2]
    has_flat = var_flat.shape[0] > 0
    for i in range(data.shape[0]):
        for y in range(ny):
            for x in range(nx):
                lost[y, x] = not np.isfinite(data[i, y, x])
        # the official step leaves two pixels at the low edges alone, and one at the high ones
        for y in range(2, ny - 1):
            for x in range(2, nx - 1):
                if not lost[y, x]:
                    continue
                across = lost[y, x - 1] or lost[y, x + 1]
                along = lost[y - 1, x] or lost[y + 1, x]
                if across and along:
                    continue
                dy, dx = 0, 1
                if across:
                    dy, dx = 1, 0
                elif not along:
                    rise = abs(data[i, y - 1, x] - data[i, y + 1, x])
                    if rise < abs(data[i, y, x - 1] - data[i, y, x + 1]):
                        dy, dx = 1, 0
                data[i, y, x] = _mean(data, i, y, x, dy, dx)
                err[i, y, x] = _mean(err, i, y, x, dy, dx)
                var_poisson[i, y, x] = _mean_variance(var_poisson, i, y, x, dy, dx)
                var_rnoise[i, y, x] = _mean_variance(var_rnoise, i, y, x, dy, dx)
                if has_flat:
                    var_flat[i, y, x] = _mean_variance(var_flat, i, y, x, dy, dx)
                if (bits[i, y, x] & _OUTSIDE) == 0:
                    bits[i, y, x] &= ~_LOST
                bits[i, y, x] |= _ESTIMATED


@dataclass(frozen=True, kw_only=True)
class PixelReplace(Operator):
    """Fill lost pixels with estimates, one integration at a time.

    Extraction and photometry fill lost pixels of their apertures anyway, from the profile of the whole exposure; this
    step is for products that others measure.

    Parameters
    ----------
    algorithm
        ``mingrad``: the mean of the two neighbours along the axis with the smaller difference; ``fit_profile``: the
        median profile of neighbouring columns, scaled to the column.
    n_adjacent_cols
        Columns on each side from which ``fit_profile`` takes its profile.
    """

    name: ClassVar[str] = "pixel_replace"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"

    skip: bool = True
    algorithm: str = "mingrad"
    n_adjacent_cols: Annotated[int, msgspec.Meta(ge=1)] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ("mingrad", "fit_profile"):
            why = "is not one of mingrad, fit_profile"
            if self.algorithm == "trace_model":
                why = "is not offered: it takes values from the median of all integrations of a file"
            raise ConfigError(
                Problem(
                    f"pixel_replace.algorithm = {self.algorithm!r} {why}",
                    todo="use fit_profile, which stays within the integration; extraction fills lost pixels from the "
                    "exposure's profile without this step",
                    code="parameter",
                )
            )

    def bind(self, binding: Binding) -> BoundRateStep:
        """Choose the algorithm."""
        info = binding.info
        if self.algorithm == "fit_profile" and not info.dispaxis:
            what = "pixel_replace.algorithm = 'fit_profile' needs a spectrum"
            raise ConfigError(Problem(what, todo="use mingrad for images", code="parameter"))
        run = partial(
            _run, reach=self.n_adjacent_cols if self.algorithm == "fit_profile" else 0, axis=info.dispaxis
        )
        return BoundRateStep(self.name, binding.dq_plane, info, run)


def _run(rate: Rate, *, reach: int, axis: int) -> Rate:
    planes = (rate.data, rate.err, rate.var_poisson, rate.var_rnoise, flat_variance(rate), rate.dq)
    if not reach:
        replace_gradient(*planes, np.empty(rate.data.shape[1:], np.bool_))
    elif axis == 2:
        # profiles are rows where the light is dispersed along y
        replace_profiles(*(plane.transpose(0, 2, 1) for plane in planes), reach)
    else:
        replace_profiles(*planes, reach)
    return rate

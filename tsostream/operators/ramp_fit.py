"""ramp_fit: weighted least squares on the pieces of a ramp between jumps (spec stage 1, section 21).

A ramp without flags has a slope that is a dot product of its groups with one of six weight vectors, one for each class
of signal-to-noise; only flagged ramps go through the search for segments.

Two things differ on purpose from the official step. The weight class comes from the scout's template, not from the
noisy signal of this integration, so that it cannot change in step with the flux. The Poisson variance is that of the
template scaled by this integration's own flux: per pixel ``a_i T / (gain t_group K)`` with ``K`` the number of
differences used. Without templates (the scout's own first stage) both come from the integration itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass, reference_array
from tsostream.operators.flux import flux_scale
from tsostream.operators.likelihood import LIKELY_GROUPS, fit_likely, likely_tables
from tsostream.operators.ramp_slopes import (
    choose_classes,
    finish_variance,
    fit_ramps,
    fit_touched,
    weight_tables,
)
from tsostream.operators.tile import Tile
from tsostream.operators.zeroframe import zero_scratch

__all__ = ["RampFit"]

DNU = np.uint8(dq.DO_NOT_USE)
#: scratch planes of pixels that keep a group the step means to leave out (spec 12, 13)
ESTIMATED = ("firstframe.kept", "rscd.lowered")
#: what stands for a zero frame where there is none
NO_ZERO = np.empty((0, 0, 0), np.float32)
#: at most this many pixels decide an integration's flux scale
SCALE_PIXELS = 1024


@dataclass(frozen=True, kw_only=True)
class RampFit(Operator):
    """Fit slopes to ramps.

    Parameters
    ----------
    algorithm
        ``OLS_C``, the official step's default: optimally weighted ordinary least squares. ``LIKELY``: the likelihood
        fit with its own search for jumps (`tsostream.operators.likelihood`); with fewer than four groups OLS_C is
        taken. Its weights and variances come from each ramp, as the official step's.
    suppress_one_group
        Give no slope to ramps with a single good group (ignored when the ramp has only one). False also gives ramps
        without a good group the slope of their zero frame, where the exposure has some.
    firstgroup, lastgroup
        Use only groups ``firstgroup … lastgroup`` (0-based, inclusive).
    """

    name: ClassVar[str] = "ramp_fit"
    accepts: ClassVar[str] = "ramp"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("gain", "readnoise")

    algorithm: Literal["OLS_C", "LIKELY"] = "OLS_C"
    suppress_one_group: bool = True
    firstgroup: Annotated[int, msgspec.Meta(ge=0)] | None = None
    lastgroup: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def uses_zeroframe(self, info: ExposureInfo) -> bool:
        """Whether this fit looks at the zero frames of an exposure, if it has some."""
        if not info.zeroframe:
            return False
        if self.algorithm == "LIKELY" and info.ngroups >= LIKELY_GROUPS:
            return info.nframes > 1
        # ramps of one group are never suppressed
        return info.ngroups == 1 or not self.suppress_one_group

    @property
    def coupling(self) -> Coupling:
        """Weights and Poisson variance come from the scout's template; dark_current tells how dark it is."""
        return Template(("image", "average_dark_current"))

    def bind(self, binding: Binding) -> BoundRampStep:
        """Prepare weights, noise and templates."""
        info = binding.info
        gain = reference_array(binding.references["gain"], "SCI", info.frame_shape, self.name)
        read = reference_array(binding.references["readnoise"], "SCI", info.frame_shape, self.name)
        unknown = ~(gain > 0)
        pixeldq = binding.dq_plane | np.where(
            unknown, np.uint32(dq.NO_GAIN_VALUE | dq.DO_NOT_USE), np.uint32(0)
        )
        # without a read noise there is neither weight nor error: the pixel cannot be used
        pixeldq = pixeldq | np.where(np.isnan(read), np.uint32(dq.DO_NOT_USE), np.uint32(0))
        scale = np.where(unknown, np.float32(1), gain).astype(np.float32)
        # the reference is the noise of a difference of two single reads
        read2 = np.nan_to_num((read * scale) ** 2 / (2.0 * info.nframes)).astype(np.float32)
        outside = tuple(self.outside(info.ngroups))
        dark = binding.templates.get("average_dark_current", np.zeros(info.frame_shape, np.float32))
        scratch: dict[str, Any] = zero_scratch(info) if self.uses_zeroframe(info) else {}
        if self.algorithm == "LIKELY" and info.ngroups >= LIKELY_GROUPS:
            tables = likely_tables(info, zeroframe=self.uses_zeroframe(info))
            likely = (
                pixeldq, scale, np.nan_to_num(read), dark,
                tables.times, tables.covariance, tables.shared, tables.pairs,
            )  # fmt: skip
            run = partial(_fit_likely, outside=outside, arrays=likely, nframes=info.nframes)
            return BoundRampStep(self.name, pixeldq, (RowPass(run),), scratch, produces="rate")
        template, pixels = _template(binding, info.frame_shape)
        levels = np.ascontiguousarray(template.ravel()[pixels])
        weights = weight_tables(max(info.ngroups, 2))
        tgroup = float(np.float32(info.group_time))
        first_time = (info.nframes + 1) * float(np.float32(info.frame_time)) / 2.0
        classes = np.empty((0, info.nx), np.int32)
        expected = template
        if "image" in binding.templates:
            # where the template knows nothing, weights must not follow the ramp either: those of no signal
            expected = np.where(np.isfinite(template), template, np.float32(0))
        if "image" in binding.templates and info.ngroups > 1:
            classes = np.empty(info.frame_shape, np.int32)
            choose_classes(expected, scale, read2, tgroup * (info.ngroups - 1), classes)
        clean = _clean_variances(scale, read2, info.ngroups, tgroup if info.ngroups > 1 else first_time)
        suppress = self.suppress_one_group and info.ngroups > 1
        fit = partial(
            _fit_in,
            arrays=(pixeldq, scale, read2, expected, weights, classes, *clean),
            times=(tgroup, first_time, float(np.float32(info.frame_time))),
            suppress=suppress,
        )
        find_scale = partial(_find_scale, pixels=pixels, levels=levels)
        again = partial(
            _fit_again,
            arrays=(pixeldq, scale, read2, expected, weights),
            times=(tgroup, first_time, float(np.float32(info.frame_time))),
            suppress=suppress,
        )
        part = None if outside else Part("fit", {"fit": fit, "again": again})
        passes = (
            RowPass(partial(_fit, fit=fit, outside=outside), part=part),
            RowPass(find_scale, frame=True),
            RowPass(partial(_finish, template=template, dark=dark)),
        )
        scratch["ramp_fit.scale"] = ((), np.float64)
        return BoundRampStep(self.name, pixeldq, passes, scratch, produces="rate")

    def outside(self, ngroups: int) -> list[int]:
        """List the groups that firstgroup and lastgroup leave out."""
        first = self.firstgroup or 0
        last = ngroups - 1 if self.lastgroup is None else min(self.lastgroup, ngroups - 1)
        if first >= last:
            return []  # as the official step: a range of fewer than two groups is ignored
        return [group for group in range(ngroups) if not first <= group <= last]


def _clean_variances(
    gain: np.ndarray, read2: np.ndarray, ngroups: int, time: float
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of a ramp without flags: Poisson per DN/s, and read noise, float32 [y, x] each."""
    wide = gain.astype(np.float64)
    scatter = 12.0 / (ngroups**3 - ngroups) if ngroups > 2 else 2.0
    unit = 1.0 / (time * wide * max(ngroups - 1, 1))
    return unit.astype(np.float32), (scatter * read2 / (time * wide) ** 2).astype(np.float32)


def _template(binding: Binding, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Template slopes [y, x] and the flat indices of the brightest usable pixels."""
    image = binding.templates.get("image")
    if image is None:
        return np.full(shape, np.nan, np.float32), np.empty(0, np.int32)
    image = np.ascontiguousarray(image, np.float32)
    usable = np.where(np.isfinite(image) & ((binding.dq_plane & dq.DO_NOT_USE) == 0), image, 0.0).ravel()
    order = np.argsort(-usable, kind="stable")[:SCALE_PIXELS]
    bright = order[usable[order] > 0.3 * usable[order[: max(1, len(order) // 10)]].mean()]
    return image, np.sort(bright).astype(np.int32)


def _fit(tile: Tile, y0: int, y1: int, *, fit: Callable[..., None], outside: tuple[int, ...]) -> None:
    for group in outside:
        tile.groupdq[:, group, y0:y1] |= DNU
    fit(tile, tile.data, tile.groupdq, y0, y1, 0)
    _note_estimates(tile, y0, y1)


def _fit_in(
    tile: Tile,
    data: np.ndarray,
    groupdq: np.ndarray,
    y0: int,
    y1: int,
    top: int,
    *,
    arrays: tuple[Any, ...],
    times: tuple[float, float, float],
    suppress: bool,
) -> None:
    rate: Any = tile.rate
    results = (rate.data, rate.var_poisson, rate.var_rnoise, rate.dq)
    arguments: tuple[Any, ...] = (*arrays, *times, suppress, *results)
    fit_ramps(data, groupdq, tile.scratch.get("zeroframe", NO_ZERO), *arguments, y0, y1, top)


def _fit_again(
    tile: Tile,
    y0: int,
    y1: int,
    *,
    touched: np.ndarray,
    arrays: tuple[Any, ...],
    times: tuple[float, float, float],
    suppress: bool,
) -> None:
    rate: Any = tile.rate
    results = (rate.data, rate.var_poisson, rate.var_rnoise, rate.dq)
    arguments: tuple[Any, ...] = (*arrays, *times, suppress, *results)
    fit_touched(tile.data, tile.groupdq, touched, NO_ZERO, *arguments, y0, y1)


def _note_estimates(tile: Tile, y0: int, y1: int) -> None:
    """Mark slopes of ramps that keep groups which firstframe or rscd would have left out but for saturation."""
    rate: Any = tile.rate
    for name in ESTIMATED:
        if name in tile.scratch:
            kept = tile.scratch[name][:, y0:y1] != 0
            if kept.any():
                rate.dq[:, y0:y1][kept] |= np.uint32(dq.FLUX_ESTIMATED)


def _find_scale(tile: Tile, y0: int, y1: int, *, pixels: np.ndarray, levels: np.ndarray) -> None:
    rate: Any = tile.rate
    flux_scale(rate.data, pixels, levels, tile.scratch["ramp_fit.scale"])


def _finish(tile: Tile, y0: int, y1: int, *, template: np.ndarray, dark: np.ndarray) -> None:
    rate: Any = tile.rate
    scale = tile.scratch["ramp_fit.scale"]
    finish_variance(rate.data, rate.var_poisson, rate.var_rnoise, rate.err, template, dark, scale, y0, y1)


def _fit_likely(
    tile: Tile, y0: int, y1: int, *, outside: tuple[int, ...], arrays: tuple[Any, ...], nframes: int
) -> None:
    rate: Any = tile.rate
    for group in outside:
        tile.groupdq[:, group, y0:y1] |= DNU
    results = (rate.data, rate.err, rate.var_poisson, rate.var_rnoise, rate.dq)
    rows = (y0, y1, 0, tile.data.shape[3])
    zero = tile.scratch.get("zeroframe", NO_ZERO)
    fit_likely(tile.data, tile.groupdq, zero, nframes, *arrays, False, *results, *rows)
    _note_estimates(tile, y0, y1)

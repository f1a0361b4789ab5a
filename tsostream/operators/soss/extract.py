"""SOSS orders as series of one extraction: traces from a reference, their overlap taken out, the common kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from scipy.interpolate import UnivariateSpline

from tsostream.errors import ConfigError, Problem
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.base import Binding
from tsostream.operators.soss import OVERLAP_REFERENCES
from tsostream.operators.soss.geometry import OrderTrace, box_weights, soss_traces
from tsostream.operators.soss.models import profile_image
from tsostream.operators.soss.overlap import OverlapSettings
from tsostream.operators.soss.separation import Separation, separate
from tsostream.operators.spectral.definition import column_wavelengths
from tsostream.operators.spectral.scene import Scene, read_scene
from tsostream.operators.spectral.series import (
    Extracted,
    Recipe,
    Series,
    build_series,
    extract_series,
    join_series,
)

__all__ = ["BoundSoss", "bind_soss", "overlap_settings", "soss_orders"]

#: a column in which the trace of an order is nearer than this to the edge is no part of it [px]: half the profile is
#: lost there, and the outermost rows see no light
EDGE = 10.0
#: the first estimate of the spectrum is smoothed by this much [px]: noise must not refine the wavelength grid
SMOOTHING = 5.0
#: a row where no order is
FAR_AWAY = -1e6
#: sky pixels of a column that are too few: their noise would be more than that of a faint order
FEW_SKY = 24
#: none of the spectral orders
NO_ORDER = 0
#: fewest columns of an order that is worth a series
SHORTEST = 16


@dataclass(frozen=True)
class BoundSoss:
    """Extraction of the orders of one exposure.

    Parameters
    ----------
    orders
        Order of each series.
    series
        What is extracted in one pass.
    wavelength : float64 [key, column]
        [µm]; NaN where the order is not extracted.
    separation
        None where the overlap is not modelled.
    corrections : float64 [key, column]
        Factors for the order's own wings in its background.
    """

    name: str
    pixeldq: np.ndarray
    orders: tuple[int, ...]
    series: tuple[Series, ...]
    wavelength: np.ndarray
    unit: str
    separation: Separation | None = None
    corrections: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    skipped: str = ""
    along_y: bool = False

    @property
    def order(self) -> int:
        """The first order."""
        return self.orders[0]

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """(order, aperture) of the rows."""
        return tuple((order, one.number) for order, one in zip(self.orders, self.series, strict=True))

    @property
    def background_unit(self) -> str:
        """Unit of the background."""
        return f"{self.unit} / pix"

    @property
    def aperture(self) -> Any:
        """Pixel lists and profiles of the first series."""
        return self.series[0].aperture

    @property
    def apertures(self) -> tuple[Any, ...]:
        """Pixel lists and profiles of all series."""
        return tuple(one.aperture for one in self.series)

    @property
    def trace(self) -> dict[str, np.ndarray]:
        """Order -> centre of its aperture across, float64 [column]; NaN where it is not extracted."""
        return {
            str(order): np.where(np.isfinite(self.wavelength[k]), one.trace, np.nan)
            for k, (order, one) in enumerate(zip(self.orders, self.series, strict=True))
            if order not in self.orders[:k]
        }

    @property
    def sum_weights(self) -> tuple[np.ndarray, ...]:
        """Weight of each pixel in the columns' sums of every series, float64 [cross, disp] each."""
        return tuple(one.sum_weights for one in self.series)

    @property
    def wave_grid(self) -> np.ndarray | None:
        """Wavelengths at which the spectrum of the overlap is solved for, float64 [point]."""
        return None if self.separation is None else self.separation.grid

    def settled(self) -> BoundSoss:
        """Let go of what only the steps behind this one look at, when they are bound: images as large as the frame."""
        return replace(self, series=tuple(one.without_sum_weights() for one in self.series))

    def describe(self) -> list[dict[str, Any]]:
        """Say what the keys mean."""
        modelled = self.separation.orders if self.separation is not None else ()
        factor = None if self.separation is None else self.separation.factor
        return [
            {"order": order, **one.describe(), "overlap": "modelled" if order in modelled else "not modelled",
             "tikhonov_factor": factor}
            for order, one in zip(self.orders, self.series, strict=True)
        ]  # fmt: skip

    def push(self, block: Rate) -> list[Measurement]:
        """Extract every integration of a block, all orders."""
        found: list[Extracted] = []
        amplitudes = None
        if self.separation is not None:
            amplitudes = self.separation.amplitudes(block.data, block.dq)
        for order, group in groupby(zip(self.orders, self.series, strict=True), key=lambda pair: pair[0]):
            own = block
            if self.separation is not None and amplitudes is not None:
                own = replace(block, data=self.separation.without_others(block.data, amplitudes, order))
            found += extract_series(own, [one for _, one in group], along_y=False)
        return [join_series(block, self.keys, found, self.corrections)]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


def soss_orders(step: Any, info: Any) -> tuple[int, ...]:
    """Orders that are wanted: the third one not in SUBSTRIP96, where it is not on the detector."""
    return (1, 2, 3) if step.soss_order_3 and info.subarray != "SUBSTRIP96" else (1, 2)


def overlap_settings(step: Any, binding: Binding) -> OverlapSettings:
    """Collect the parameters of the overlap."""
    keys = binding.references["pastasoss"].keywords
    estimate = binding.templates.get("soss_estimate")
    return OverlapSettings(
        threshold=step.soss_threshold,
        n_os=step.soss_n_os,
        rtol=step.soss_rtol,
        max_grid_size=step.soss_max_grid_size,
        tikfac=step.soss_tikfac,
        limits=(keys["ORDER2_LOW"], keys["ORDER2_HIGH"]),
        singles=binding.info.subarray != "SUBSTRIP96",
        smoothing=SMOOTHING if step.scope == "streaming" else 0.0,
        grid=binding.templates.get("soss_grid"),
        estimate=None if estimate is None else UnivariateSpline(estimate[0], estimate[1], k=3, s=0, ext=0),
        official=step.scope == "segment",
    )


def bind_soss(step: Any, binding: Binding) -> BoundSoss | None:
    """Join the extraction of all orders to an exposure; None without a trace reference.

    Parameters
    ----------
    step
        The extract_1d operator.
    binding
        Exposure, references, templates.

    Raises
    ------
    ConfigError
        No order lies in the subarray, or there is no background.
    """
    info = binding.info
    traces = {
        order: trace
        for order, trace in soss_traces(binding.references, info, soss_orders(step, info)).items()
        if _visible(trace, info.nx, info.ny).sum() >= SHORTEST
    }
    if not traces:
        return None
    scene = read_scene(binding)
    ny, nx = scene.image.shape
    centres = {order: _centre(trace, nx, ny) for order, trace in traces.items()}
    width = step.widths[0] or step.soss_width
    settings = overlap_settings(step, binding) if set(OVERLAP_REFERENCES) <= set(binding.references) else None
    separation, notes = separate(step, binding, scene, traces, width, settings)
    shares: list[np.ndarray] = []
    series: list[Series] = []
    labels: list[int] = []
    template = np.ascontiguousarray(np.where(np.isfinite(scene.image), scene.image, 0.0)[None], np.float32)
    bits = np.zeros(template.shape, np.uint32)
    if separation is not None and step.subtract_background is not False:
        far = _grounds(step, scene, centres, modelled=False)[
            max(float(given or step.soss_width) for given in step.widths)
        ]
        separation = separation.above_sky(template[0].astype(np.float64), far)
    found = separation.amplitudes(template, bits) if separation is not None else None

    def with_only(order: int) -> Scene:
        if separation is None or found is None:
            return scene
        clean = separation.without_others(template, found, order)[0].astype(np.float64)
        return replace(scene, image=np.where(np.isfinite(scene.image), clean, np.nan))

    grounds = _grounds(step, with_only(NO_ORDER), centres, modelled=separation is not None)
    for order in traces:
        built = _series(step, with_only(order), centres[order], grounds)
        shares += [_wing_factor(binding, one, order, grounds[one.extract_width]) for one in built]
        series += built
        labels += [order] * len(built)
    wavelength = np.stack(
        [_wavelength(binding, traces[order], one, nx) for order, one in zip(labels, series, strict=True)]
    )
    return BoundSoss(
        name=step.name,
        pixeldq=binding.dq_plane,
        orders=tuple(labels),
        series=tuple(series),
        wavelength=wavelength,
        unit=scene.unit,
        separation=separation,
        corrections=np.stack(shares) if step.subtract_background is not False else None,
        notes=tuple(notes),
    )


def _visible(trace: OrderTrace, nx: int, ny: int) -> np.ndarray:
    """Columns in which the trace is inside the subarray, bool [x]."""
    centre, _ = trace.columns(nx)
    with np.errstate(invalid="ignore"):
        return (centre > EDGE) & (centre < ny - 1 - EDGE)


def _centre(trace: OrderTrace, nx: int, ny: int) -> np.ndarray:
    """Row of the trace in each column; NaN where the order is not extracted."""
    centre, _ = trace.columns(nx)
    return np.where(_visible(trace, nx, ny), centre, np.nan)


def _held(centre: np.ndarray) -> np.ndarray:
    """Go on level where there is no trace, for what needs a number."""
    known = np.flatnonzero(np.isfinite(centre))
    return np.interp(np.arange(centre.size), known, centre[known])


def _grounds(
    step: Any, scene: Scene, centres: Mapping[int, np.ndarray], *, modelled: bool
) -> dict[float, np.ndarray]:
    """Width of the box -> background pixels, far from every order.

    ``modelled``: the image is what is left when the model of every order is subtracted. Then the wings of an order are
    sky unless something is seen there that the model does not know, and where little sky is left (in a subarray of 96
    rows) it begins beside the boxes, whatever ``bkg_inner``.
    """
    smooth = geometry.smoothed(scene.image, scene.bad)
    rows = np.arange(scene.image.shape[0])[:, None]
    # far away where the order is not: no distance excludes anything there
    traces = [np.where(np.isfinite(centre), centre, FAR_AWAY) for centre in centres.values()]
    distances = [np.abs(rows - trace) for trace in traces]
    found = {}
    for width in [float(given or step.soss_width) for given in step.widths]:
        inner = step.bkg_inner if step.bkg_inner is not None else width / 2 + 2
        if modelled:
            # what the model leaves of the cores says nothing about the sky
            distance = np.minimum.reduce(distances)
            core = distance < inner
            few = (~core & ~scene.bad).sum(axis=0) < FEW_SKY
            core[:, few] = distance[:, few] < min(inner, width / 2 + 2)
            mask = geometry.ground_mask(
                smooth, scene.bad | core, np.full(scene.image.shape[1], FAR_AWAY), inner, None
            )
        else:
            masks = [geometry.ground_mask(smooth, scene.bad, trace, inner, None) for trace in traces]
            mask = np.logical_and.reduce(masks)
        if step.bkg_outer is not None:
            mask &= np.minimum.reduce(distances) <= step.bkg_outer
        found[width] = mask
    return found


def _series(step: Any, scene: Scene, centre: np.ndarray, grounds: Mapping[float, np.ndarray]) -> list[Series]:
    """All apertures and methods of one order."""
    series: list[Series] = []
    subtract = step.subtract_background is not False
    for place, given in enumerate(step.widths):
        width = float(given or step.soss_width)
        ground = grounds[width]
        if subtract and not ground.any():
            raise ConfigError(
                Problem(
                    f"no background pixels: {scene.image.shape[0]} pixels across, boxes of {width:g}",
                    todo="choose a smaller extract_1d.bkg_inner, or set extract_1d.subtract_background=false",
                    code="parameter",
                )
            )
        recipe = Recipe(
            extract_width=width,
            weight=box_weights(centre + step.position_offset, width, scene.image.shape[0]),
            ground=ground,
            subtract=subtract,
            bkg_clip=step.bkg_clip,
            max_lost=step.max_lost,
            correct_shift=step.correct_shift,
            profile_clip=step.profile_clip,
            terms=1 + (step.bkg_order or 0),
        )
        numbers = {method: m * len(step.widths) + place for m, method in enumerate(step.methods)}
        series += build_series(scene, _held(centre) + step.position_offset, recipe, numbers)
    return sorted(series, key=lambda one: one.number)


def _wing_factor(binding: Binding, one: Series, order: int, ground: np.ndarray) -> np.ndarray:
    """Put back what the order's own wings add to its background, float64 [column]; 1 where the profile is unknown."""
    factor = np.ones(one.trace.size)
    reference = binding.references.get("specprofile")
    profile = None if reference is None else profile_image(reference, order, binding.info)
    if profile is None:
        return factor
    inside = (one.weight * profile).sum(axis=0)
    count = ground.sum(axis=0)
    wings = (ground * profile).sum(axis=0) / np.where(count > 0, count, 1) * one.weight.sum(axis=0)
    good = (inside > 0) & (wings < 0.2 * inside)
    factor[good] = inside[good] / (inside[good] - wings[good])
    return factor


def _wavelength(binding: Binding, trace: OrderTrace, one: Series, nx: int) -> np.ndarray:
    """Wavelength of each column: what was given for the order, else that of the trace."""
    own = trace.columns(nx)[1]
    given = (binding.templates.get("wavelength") or {}).get(trace.order)
    if given is not None:
        image = np.asarray(given, np.float64)
        own = image if image.ndim == 1 else column_wavelengths(np.where(image > 0, image, np.nan), one.weight)
    return np.where(one.weight.sum(axis=0) > 0, own, np.nan)

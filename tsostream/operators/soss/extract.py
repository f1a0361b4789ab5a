"""SOSS orders as series of one extraction: traces from a reference, their overlap taken out, the common kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.base import Binding
from tsostream.operators.soss.geometry import OrderTrace, box_weights, soss_traces
from tsostream.operators.soss.kernels import apply_operator, column_sums, subtract_orders
from tsostream.operators.soss.models import OVERLAP_REFERENCES, order_models, profile_image
from tsostream.operators.soss.overlap import Overlap, OverlapSettings, calibrate_overlap
from tsostream.operators.soss.solve import TooFewPixelsError
from tsostream.operators.spectral.definition import column_wavelengths
from tsostream.operators.spectral.series import (
    Extracted,
    Recipe,
    Scene,
    Series,
    build_series,
    extract_series,
    join_series,
    read_scene,
)

__all__ = ["BoundSoss", "bind_soss", "overlap_settings", "soss_orders"]

#: a column in which the trace of an order is nearer than this to the edge is no part of it [px]: half the profile is
#: lost there, and the outermost rows see no light
EDGE = 10.0
#: the first estimate of the spectrum is smoothed by this much [px]: noise must not refine the wavelength grid
SMOOTHING = 5.0
#: fewest columns of an order that is worth a series
SHORTEST = 16


@dataclass(frozen=True)
class Source:
    """Pixels whose weighted sums the operator takes from one order.

    Parameters
    ----------
    start, pixel, share, template
        As in `column_sums`.
    operator : float32 [source, target]
        From the sums of the columns to amplitudes of the orders.
    source : int32 [source]
        Columns of the sums.
    target : int32 [target]
        Places in [order, x], flat.
    """

    start: np.ndarray
    pixel: np.ndarray
    share: np.ndarray
    template: np.ndarray
    operator: np.ndarray
    source: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Separation:
    """Takes the orders apart.

    Parameters
    ----------
    orders
        Orders that are modelled.
    profiles : float32 [order, y, x]
        Their profiles.
    sources
        Sums and operators.
    factor
        Regularisation of the joint fit, for the record.
    """

    orders: tuple[int, ...]
    profiles: np.ndarray
    sources: tuple[Source, ...]
    factor: float

    def amplitudes(self, data: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Find what each order puts into each column, float64 [integration, order, x]."""
        n, nx = len(data), data.shape[2]
        found = np.zeros((n, len(self.orders) * nx))
        sums = np.empty((n, nx))
        flat, flags = data.reshape(n, -1), bits.reshape(n, -1)
        for source in self.sources:
            column_sums(flat, flags, source.start, source.pixel, source.share, source.template, sums)
            scratch = np.empty(source.target.size)
            apply_operator(source.operator, source.source, source.target, sums, scratch, found)
        return found.reshape(n, len(self.orders), nx)

    def without_others(self, data: np.ndarray, amplitudes: np.ndarray, order: int) -> np.ndarray:
        """Images from which all orders but one are taken, float32 [integration, y, x]."""
        clean = np.empty_like(data)
        keep = self.orders.index(order) if order in self.orders else -1
        subtract_orders(data, self.profiles, amplitudes, keep, clean)
        return clean


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

    def describe(self) -> list[dict[str, Any]]:
        """Say what the keys mean."""
        modelled = self.separation.orders if self.separation is not None else ()
        return [
            {"order": order, **one.describe(), "overlap": "modelled" if order in modelled else "not modelled"}
            for order, one in zip(self.orders, self.series, strict=True)
        ]

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
    return OverlapSettings(
        threshold=step.soss_threshold,
        n_os=step.soss_n_os,
        rtol=step.soss_rtol,
        max_grid_size=step.soss_max_grid_size,
        tikfac=step.soss_tikfac,
        limits=(keys["ORDER2_LOW"], keys["ORDER2_HIGH"]),
        singles=binding.info.subarray != "SUBSTRIP96",
        smoothing=SMOOTHING if step.scope == "streaming" else 0.0,
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
    separation, notes = _separate(step, binding, scene, traces, width)
    shares: list[np.ndarray] = []
    series: list[Series] = []
    labels: list[int] = []
    template = np.ascontiguousarray(np.where(np.isfinite(scene.image), scene.image, 0.0)[None], np.float32)
    bits = np.zeros(template.shape, np.uint32)
    found = separation.amplitudes(template, bits) if separation is not None else None
    for order in traces:
        own = scene
        if separation is not None and found is not None:
            clean = separation.without_others(template, found, order)[0].astype(np.float64)
            own = replace(scene, image=np.where(np.isfinite(scene.image), clean, np.nan))
        built = _series(step, own, centres, order)
        shares += [_wing_factor(binding, one, order, _ground(step, own, centres, one)) for one in built]
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


def _ground(step: Any, scene: Scene, centres: Mapping[int, np.ndarray], one: Series | float) -> np.ndarray:
    """Background pixels: far from every order."""
    width = one if isinstance(one, float) else one.extract_width
    inner = step.bkg_inner if step.bkg_inner is not None else width / 2 + 2
    mask = np.ones(scene.image.shape, bool)
    for centre in centres.values():
        # far away where the order is not: no distance excludes anything there
        far = np.where(np.isfinite(centre), centre, -1e6)
        mask &= geometry.ground_mask(scene.image, scene.bad, far, inner, None)
    if step.bkg_outer is not None:
        rows = np.arange(scene.image.shape[0])[:, None]
        near = [np.abs(rows - np.where(np.isfinite(c), c, -1e6)) <= step.bkg_outer for c in centres.values()]
        mask &= np.logical_or.reduce(near)
    return mask


def _series(step: Any, scene: Scene, centres: Mapping[int, np.ndarray], order: int) -> list[Series]:
    """All apertures and methods of one order."""
    series: list[Series] = []
    subtract = step.subtract_background is not False
    for place, given in enumerate(step.widths):
        width = float(given or step.soss_width)
        ground = _ground(step, scene, centres, width)
        if subtract and not ground.any():
            raise ConfigError(
                Problem(
                    f"no background pixels: {scene.image.shape[0]} pixels across, {len(centres)} orders",
                    todo="choose a smaller extract_1d.bkg_inner, or set extract_1d.subtract_background=false",
                    code="parameter",
                )
            )
        recipe = Recipe(
            extract_width=width,
            weight=box_weights(centres[order] + step.position_offset, width, scene.image.shape[0]),
            ground=ground,
            subtract=subtract,
            bkg_clip=step.bkg_clip,
            max_lost=step.max_lost,
            correct_shift=step.correct_shift,
            profile_clip=step.profile_clip,
            terms=1 + (step.bkg_order or 0),
        )
        numbers = {method: m * len(step.widths) + place for m, method in enumerate(step.methods)}
        series += build_series(scene, _held(centres[order]) + step.position_offset, recipe, numbers)
    return sorted(series, key=lambda one: one.number)


def _wing_factor(binding: Binding, one: Series, order: int, ground: np.ndarray) -> np.ndarray:
    """Put back what the order's own wings add to its background, float64 [column]; 1 where the profile is unknown."""
    factor = np.ones(one.trace.size)
    reference = binding.references.get("specprofile")
    profile = None if reference is None else profile_image(reference, order, binding.info)
    if profile is None or one.method == "profile":
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


def _separate(
    step: Any, binding: Binding, scene: Scene, traces: Mapping[int, OrderTrace], width: float
) -> tuple[Separation | None, list[str]]:
    """Calibrate the overlap on the template, or say which wavelengths it spoils."""
    info = binding.info
    ny, nx = scene.image.shape
    boxes = {order: box_weights(trace.columns(nx)[0], width, ny) for order, trace in traces.items()}
    ranges = _contaminated(boxes, traces, nx)
    if not ranges:
        return None, []
    spoilt = "; ".join(f"order {order}: {text}" for order, text in ranges.items())
    missing = [name for name in OVERLAP_REFERENCES if name not in binding.references]
    if not step.soss_atoca:
        return None, [f"the orders overlap and soss_atoca is off: contaminated are {spoilt}"]
    if missing or not {1, 2} <= set(traces):
        why = (
            f"there is no {' and no '.join(missing)} reference"
            if missing
            else "an order is not in the subarray"
        )
        return None, [f"the overlap of the orders is not taken out ({why}): CONTAMINATED are {spoilt}"]
    models = order_models(binding.references, traces, info)
    known = {order: model for order, model in models.items() if order in traces}
    if not {1, 2} <= set(known):
        return None, [
            f"the overlap of the orders is not taken out (no profile of an order): CONTAMINATED are {spoilt}"
        ]
    inverse = 1.0 / np.where(scene.variance > 0, scene.variance, np.inf)
    inverse = np.where(np.isfinite(inverse), inverse, 0.0)
    reference = (binding.dq_plane & np.uint32(dq.REFERENCE_PIXEL)) != 0
    outside = [~(boxes[order] > 0) | reference for order in known]
    # as officially: the criterion for the regularisation wants the noise of one integration
    noise = np.sqrt(np.where(scene.variance > 0, scene.variance, 0.0) * (1.0 - 1.0 / max(scene.count, 2)))
    typical = scene.image + np.random.default_rng(42).normal(0.0, np.nan_to_num(noise))
    try:
        overlap = calibrate_overlap(
            list(known.values()), typical, inverse, outside, scene.bad, overlap_settings(step, binding)
        )
    except (TooFewPixelsError, ValueError, np.linalg.LinAlgError, RuntimeError) as error:
        why = "too few pixels" if isinstance(error, TooFewPixelsError) else str(error).splitlines()[0]
        return None, [f"the overlap of the orders cannot be modelled ({why}): CONTAMINATED are {spoilt}"]
    return _as_operator(overlap, scene, inverse), []


def _contaminated(
    boxes: Mapping[int, np.ndarray], traces: Mapping[int, OrderTrace], nx: int
) -> dict[int, str]:
    """Wavelengths in which the box of an order shares pixels with that of another, as text."""
    result = {}
    for order, box in boxes.items():
        shared = np.zeros(nx, bool)
        for other, theirs in boxes.items():
            if other != order:
                shared |= (np.minimum(box, theirs) > 0).any(axis=0)
        wave = traces[order].columns(nx)[1]
        columns = np.flatnonzero(shared & np.isfinite(wave))
        if columns.size:
            runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
            result[order] = ", ".join(f"{wave[run].min():.3f} to {wave[run].max():.3f} µm" for run in runs)
    return result


def _as_operator(overlap: Overlap, scene: Scene, inverse: np.ndarray) -> Separation:
    """Freeze the errors, so that all fits together are one linear operator."""
    orders = tuple(model.order for model in overlap.models)
    nx = scene.image.shape[1]
    image = np.where(np.isfinite(scene.image), scene.image, 0.0)
    sources = []
    both = np.flatnonzero(overlap.covered.ravel())
    for k in range(2):
        # rows: amplitudes of both orders; columns: the sums of this one
        part = overlap.response[:, k * nx : (k + 1) * nx]
        sources.append(_source(overlap.shares[k], image, part, both))
    taken = {k + 1: overlap.covered[k] for k in range(2)}
    for single in overlap.singles:
        whole = np.zeros((nx, nx))
        whole[single.columns] = single.operator(inverse)
        columns = single.columns & ~taken.get(single.order, np.zeros(nx, bool))
        place = np.zeros((len(orders), nx), bool)
        place[orders.index(single.order)] = columns
        tall = np.zeros((len(orders) * nx, nx))
        tall[place.ravel()] = whole[columns]
        sources.append(_source(single.share * inverse, image, tall, np.flatnonzero(place.ravel())))
    profiles = np.stack([model.profile for model in overlap.models]).astype(np.float32)
    return Separation(orders, profiles, tuple(sources), overlap.factor)


def _source(share: np.ndarray, image: np.ndarray, response: np.ndarray, target: np.ndarray) -> Source:
    """Cut an operator [result, column] to what is not zero, and list the pixels of its sums."""
    start, pixel, (cross, disp) = geometry.pixel_lists(share > 0, along_y=False)
    used: Sequence[np.ndarray] = (share[cross, disp], image[cross, disp])
    weight, template = (np.ascontiguousarray(one, np.float32) for one in used)
    source = np.flatnonzero(np.diff(start) > 0).astype(np.int32)
    operator = np.ascontiguousarray(response[np.ix_(target, source)].T, np.float32)
    return Source(start, pixel, weight, template, operator, source, target.astype(np.int32))

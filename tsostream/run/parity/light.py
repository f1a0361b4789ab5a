"""How bright the source is in each integration of a file, by its draft slopes (stage 1, 17.3).

The median image of clean_flicker_noise is scaled with it. Officially a spectrum is extracted, or an aperture summed,
with the parameters of the observatory and not with those of the run; so it is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.bkg_subtract import BkgSubtract
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.extract_2d import Extract2d
from tsostream.operators.flat_field import FlatField
from tsostream.operators.soss.geometry import box_weights, soss_traces
from tsostream.operators.spectral.official_block import FirstCorrection
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.operators.white_light import WhiteLight, reference_ranges
from tsostream.operators.window import copy_rate, slice_rate
from tsostream.references.selection import CrdsWish
from tsostream.run.config import Config, load_config
from tsostream.run.coordinates import source_place
from tsostream.run.parity.photometry import SegmentPhotometry
from tsostream.run.prepared import Prepared, segment_spans
from tsostream.run.slopes import wanted_references

__all__ = ["DraftLight", "Drafts", "draft_light", "relative_light"]

#: full width of the box about SOSS's first order [px], as officially
SOSS_WIDTH = 15
#: reads the draft slopes of a file, as often as wanted; blocks are arrays of their own
Drafts = Callable[[], Iterator[Rate]]
#: finds the light of each integration, float64 [integration], above a background, float32 [y, x] or None
Flux = Callable[[Drafts, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class DraftLight:
    """What draft slopes tell of a file.

    Parameters
    ----------
    flux
        Gives the light of each integration, float64 [integration], above what is background.
    background
        Gives what is background in the slopes, float32 [y, x]; None where none is taken out.
    """

    flux: Flux
    background: Callable[[Drafts], np.ndarray | None] = lambda drafts: None


def relative_light(flux: np.ndarray) -> np.ndarray | None:
    """Divide by the median, which also stands where there is no number.

    Parameters
    ----------
    flux : float64 [integration]

    Returns
    -------
    float64 [integration] or None
        None when there is no number at all.
    """
    if np.isnan(flux).all():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        light = flux / np.nanmedian(flux)
    there = np.isfinite(light)
    if not there.any():
        return None
    return np.where(there, light, np.median(light[there]))


def draft_light(prepared: Prepared, pixeldq: np.ndarray) -> DraftLight | None:
    """Say how the light is found; None where clean_flicker_noise does not need it.

    Parameters
    ----------
    prepared
        The run.
    pixeldq : uint32 [y, x]
        Static DQ plane of the slopes.

    Raises
    ------
    ConfigError
        Where the spectrum lies is not known.
    """
    step, info = prepared.config.operator("clean_flicker_noise"), prepared.exposure.info
    if not isinstance(step, CleanFlickerNoise) or step.background_method != "median_image":
        return None
    if step.unsuited(info):
        return None
    wish = CrdsWish(prepared.request.crds_context, fetch=False)
    config = load_config(info, pars=prepared.request.pars, crds=wish, parity=True)
    start = _Start(prepared, config, replace(info, bunit="DN/s"), pixeldq)
    if info.exp_type == "NIS_SOSS":
        return _soss(start)
    return DraftLight(_spectral(start) if info.is_spectroscopy else _aperture(start))


@dataclass(frozen=True)
class _Start:
    """Draft slopes as the steps are bound to them."""

    prepared: Prepared
    config: Config
    info: ExposureInfo
    pixeldq: np.ndarray

    def binding(self, operator: Operator, templates: dict[str, Any]) -> Binding:
        references = wanted_references(operator, self.info, self.prepared.references)
        spans = segment_spans(self.prepared.exposure)
        return Binding(self.info, references, self.pixeldq, templates, spans)


def _spectral(start: _Start) -> Flux:
    """Sum the spectrum of a point source over all columns."""
    prepared = start.prepared
    if not prepared.wavelengths:
        what = "clean_flicker_noise.background_method median_image looks where the spectrum lies, which is not known"
        raise ConfigError(Problem(what, todo="give --wavelengths, or use median", code="wavelengths"))
    templates: dict[str, Any] = {"wavelength": prepared.wavelengths, "slit": prepared.wavelength_facts}
    operator = start.config.operator("extract_2d") or Extract2d()
    window: Any = operator.bind(start.binding(operator, templates))
    cut = replace(window.info, header={**window.info.header, "SRCTYPE": "POINT"})
    here = replace(start, info=cut, pixeldq=window.pixeldq)
    templates |= window.templates
    if (place := source_place(prepared, cut)) is not None:
        templates["source_location"] = place
    extract: Any = start.config.operator("extract_1d")
    bound = extract.bind(here.binding(extract, templates))

    def flux(drafts: Drafts, _background: np.ndarray | None) -> np.ndarray:
        # a correction with phases of the pixel is a file's own
        late = FirstCorrection(bound) if bound.needs_order else None
        sums = []
        for rate in drafts():
            (spectra,) = bound.push(rate if window.skipped else window.run(rate))
            if late is not None:
                (spectra,) = late.push(spectra)
            columns = spectra.spectra["flux"][:, 0]
            sums.append(np.where(np.isfinite(columns), columns, 0.0).sum(axis=1))
        return np.concatenate(sums)

    return flux


def _aperture(start: _Start) -> Flux:
    """Sum the aperture, in the official three passes; the flat of MIRI tells what is no science."""
    prepared = start.prepared
    operator: Any = start.config.operator("tso_photometry") or TsoPhotometry(scope="segment")
    # where the source is, is no parameter of the official step, which reads it from the header
    place = getattr(prepared.config.operator("tso_photometry"), "position", None)
    operator = replace(operator, position=place)
    bound: Any = operator.bind(start.binding(operator, {}))
    flat: BoundRateStep | None = None
    if start.info.exp_type == "MIR_IMAGE" and "flat" in prepared.references:
        flat = FlatField().bind(start.binding(FlatField(), {}))

    def flux(drafts: Drafts, _background: np.ndarray | None) -> np.ndarray:
        segments = SegmentPhotometry(bound, start.info.frame_shape, prepared.request.scratch)
        sums: list[np.ndarray] = []
        try:
            for rate in drafts():
                if flat is not None and not flat.skipped:
                    rate.dq |= flat.run(_copy(rate)).dq
                rows = segments.push(bound.first_pass(rate))
                sums += [one.extras["aperture_sum"][:, 0] for one in rows]
        finally:
            segments.close()
        return np.concatenate(sums)

    return flux


def _soss(start: _Start) -> DraftLight | None:
    """Sum a box about the first order, behind the template of the background; None where the trace is not known."""
    prepared, info = start.prepared, start.info
    traces = soss_traces(prepared.references, info, (1,))
    if 1 not in traces:
        return None
    row, wavelength = traces[1].columns(info.nx)
    low, high = _soss_range(start)
    inside = (wavelength >= low) & (wavelength <= high)
    weight = np.where(inside, box_weights(row, SOSS_WIDTH, info.ny), 0.0)

    def bound(drafts: Drafts) -> BoundRateStep | None:
        operator = start.config.operator("bkg_subtract") or BkgSubtract(scope="segment")
        if "bkg" not in prepared.references:
            return None
        first = next(drafts())
        spans = segment_spans(prepared.exposure)
        (span,) = (one for one in spans if one[0] <= first.first <= one[1])
        templates = {"image": first.data[0], "rates": lambda _first, _last: drafts()}
        step = operator.bind(replace(start.binding(operator, templates), segments=(span,)))
        return step if isinstance(step, BoundRateStep) and not step.skipped else None

    def background(drafts: Drafts) -> np.ndarray | None:
        step = bound(drafts)
        if step is None:
            return None
        empty = _copy(next(drafts()), count=1)
        empty.data[...] = 0.0
        return -step.run(empty).data[0]

    def flux(drafts: Drafts, ground: np.ndarray | None) -> np.ndarray:
        level = np.float32(0.0) if ground is None else ground
        # the weights of lost pixels stay, as officially
        return np.concatenate([np.nansum((rate.data - level) * weight, axis=(1, 2)) for rate in drafts()])

    return DraftLight(flux, background)


def _soss_range(start: _Start) -> tuple[float, float]:
    """Wavelengths of the first order that count [µm]: those the white light is summed over."""
    white = WhiteLight(scope="segment")
    return reference_ranges(start.binding(white, {})).get(1, (-np.inf, np.inf))


def _copy(rate: Rate, count: int | None = None) -> Rate:
    part = slice_rate(rate, 0, rate.count if count is None else count)
    return copy_rate(part)

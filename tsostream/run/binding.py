"""From a prepared run to one that can stream: the scout is done, all steps are bound, the tables have schemas."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tsostream.integration.payload import Measurement
from tsostream.operators.catalog import SPECTRUM_CALIBRATION
from tsostream.operators.photometry.images import BoundOfficialPhotometry
from tsostream.records import (
    bins_schema,
    encode_metadata,
    light_curve_schema,
    spectra_schema,
    warm_up,
)
from tsostream.run.background import slopes_again
from tsostream.run.chain import Chain
from tsostream.run.coordinates import source_place
from tsostream.run.freed import keep_apart
from tsostream.run.measured import sky_tap
from tsostream.run.measuring import describe_bins, describe_spectrum, late_steps, scout_spectrum
from tsostream.run.observer import Observer
from tsostream.run.parity.photometry import FirstPass, shelf_note
from tsostream.run.prepared import Prepared
from tsostream.run.provenance import describe_start
from tsostream.run.ramps import RateChain
from tsostream.run.readout import effective_times, ramp_shifts
from tsostream.run.ready import Ready
from tsostream.run.scout import Scout
from tsostream.run.setup import takes_overlap_out
from tsostream.run.slopes import SlopeSteps, is_news
from tsostream.run.soss_files import write_grid
from tsostream.run.templates import find_scout

__all__ = ["ready_to_stream"]

logger = logging.getLogger("tsostream")

MEASURING = ("extract_1d", "tso_photometry")
#: templates as large as the frame
IMAGES = ("image", "scatter", "variance")


@dataclass
class _Bound:
    """What a run is put together from."""

    prepared: Prepared
    pool: ThreadPoolExecutor
    observer: Observer
    scout: Scout
    rates: RateChain
    slopes: SlopeSteps
    templates: dict[str, Any]
    taps: list[Callable[[Measurement], None]] = field(default_factory=list)

    @property
    def parity(self) -> bool:
        """Whether the steps do what the official ones do."""
        return self.prepared.request.parity is not None


def ready_to_stream(prepared: Prepared, pool: ThreadPoolExecutor, observer: Observer) -> Ready:
    """Run the scout and bind all steps.

    Raises
    ------
    TsoStreamError
        Inputs that cannot be read, an exposure without a source, parameters that do not fit it.
    """
    keep_apart(4 * int(np.prod(prepared.exposure.info.frame_shape)))
    run = _bind_images(prepared, pool, observer)
    measuring = _bind_measuring(run)
    steps: tuple[Any, ...] = (measuring,)
    if isinstance(measuring, BoundOfficialPhotometry):
        # the rest waits until the file is complete: see stream_rows
        steps = (FirstPass(measuring),)
        if note := shelf_note(steps[0], prepared.request.scratch):
            observer.message(note)
    measured: dict[str, Any] = {
        "flux_unit": measuring.unit,
        "measurement_notes": (*_step_notes(run.slopes), *getattr(measuring, "notes", ())),
    }
    if prepared.exposure.info.is_spectroscopy:
        steps = _describe_spectra(run, measuring, measured)
        if hasattr(measuring, "settled"):
            steps = (measuring.settled(), *steps[1:])
    else:
        measured |= {
            name: getattr(measuring, name) for name in ("x", "y", "radius", "radius_inner", "radius_outer")
        }
        measured |= measuring.facts
        if sky := sky_tap(prepared, run.slopes.info, (measuring.x, measuring.y)):
            run.taps.append(sky)
    start = describe_start(prepared, run.scout, measured)
    schemas = _make_schemas(prepared, measuring, measured, encode_metadata(start))
    warm_up()
    steps, late = late_steps(steps)
    # every step has been bound with the images: they need not stay
    few = {name: one for name, one in run.slopes.templates.items() if name not in IMAGES}
    chain = Chain(run.rates, replace(run.slopes, templates=few), steps, measuring.keys)
    return Ready(prepared, run.scout, chain, start, *schemas, late, run.taps)


def _bind_images(prepared: Prepared, pool: ThreadPoolExecutor, observer: Observer) -> _Bound:
    """Find the templates, and bind the steps up to the calibrated images to them."""
    exposure, parity = prepared.exposure, prepared.request.parity is not None
    make_chain: Callable[[dict[str, Any]], RateChain] = prepared.chain
    if parity and exposure.info.is_ramp:
        # kernels of its own, which other runs need not wait for
        from tsostream.run.parity.rates import parity_rates

        official = parity_rates(prepared, pool, observer)
        make_chain = lambda _templates: official  # noqa: E731 - templates change nothing here
    began = time.perf_counter()
    scout = find_scout(prepared, make_chain, pool, observer)
    logger.info("scout: %d integrations in %.2f s", scout.count, time.perf_counter() - began)
    templates = {**scout.templates(), "wavelength": prepared.wavelengths, "slit": prepared.wavelength_facts}
    rates = make_chain(templates)
    templates |= prepared.background
    if parity:
        # steps that do what the official ones do to a file look at all of it
        bytes_of_block = prepared.request.block_bytes or prepared.plan.block_bytes
        templates["rates"] = slopes_again(exposure, rates, bytes_of_block)
    slopes = prepared.bind_slopes(rates, templates)
    templates = {key: value for key, value in slopes.templates.items() if key != "rates"}
    return _Bound(prepared, pool, observer, scout, rates, slopes, templates)


def _bind_measuring(run: _Bound) -> Any:
    """Bind the step that measures the images, and tell what is worth a note."""
    prepared, slopes = run.prepared, run.slopes
    notes = [f"{step.name} is skipped: {step.skipped}" for step in slopes.all if is_news(step)]
    notes += _step_notes(slopes)
    if run.parity and slopes.info.exp_type == "NIS_SOSS":
        from tsostream.run.parity.soss import soss_segments

        if files := soss_segments(prepared, run.rates, slopes, run.pool):
            run.templates["soss_segments"] = files
    if takes_overlap_out(prepared.config.operator("extract_1d"), prepared.references):
        run.observer.message("calibrating the overlap of the SOSS orders")
    if (place := source_place(prepared, slopes.info)) is not None:
        run.templates["source_location"] = place
    (measuring,) = prepared.bind_measurement(slopes, run.templates, MEASURING)
    if note := write_grid(prepared, measuring):
        notes.append(note)
    for note in dict.fromkeys([*notes, *getattr(measuring, "notes", ())]):
        if note not in prepared.notes:
            run.observer.message(note)
    return measuring


def _step_notes(slopes: SlopeSteps) -> list[str]:
    """Collect what the steps on slopes have to say of this exposure."""
    return [f"{step.name}: {note}" for step in slopes.all for note in getattr(step, "notes", ())]


def _describe_spectra(run: _Bound, measuring: Any, measured: dict[str, Any]) -> tuple[Any, ...]:
    """Bind the steps on spectra, and add to ``measured`` what the spectra are; returns all measuring steps."""
    prepared, slopes, templates = run.prepared, run.slopes, run.templates
    info = prepared.exposure.info
    templates |= scout_spectrum(measuring, templates)
    steps: tuple[Any, ...] = (measuring,)
    for name in (*SPECTRUM_CALIBRATION.get(info.exp_type, ()), "bin_spectra", "white_light"):
        for bound in prepared.bind_measurement(slopes, templates, (name,)):
            if given := getattr(bound, "templates", None):
                # the steps that follow have seen them: images as large as the frame, for every series
                templates |= given
                bound = replace(bound, templates={})
            measured["flux_unit"] = getattr(bound, "unit", measured["flux_unit"])
            steps += () if bound.skipped else (bound,)
    late_by = None
    if isinstance(run.rates, RateChain):
        late_by = ramp_shifts(prepared.exposure, run.rates, run.scout.numbers, prepared.request.on_error)
    times = effective_times(info, measuring, slopes.info, late_by)
    measured |= describe_spectrum(measuring, steps[-1], prepared, times)
    measured |= describe_bins(steps, measuring, times, run.observer)
    return steps


def _make_schemas(
    prepared: Prepared, measuring: Any, measured: dict[str, Any], metadata: dict[str, str]
) -> tuple[Any, Any, Any]:
    """Make the schemas of the light curve, the spectra and the bins; None for tables the run does not have."""
    spectroscopy = prepared.exposure.info.is_spectroscopy
    kind: Literal["spectroscopy", "imaging"] = "spectroscopy" if spectroscopy else "imaging"
    unit = measured["flux_unit"]
    spectra = bins = None
    if spectroscopy:
        spectra = spectra_schema(n_wave=np.shape(measuring.wavelength)[-1], flux_unit=unit, metadata=metadata)
    if "bin_edges" in measured:
        count = len(next(iter(measured["bin_edges"].values())))
        bins = bins_schema(n_bins=count, flux_unit=unit, metadata=metadata)
    return light_curve_schema(kind=kind, flux_unit=unit, metadata=metadata), spectra, bins

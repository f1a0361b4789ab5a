"""The run itself: reader, workers, rows, files. The only place where asyncio and threads meet.

Blocks are worked on side by side and put in order again; at most ``workers + 1`` of them are alive. What goes wrong
ends the output properly: everything written stays readable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tsostream.errors import IdleTimeoutError, TsoStreamError
from tsostream.files import SegmentFile, block_length, read_blocks
from tsostream.integration.payload import Measurement
from tsostream.operators.catalog import SPECTRUM_CALIBRATION
from tsostream.operators.jit import on_compile
from tsostream.operators.photometry.images import BoundOfficialPhotometry
from tsostream.records import (
    Batcher,
    Quality,
    RowPair,
    bins_schema,
    encode_metadata,
    light_curve_schema,
    slice_measurement,
    spectra_schema,
    warm_up,
)
from tsostream.run.background import slopes_again
from tsostream.run.chain import Chain, RateChain
from tsostream.run.coordinates import source_place
from tsostream.run.flow import Flow, first_to_read
from tsostream.run.following import followed_blocks
from tsostream.run.measured import attach_measured, sky_tap
from tsostream.run.measuring import describe_bins, describe_spectrum, late_steps, scout_spectrum
from tsostream.run.observer import Observer, Silent
from tsostream.run.parity.photometry import FirstPass, keep_segments, segment_start, shelf_note
from tsostream.run.parity.rates import parity_rates
from tsostream.run.parity.soss import soss_segments
from tsostream.run.prepared import Prepared
from tsostream.run.products import attach_products
from tsostream.run.provenance import describe_start
from tsostream.run.readout import effective_times, ramp_shifts
from tsostream.run.ready import Ready, Result
from tsostream.run.resume import (
    describe_sessions,
    open_session,
    rows_so_far,
    stored_scout,
)
from tsostream.run.scout import scout_path
from tsostream.run.setup import takes_overlap_out
from tsostream.run.slopes import is_news
from tsostream.run.templates import find_scout
from tsostream.sinks import Output, open_output
from tsostream.sinks.products import Resumed

__all__ = ["ready_to_stream", "run_exposure", "stream_batches"]

logger = logging.getLogger("tsostream")

MEASURING = ("extract_1d", "tso_photometry")
COMPILING = (
    "compiling kernels, once for this version and kind of exposure: a quarter of a minute on an idle machine, minutes "
    "on a busy one"
)


def ready_to_stream(prepared: Prepared, pool: ThreadPoolExecutor, observer: Observer) -> Ready:
    """Run the scout and bind all steps.

    Raises
    ------
    TsoStreamError
        Inputs that cannot be read, an exposure without a source, parameters that do not fit it.
    """
    exposure = prepared.exposure
    make_chain: Callable[[dict[str, Any]], RateChain] = prepared.chain
    if prepared.request.parity is not None and exposure.info.is_ramp:
        official = parity_rates(prepared, pool, observer)
        make_chain = lambda _templates: official  # noqa: E731 - templates change nothing here
    began = time.perf_counter()
    scout = find_scout(prepared, make_chain, pool, observer)
    logger.info("scout: %d integrations in %.2f s", scout.count, time.perf_counter() - began)
    templates = {**scout.templates(), "wavelength": prepared.wavelengths, "slit": prepared.wavelength_facts}
    rates = make_chain(templates)
    templates |= prepared.background
    if prepared.request.parity is not None:
        # steps that do what the official ones do to a file look at all of it
        bytes_of_block = prepared.request.block_bytes or prepared.plan.block_bytes
        templates["rates"] = slopes_again(exposure, rates, bytes_of_block)
    slopes = prepared.bind_slopes(rates, templates)
    notes = [f"{step.name} is skipped: {step.skipped}" for step in slopes.all if is_news(step)]
    notes += [f"{step.name}: {note}" for step in slopes.all for note in getattr(step, "notes", ())]
    templates = {key: value for key, value in slopes.templates.items() if key != "rates"}
    if prepared.request.parity is not None and (files := soss_segments(prepared, rates, slopes, pool)):
        templates["soss_segments"] = files
    if takes_overlap_out(prepared.config.operator("extract_1d"), prepared.references):
        observer.message("calibrating the overlap of the SOSS orders")
    if (place := source_place(prepared, slopes.info)) is not None:
        templates["source_location"] = place
    (measuring,) = prepared.bind_measurement(slopes, templates, MEASURING)
    for note in dict.fromkeys([*notes, *getattr(measuring, "notes", ())]):
        if note not in prepared.notes:
            observer.message(note)
    steps: tuple[Any, ...] = (measuring,)
    sky = None
    if isinstance(measuring, BoundOfficialPhotometry):
        # the rest waits until the file is complete: see stream_rows
        steps = (FirstPass(measuring),)
        if note := shelf_note(steps[0], prepared.request.scratch):
            observer.message(note)
    measured: dict[str, Any] = {
        "flux_unit": measuring.unit,
        "measurement_notes": getattr(measuring, "notes", ()),
    }
    if exposure.info.is_spectroscopy:
        templates |= scout_spectrum(measuring, templates)
        for name in (*SPECTRUM_CALIBRATION.get(exposure.info.exp_type, ()), "bin_spectra", "white_light"):
            for bound in prepared.bind_measurement(slopes, templates, (name,)):
                templates |= getattr(bound, "templates", {})
                measured["flux_unit"] = getattr(bound, "unit", measured["flux_unit"])
                steps += () if bound.skipped else (bound,)
        on_error = prepared.request.on_error
        late_by = (
            ramp_shifts(exposure, rates, scout.numbers, on_error) if isinstance(rates, RateChain) else None
        )
        times = effective_times(exposure.info, measuring, slopes.info, late_by)
        measured |= describe_spectrum(measuring, steps[-1], prepared, times)
        measured |= describe_bins(steps, measuring, times, observer)
    else:
        measured |= {
            name: getattr(measuring, name) for name in ("x", "y", "radius", "radius_inner", "radius_outer")
        }
        measured |= measuring.facts
        sky = sky_tap(prepared, slopes.info, (measuring.x, measuring.y))
    keys = measuring.keys
    start = describe_start(prepared, scout, measured)
    metadata = encode_metadata(start)
    kind: Literal["spectroscopy", "imaging"] = "spectroscopy" if exposure.info.is_spectroscopy else "imaging"
    unit = measured["flux_unit"]
    lc_schema = light_curve_schema(kind=kind, flux_unit=unit, metadata=metadata)
    spectra = bins = None
    if exposure.info.is_spectroscopy:
        spectra = spectra_schema(n_wave=np.shape(measuring.wavelength)[-1], flux_unit=unit, metadata=metadata)
    if "bin_edges" in measured:
        count = len(next(iter(measured["bin_edges"].values())))
        bins = bins_schema(n_bins=count, flux_unit=unit, metadata=metadata)
    warm_up()
    steps, late = late_steps(steps)
    chain = Chain(rates, slopes, steps, keys)
    return Ready(prepared, scout, chain, start, lc_schema, spectra, bins, late, [sky] if sky else [])


def stream_rows(
    ready: Ready, pool: ThreadPoolExecutor, start: int | None = None
) -> AsyncIterator[Measurement]:
    """Measure the exposure block by block, in order.

    Parameters
    ----------
    ready
        The bound run.
    pool
        Its workers.
    start
        First integration wanted, default the first one there is. As many before it are read as windows look back.
    """
    prepared = ready.prepared
    exposure, plan = prepared.exposure, prepared.plan
    begin = exposure.first if start is None else first_to_read(ready.chain.window, exposure.first, start)
    options: dict[str, Any] = {
        "block_bytes": prepared.request.block_bytes or plan.block_bytes,
        "read_ahead": plan.read_ahead,
        "on_error": prepared.request.on_error,
    }
    history = max(exposure.first, begin - ready.chain.rates.before)
    if prepared.arrivals is not None:
        after = 0 if ready.chain.window is None else ready.chain.window.after
        blocks = followed_blocks(exposure, prepared.arrivals, (history, begin), after=after, **options)
    else:
        ranges = [(begin, exposure.last - begin + 1)]
        if history < begin:
            ranges.insert(0, (history, begin - history))
        blocks = read_blocks(exposure, ranges=ranges, **options)
    length = block_length(exposure, block_bytes=prepared.request.block_bytes or plan.block_bytes)
    flow = Flow(ready.chain, pool, plan.workers, min(length, exposure.count), start, begin)
    if isinstance(step := ready.chain.measuring[0], FirstPass):
        return keep_segments(flow.measure(blocks), step.photometry, prepared.request.scratch)
    return flow.measure(blocks)


async def run_exposure(
    prepared: Prepared, observer: Observer | None = None, on_rows: Callable[[RowPair], None] | None = None
) -> Result:
    """Process one exposure into its output files.

    Raises
    ------
    TsoStreamError
        The output is ended with status ``failed`` first; what was written stays.
    asyncio.CancelledError
        Likewise with status ``interrupted``.
    """
    observer = observer or Silent()
    if prepared.out is None:
        raise ValueError("the run has no output")
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    if prepared.state == "complete":
        return _already_complete(prepared, prepared.out, observer)
    with (
        ThreadPoolExecutor(prepared.plan.workers, thread_name_prefix="tsostream") as pool,
        ExitStack() as stack,
    ):
        claim = Output.claim(prepared.out)
        try:
            with on_compile(lambda: observer.message(COMPILING)):
                ready = await asyncio.to_thread(ready_to_stream, prepared, pool, observer)
            output, following = open_session(ready, claim)
        except BaseException:
            claim.close(remove=claim.is_new)
            raise
        stack.callback(output.abort)
        seconds["scout"] = time.perf_counter() - began
        first = prepared.exposure.first
        resumed = None if prepared.state == "new" else Resumed(following or first, output.publishing)
        products = stack.enter_context(
            attach_products(prepared, ready.chain, resumed, overwrite=output.replaces_products)
        )
        step = ready.chain.measuring[0]
        measured = stack.enter_context(
            attach_measured(prepared, ready.start, ready.chain, resumed, overwrite=output.replaces_products)
        )
        made = [*products.paths, *measured.paths]
        if measured.paths:
            ready.taps.append(measured.add)

        def sync() -> None:
            products.sync()
            measured.sync()

        output.before_sync = sync
        if (arrivals := prepared.arrivals) is not None:

            def take(segment: SegmentFile) -> None:
                output.add_input(segment.source_path.name, [segment.size, segment.header_sha256])
                products.know_segment(segment)
                measured.know_segment(segment.first, segment.segment_number)
                made.extend(path for path in products.paths if path not in made)

            stack.callback(arrivals.folder.close)
            arrivals.on_segment, arrivals.report = take, observer.message
            arrivals.folder.tell(observer.message)
        status, facts = "failed", _Facts()
        try:
            output.start()
            if stored_scout(prepared) is None:
                ready.scout.save(scout_path(prepared.out))
            began = time.perf_counter()
            begin = min(filter(None, (products.start, segment_start(step, following))), default=None)
            await _write(_Run(ready, pool, output, observer, facts, on_rows, following, begin))
            if made:
                output.announce_products()
                products.publish()
                measured.publish()
            status = "complete"
        except (asyncio.CancelledError, IdleTimeoutError):
            status = "interrupted"
            raise
        finally:
            seconds["stream"] = time.perf_counter() - began
            footer = {
                **facts.describe(ready, seconds),
                **describe_sessions(prepared.out),
                **({} if arrivals is None else arrivals.describe()),
                "products": sorted(path.name for path in made),
            }
            try:
                output.finish(status, footer)  # type: ignore[arg-type]
            except TsoStreamError:
                # the first failure is the one to report; rows and journal are on disk
                if status == "complete":
                    raise
    _log_steps(ready)
    for line in footer.get("warnings", []):
        observer.message(line)
    if made:
        observer.message(f"{len(made)} products in {made[0].parent}")
    return Result(prepared.out, facts.integrations, status, seconds, {**ready.start, **footer}, made)


def _already_complete(prepared: Prepared, out: Path, observer: Observer) -> Result:
    """Say that there is nothing left to do."""
    observer.message(f"{out} is complete already: nothing to resume")
    metadata = open_output(out).metadata
    products = [] if prepared.products is None else [one.path for one in prepared.products.all]
    return Result(out, int(metadata.get("rows", 0)), "complete", {}, metadata, products)


@dataclass
class _Run:
    """What writing rows needs to know."""

    ready: Ready
    pool: ThreadPoolExecutor
    output: Output
    observer: Observer
    facts: _Facts
    on_rows: Callable[[RowPair], None] | None
    following: int | None
    start: int | None


async def _write(run: _Run) -> None:
    """Commit every batch, after counting those of earlier sessions."""
    exposure, observer, facts = run.ready.prepared.exposure, run.observer, run.facts
    observer.begin("stream", exposure.last - exposure.first + 1)
    if run.following is not None:
        for pair in rows_so_far(run.output.path):
            facts.add(pair)
        observer.advance(facts.integrations, None)
        observer.message(f"resumed: {run.output.path} holds integrations up to {run.following - 1}")
        if run.following > exposure.last:
            return
    pairs = stream_batches(run.ready, run.pool, run.following, run.start)
    async with aclosing(pairs):  # type: ignore[type-var]
        async for pair in pairs:
            run.output.commit(*pair)
            facts.add(pair)
            observer.advance(facts.integrations, pair)
            if run.on_rows is not None:
                run.on_rows(pair)


async def stream_batches(
    ready: Ready, pool: ThreadPoolExecutor, following: int | None = None, start: int | None = None
) -> AsyncIterator[RowPair]:
    """Collect rows into batches, which close when they are full or have waited long enough.

    Parameters
    ----------
    ready, pool
        The run and its workers.
    following
        First integration whose rows are wanted; default the first there is.
    start
        First integration to work on, not behind ``following``; default that one.

    Yields
    ------
    RowPair
        Batches of the light curve and of the spectra, in integration order.
    """
    info = ready.prepared.exposure.info
    batcher = Batcher(
        exposure_id=info.exposure_id,
        detector=info.detector,
        lc_schema=ready.lc_schema,
        spectra_schema=ready.spectra_schema,
        bins_schema=ready.bins_schema,
    )
    begin = following if start is None else start
    if begin is not None and ready.late:
        begin = min(begin, ready.late[0].begin_of(begin))
    rows = stream_rows(ready, pool, begin)
    coming: asyncio.Future[Measurement | None] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(rows, None))
            done, _ = await asyncio.wait({coming}, timeout=batcher.due())
            if not done:
                # the next block is slow: rows that wait must not wait with it
                for pair in batcher.flush():
                    yield pair
                continue
            ended, coming = coming, None
            if ended.exception() is not None:
                for pair in batcher.flush():
                    yield pair
            measurement = ended.result()
            if measurement is None:
                break
            for step in ready.late:
                (measurement,) = step.push(measurement)
            if following is not None and measurement.first < following:
                before = min(following - measurement.first, measurement.count)
                measurement = slice_measurement(measurement, before, measurement.count)
                if not measurement.count:
                    continue
            for tap in ready.taps:
                tap(measurement)
            for pair in batcher.push(measurement):
                yield pair
        for pair in batcher.flush():
            yield pair
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await rows.aclose()  # type: ignore[attr-defined]


class _Facts:
    """Running counts, for the footer; constant memory."""

    def __init__(self) -> None:
        self.rows = 0
        self.integrations = 0
        self.missing = 0
        self.bad_rows = 0
        self.flags = 0
        self.unreadable = 0
        self._unreadable_first: list[int] = []
        self._tail: deque[tuple[float, float]] = deque(maxlen=4096)
        self._head: list[tuple[float, float]] = []

    def add(self, pair: RowPair) -> None:
        """Count a batch."""
        self.rows += pair.light_curve.num_rows
        # what is told of integrations is that of their first series
        batch = pair.main
        self.integrations += batch.num_rows
        self.missing += batch.num_rows - int(
            np.count_nonzero(batch.column("present").to_numpy(zero_copy_only=False))
        )
        failed = (batch.column("quality").to_numpy() & int(Quality.READ_FAILED)) != 0
        if failed.any():
            numbers = np.unique(batch.column("integration").to_numpy()[failed]).tolist()
            self.unreadable += len(numbers)
            self._unreadable_first += numbers[: 10 - len(self._unreadable_first)]
        flux = batch.column("flux").to_numpy()
        self.bad_rows += int(np.count_nonzero(~np.isfinite(flux)))
        self.flags |= int(np.bitwise_or.reduce(batch.column("time_flag").to_numpy(), initial=0))
        pairs = list(
            zip(batch.column("x").to_numpy().tolist(), batch.column("y").to_numpy().tolist(), strict=True)
        )
        self._tail.extend(pairs)
        if len(self._head) < 4096:
            self._head.extend(pairs)

    def describe(self, ready: Ready, seconds: dict[str, float]) -> dict[str, Any]:
        """Metadata known at the end."""
        warnings = []
        if self.integrations:
            warnings = self._drift()
        if self.unreadable:
            listed = ", ".join(map(str, self._unreadable_first)) + (", …" if self.unreadable > 10 else "")
            one = self.unreadable == 1
            warnings.append(
                f"{self.unreadable} integration{' was' if one else 's were'} not readable (READ_FAILED): {listed}"
            )
        if self.bad_rows > self.missing:
            warnings.append(
                f"{self.bad_rows - self.missing} integrations have no flux (NaN); see their quality bits"
            )
        return {
            "rows": self.rows,
            "missing_integrations": self.missing,
            "rows_without_flux": self.bad_rows,
            "time_flags_seen": self.flags,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "step_seconds": {name: round(value, 3) for name, value in ready.chain.step_seconds().items()},
            "warnings": warnings,
        }

    def _drift(self) -> list[str]:
        """Compare the source's position in the last tenth with the run so far (templates hold for one place)."""
        last = np.array(list(self._tail)[-max(1, min(self.integrations // 10, 4096)) :])
        first = np.array(self._head[: max(1, min(self.integrations // 2, 4096))])
        lines = []
        for axis, name in enumerate("xy"):
            a, b = first[:, axis], last[:, axis]
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            if len(a) < 5 or len(b) < 5:
                continue
            error = np.hypot(np.std(a) / np.sqrt(len(a)), np.std(b) / np.sqrt(len(b)))
            moved = abs(float(np.mean(b) - np.mean(a)))
            if moved > 3 * error and moved > 0.02:
                lines.append(
                    f"the source moved by {moved:.3f} px along {name} between the first half and the last tenth of the "
                    "run: the scout's template is of the mean position"
                )
        return lines


def _log_steps(ready: Ready) -> None:
    for operator in ready.prepared.config.operators:
        shown = ", ".join(
            f"{name}={value}" for name, value in operator.parameters().items() if name != "skip"
        )
        logger.info("step %s: %s", operator.name, shown or "no parameters")
    for name, spent in ready.chain.step_seconds().items():
        logger.info("time %s: %.3f s of worker time", name, spent)

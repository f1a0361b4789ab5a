"""The run itself: reader, workers, rows, files. The only place where asyncio and threads meet.

Blocks are worked on side by side and put in order again; at most ``workers + 1`` of them are alive. What goes wrong
ends the output properly: everything written stays readable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsostream.errors import IdleTimeoutError, TsoStreamError
from tsostream.files import SegmentFile, block_length, read_blocks
from tsostream.integration.payload import Measurement
from tsostream.operators.jit import on_compile
from tsostream.records import Batcher, RowPair, RowSchemas, slice_measurement
from tsostream.run.binding import ready_to_stream
from tsostream.run.facts import Facts
from tsostream.run.flow import Flow, first_to_read
from tsostream.run.following import followed_blocks
from tsostream.run.freed import give_back, let_references_go
from tsostream.run.measured import attach_measured
from tsostream.run.observer import Observer, Silent
from tsostream.run.parity.photometry import FirstPass, keep_segments, segment_start
from tsostream.run.prepared import Prepared
from tsostream.run.products import attach_products
from tsostream.run.ready import Ready, Result
from tsostream.run.resume import describe_sessions, open_session, rows_so_far, stored_scout
from tsostream.run.scout import scout_path
from tsostream.sinks import Output, open_output
from tsostream.sinks.products import Resumed

__all__ = ["ready_to_stream", "run_exposure", "stream_batches"]

logger = logging.getLogger("tsostream")

COMPILING = (
    "compiling kernels, once for this version and kind of exposure: a minute or two on an idle machine, more on a "
    "busy one"
)


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
    if prepared.request.parity is None:
        let_references_go(prepared.references, prepared.exposure.info)
    give_back()
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
        run = _Run(ready, pool, output, observer, Facts(), on_rows, following)
        run.seconds["scout"] = time.perf_counter() - began
        made = _attach(run, stack)
        footer = await _stream(run, made)
    _log_steps(ready)
    for line in footer.get("warnings", []):
        observer.message(line)
    if made.paths:
        observer.message(f"{len(made.paths)} products in {made.paths[0].parent}")
    metadata = {**ready.start, **footer}
    return Result(prepared.out, run.facts.integrations, "complete", run.seconds, metadata, made.paths)


@dataclass
class _Made:
    """Files that are made beside the output: FITS products of images, and those of what was measured."""

    images: Any
    measured: Any
    paths: list[Path]
    start: int | None

    def sync(self) -> None:
        """Bring to the medium what was written."""
        self.images.sync()
        self.measured.sync()

    def publish(self) -> None:
        """Give the files their names."""
        self.images.publish()
        self.measured.publish()


def _attach(run: _Run, stack: ExitStack) -> _Made:
    """Open the products, and let them know of files that are still to arrive."""
    ready, output, following = run.ready, run.output, run.following
    prepared = ready.prepared
    resumed = None
    if prepared.state != "new":
        resumed = Resumed(following or prepared.exposure.first, output.publishing)
    replaces = output.replaces_products
    products = stack.enter_context(attach_products(prepared, ready.chain, resumed, overwrite=replaces))
    step = ready.chain.measuring[0]
    measured = stack.enter_context(
        attach_measured(prepared, ready.start, ready.chain, resumed, overwrite=replaces)
    )
    if measured.paths:
        ready.taps.append(measured.add)
    begin = min(filter(None, (products.start, segment_start(step, following))), default=None)
    made = _Made(products, measured, [*products.paths, *measured.paths], begin)
    output.before_sync = made.sync
    if (arrivals := prepared.arrivals) is not None:

        def take(segment: SegmentFile) -> None:
            output.add_input(segment.source_path.name, [segment.size, segment.header_sha256])
            products.know_segment(segment)
            measured.know_segment(segment.first, segment.segment_number)
            made.paths.extend(path for path in products.paths if path not in made.paths)

        stack.callback(arrivals.folder.close)
        arrivals.on_segment, arrivals.report = take, run.observer.message
        arrivals.folder.tell(run.observer.message)
    return made


async def _stream(run: _Run, made: _Made) -> dict[str, Any]:
    """Write all rows, end the output whatever happens, and return its footer."""
    prepared, output = run.ready.prepared, run.output
    arrivals = prepared.arrivals
    began = time.perf_counter()
    status = "failed"
    try:
        output.start()
        if stored_scout(prepared) is None:
            run.ready.scout.save(scout_path(output.path))
        began = time.perf_counter()
        await _write(run, made.start)
        if made.paths:
            output.announce_products()
            made.publish()
        status = "complete"
    except (asyncio.CancelledError, IdleTimeoutError):
        status = "interrupted"
        raise
    finally:
        run.seconds["stream"] = time.perf_counter() - began
        footer = {
            **run.facts.describe(run.ready, run.seconds),
            **describe_sessions(output.path),
            **({} if arrivals is None else arrivals.describe()),
            "products": sorted(path.name for path in made.paths),
        }
        try:
            output.finish(status, footer)  # type: ignore[arg-type]
        except TsoStreamError:
            # the first failure is the one to report; rows and journal are on disk
            if status == "complete":
                raise
    return footer


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
    facts: Facts
    on_rows: Callable[[RowPair], None] | None
    following: int | None
    seconds: dict[str, float] = field(default_factory=dict)


async def _write(run: _Run, start: int | None) -> None:
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
    pairs = stream_batches(run.ready, run.pool, run.following, start)
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
        RowSchemas(info.exposure_id, info.detector, ready.lc_schema, ready.spectra_schema, ready.bins_schema)
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


def _log_steps(ready: Ready) -> None:
    for operator in ready.prepared.config.operators:
        shown = ", ".join(
            f"{name}={value}" for name, value in operator.parameters().items() if name != "skip"
        )
        logger.info("step %s: %s", operator.name, shown or "no parameters")
    for name, spent in ready.chain.step_seconds().items():
        logger.info("time %s: %.3f s of worker time", name, spent)

"""The Python face of the command line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tsostream.records import RowPair
from tsostream.run.observer import Observer, Silent
from tsostream.run.prepared import Prepared
from tsostream.run.ready import Result
from tsostream.run.request import Request, position_setting
from tsostream.run.setup import prepare_all
from tsostream.run.stream import ready_to_stream, run_exposure, stream_batches

__all__ = ["process", "run_request", "run_together", "stream"]


def _request(inputs: str | Path | Sequence[str | Path], out: Path | None, options: dict[str, Any]) -> Request:
    many = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    for name in ("settings", "skip_steps", "overrides", "pars", "products", "save_steps"):
        if options.get(name) is not None:
            one = isinstance(options[name], str)
            options[name] = (options[name],) if one else tuple(options[name])
    for name in ("refs_dir", "wavelengths", "lock", "products_dir", "scratch"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    position = options.pop("position", None)
    if position is not None:
        options["settings"] = (*options.get("settings", ()), position_setting(position))
    return Request(inputs=tuple(many), out=out, **options)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run in this thread, or, where a loop is running already (a notebook), in one of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    box: dict[str, Any] = {}

    def target() -> None:
        try:
            box["value"] = asyncio.run(coroutine)
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=target, name="tsostream-loop")
    thread.start()
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["value"]


async def run_request(request: Request, observer: Observer | None = None) -> list[Result]:
    """Process all exposures of a request, one after the other, or side by side where their segments still arrive."""
    runs = await _prepared(request, observer)
    if request.follow:
        return list(await run_together([run_exposure(prepared, observer) for prepared in runs]))
    return [await run_exposure(prepared, observer) for prepared in runs]


async def run_together(runs: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run side by side; one that fails does not stop the others, and the first failure is raised at the end."""
    done = await asyncio.gather(*runs, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if isinstance(result, Result)]


async def _prepared(request: Request, observer: Observer | None = None) -> list[Prepared]:
    """Prepare without blocking the loop where segments are waited for."""
    if not request.follow:
        return prepare_all(request)
    stop = threading.Event()
    try:
        return await asyncio.to_thread(prepare_all, request, stop=stop, say=(observer or Silent()).message)
    finally:
        stop.set()


def process(inputs: str | Path | Sequence[str | Path], out: str | Path, **options: Any) -> list[Path]:
    """Reduce exposures into light curves and spectra.

    Parameters
    ----------
    inputs
        Segment files, a directory, or an association.
    out
        The light curve to write; several exposures or detectors make one each (``lc.nrs1.arrow``, …).
    **options
        ``position`` of the source of an image (``[x, y]``), and fields of `tsostream.run.setup.Request`:
        ``config, settings, skip_steps, refs_dir, overrides, wavelengths,
        scout, level, allow_gaps, workers, max_memory, overwrite, hash_inputs, products, products_dir, save_steps,
        save_ints, parity, scratch, resume, follow, idle_timeout, on_error``.

    Returns
    -------
    list of Path
        The light curves, to be read with `tsostream.open`.

    Raises
    ------
    TsoStreamError
        See `tsostream.errors`.
    """
    results = _run(run_request(_request(inputs, Path(out), options)))
    return [result.out for result in results]


async def stream(inputs: str | Path | Sequence[str | Path], **options: Any) -> AsyncIterator[RowPair]:
    """Hand out the record batches of one exposure while they are made; nothing is written.

    Parameters
    ----------
    inputs, **options
        As for `process`; with ``follow=True``, rows come as the segments of a directory do.

    Yields
    ------
    RowPair
        ``light_curve`` and ``spectra`` (None for images), in integration order.

    Raises
    ------
    InputError
        Also when the inputs hold more than one exposure: give them one at a time.
    """
    from tsostream.errors import InputError

    runs = await _prepared(_request(inputs, None, options))
    if len(runs) != 1:
        raise InputError(f"the inputs hold {len(runs)} exposures; stream() takes one at a time")
    with ThreadPoolExecutor(runs[0].plan.workers, thread_name_prefix="tsostream") as pool:
        ready = await asyncio.to_thread(ready_to_stream, runs[0], pool, Silent())
        pairs = stream_batches(ready, pool)
        async with aclosing(pairs):  # type: ignore[type-var]
            async for pair in pairs:
                yield pair

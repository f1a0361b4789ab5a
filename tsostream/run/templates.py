"""Where the templates of a run come from: the run it goes on with, a file, or the scout."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.run.observer import Observer
from tsostream.run.prepared import Prepared
from tsostream.run.ramps import RateChain
from tsostream.run.resume import scout_integrations, stored_scout
from tsostream.run.scout import Scout, first_numbers, load_scout, scout_numbers
from tsostream.run.scouting import UnreadableError, run_scout

__all__ = ["find_scout"]


def find_scout(
    prepared: Prepared, make_chain: Callable[[dict[str, Any]], RateChain], pool: Executor, observer: Observer
) -> Scout:
    """Take the templates that are there, or make them.

    Integrations that cannot be read are left out with ``--on-error flag``; those that take their place are none.

    Raises
    ------
    TsoStreamError
        Inputs that cannot be read, an exposure without a source.
    """
    exposure, request = prepared.exposure, prepared.request
    stored = stored_scout(prepared)
    if stored is not None:
        return stored
    if prepared.scout.kind == "file" and prepared.scout.path is not None:
        return load_scout(prepared.scout.path, exposure.info.frame_shape)
    numbers = scout_integrations(prepared) or scout_numbers(prepared.scout, exposure)
    first_image = exposure.info.is_ramp and request.parity is None
    while numbers:
        observer.begin("scout", len(numbers) + len(first_numbers(numbers)) * first_image)
        try:
            return run_scout(
                exposure,
                numbers,
                make_chain,
                pool,
                workers=prepared.plan.workers,
                block_bytes=request.block_bytes or prepared.plan.block_bytes,
                first_image=first_image,
                on_error=request.on_error,
                progress=lambda done, total: observer.advance(done, None),
            )
        except UnreadableError as error:
            lost = set(error.numbers)
            observer.message(f"the scout leaves out integrations that cannot be read: {sorted(lost)}")
            numbers = [number for number in numbers if number not in lost]
    what = "none of the integrations the scout wants can be read"
    raise InputError(Problem(what, exposure.label, "fetch the files again", "unreadable"))

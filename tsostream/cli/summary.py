"""What is said of a run when it is over, or got as far as it did."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from tsostream.cli.meter import peak_bytes
from tsostream.live.figures import COUNTS, duration, main_rows, noise
from tsostream.records import column_values
from tsostream.sinks import open_output

if TYPE_CHECKING:
    from pathlib import Path

    from tsostream.cli.watching import Watcher
    from tsostream.run.prepared import Prepared
    from tsostream.run.ready import Result

__all__ = ["AllRows", "how_far", "log_counts", "look_at_rows", "summarise"]

logger = logging.getLogger("tsostream")


def how_far(prepared: Prepared, watcher: Watcher) -> str:
    """Say what there is after a run that did not reach its end."""
    meter, exposure = watcher.meter, prepared.exposure
    if meter.stage != "stream":
        return "nothing was written yet"
    total = exposure.last - exposure.first + 1
    if meter.rows == 0:
        return f"{prepared.out} holds no rows yet"
    return (
        f"{prepared.out} holds {meter.rows} of {total} integrations, readable as they are; "
        "the same command with --resume goes on"
    )


def summarise(result: Result, watcher: Watcher, rows: AllRows) -> str:
    """Say in one line how a run went: of all its rows, also those of earlier sessions."""
    meter, scatter = watcher.meter, rows.scatter
    seconds = result.seconds.get("stream", 0.0)
    done = f"{result.integrations} integrations"
    if meter.resumed:
        done += f", {meter.resumed} of them there before, the others"
    parts = [f"{done} in {duration(sum(result.seconds.values()))}"]
    if seconds > 0 and (new := result.integrations - meter.resumed):
        rate = new / seconds
        parts.append(f"{rate:.0f}/s, {rate * meter.bytes_per_integration / 1e6:.0f} MB/s")
    parts.append(
        f"scatter {scatter:.0f} ppm from point to point (own errors {rows.own_error:.0f})"
        if scatter == scatter
        else ""
    )
    parts.append(" ".join(f"{name} {count}" for name, count in rows.counts.items() if count))
    peak = peak_bytes()
    parts.append(f"peak memory {peak / 1e6:.0f} MB" if peak else "")
    return "done: " + "; ".join(part for part in parts if part)


class AllRows(NamedTuple):
    """What all rows of an output say: counts, and scatter and own error of the flux [ppm]."""

    counts: dict[str, int]
    scatter: float
    own_error: float


def look_at_rows(path: Path) -> AllRows:
    """Sum up all rows of an output."""
    import numpy as np

    counts = dict.fromkeys(COUNTS, 0)
    flux, error = [np.empty(0)], [np.empty(0)]
    for batch in open_output(path).batches():
        main = main_rows(batch)
        for name in COUNTS:
            counts[name] += int(column_values(batch, name).sum())
        flux.append(column_values(batch, "flux")[main])
        error.append(column_values(batch, "flux_err")[main])
    return AllRows(counts, *noise(np.concatenate(flux), np.concatenate(error)))


def log_counts(result: Result, rows: AllRows) -> None:
    """Log what the steps found and how long they took."""
    logger.info(
        "counts in the source aperture, all rows: %s",
        ", ".join(f"{name}={count}" for name, count in rows.counts.items()),
    )
    facts = {
        name: result.metadata.get(name, 0)
        for name in ("missing_integrations", "rows_without_flux", "time_flags_seen")
    }
    logger.info(
        "rows: %d; %s", result.integrations, ", ".join(f"{name}={value}" for name, value in facts.items())
    )
    logger.info("seconds: %s", ", ".join(f"{name} {value:.2f}" for name, value in result.seconds.items()))

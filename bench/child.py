"""One run in a process of its own, measured from inside: ``python -m bench.child JOB``, answers in JSON.

``JOB`` is a JSON object: ``launched`` (time.time() of who started it), ``segments, references, wavelengths, out,
workers, cores, max_memory, block_bytes, calibrated, products, parity, settings, timeline, again``.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["high_water"]


def high_water() -> int:
    """Peak resident memory of this process [bytes]; unlike getrusage it does not begin with the parent's."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match.group(1)) * 1024 if match else 0


def main() -> None:
    """Run the job."""
    from tsostream.__main__ import BETWEEN_COLLECTIONS

    gc.set_threshold(BETWEEN_COLLECTIONS)  # as the command does
    job = json.loads(sys.argv[1])
    if job.get("cores"):
        os.sched_setaffinity(0, range(job["cores"]))
    marks: dict[str, float] = {"interpreter": time.time() - job["launched"]}

    def mark(name: str) -> None:
        marks.setdefault(name, time.time() - job["launched"])

    import asyncio

    from tsostream.run.observer import Silent
    from tsostream.run.request import Request
    from tsostream.run.setup import prepare_all
    from tsostream.run.stream import run_exposure

    mark("imported")
    floor = high_water()
    wavelengths = job.get("wavelengths")
    request = Request(
        inputs=tuple(job["segments"]),
        out=Path(job["out"]),
        refs_dir=Path(job["references"]),
        wavelengths=Path(wavelengths) if wavelengths else None,
        workers=job.get("workers"),
        max_memory=job.get("max_memory"),
        block_bytes=job.get("block_bytes"),
        overwrite=True,
        calibrated=job.get("calibrated", False),
        products=tuple(job.get("products", ())),
        parity=job.get("parity"),
        settings=tuple(job.get("settings", ())),
    )
    (prepared,) = prepare_all(request)
    mark("prepared")

    class Watch(Silent):
        def begin(self, stage: str, total: int) -> None:
            mark(stage)

    # last integration of each batch, the time, and the processor time so far
    times: list[tuple[int, float, float]] = []

    def rows(pair: Any) -> None:
        mark("first_row")
        times.append((pair.light_curve["integration"][-1].as_py(), time.time(), time.process_time()))

    result = asyncio.run(run_exposure(prepared, Watch(), rows))
    mark("end")
    plan = prepared.plan
    parts = ("program", "buffers", "references", "workspaces", "blocks", "window", "scout", "rows")
    answer = {
        "marks": marks,
        "integrations": result.integrations,
        "seconds": result.seconds,
        "step_seconds": result.metadata["step_seconds"],
        "floor": floor,
        "peak": high_water(),
        "plan": plan.total,
        "plan_parts": {name: getattr(plan, name) for name in parts},
        "workers": plan.workers,
        "block_integrations": plan.block_integrations,
        "tenths": _tenths(times, 1),
        "processor_tenths": _tenths(times, 2),
        "timeline": times if job.get("timeline") else [],
    }
    if job.get("again"):
        (prepared,) = prepare_all(request)
        again = asyncio.run(run_exposure(prepared, Silent()))
        answer["again_step_seconds"] = again.metadata["step_seconds"]
    print(json.dumps(answer))


def _tenths(times: list[tuple[int, float, float]], clock: int) -> list[float]:
    """Seconds per integration in each tenth of the run, by one of its clocks."""
    if len(times) < 20:
        return []
    size = len(times) // 10
    edges = [times[min(k * size, len(times) - 1)] for k in range(11)]
    return [(b[clock] - a[clock]) / max(b[0] - a[0], 1) for a, b in pairwise(edges)]


if __name__ == "__main__":
    main()

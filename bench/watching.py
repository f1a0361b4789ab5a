"""What it costs a run to be watched: ``python -m bench.watching``.

The same run by itself, with ``tail``, with ``live`` and somebody who listens to its events and asks for what a page
asks for, and by itself again, in turn. What counts is the user time of the run: wall time on a busy machine tells
nothing. The cost is the median over the rounds of watched to alone in the same round; the same of alone to alone says
how far that can be believed. What the watchers use themselves is told beside it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Case, Data, make_data, tiny
from bench.measure import ROOT, make_parser, run_child, scratch_folder, table, write_results

__all__ = ["main", "measure"]


def _seconds(who: int) -> float:
    return resource.getrusage(who).ru_utime


def _start(*arguments: str) -> tuple[subprocess.Popen[bytes], Any]:
    """Start a command; returns it and what it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tsostream", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    return process, process.stdout


@contextmanager
def nobody(out: Path) -> Iterator[None]:
    """Nobody watches."""
    yield


@contextmanager
def tail(out: Path) -> Iterator[None]:
    """Somebody follows the rows."""
    process, said = _start("tail", str(out), "--wait", "--json")
    reader = threading.Thread(target=said.read)
    reader.start()
    try:
        yield
        process.wait(timeout=60)
    finally:
        process.kill()
        reader.join()
        process.wait()


@contextmanager
def page(out: Path) -> Iterator[None]:
    """Somebody looks at the page: at every event it asks for light curve and picture."""
    process, said = _start("live", str(out), "--port", "0")
    address = said.readline().decode().strip()

    def look() -> None:
        with suppress(OSError), urllib.request.urlopen(f"{address}events", timeout=60) as events:
            for line in events:
                if line.startswith(b"data:"):
                    for what in ("series?points=1500", "picture?points=900"):
                        urllib.request.urlopen(f"{address}api/{what}", timeout=60).read()

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        reader.join()


WATCHERS: dict[str, Callable[[Path], Any]] = {"alone": nobody, "tail": tail, "live": page, "again": nobody}


def _run(data: Data, out: Path, watcher: Callable[[Path], Any]) -> tuple[float, float]:
    """Processor seconds of the run, and of who watched."""
    for path in out.parent.glob(f"{out.stem}.*"):
        path.unlink()
    before = _seconds(resource.RUSAGE_CHILDREN)
    with watcher(out):
        # children count when they are waited for: of the two only the run has been by now
        run_child(data, out)
        run = _seconds(resource.RUSAGE_CHILDREN) - before
        time.sleep(0.3)
    return run, _seconds(resource.RUSAGE_CHILDREN) - before - run


def measure(case: Case, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    data = make_data(case, scratch)
    (scratch / "watched").mkdir(exist_ok=True)
    out = scratch / "watched" / "lc.arrow"
    run_child(data, out)  # compiles
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in WATCHERS}
    for number in range(rounds):
        # each in every place: who comes first may find the machine in another state
        names = list(WATCHERS)
        for name in names[number % 4 :] + names[: number % 4]:
            used[name].append(_run(data, out, WATCHERS[name]))
    runs = {name: [run for run, _ in seconds] for name, seconds in used.items()}
    row: dict[str, Any] = {
        "case": case.name,
        "shape": case.shape,
        "rounds": rounds,
        "alone s": median(runs["alone"]),
    }
    for name in ("tail", "live", "again"):
        ratios = [run / alone for run, alone in zip(runs[name], runs["alone"], strict=True)]
        row[f"{name} costs %"] = 100 * (median(ratios) - 1)
        if name != "again":
            row[f"{name} itself s"] = median(own for _, own in used[name])
    row["details"] = used
    return row


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    names = given.cases or ["sub512"]
    cases = [case for case in CASES if case.name in names]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows = [measure(case, folder, rounds=1 if given.tiny else given.rounds) for case in cases]
    print(table([{name: value for name, value in row.items() if name != "details"} for row in rows]))
    result = write_results(given.json, "watching", rows)
    del hold
    return result


if __name__ == "__main__":
    main()

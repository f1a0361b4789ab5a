"""What it costs a run to be watched: ``python -m bench.watching``.

``tail`` and ``live`` (with somebody who listens to its events and asks for what a page asks for) are started beside a
long run, and stopped and continued (SIGSTOP, SIGCONT) in turn, a moment each: nobody watches, ``tail``, ``live``, again
nobody, in another order every time. The run notes the processor time it has used at every batch, so that its processor
time per integration is known in every such window. The cost is the ratio of watched windows to those of nobody in the
same cycle, the mean over all cycles with its standard error; ``again`` to ``alone`` says how far that can be believed.
What differs between runs, and what else the machine does for longer than a cycle, falls out. Starting a watcher is not
in it and told beside it, as is the part of a processor that the watchers take while they watch.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from bench.cases import CASES, Case, Data, make_data, tiny
from bench.measure import ROOT, make_parser, run_child, scratch_folder, table, write_results

__all__ = ["main", "measure"]

#: seconds of a window
WINDOW = 1.5
#: who watches; two of them nobody
STATES = ("alone", "tail", "live", "again")
#: integrations of a run: long enough for some cycles
LENGTH = 8000


@dataclass
class Watcher:
    """A command that can be stopped and continued.

    Parameters
    ----------
    process
        The command.
    start_up
        Processor seconds until it was ready.
    """

    process: subprocess.Popen[bytes]
    start_up: float = 0.0
    _used: float = 0.0

    @property
    def used(self) -> float:
        """Processor seconds so far."""
        with suppress(OSError):  # it has ended with the run
            # the clock of another process, as clock_getcpuclockid gives it
            self._used = time.clock_gettime((~self.process.pid << 3) | 2)
        return self._used

    def switch(self, on: bool) -> None:
        """Continue or stop."""
        self.process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-m", "tsostream", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


@contextmanager
def _tail(out: Path) -> Iterator[Watcher]:
    """Somebody follows the rows."""
    process = _start("tail", str(out), "--wait", "--json")
    reader = threading.Thread(target=process.stdout.read)  # type: ignore[union-attr]
    reader.start()
    time.sleep(3.0)  # it says nothing before there are rows
    watcher = Watcher(process)
    watcher.start_up = watcher.used
    try:
        yield watcher
    finally:
        watcher.switch(True)
        process.kill()
        process.wait()
        reader.join()


@contextmanager
def _page(out: Path) -> Iterator[Watcher]:
    """Somebody looks at the page: at every event it asks for light curve and picture."""
    process = _start("live", str(out), "--port", "0")
    address = process.stdout.readline().decode().strip()  # type: ignore[union-attr]

    def look() -> None:
        with suppress(OSError), urllib.request.urlopen(f"{address}events", timeout=600) as events:
            for line in events:
                if line.startswith(b"data:"):
                    for what in ("series?points=1500", "picture?points=900"):
                        urllib.request.urlopen(f"{address}api/{what}", timeout=600).read()

    watcher = Watcher(process)
    with urllib.request.urlopen(f"{address}api/status", timeout=60) as answer:
        answer.read()
    watcher.start_up = watcher.used
    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield watcher
    finally:
        watcher.switch(True)
        process.kill()
        process.wait()
        reader.join()


@dataclass
class Windows:
    """When who watched, and what they used."""

    begins: list[float] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=lambda: {"tail": [], "live": []})

    def follow(self, watchers: dict[str, Watcher], ended: threading.Event, dice: random.Random) -> None:
        """Let one after the other watch until the run ends."""
        while not ended.is_set():
            for state in dice.sample(STATES, len(STATES)):
                for name, watcher in watchers.items():
                    watcher.switch(name == state)
                began, used = time.time(), {name: one.used for name, one in watchers.items()}
                self.begins.append(began)
                self.states.append(state)
                if ended.wait(WINDOW):
                    return
                if state in watchers:
                    spent = watchers[state].used - used[state]
                    self.shares[state].append(spent / (time.time() - began))

    def split(self, timeline: Sequence[Sequence[float]]) -> list[dict[str, tuple[float, float]]]:
        """Seconds of processor and of wall per integration, of each state in each whole cycle.

        Parameters
        ----------
        timeline
            Integrations written, wall clock and processor seconds of the run, at each batch.
        """
        sums = [[0.0, 0.0, 0.0] for _ in self.begins]
        for (rows, then, used), (more, now, further) in pairwise(timeline):
            window = bisect_right(self.begins, then) - 1
            if window >= 0 and window == bisect_right(self.begins, now) - 1:
                for place, value in enumerate((more - rows, further - used, now - then)):
                    sums[window][place] += value
        cycles = []
        size = len(STATES)
        for first in range(0, len(self.begins) - size + 1, size):
            part = range(first, first + size)
            # the last window of a run has no end, and what has no batch says nothing
            if part[-1] < len(self.begins) - 1 and all(sums[k][0] > 0 for k in part):
                cycles.append(
                    {self.states[k]: (sums[k][1] / sums[k][0], sums[k][2] / sums[k][0]) for k in part}
                )
        return cycles


def _one_run(
    data: Data, out: Path, seed: int
) -> tuple[Windows, list[dict[str, tuple[float, float]]], dict[str, float]]:
    """Run once, watched in turn."""
    for path in out.parent.glob(f"{out.stem}.*"):
        path.unlink()
    windows, ended = Windows(), threading.Event()
    with ExitStack() as stack:
        watchers = {"tail": stack.enter_context(_tail(out)), "live": stack.enter_context(_page(out))}
        start_up = {name: watcher.start_up for name, watcher in watchers.items()}
        turn = threading.Thread(target=windows.follow, args=(watchers, ended, random.Random(seed)))
        turn.start()
        try:
            answer = run_child(data, out, timeline=True)
        finally:
            ended.set()
            turn.join()
    return windows, windows.split(answer["timeline"]), start_up


def _cost(cycles: Sequence[dict[str, tuple[float, float]]], state: str, place: int) -> tuple[float, float]:
    """How much more than nobody [%], and its standard error; cycles far off the others do not count."""
    nobody = ("alone",) if state == "again" else ("alone", "again")
    # logarithms: the mean of ratios is above one also where there is nothing but noise
    costs = [
        math.log(cycle[state][place]) - mean(math.log(cycle[name][place]) for name in nobody)
        for cycle in cycles
    ]
    if len(costs) < 3:
        return 100 * math.expm1(mean(costs)) if costs else 0.0, 0.0
    middle = median(costs)
    spread = 1.4826 * median(abs(one - middle) for one in costs) or 1e-9
    kept = [one for one in costs if abs(one - middle) < 4 * spread]
    return 100 * math.expm1(mean(kept)), 100 * stdev(kept) / len(kept) ** 0.5


def measure(case: Case, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    data = make_data(case, scratch)
    (scratch / "watched").mkdir(exist_ok=True)
    out = scratch / "watched" / "lc.arrow"
    run_child(data, out)  # compiles
    cycles: list[dict[str, tuple[float, float]]] = []
    shares: dict[str, list[float]] = {"tail": [], "live": []}
    starts: dict[str, list[float]] = {"tail": [], "live": []}
    for number in range(rounds):
        windows, found, start_up = _one_run(data, out, number)
        cycles += found
        for name in shares:
            shares[name] += windows.shares[name]
            starts[name].append(start_up[name])
    row: dict[str, Any] = {"case": case.name, "shape": case.shape, "runs": rounds, "cycles": len(cycles)}
    for name in ("tail", "live", "again"):
        row[f"{name} costs %"], row[f"{name} ±"] = _cost(cycles, name, 0)
    for name in ("tail", "live"):
        row[f"{name} takes % of a processor"] = 100 * mean(shares[name]) if shares[name] else 0.0
        row[f"{name} start-up s"] = median(starts[name])
    row["wall"] = {name: _cost(cycles, name, 1) for name in ("tail", "live", "again")}
    row["details"] = cycles
    return row


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--ints", type=int, default=LENGTH, help="integrations of a run")
    given = parser.parse_args(arguments)
    names = given.cases or ["sub512"]
    cases = [replace(case, ints=given.ints, segments=4) for case in CASES if case.name in names]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows = [measure(case, folder, rounds=1 if given.tiny else given.rounds) for case in cases]
    print(
        table(
            [{name: value for name, value in row.items() if name not in ("wall", "details")} for row in rows]
        )
    )
    result = write_results(given.json, "watching", rows)
    del hold
    return result


if __name__ == "__main__":
    main()

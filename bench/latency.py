"""How soon rows come when a large segment arrives: ``python -m bench.latency``.

A run follows a directory (``--follow``) and has done the first segment, so that the scout is behind it and it waits.
Then a segment of two gigabytes is written into the directory as a download does, under its own name, piece by piece.
What is told is the time from its last byte to its first row readable by another process, of light curve and spectra,
and how many rows became readable in each second after that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Case, make_data, tiny
from bench.clones import clone
from bench.measure import ROOT, make_parser, run_child, scratch_folder, table, write_results
from tsostream.sinks import Tail, spectra_path

__all__ = ["main", "measure"]

#: integrations of the first segment: enough for the scout of 64 behind a margin of 60 at most
FIRST = 130
#: bytes of the pixels of the segment that is waited for
SIZE = 2 * 1024**3
_CHUNK = 16 << 20
#: seconds without rows after which the first segment is done
_QUIET = 2.0
#: seconds between two looks at the files
_LOOK = 0.01


@dataclass
class Arrival:
    """What was seen of one delivery, in seconds since the last byte of the segment.

    Parameters
    ----------
    rows
        When how many further integrations were readable.
    ended
        When the run was over.
    """

    rows: list[tuple[float, int]]
    ended: float

    @property
    def first(self) -> float:
        """The first row."""
        return self.rows[0][0]

    def per_second(self) -> list[int]:
        """Rows of each second."""
        counts = [0] * (int(self.rows[-1][0]) + 1)
        for at, count in self.rows:
            counts[max(0, int(at))] += count
        return counts


def _start(incoming: Path, references: Path, wavelengths: Path | None, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    more = ["--wavelengths", str(wavelengths)] if wavelengths else []
    command = ["process", str(incoming), "--refs", str(references), "--out", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "tsostream", *command, "--follow", "--overwrite", "--quiet"], env=environment
    )


def _deliver(source: Path, into: Path) -> float:
    """Write a file piece by piece; returns when its last byte was written."""
    with source.open("rb", buffering=0) as read, (into / source.name).open("wb", buffering=0) as write:
        while chunk := read.read(_CHUNK):
            write.write(chunk)
    return time.monotonic()


class _Readers:
    """Follow light curve and spectra, as other processes do.

    Parameters
    ----------
    out
        The light curve.
    """

    def __init__(self, out: Path):
        self._tails = [Tail(out), Tail(spectra_path(out))]

    def last(self) -> int:
        """Last integration that is readable in all tables."""
        for tail in self._tails:
            tail.poll()
        seen = [tail.last_integration for tail in self._tails if tail.schema is not None]
        return min(seen, default=0)

    @property
    def finished(self) -> bool:
        """Whether the run has ended the light curve."""
        return self._tails[0].finished


def _watch(
    run: subprocess.Popen[bytes], readers: _Readers, segments: Sequence[Path], incoming: Path
) -> Arrival:
    """Wait for the rows of the first segment, deliver the second one, and note when its rows come."""
    done, since = 0, time.monotonic()
    while done == 0 or time.monotonic() - since < _QUIET:
        if run.poll() is not None:
            raise RuntimeError(f"the run ended too early (exit code {run.returncode})")
        if (now := readers.last()) != done:
            done, since = now, time.monotonic()
        time.sleep(_LOOK)
    complete = _deliver(segments[1], incoming)
    rows: list[tuple[float, int]] = []
    while not readers.finished:
        if (now := readers.last()) != done:
            # rows of the first segment that waited for their neighbours are none of the second one
            if now > FIRST:
                rows.append((time.monotonic() - complete, now - max(done, FIRST)))
            done = now
        if run.poll() not in (None, 0):
            raise RuntimeError(f"the run failed (exit code {run.returncode})")
        time.sleep(_LOOK)
    return Arrival(rows, time.monotonic() - complete)


def measure(case: Case, scratch: Path, *, size: int, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    short = make_data(replace(case, ints=FIRST, segments=1), scratch)
    folder = scratch / f"arrival_{case.name}"
    big = max(10, round(size / (case.groups * case.ny * case.nx * 2)))
    (source,) = short.references.glob("*_uncal.fits")
    segments = clone(source, folder / "archive", ints=FIRST + big, ends=(FIRST, FIRST + big))
    run_child(short, folder / "warm.arrow")  # compiles
    arrivals = []
    for number in range(rounds):
        incoming = folder / f"incoming{number}"
        incoming.mkdir()
        os.link(segments[0], incoming / segments[0].name)
        out = folder / f"lc{number}.arrow"  # of another run would be followed, too
        run = _start(incoming, short.references, short.wavelengths, out)
        try:
            arrivals.append(_watch(run, _Readers(out), segments, incoming))
            run.wait()
        finally:
            run.kill()
            run.wait()
        shutil.rmtree(incoming)
    found = segments[1].stat().st_size
    shutil.rmtree(folder)
    best = min(arrivals, key=lambda one: one.ended)
    return {
        "case": case.name,
        "shape": replace(case, ints=big).shape,
        "GB": found / 1e9,
        "rounds": rounds,
        "first row s": median(one.first for one in arrivals),
        "worst s": max(one.first for one in arrivals),
        "rows/s at first": best.per_second()[0],
        "rows/s": big / best.ended,
        "per second": [one.per_second() for one in arrivals],
        "first rows": [one.first for one in arrivals],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and the rows of each second, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    names = given.cases or ["sub2048"]
    cases = [case for case in CASES if case.name in names]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rounds, size = (1, 1 << 20) if given.tiny else (given.rounds, SIZE)
    rows = [measure(case, folder, size=size, rounds=rounds) for case in cases]
    hidden = ("per second", "first rows")
    print(table([{name: value for name, value in row.items() if name not in hidden} for row in rows]))
    for row in rows:
        for counts in row["per second"]:
            print(f"{row['case']}: rows in each second: {' '.join(map(str, counts))}")
    result = write_results(given.json, "latency", rows)
    del hold
    return result


if __name__ == "__main__":
    main()

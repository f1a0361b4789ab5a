"""Kill a run at random moments, resume it, and compare everything it made with an undisturbed run.

``python -m bench.kills --kills 200`` makes a small exposure, reduces it once, and then again and again in child
processes that die: half of them by SIGKILL from outside after a random time, half at a random call that changes a file,
in the middle of the write. Each is resumed, some of them killed once more, until it ends; then the rows of all tables,
what the footers count, and every array and header of every product must be those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import simulate
from tsostream.sinks import TABLES, open_output, table_path

__all__ = ["Case", "differences", "dying", "kill_and_resume", "make_case"]

#: calls that change what is on disk; the process dies in the middle of one of them
CALLS = ("pwrite", "replace", "unlink", "ftruncate")
#: footer entries that must be the same
COUNTED = (
    "rows",
    "missing_integrations",
    "rows_without_flux",
    "time_flags_seen",
    "warnings",
    "status",
    "products",
)
#: keywords that may differ: the moment a product was made
VOLATILE = ("DATE", "CHECKSUM", "DATASUM")


@dataclass(frozen=True)
class Case:
    """A run, and what it makes when nothing disturbs it.

    Parameters
    ----------
    request
        The run; its output goes to a directory of its own each time.
    reference
        Directory of the undisturbed run.
    seconds
        How long that took.
    calls
        How many calls changed a file.
    pause
        Seconds between two batches, so that a kill from outside finds the run at all stages.
    """

    request: Request
    reference: Path
    seconds: float
    calls: int
    pause: float = 0.0


def make_case(
    directory: Path, exp_type: str, *, pause: float = 0.004, simulated: dict[str, Any], **options: Any
) -> Case:
    """Simulate an exposure and reduce it undisturbed, twice: the first time kernels may have to be compiled."""
    exposure = simulate(exp_type, directory / "data", **simulated)
    if "wavelength" in exposure.references:
        options.setdefault("wavelengths", exposure.references["wavelength"])
    request = Request(
        inputs=tuple(exposure.segments), refs_dir=exposure.directory, block_bytes=1, workers=2, **options
    )
    case = Case(request, directory / "reference", 0.0, 0, pause)
    _process(replace(case, pause=0.0), directory / "warm")
    counter = Fatal(0)
    began = time.perf_counter()
    with counter:
        _process(case, case.reference)
    return replace(case, seconds=time.perf_counter() - began, calls=counter.count)


def _process(case: Case, directory: Path, *, resume: bool = False) -> None:
    directory.mkdir(exist_ok=True)
    request = replace(case.request, out=directory / "lc.arrow", resume=resume)
    for prepared in prepare_all(request):
        asyncio.run(run_exposure(prepared, on_rows=lambda pair: time.sleep(case.pause)))


class Fatal:
    """Counts the calls that change a file; the process dies in the middle of number ``at`` (0: never)."""

    def __init__(self, at: int, dice: random.Random | None = None):
        self.count = 0
        self._at, self._dice = at, dice or random.Random(0)
        self._lock = threading.Lock()
        self._before: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Fatal:
        for name in CALLS:
            self._before[name] = getattr(os, name)
            setattr(os, name, self._counting(name, self._before[name]))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._before.items():
            setattr(os, name, function)

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            with self._lock:
                self.count += 1
                fatal = self.count == self._at
            if fatal:
                if name == "pwrite":  # a torn write
                    fd, data, offset = given
                    view = memoryview(data).cast("B")
                    function(fd, view[: self._dice.randrange(len(view) + 1)], offset)
                elif self._dice.random() < 0.5:
                    function(*given, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return call


def dying(work: Callable[[], None], *, seconds: float = 0.0, at: int = 0, dice: random.Random) -> bool:
    """Run something in a child process that dies after some time or at some call; return whether it did."""
    child = os.fork()
    if child == 0:
        try:
            with Fatal(at, dice):
                work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            code = 1
        os._exit(code)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError("the run failed instead of being killed; see above")
    return False


def kill_and_resume(case: Case, directory: Path, dice: random.Random) -> tuple[int, list[str]]:
    """Kill a run, and again with some luck, then let it end; return the kills and what is not as it should be."""
    directory.mkdir()
    kills = 0
    while kills == 0 or (dice.random() < 0.3 and kills < 6):
        resume = kills > 0
        how: dict[str, Any] = (
            {"seconds": dice.uniform(0.02, case.seconds)}
            if dice.random() < 0.5
            else {"at": dice.randint(1, case.calls)}
        )
        if not dying(partial(_process, case, directory, resume=resume), dice=dice, **how):
            break
        kills += 1
    dying(lambda: _process(case, directory, resume=True), dice=dice)
    return kills, differences(case.reference, directory)


def differences(reference: Path, directory: Path) -> list[str]:
    """Say what two directories of one run do not have in common."""
    names = {path.name for path in reference.iterdir()}
    found = [
        f"{name} is there once only" for name in sorted(names ^ {path.name for path in directory.iterdir()})
    ]
    for name in sorted(names):
        if found:
            break
        if name.endswith(".fits"):
            found += _product_differences(reference / name, directory / name)
        elif (name.endswith(".ecsv") and _lines(reference / name) != _lines(directory / name)) or (
            name.endswith(".npz") and (reference / name).read_bytes() != (directory / name).read_bytes()
        ):
            found.append(f"{name} differs")
    for path in sorted(reference.glob("*.scout.npz")):
        out = path.name.replace(".scout.npz", ".arrow")
        found += _table_differences(reference / out, directory / out)
    return found


def _lines(path: Path) -> list[str]:
    """Text of a table without the moment it was made and the scout it was made with (a file then)."""
    return [line for line in path.read_text().splitlines() if "date" not in line.lower()]


def _table_differences(one: Path, other: Path) -> list[str]:
    found: list[str] = []
    a, b = open_output(one), open_output(other)
    found += [
        f"{one.name}: {key} is {b.metadata.get(key)!r}, expected {a.metadata.get(key)!r}"
        for key in COUNTED
        if a.metadata.get(key) != b.metadata.get(key)
    ]
    for table in TABLES:
        if not table_path(one, table).exists():
            continue
        rows = [
            pa.ipc.open_file(table_path(path, table)).read_all().combine_chunks() for path in (one, other)
        ]
        batches = [table.to_batches()[0].serialize() for table in rows]
        if not batches[0].equals(batches[1]):
            found.append(
                f"{table}: {rows[1].num_rows} rows are not the {rows[0].num_rows} expected, bit for bit"
            )
    return found


def _product_differences(one: Path, other: Path) -> list[str]:
    with fits.open(one, memmap=False) as a, fits.open(other, memmap=False) as b:
        if [hdu.name for hdu in a] != [hdu.name for hdu in b]:
            return [f"{one.name}: other extensions"]
        found = []
        for hdu, twin in zip(a, b, strict=True):
            cards = [
                [card for card in one.header.cards if card.keyword not in VOLATILE] for one in (hdu, twin)
            ]
            if [str(card) for card in cards[0]] != [str(card) for card in cards[1]]:
                found.append(f"{one.name}: the header of {hdu.name} differs")
            data, other_data = hdu.data, twin.data
            if (data is None) != (other_data is None) or (
                data is not None and np.asarray(data).tobytes() != np.asarray(other_data).tobytes()
            ):
                found.append(f"{one.name}: {hdu.name} differs")
        return found


def main() -> None:
    """Kill, resume, compare, and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exp-type", default="NRS_BRIGHTOBJ")
    parser.add_argument("--ints", type=int, default=40)
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--save-steps", default="refpix")
    parser.add_argument("--products", default="rate,rateints,ramp,x1dints,whtlt")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    simulated = {
        "ints": options.ints,
        "segments": options.segments,
        "seed": 3,
        "groups": 4,
        "cosmic_rays": 2e-3,
    }
    simulated |= {"nx": 96, "ny": 16} if options.exp_type == "NRS_BRIGHTOBJ" else {}
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        case = make_case(
            base,
            options.exp_type,
            simulated=simulated,
            products=(options.products,),
            save_steps=tuple(filter(None, [options.save_steps])),
            settings=tuple(options.settings),
        )
        kills = runs = 0
        wrong: list[str] = []
        began = time.perf_counter()
        while kills < options.kills:
            directory = base / f"run{runs}"
            more, found = kill_and_resume(case, directory, dice)
            kills, runs = kills + more, runs + 1
            wrong += [f"run {runs}: {one}" for one in found]
            if not found:
                shutil.rmtree(directory)
        figures = {
            "kills": kills,
            "runs": runs,
            "identical": runs - len({one.split(":")[0] for one in wrong}),
            "calls_that_change_a_file": case.calls,
            "seconds_undisturbed": round(case.seconds, 2),
            "seconds": round(time.perf_counter() - began, 1),
            "wrong": wrong,
        }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""What passes before the first byte is read, warm and cold: ``python -m bench.startup``.

Warm: kernels are compiled and cached. Cold: an empty kernel cache, as after an installation.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.cases import CASES, Case, make_data, tiny
from bench.measure import ROOT, make_parser, run_child, scratch_folder, table, write_results

__all__ = ["main", "measure"]


def seconds_of(*arguments: str, repeat: int = 3) -> float:
    """Best wall time of a Python command [s]."""
    best = float("inf")
    for _ in range(repeat):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
        best = min(best, time.perf_counter() - began)
    return best


def measure(case: Case, scratch: Path, *, repeat: int = 3, cold: bool = True) -> dict[str, Any]:
    """Measure one case."""
    data = make_data(case, scratch)
    out = scratch / "lc.arrow"
    first = None
    if cold:
        with TemporaryDirectory(prefix="tsostream-cold-", dir=scratch) as cache:
            first = run_child(data, out, cache=Path(cache))
    run_child(data, out)
    warm = min((run_child(data, out) for _ in range(repeat)), key=lambda run: run["marks"]["end"])
    marks = warm["marks"]
    return {
        "case": case.name,
        "shape": case.shape,
        "interpreter s": marks["interpreter"],
        "imports s": marks["imported"] - marks["interpreter"],
        "inputs, references s": marks["prepared"] - marks["imported"],
        "first byte s": marks["scout"],
        "scout s": marks["stream"] - marks["scout"],
        "first row after scout s": marks["first_row"] - marks["stream"],
        "end s": marks["end"],
        "cold end s": first["marks"]["end"] if first else None,
        "cold longer by s": first["marks"]["end"] - marks["end"] if first else None,
        "cold peak MB": first["peak"] / 1e6 if first else None,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--warm", action="store_true", help="leave out the run that compiles")
    given = parser.parse_args(arguments)
    names = given.cases or ["sub512"]
    cases = [case for case in CASES if case.name in names]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    repeat = 1 if given.tiny else 3
    rows = [measure(case, folder, repeat=repeat, cold=not given.warm) for case in cases]
    commands = {
        "python -c pass": seconds_of("-c", "pass", repeat=repeat),
        "import tsostream": seconds_of("-c", "import tsostream", repeat=repeat),
        "tsostream --version": seconds_of("-m", "tsostream", "--version", repeat=repeat),
        "tsostream --help": seconds_of("-m", "tsostream", "--help", repeat=repeat),
    }
    print(table(rows))
    print(table([{"command": name, "seconds": value} for name, value in commands.items()]))
    result = write_results(given.json, "startup", rows, commands=commands)
    del hold
    return result


if __name__ == "__main__":
    main()

"""What all benchmarks share: child processes, a plain read, the machine, tables and results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.cases import Data

__all__ = ["machine", "make_parser", "plain_read", "run_child", "scratch_folder", "table", "write_results"]

ROOT = Path(__file__).resolve().parents[1]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser with the options all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here")
    parser.add_argument(
        "--tiny", action="store_true", help="seconds instead of minutes: tests the benchmark itself"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the exposures here [default: a temporary folder]"
    )
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these")
    return parser


def scratch_folder(given: Path | None) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Choose where exposures and outputs go; hold on to the second value as long as they are needed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given, None
    temporary = tempfile.TemporaryDirectory(prefix="tsostream-bench-")
    return Path(temporary.name), temporary


def run_child(data: Data, out: Path, *, cache: Path | None = None, **options: Any) -> dict[str, Any]:
    """Process an exposure in a process of its own, see `bench.child`.

    Parameters
    ----------
    data, out
        Inputs and light curve.
    cache
        Folder for compiled kernels, default the user's.
    **options
        ``workers, max_memory, block_bytes, calibrated, products, parity, settings``;
        ``cores``: how many of the machine's processors it may use;
        ``timeline``: tell at each batch the integrations so
        far, wall clock and processor seconds of the run;
        ``again``: run a second time in the process: ``again_step_seconds``, without the loading of kernels.

    Raises
    ------
    RuntimeError
        With what the child said, when it failed.
    """
    job = {
        "segments": [str(path) for path in data.segments],
        "references": str(data.references),
        "wavelengths": str(data.wavelengths) if data.wavelengths else None,
        "out": str(out),
        **options,
    }
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # an installed package has its byte code; compiling it every time would count as start-up
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if cache is not None:
        environment["TSOSTREAM_CACHE_DIR"] = str(cache)
    job["launched"] = time.time()
    run = subprocess.run(
        [sys.executable, "-m", "bench.child", json.dumps(job)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"the run failed with exit code {run.returncode}:\n{run.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def plain_read(paths: Sequence[Path]) -> float:
    """Seconds to read the files once, 4 MB at a time, into one buffer."""
    buffer = bytearray(4 << 20)
    began = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - began


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on, and how busy it was."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in ("tsostream", "numpy", "numba", "pyarrow")},
        "date": time.strftime("%Y-%m-%d"),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows of text and numbers; columns are those of the first row."""
    if not rows:
        return "(nothing)"
    names = list(rows[0])
    cells = [names, *[[_cell(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def write_results(
    path: Path | None, benchmark: str, rows: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """Put results, machine and command together, and into a file if one is asked for."""
    result = {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"bench.{benchmark}", *sys.argv[1:]]),
        "machine": machine(),
        **more,
        "rows": list(rows),
    }
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
    return result

"""What stages 2 and 3 cost beside stage 1: ``python -m bench.stage3``.

Seconds of worker time of each step, from one run of each case (all steps of the mode on, calints written), and peak
memory against the plan. Where TSOSTREAM_JWST_PYTHON names an interpreter with jwst, its outlier detection runs on the
same calints.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case, make_data, tiny
from bench.measure import make_parser, run_child, scratch_folder, table, write_results
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS

__all__ = ["STAGE3_CASES", "main", "measure"]

STAGE3_CASES = (
    *(case for case in CASES if case.name in ("sub512", "slitlessprism", "sub64p")),
    Case("substrip256x12", "NIS_SOSS", "SUBSTRIP256", 60, 12, 256, 2048, official=8),
)


def measure(case: Case, scratch: Path, **options: Any) -> dict[str, Any]:
    """Run a case twice, the first time to compile; the second one counts."""
    data = make_data(case, scratch)
    out = scratch / "lc.arrow"
    for _ in range(2):
        run = run_child(data, out, calibrated=True, products=["calints"], **options)
    spent = {name: seconds for name, seconds in run["step_seconds"].items() if name != "products"}
    first = sum(seconds for name, seconds in spent.items() if name in ("decode", *MIRI_RAMPS, *NIR_RAMPS))
    rest = sum(spent.values()) - first
    count = run["integrations"]
    official = _official(sorted(scratch.glob("*_calints.fits"))[0])
    for path in scratch.glob("*_calints.fits"):
        path.unlink()
    ours = spent.get("outlier_detection", 0.0) / count
    return {
        "case": case.name,
        "shape": case.shape,
        "stage 1 ms": 1e3 * first / count,
        "stages 2+3 ms": 1e3 * rest / count,
        "ratio": rest / first,
        "outliers ms": 1e3 * ours,
        "official outliers ms": None if official is None else 1e3 * official,
        "official / ours": None if official is None else official / ours,
        "peak MB": run["peak"] / 1e6,
        "plan MB": run["plan"] / 1e6,
        "details": {"step_seconds": run["step_seconds"], "plan_parts": run["plan_parts"]},
    }


def _official(calints: Path) -> float | None:
    """Seconds per integration of the official outlier detection."""
    python = os.environ.get("TSOSTREAM_JWST_PYTHON")
    if not python:
        return None
    program = Path(__file__).with_name("official_stage3.py")
    done = subprocess.run([python, str(program), str(calints)], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return float(answer["outlier_detection"]) / int(answer["integrations"])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    cases = [case for case in STAGE3_CASES if not given.cases or case.name in given.cases]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows = [measure(case, folder, workers=given.workers) for case in cases]
    print(table([{name: value for name, value in row.items() if name != "details"} for row in rows]))
    result = write_results(given.json, "stage3", rows)
    del hold
    return result


if __name__ == "__main__":
    main()

"""From uncal to light curve, beside a plain read and the official pipeline: ``python -m bench.stage1``.

Every case runs in one call on the same files: a plain read, tsostream with one worker and with all, and, when the
environment variable TSOSTREAM_JWST_PYTHON names an interpreter with jwst, the official first stage (which ends at
slopes; it gets fewer integrations of the same pixels, for it is slow). Processing is measured from the first byte
read to the files closed, on both sides; start-up apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case, Data, make_data, tiny
from bench.measure import make_parser, plain_read, run_child, scratch_folder, table, write_results

__all__ = ["main", "measure"]


def measure(case: Case, scratch: Path, *, repeat: int = 2) -> dict[str, Any]:
    """Measure one case."""
    data = make_data(case, scratch)
    reads = [plain_read(data.segments) for _ in range(repeat + 1)]
    out = scratch / "lc.arrow"
    run_child(data, out)  # compiles if need be
    cores = os.cpu_count() or 1
    one = _best([run_child(data, out, workers=1) for _ in range(repeat)])
    all_cores = _best([run_child(data, out, workers=cores) for _ in range(repeat)])
    seconds = _processing(all_cores)
    groups = case.ints * case.groups * case.ny * case.nx
    steps = all_cores["step_seconds"]
    total = sum(steps.values()) or 1.0
    official = _official(data, scratch)
    row: dict[str, Any] = {
        "case": case.name,
        "shape": case.shape,
        "MB": case.megabytes,
        "read MB/s": case.megabytes / min(reads),
        "MB/s": case.megabytes / seconds,
        "stream MB/s": case.megabytes / all_cores["seconds"]["stream"],
        "ns/group": 1e9 * seconds / groups,
        "scaling": one["seconds"]["stream"] / all_cores["seconds"]["stream"],
        "start-up s": all_cores["marks"]["scout"],
        "scout s": all_cores["seconds"]["scout"],
        "peak MB": all_cores["peak"] / 1e6,
        "official MB/s": None,
        "ratio": None,
        "details": {
            "step_shares": {name: value / total for name, value in steps.items()},
            "marks": all_cores["marks"],
            "seconds": all_cores["seconds"],
            "workers": cores,
            "tenths_s_per_integration": all_cores["tenths"],
            "one_worker_seconds": one["seconds"],
            "official": official,
            "official_integrations": case.official,
        },
    }
    if "seconds" in official:
        row["official MB/s"] = case.megabytes * case.official / case.ints / official["seconds"]
        row["ratio"] = row["MB/s"] / row["official MB/s"]
    return row


def _processing(run: dict[str, Any]) -> float:
    """First byte read to files closed [s]."""
    return float(run["marks"]["end"] - run["marks"]["scout"])


def _best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=_processing)


def _official(data: Data, scratch: Path) -> dict[str, Any]:
    """Run the official pipeline, if there is one; else say why not."""
    python = os.environ.get("TSOSTREAM_JWST_PYTHON")
    if not python:
        return {"note": "not measured: TSOSTREAM_JWST_PYTHON names no interpreter with jwst"}
    kinds = ("mask", "saturation", "superbias", "linearity", "dark", "gain", "readnoise", "reset", "flat")
    references = {kind: str(path) for kind in kinds for path in data.references.glob(f"*_{kind}.fits")}
    job, answer, out = scratch / "official.json", scratch / "official_result.json", scratch / "official"
    out.mkdir(exist_ok=True)
    answer.unlink(missing_ok=True)
    job.write_text(
        json.dumps({"uncal": str(data.official), "references": references, "cores": "none", "out": str(out)})
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    runner = Path(__file__).with_name("official.py")
    run = subprocess.run(
        [python, str(runner), str(job), str(answer)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if run.returncode or not answer.exists():
        return {"note": f"failed: {run.stderr[-1000:]}"}
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=2, help="the best of so many runs [default: 2]")
    given = parser.parse_args(arguments)
    cases = [case for case in CASES if not given.cases or case.name in given.cases]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows = []
    for case in cases:
        rows.append(measure(case, folder, repeat=1 if given.tiny else given.repeat))
        print(f"{case.name} done", file=sys.stderr)
    print(table([{name: value for name, value in row.items() if name != "details"} for row in rows]))
    notes = {row["details"]["official"]["note"] for row in rows if "note" in row["details"]["official"]}
    for note in sorted(notes):
        print(f"official pipeline: {note}")
    result = write_results(given.json, "stage1", rows, scope="streaming (default steps of each mode)")
    del hold
    return result


if __name__ == "__main__":
    main()

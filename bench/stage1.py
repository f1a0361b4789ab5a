"""From uncal to light curve, beside a plain read and the official pipeline: ``python -m bench.stage1``.

Every case runs in one call on the same files: a plain read, tsostream with one worker, on one core, and with all, with
the product rateints, in the segment scope (``--parity jwst``) and, for some, with the likelihood fit; and, when the
environment variable TSOSTREAM_JWST_PYTHON names an interpreter with jwst, the official first stage with
``maximum_cores`` none and all (it ends at slopes; it gets fewer integrations of the same pixels, for it is slow).
Processing is measured from the first byte read to the files closed, on both sides (of the segment scope its first stage
alone); "whole ratio" compares processes from their start to their end, with the official time scaled to the length of
the exposure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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
    # with one worker a second processor reads and writes rows: here everything shares one
    single = _best([run_child(data, out, workers=1, cores=1) for _ in range(repeat)])
    runs = [run_child(data, out, workers=cores) for _ in range(repeat)]
    every = _best(runs)
    tenths, processor = _quietest(runs, "tenths"), _quietest(runs, "processor_tenths")
    official = _official(data.official, data, scratch)
    official_all = _official(data.official, data, scratch, cores="all")
    theirs = _speed(case, case.official, official)
    row: dict[str, Any] = {
        "case": case.name,
        "shape": case.shape,
        "MB": case.megabytes,
        "read MB/s": case.megabytes / min(reads),
        "MB/s": case.megabytes / _processing(every),
        "stream MB/s": case.megabytes / every["seconds"]["stream"],
        "ns/group": 1e9 * _processing(every) / case.samples,
        "scaling": one["seconds"]["stream"] / every["seconds"]["stream"],
        "over one core": single["seconds"]["stream"] / every["seconds"]["stream"],
        "start-up s": every["marks"]["prepared"],
        "scout s": every["seconds"]["scout"],
        "process s": every["marks"]["end"],
        "peak MB": every["peak"] / 1e6,
        "last/first tenth": tenths[-1] / tenths[0] if tenths else None,
        "of processor time": processor[-1] / processor[0] if processor else None,
        "official MB/s": theirs,
        "ratio": _ratio(case, every, official),
        "all cores ratio": _ratio(case, every, official_all),
        "whole ratio": _whole(case, every, official),
        "stream ratio": case.megabytes / every["seconds"]["stream"] / theirs if theirs else None,
    }
    details: dict[str, Any] = {
        "marks": every["marks"],
        "seconds": every["seconds"],
        "workers": cores,
        "tenths_s_per_integration": tenths,
        "tenths_processor_s_per_integration": processor,
        "one_worker_seconds": one["seconds"],
        "one_core_seconds": single["seconds"],
        **_shares(one["step_seconds"], case.samples),
        "official": official,
        "official_all_cores": official_all,
        "official_integrations": case.official,
    }
    for name, (ratio, found) in _other_ways(case, data, scratch, theirs, repeat).items():
        row[name], details[name] = ratio, found
    return {**row, "details": details}


def _shares(steps: dict[str, float], samples: int) -> dict[str, dict[str, float]]:
    """Where one worker's time goes: shares, and nanoseconds per sample."""
    total = sum(steps.values()) or 1.0
    return {
        "step_shares": {name: value / total for name, value in steps.items()},
        "step_ns_per_group": {name: 1e9 * value / samples for name, value in steps.items()},
    }


def _other_ways(
    case: Case, data: Data, scratch: Path, theirs: float | None, repeat: int
) -> dict[str, tuple[float | None, dict[str, Any]]]:
    """Measure products, segment scope and likelihood fit: the ratio to the official pipeline, and what was measured."""
    official: dict[str, Any] = {"note": "not measured"}
    if data.likelihood is not None:
        official = _official(data.likelihood, data, scratch, "LIKELY")
    likely = _speed(case, case.likelihood, official)
    # of the segment scope only the first stage counts: SOSS need not model its overlap afterwards, on the official grid
    parity = {"settings": ["extract_1d.soss_atoca=False"]} if case.exp_type == "NIS_SOSS" else {}
    ways: dict[str, tuple[dict[str, Any], float | None]] = {
        "products ratio": ({"products": ["rateints"]}, theirs),
        "parity ratio": ({"parity": "jwst", **parity}, theirs),
        "LIKELY ratio": ({"settings": ["ramp_fit.algorithm=LIKELY"]}, likely),
    }
    results: dict[str, tuple[float | None, dict[str, Any]]] = {}
    for name, (options, speed) in ways.items():
        if name == "LIKELY ratio" and not case.likelihood:
            results[name] = (None, {})
            continue
        # the first one compiles what it needs
        run = _best([run_child(data, scratch / "lc.arrow", **options) for _ in range(repeat)])
        whole = case.megabytes / _processing(run)
        # the segment scope takes its first stage by itself, as the official pipeline does: reading to slopes
        ours = case.megabytes / run["step_seconds"]["stage 1"] if "parity" in options else whole
        found: dict[str, Any] = {
            "MB/s": ours,
            "MB/s to the light curve": whole,
            "official MB/s": speed,
            "peak MB": run["peak"] / 1e6,
        }
        found |= {"seconds": run["seconds"], **_shares(run["step_seconds"], case.samples)}
        if name == "LIKELY ratio":
            found["official"] = official
        results[name] = (ours / speed if speed else None, found)
    return results


def _speed(case: Case, integrations: int, official: dict[str, Any]) -> float | None:
    """MB per second of the official pipeline, None where it was not measured."""
    if "seconds" not in official:
        return None
    return case.megabytes * integrations / case.ints / float(official["seconds"])


def _ratio(case: Case, run: dict[str, Any], official: dict[str, Any]) -> float | None:
    theirs = _speed(case, case.official, official)
    return case.megabytes / _processing(run) / theirs if theirs else None


def _whole(case: Case, run: dict[str, Any], official: dict[str, Any]) -> float | None:
    """How much longer the official process lives, imports and all."""
    theirs = _speed(case, case.official, official)
    if theirs is None:
        return None
    return float(official["import_seconds"] + case.megabytes / theirs) / float(run["marks"]["end"])


def _processing(run: dict[str, Any]) -> float:
    """First byte read to files closed [s]."""
    return float(run["marks"]["end"] - run["marks"]["prepared"])


def _quietest(runs: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Time per integration of each tenth in the run in which it took least."""
    return [min(found) for found in zip(*(run[name] for run in runs), strict=True)]


def _best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=_processing)


def _official(
    uncal: Path, data: Data, scratch: Path, algorithm: str = "OLS_C", cores: str = "none"
) -> dict[str, Any]:
    """Run the official pipeline, if there is one; else say why not."""
    python = os.environ.get("TSOSTREAM_JWST_PYTHON")
    if not python:
        return {"note": "not measured: TSOSTREAM_JWST_PYTHON names no interpreter with jwst"}
    kinds = ("mask", "saturation", "superbias", "linearity", "dark", "gain", "readnoise", "reset", "flat")
    references = {kind: str(path) for kind in kinds for path in data.references.glob(f"*_{kind}.fits")}
    job, answer, out = scratch / "official.json", scratch / "official_result.json", scratch / "official"
    out.mkdir(exist_ok=True)
    answer.unlink(missing_ok=True)
    content = {"uncal": str(uncal), "references": references, "cores": cores, "out": str(out)}
    job.write_text(json.dumps({**content, "algorithm": algorithm}))
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
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for case in cases:
        began = time.monotonic()
        rows.append(measure(case, folder, repeat=1 if given.tiny else given.repeat))
        print(f"{case.name} done in {time.monotonic() - began:.0f} s", file=sys.stderr)
        # what is measured stays measured when a later case fails or is interrupted
        result = write_results(given.json, "stage1", rows, scope="streaming (default steps of each mode)")
    print(table([{name: value for name, value in row.items() if name != "details"} for row in rows]))
    notes = {row["details"]["official"]["note"] for row in rows if "note" in row["details"]["official"]}
    for note in sorted(notes):
        print(f"official pipeline: {note}")
    del hold
    return result


if __name__ == "__main__":
    main()

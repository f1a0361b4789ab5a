"""What stages 2 and 3 cost beside stage 1, and beside the official steps: ``python -m bench.stage3``.

Each case is processed from its ramps, all steps of the mode on, with calints written: processor time of each step with
all kernels loaded (what loading takes is told apart: it is the same for any length), and peak memory against the plan.
Where TSOSTREAM_JWST_PYTHON names an interpreter with jwst, its flat_field, outlier_detection, extract_1d and
white_light or tso_photometry run on slopes of the same pixels (fewer integrations, for it is slow), and are compared
with ours of the same names, per integration. The official extraction of SOSS takes a few integrations, of which the
quickest stands for the others, within `SOSS_LIMIT`; its calibration, once a file, is told apart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case, Data, make_data, tiny
from bench.measure import make_parser, run_child, scratch_folder, table, write_results
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS, OPERATORS

__all__ = ["STAGE3_CASES", "main", "measure"]

#: steps of stages 2 and 3
LATER = {*OPERATORS} - {*MIRI_RAMPS, *NIR_RAMPS}
#: processor seconds for the official extraction of SOSS
SOSS_LIMIT = 900

# with more than 25 integrations the official step takes a rolling median
STAGE3_CASES = (
    *(case for case in CASES if case.name in ("sub512", "slitlessprism", "sub64p")),
    Case("subgrism256", "NRC_TSGRISM", "SUBGRISM256", 40, 12, 256, 2048, official=26),
    Case("substrip256x12", "NIS_SOSS", "SUBSTRIP256", 40, 12, 256, 2048, official=26),
)


def measure(case: Case, scratch: Path, **options: Any) -> dict[str, Any]:
    """Run a case once to compile, then twice in one process: peak and loading are of the first of them."""
    data = make_data(case, scratch)
    out = scratch / "lc.arrow"
    for again in (False, True):
        run = run_child(data, out, calibrated=True, products=["calints"], again=again, **options)
    for path in scratch.glob("*_calints.fits"):
        path.unlink()
    cold = run["step_seconds"]
    spent = {name: seconds for name, seconds in run["again_step_seconds"].items() if name != "products"}
    rest = sum(seconds for name, seconds in spent.items() if name in LATER)
    # what is left are ramps: single steps, and passes done together under a name of their own
    first = sum(spent.values()) - rest
    count = run["integrations"]
    official = _official(data, scratch)
    theirs = None if official is None else sum(official["seconds"].values()) / official["integrations"]
    ours = sum(spent.get(name, 0.0) for name in (official or {"seconds": ()})["seconds"]) / count
    pixels = 1e-9 * count * case.ny * case.nx
    return {
        "case": case.name,
        "shape": case.shape,
        "stage 1 ms": 1e3 * first / count,
        "stages 2+3 ms": 1e3 * rest / count,
        "share": rest / first,
        "loading s": sum(cold[name] for name in spent) - first - rest,
        "outliers ns/px": spent.get("outlier_detection", 0.0) / pixels,
        "measuring ns/px": sum(
            spent.get(name, 0.0) for name in ("extract_1d", "white_light", "tso_photometry")
        )
        / pixels,
        "official ms": None if theirs is None else 1e3 * theirs,
        "same steps ms": None if theirs is None else 1e3 * ours,
        "ratio": None if theirs is None else theirs / ours,
        "ratio is": None if official is None else "at least" if _cut_short(official) else "measured",
        "peak MB": run["peak"] / 1e6,
        "plan MB": run["plan"] / 1e6,
        "details": {
            "step_seconds": run["again_step_seconds"],
            "with_loading": cold,
            "plan_parts": run["plan_parts"],
            "official": official,
        },
    }


def _cut_short(official: dict[str, Any]) -> bool:
    """Whether the extraction of SOSS met its limit, so that the official time is a lower bound."""
    return bool(official.get("soss", {}).get("limited"))


def _official(data: Data, scratch: Path) -> dict[str, Any] | None:
    """Processor seconds of the official steps on slopes that ours made of the same pixels."""
    python = os.environ.get("TSOSTREAM_JWST_PYTHON")
    if not python:
        return None
    short = Data((data.official,), data.official, data.references, data.wavelengths)
    folder = scratch / "official_stage3"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run_child(short, folder / "short.arrow", products=["rateints"])
    (rateints,) = folder.glob("*_rateints.fits")
    references = {
        path.stem.rpartition("_")[2]: str(path)
        for path in sorted(data.references.iterdir())
        if path.name.startswith("sim_")
    }
    wavelengths = str(data.wavelengths) if data.wavelengths else None
    job = folder / "job.json"
    job.write_text(
        json.dumps(
            {
                "rateints": str(rateints),
                "references": references,
                "wavelengths": wavelengths,
                "limit": SOSS_LIMIT,
            }
        )
    )
    program = Path(__file__).with_name("official_stage3.py")
    # a second thread of the linear algebra would only wait, which counts as processor time, too
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(program), str(job)], capture_output=True, text=True, check=False, env=env
    )
    shutil.rmtree(folder)
    if done.returncode:
        print(f"not compared: the official steps ended with {done.returncode}: {done.stderr[-500:].strip()}")
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, why in answer["failed"].items():
        print(f"not compared: the official {name} failed with {why}")
    return answer


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    cases = [case for case in STAGE3_CASES if not given.cases or case.name in given.cases]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for case in cases:
        rows.append(measure(case, folder, workers=given.workers))
        # what is measured stays measured when a later case fails or is interrupted
        result = write_results(given.json, "stage3", rows)
    print(table([{name: value for name, value in row.items() if name != "details"} for row in rows]))
    del hold
    return result


if __name__ == "__main__":
    main()

"""Peak memory against the plan, and against the length of the exposure: ``python -m bench.memory``.

Each case runs at a tenth of its length and at full length, in processes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case, make_data, tiny
from bench.measure import make_parser, run_child, scratch_folder, table, write_results

__all__ = ["MEMORY_CASES", "main", "measure"]

#: the two whose limits are promised, and one of each other kind
MEMORY_CASES = (
    Case("sub512", "NRS_BRIGHTOBJ", "SUB512", 2000, 5, 32, 512),
    Case("substrip256", "NIS_SOSS", "SUBSTRIP256", 2000, 3, 256, 2048),
    *(
        replace(case, ints=min(case.ints, 1000))
        for case in CASES
        if case.name in ("sub2048", "slitlessprism", "sub64p")
    ),
    replace(next(case for case in CASES if case.name == "subgrism256"), ints=40),
)


def measure(
    case: Case, scratch: Path, *, lengths: Sequence[int] | None = None, **options: Any
) -> dict[str, Any]:
    """Run a case at several lengths [integrations]; default a tenth (at least 70: the scout's 64 first) and all."""
    # the first run may have to compile, which takes memory of its own
    run_child(make_data(replace(case, ints=min(case.ints, 20)), scratch), scratch / "lc.arrow", **options)
    runs = []
    for ints in lengths or (min(max(case.ints // 10, 70), case.ints), case.ints):
        data = make_data(replace(case, ints=ints), scratch)
        runs.append(run_child(data, scratch / "lc.arrow", **options))
    peaks = [run["peak"] for run in runs]
    longest = runs[-1]
    return {
        "case": case.name,
        "shape": case.shape,
        "short MB": peaks[0] / 1e6,
        "long MB": peaks[-1] / 1e6,
        "growth %": 100 * (peaks[-1] / peaks[0] - 1),
        "plan MB": longest["plan"] / 1e6,
        "plan/peak": longest["plan"] / peaks[-1],
        "floor MB": longest["floor"] / 1e6,
        "parts": longest["plan_parts"],
        "workers": longest["workers"],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    cases = [case for case in MEMORY_CASES if not given.cases or case.name in given.cases]
    if given.tiny:
        cases = [tiny(case) for case in cases]
    folder, hold = scratch_folder(given.data)
    rows = [measure(case, folder, workers=given.workers) for case in cases]
    print(table([{name: value for name, value in row.items() if name != "parts"} for row in rows]))
    result = write_results(given.json, "memory", rows)
    del hold
    return result


if __name__ == "__main__":
    main()

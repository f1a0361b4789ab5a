"""P4: rows are on disk soon. ``pytest -m slow tests/run/test_latency.py``, on a machine that is otherwise quiet."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from run_helpers import Simulated

from bench.cases import CASES, make_data
from tsostream.records import RowPair
from tsostream.run.observer import Silent
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.sinks import journal_path, read_journal


class Watch(Silent):
    """Notes when the stages begin and rows come."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.rows: list[tuple[float, int]] = []

    def begin(self, stage: str, total: int) -> None:
        self.begun[stage] = time.perf_counter()

    def advance(self, done: int, pair: RowPair | None) -> None:
        if pair is not None:
            self.rows.append((time.perf_counter(), done))


@pytest.mark.slow
def test_first_row_within_a_second_of_the_scout(tmp_path: Path) -> None:
    """SUB512 with five groups, warm."""
    case = next(case for case in CASES if case.name == "sub512")
    data = make_data(case, tmp_path)
    for attempt in range(2):  # the first one warms up
        out = tmp_path / f"{attempt}.arrow"
        (prepared,) = prepare_all(Request(inputs=data.segments, out=out, refs_dir=data.references))
        watch = Watch()
        asyncio.run(run_exposure(prepared, watch))
    assert watch.rows[0][0] - watch.begun["stream"] < 1.0
    assert watch.rows[0][1] <= 64


def test_rows_come_while_the_run_goes_on(simulated: Simulated, tmp_path: Path) -> None:
    """The first batch is in the journal long before the last one is made."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=200, seed=3)
    out = tmp_path / "lc.arrow"
    (prepared,) = prepare_all(
        Request(
            inputs=tuple(exposure.segments), out=out, refs_dir=exposure.directory, block_bytes=1, workers=1
        )
    )
    committed: list[int] = []

    def look(pair: RowPair) -> None:
        committed.append(read_journal(journal_path(out))[1][-1].last_integration)

    asyncio.run(run_exposure(prepared, on_rows=look))
    assert committed[0] <= 64
    assert committed == sorted(committed)
    assert committed[-1] == 200
    assert len(committed) >= 4

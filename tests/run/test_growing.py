"""P4, P5: others read the rows while they come; what was committed survives a kill and never changes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from run_helpers import Simulated, bytes_per_integration, differences, reduce, table_differences

import tsostream
from bench.clones import clone
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import Tail, journal_path, read_journal, spectra_path

RUNNER = Path(__file__).parent / "runner.py"
INTS = 600

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def long(
    simulated: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SimulatedExposure, list[Path]]:
    """Six hundred integrations in three files."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=60, seed=8, cosmic_rays=1e-3)
    return exposure, clone(exposure.segments[0], tmp_path_factory.mktemp("long"), ints=INTS, segments=3)


@pytest.fixture(scope="module")
def finished(long: tuple[SimulatedExposure, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes, without wavelengths as in the runner."""
    exposure, segments = long
    return reduce(exposure, tmp_path_factory.mktemp("finished") / "lc.arrow", segments, wavelengths=None)


def arguments(long: tuple[SimulatedExposure, list[Path]], out: Path, *more: object) -> list[object]:
    exposure, segments = long
    block = 4 * bytes_per_integration(segments[0])
    return [RUNNER, out, exposure.directory, *segments, "--block", block, *more]


def head(table: pa.Table, rows: int) -> pa.Table:
    return table.slice(0, rows).combine_chunks()


def test_another_process_sees_rows_in_order_never_partial(
    long: tuple[SimulatedExposure, list[Path]], finished: Path, tmp_path: Path, spawn: Spawn
) -> None:
    out = tmp_path / "lc.arrow"
    # goes on when what is there has been seen
    run = spawn(*arguments(long, out, "--step"), stdin=subprocess.PIPE)
    assert run.stdin is not None
    tails = [Tail(out), Tail(spectra_path(out))]
    seen: list[list[pa.RecordBatch]] = [[], []]
    while_growing = 0
    deadline = time.monotonic() + 240
    told = 0
    while not all(tail.finished for tail in tails):
        assert time.monotonic() < deadline
        assert run.poll() in (None, 0), run.communicate()
        for tail, batches in zip(tails, seen, strict=True):
            new = tail.poll()
            while_growing += bool(new)
            last = batches[-1]["integration"][-1].as_py() if batches else 0
            for batch in new:
                numbers = batch["integration"].to_pylist()
                assert numbers == list(range(last + 1, last + 1 + len(numbers)))
                last = numbers[-1]
            batches += new
        reached = min((batches[-1]["integration"][-1].as_py() if batches else 0) for batches in seen)
        if reached > told:
            told = reached
            run.stdin.write("\n")
            run.stdin.flush()
        time.sleep(0.01)
    assert run.wait(60) == 0
    assert while_growing >= 8
    lc = tsostream.open(finished)
    assert lc.spectra is not None
    for batches, whole in zip(seen, (lc.table, lc.spectra.table), strict=True):
        assert sum(batch.num_rows for batch in batches) == INTS
        assert table_differences(pa.Table.from_batches(batches), whole) == []
    assert differences(out, finished) == []


def test_kill_9_keeps_every_committed_row(
    long: tuple[SimulatedExposure, list[Path]], finished: Path, tmp_path: Path, spawn: Spawn
) -> None:
    """Several moments; the values are those of a run that nobody disturbed."""
    dice = random.Random(11)
    whole = tsostream.open(finished)
    assert whole.spectra is not None
    reached = []
    for attempt in range(5):
        out = tmp_path / f"{attempt}.arrow"
        run = spawn(*arguments(long, out, "--step"), stdin=subprocess.PIPE)
        assert run.stdout is not None
        assert run.stdin is not None
        for _ in range(dice.randint(1, 6)):
            told = run.stdout.readline()
            run.stdin.write("\n")
            run.stdin.flush()
        # it is killed on the way to the next batch, or when it waits behind it
        time.sleep(dice.uniform(0, 0.03))
        run.send_signal(signal.SIGKILL)
        lines = [told, *run.communicate()[0].splitlines()]
        assert run.returncode == -signal.SIGKILL
        entries = read_journal(journal_path(out))[1]
        lc = tsostream.open(out)
        assert lc.status == "growing"
        assert lc.spectra is not None
        rows, spectra = lc.table, lc.spectra.table
        # the number told last may have been cut short
        assert entries[-1].last_integration >= max([int(line) for line in lines[:-1]], default=1)
        assert rows.num_rows >= entries[-1].last_integration
        assert spectra.num_rows >= entries[-1].last_integration
        assert table_differences(rows, head(whole.table, rows.num_rows)) == []
        assert table_differences(spectra, head(whole.spectra.table, spectra.num_rows)) == []
        assert lc.metadata["exposure"] == whole.metadata["exposure"]
        reached.append(rows.num_rows)
    assert all(0 < rows < INTS for rows in reached), reached
    assert len(set(reached)) > 1


def test_the_journal_goes_when_the_run_is_complete(finished: Path) -> None:
    assert tsostream.open(finished).status == "complete"
    assert not journal_path(finished).exists()
    assert pa.ipc.open_file(finished).read_all().num_rows == INTS


def test_no_emitted_value_changes(
    long: tuple[SimulatedExposure, list[Path]], tmp_path: Path, spawn: Spawn
) -> None:
    """What one reads in the middle is byte for byte the beginning of the finished file."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments(long, out, "--hold"), stdin=subprocess.PIPE)
    assert run.stdout is not None
    assert int(run.stdout.readline()) >= 1
    early = {path: path.read_bytes() for path in (out, spectra_path(out))}
    first = tsostream.open(out)
    assert first.status == "growing"
    assert len(first) > 0
    run.communicate("go on\n")
    assert run.returncode == 0
    for path, content in early.items():
        assert path.read_bytes().startswith(content)
    assert tsostream.open(out).status == "complete"
    flux = tsostream.open(out).table["flux"].to_numpy()
    np.testing.assert_array_equal(flux[: len(first)], first.table["flux"].to_numpy())

"""Whatever happens to files, disks and other processes: a named error, rows that stay readable, no hang."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_helpers import Simulated, bytes_per_integration, differences, light_curve, reduce, table_differences

import tsostream
from bench.clones import clone
from tsostream.errors import InputError, OutputExistsError, ReadError, SinkError, TsoStreamError
from tsostream.records import RowPair
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import journal_path, read_journal

RUNNER = Path(__file__).parent / "runner.py"


def damage(whole: bytes, headers: np.ndarray, rng: np.random.Generator) -> bytes:
    """Cut the file, flip bits, overwrite one byte or a stretch; half of it hits a header."""
    raw = bytearray(whole)
    kind = rng.integers(4)
    where = int(rng.choice(headers)) if rng.random() < 0.5 else int(rng.integers(len(raw)))
    if kind == 0:
        return bytes(raw[:where])
    if kind == 1:
        for at in rng.integers(where, min(where + 200, len(raw)), 10):
            raw[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        raw[where] = int(rng.integers(32, 127))
    else:
        end = min(where + int(rng.integers(1, 3000)), len(raw))
        raw[where:end] = rng.bytes(end - where)
    return bytes(raw)


@pytest.mark.filterwarnings("ignore:.*:astropy.io.fits.verify.VerifyWarning")
def test_random_corruptions(simulated: Simulated, tmp_path: Path) -> None:
    """Two hundred damaged files through the whole run: rows, or an error of ours, in good time."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=12, segments=2, seed=5, nx=64, groups=3)
    victim = tmp_path / exposure.segments[1].name
    whole = exposure.segments[1].read_bytes()
    blocks = [
        at
        for at in range(0, len(whole), 2880)
        if whole[at : at + 2880].isascii() and 0 not in whole[at : at + 2880]
    ]
    headers = np.concatenate([np.arange(at, at + 2880) for at in blocks])
    outcomes = {"rows": 0, "refused": 0, "failed": 0}
    for seed in range(200):
        victim.write_bytes(damage(whole, headers, np.random.default_rng(seed)))
        out = tmp_path / "lc.arrow"
        began = time.process_time()
        try:
            reduce(exposure, out, [exposure.segments[0], victim], overwrite=True)
        except InputError:
            outcomes["refused"] += 1
        except TsoStreamError:
            outcomes["failed"] += 1
        else:
            outcomes["rows"] += 1
            rows = light_curve(out)
            np.testing.assert_array_equal(rows["integration"], np.arange(1, len(rows["integration"]) + 1))
        assert time.process_time() - began < 30, seed
    assert outcomes["rows"] > 50, outcomes
    assert outcomes["refused"] > 50, outcomes


@pytest.fixture(scope="module")
def long(
    simulated: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SimulatedExposure, list[Path]]:
    exposure = simulated("NRC_TSIMAGE", ints=20, seed=4)
    return exposure, clone(exposure.segments[0], tmp_path_factory.mktemp("long"), ints=600, segments=6)


def run_watched(
    exposure: SimulatedExposure, segments: list[Path], out: Path, on_rows: Callable[[RowPair], None]
) -> None:
    (prepared,) = prepare_all(
        Request(
            inputs=tuple(segments),
            out=out,
            refs_dir=exposure.directory,
            workers=1,
            block_bytes=8 * bytes_per_integration(segments[0]),
        )
    )
    asyncio.run(run_exposure(prepared, on_rows=on_rows))


@pytest.mark.parametrize("how", ["removed", "shorter", "replaced by a longer one"])
def test_an_input_that_vanishes_in_mid_run(
    how: str, long: tuple[SimulatedExposure, list[Path]], tmp_path: Path
) -> None:
    exposure, whole = long
    segments = [Path(shutil.copy(path, tmp_path)) for path in whole]
    victim = segments[4]

    def spoil(pair: RowPair) -> None:
        if how == "removed":
            victim.unlink(missing_ok=True)
        elif how == "shorter":
            os.truncate(victim, victim.stat().st_size // 2)
        else:
            victim.write_bytes(whole[4].read_bytes() + bytes(2880))

    out = tmp_path / "lc.arrow"
    with pytest.raises(ReadError, match=victim.name) as caught:
        run_watched(exposure, segments, out, spoil)
    assert caught.value.exit_code == 1
    lc = tsostream.open(out)
    assert lc.status == "failed"
    reference = tsostream.open(
        reduce(exposure, tmp_path / "reference.arrow", whole, scout=str(tmp_path / "lc.scout.npz"))
    )
    assert 64 <= len(lc) < 500
    assert table_differences(lc.table, reference.table.slice(0, len(lc)).combine_chunks()) == []
    assert read_journal(journal_path(out))[1][-1].last_integration == len(lc)


def test_an_input_that_vanishes_before_the_first_row(
    long: tuple[SimulatedExposure, list[Path]], tmp_path: Path
) -> None:
    """Then nothing is left behind."""
    exposure, whole = long
    segments = [Path(shutil.copy(path, tmp_path)) for path in whole]
    out = tmp_path / "lc.arrow"
    (prepared,) = prepare_all(Request(inputs=tuple(segments), out=out, refs_dir=exposure.directory))
    segments[2].unlink()
    with pytest.raises(ReadError, match="cannot be opened any more"):
        asyncio.run(run_exposure(prepared))
    assert not list(tmp_path.glob("lc.*"))


def test_a_full_disk(
    long: tuple[SimulatedExposure, list[Path]], tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    exposure, segments = long
    reference = reduce(exposure, tmp_path / "all.arrow", segments)
    whole, scout = reference.stat().st_size, (tmp_path / "all.scout.npz").stat().st_size
    limit = whole * 2 // 3
    assert scout < limit
    out = tmp_path / "lc.arrow"
    block = 8 * bytes_per_integration(segments[0])
    run = spawn(RUNNER, out, exposure.directory, *segments, "--limit", limit, "--block", block)
    told = run.communicate(timeout=60)[0].splitlines()
    assert run.returncode == SinkError.exit_code == 1
    assert told[-1].startswith(f"SinkError: {out}: a batch cannot be written: File too large")
    lc = tsostream.open(out)
    assert 0 < len(lc) < 600
    assert lc.table["integration"].to_pylist() == list(range(1, len(lc) + 1))
    assert read_journal(journal_path(out))[1][-1].last_integration == len(lc) == int(told[-2])
    expected = tsostream.open(reference).table.slice(0, len(lc)).combine_chunks()
    assert table_differences(lc.table, expected) == []


def test_no_room_for_the_scout(
    simulated: Simulated, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    """It is written before the first row."""
    exposure = simulated("NRC_TSIMAGE", ints=20, seed=4)
    reduce(exposure, tmp_path / "all.arrow")
    limit = (tmp_path / "all.scout.npz").stat().st_size - 2000
    out = tmp_path / "lc.arrow"
    run = spawn(RUNNER, out, exposure.directory, *exposure.segments, "--limit", limit)
    told, errors = run.communicate(timeout=60)
    assert "Traceback" not in errors
    assert run.returncode == 1
    assert "lc.scout.npz: the scout cannot be stored (File too large); free some space" in told


def test_a_second_process_is_refused(
    long: tuple[SimulatedExposure, list[Path]], tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    exposure, segments = long
    out = tmp_path / "lc.arrow"
    given = (RUNNER, out, exposure.directory, *segments, "--block", 8 * bytes_per_integration(segments[0]))
    first = spawn(*given, "--hold", stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert int(first.stdout.readline()) > 0
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputExistsError, match=f"process {first.pid} on"):
            reduce(exposure, out, segments, **how)
    first.communicate("go on\n", timeout=60)
    assert first.returncode == 0
    assert len(tsostream.open(out)) == 600
    assert differences(out, reduce(exposure, tmp_path / "b.arrow", segments)) == []


def test_outputs_that_cannot_be(bots: SimulatedExposure, tmp_path: Path) -> None:
    """No directory, a directory in its place, an input, a file that is there."""
    with pytest.raises(InputError, match="the directory does not exist"):
        reduce(bots, tmp_path / "no" / "lc.arrow")
    (tmp_path / "lc.arrow").mkdir()
    with pytest.raises(TsoStreamError):
        reduce(bots, tmp_path / "lc.arrow", overwrite=True)
    copy = Path(shutil.copy(bots.segments[0], tmp_path))
    before = copy.read_bytes()
    with pytest.raises(OutputExistsError, match="is an input"):
        reduce(bots, copy, [copy], overwrite=True)
    assert copy.read_bytes() == before
    (tmp_path / "old.arrow").write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        reduce(bots, tmp_path / "old.arrow")
    assert (tmp_path / "old.arrow").read_text() == "precious"


def test_a_directory_that_cannot_be_written(
    bots: SimulatedExposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is put in its mouth."""
    where = tmp_path / "closed"
    where.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != where and real(path, mode))
    with pytest.raises(
        InputError, match=r"closed: the directory cannot be written; choose another --out"
    ) as caught:
        reduce(bots, where / "lc.arrow")
    assert caught.value.exit_code == 2
    assert list(where.iterdir()) == []

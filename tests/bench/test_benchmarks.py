"""The benchmarks run, tiny, and what they write makes sense; cloned exposures are exposures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import tsostream
from bench import latency, memory, stage1, stage3, startup, watching
from bench.cases import CASES, tiny
from bench.clones import clone
from bench.measure import table
from tsostream.files import find_exposures
from tsostream.simulate import SimulatedExposure, simulate


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> SimulatedExposure:
    return simulate("NRC_TSIMAGE", tmp_path_factory.mktemp("short"), ints=7, groups=3, nx=40, ny=40)


def test_a_clone_is_an_exposure(short: SimulatedExposure, tmp_path: Path) -> None:
    """Pixels in a cycle, one exposure by the audit, times as if it had been that long."""
    paths = clone(short.segments[0], tmp_path, ints=40, segments=3)
    (exposure,) = find_exposures(paths[::-1])
    assert (exposure.first, exposure.last, exposure.count, exposure.gaps) == (1, 40, 40, ())
    assert exposure.notes == ()
    assert [segment.count for segment in exposure.segments] == [13, 13, 14]
    source = fits.getdata(short.segments[0], "SCI")
    whole = np.concatenate([fits.getdata(path, "SCI") for path in paths])
    np.testing.assert_array_equal(whole, source[np.arange(40) % 7])
    tables = np.concatenate([np.asarray(fits.getdata(path, "INT_TIMES")) for path in paths])
    np.testing.assert_array_equal(tables["integration_number"], np.arange(1, 41))
    first = fits.getdata(short.segments[0], "INT_TIMES")
    shift = (tables["int_mid_MJD_UTC"][:7] - first["int_mid_MJD_UTC"]) * 86400
    assert np.abs(shift).max() < 1e-4
    assert np.ptp(np.diff(tables["int_mid_BJD_TDB"])) * 86400 < 1e-4
    for path in paths:
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "INT_TIMES", "ASDF"]


def test_a_clone_gives_the_rows_of_its_source(short: SimulatedExposure, tmp_path: Path) -> None:
    scout = tmp_path / "a.scout.npz"
    paths = clone(short.segments[0], tmp_path / "clone", ints=14)
    options = {"refs_dir": short.directory}
    (one,) = tsostream.process(short.segments, tmp_path / "a.arrow", **options)
    (other,) = tsostream.process(paths, tmp_path / "b.arrow", scout=str(scout), **options)
    flux = tsostream.open(one).table["flux"].to_numpy()
    np.testing.assert_array_equal(tsostream.open(other).table["flux"].to_numpy(), np.tile(flux, 2))


def run_tiny(
    main: Callable[..., dict[str, Any]], tmp_path: Path, *cases: str, more: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    out = tmp_path / "result.json"
    main(["--tiny", "--data", str(tmp_path / "data"), "--json", str(out), *more, "--cases", *cases])
    result = json.loads(out.read_text())
    assert result["command"].startswith("python -m bench.")
    assert result["machine"]["cores"] >= 1
    assert len(result["machine"]["load_average"]) == 3
    assert [row["case"] for row in result["rows"]] == list(cases)
    rows: list[dict[str, Any]] = result["rows"]
    return rows


def test_stage1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TSOSTREAM_JWST_PYTHON", raising=False)
    rows = run_tiny(stage1.main, tmp_path, "sub512")
    for row in rows:
        assert row["products ratio"] is None
        for name in ("products ratio", "parity ratio"):
            assert row["details"][name]["MB/s"] > 0
        assert row["read MB/s"] > row["MB/s"] > 0
        assert row["official MB/s"] is None
        assert "TSOSTREAM_JWST_PYTHON" in row["details"]["official"]["note"]
        assert sum(row["details"]["step_shares"].values()) == pytest.approx(1)
        assert row["peak MB"] > 100
        assert row["ns/group"] == pytest.approx(2e3 / row["MB/s"])
        assert 0 < row["start-up s"] < row["details"]["marks"]["end"]
    assert "official pipeline: not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    (row,) = run_tiny(memory.main, tmp_path, "sub512")
    assert row["long MB"] > row["floor MB"] > 50
    assert row["plan/peak"] == pytest.approx(row["plan MB"] / row["long MB"])
    assert set(row["parts"]) >= {"program", "buffers", "scout"}


def test_stage3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSOSTREAM_JWST_PYTHON", raising=False)
    (row,) = run_tiny(stage3.main, tmp_path, "sub64p")
    assert row["stage 1 ms"] > 0
    assert 0 < 1e-6 * row["outliers ns/px"] * 32 * 64 < row["stages 2+3 ms"]
    assert row["measuring ns/px"] > 0
    assert row["ratio"] is None
    assert row["peak MB"] > 100


def test_startup(tmp_path: Path) -> None:
    (row,) = run_tiny(startup.main, tmp_path, "sub64p", more=("--warm",))
    assert 0 < row["interpreter s"] < row["first byte s"] < row["end s"]
    assert row["cold end s"] is None


@pytest.mark.slow
def test_watching(tmp_path: Path) -> None:
    (row,) = run_tiny(watching.main, tmp_path, "sub64p")
    assert row["tail start-up s"] > 0
    assert row["live start-up s"] > 0
    # a run of a second has no whole cycle
    assert row["cycles"] == len(row["details"])


def test_the_cost_of_being_watched_is_told_by_windows() -> None:
    """A run that needs ten per cent more whenever somebody looks at the page, and becomes slower and slower."""
    windows = watching.Windows()
    for cycle in range(5):
        for place, state in enumerate(("live", "alone", "again", "tail")):
            windows.begins.append(6.0 * cycle + 1.5 * place)
            windows.states.append(state)
    rows, used, timeline = 0, 0.0, []
    for step in range(300):
        now = 0.1 * step + 0.05
        state = windows.states[min(int(now / 1.5), 19)]
        rows += 10
        used += 10 * (1e-3 + 1e-7 * step) * (1.1 if state == "live" else 1.0)
        timeline.append((rows, now, used))
    cycles = windows.split(timeline)
    assert len(cycles) == 4
    cost, error = watching._cost(cycles, "live", 0)
    assert cost == pytest.approx(10, abs=0.5)
    assert error < 0.5
    assert watching._cost(cycles, "again", 0)[0] == pytest.approx(0, abs=0.5)
    assert watching._cost(cycles, "tail", 1)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_latency(tmp_path: Path) -> None:
    (row,) = run_tiny(latency.main, tmp_path, "sub64p")
    assert 0 < row["first row s"] < 60
    assert sum(row["per second"][0]) == int(row["shape"].partition("×")[0])
    assert not list((tmp_path / "data").glob("arrival*"))


@pytest.mark.slow
def test_cold_start(tmp_path: Path) -> None:
    """Compiling everything takes a minute at most; ``pytest -m slow tests/bench``."""
    (row,) = run_tiny(startup.main, tmp_path, "sub64p")
    assert 0.5 < row["cold longer by s"] < 60


def test_tiny_cases_are_tiny() -> None:
    assert {tiny(case).name for case in CASES} == {case.name for case in CASES}
    assert all(tiny(case).megabytes < 5 for case in CASES)


def test_table() -> None:
    rows = [{"case": "a", "MB/s": 123.4, "ratio": None}, {"case": "b", "MB/s": 1.234, "ratio": 2}]
    assert table(rows).splitlines() == ["case  MB/s  ratio", "   a   123      -", "   b  1.23      2"]
    assert table([]) == "(nothing)"

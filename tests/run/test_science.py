"""Rows against the truth: scatter as the errors say, the transit as deep as it was, the source where it was.

``pytest -m slow tests/run/test_science.py -s`` runs eight seeds of each mode and prints a table, with 1/f noise too
(reported, not judged: the streaming 1/f correction comes later).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_helpers import SMALL, Simulated, reduce
from science import Verdict, judge

INTS = 160
#: what the scatter may differ from the rows' own errors by, beyond the uncertainty of a scatter from few rows
BAND = 0.10


def pooled_scatter(verdicts: list[Verdict]) -> tuple[float, float]:
    """Scatter over own error from several exposures, and its standard error."""
    freedom = np.array([verdict.out - 1 for verdict in verdicts])
    squares = np.array([verdict.scatter for verdict in verdicts]) ** 2
    return float(np.sqrt(np.average(squares, weights=freedom))), float(1 / np.sqrt(2 * freedom.sum()))


def run_seeds(
    exp_type: str, seeds: range, simulated: Simulated, tmp_path: Path, **options: object
) -> list[Verdict]:
    verdicts = []
    for seed in seeds:
        exposure = simulated(exp_type, ints=INTS, seed=seed, **options)
        verdicts.append(judge(exposure, reduce(exposure, tmp_path / f"{seed}.arrow")))
    return verdicts


@pytest.mark.parametrize("exp_type", list(SMALL))
def test_scatter_and_depth(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """Two seeds without 1/f noise."""
    verdicts = run_seeds(exp_type, range(3, 5), simulated, tmp_path, oof=0)
    scatter, uncertainty = pooled_scatter(verdicts)
    assert abs(scatter - 1) < BAND + 3 * uncertainty, verdicts
    for verdict in verdicts:
        assert abs(verdict.sigmas) < 3, verdict
        assert verdict.depth_error < 0.05 * verdict.expected  # or three of them would not mean much


@pytest.mark.parametrize("exp_type", list(SMALL))
def test_positions(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """Injected movement comes back, across the trace and, in images, along both axes."""
    exposure = simulated(exp_type, ints=60, seed=3, oof=0, jitter=0.02)
    verdict = judge(exposure, reduce(exposure, tmp_path / "lc.arrow"))
    if exp_type != "MIR_LRS-SLITLESS":
        assert verdict.along_y > 0.95
    if exp_type in ("MIR_LRS-SLITLESS", "NRC_TSIMAGE", "MIR_IMAGE"):
        assert verdict.along_x > 0.95


@pytest.mark.parametrize("exp_type", list(SMALL))
def test_the_scale_of_a_shift(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """A tilt event of a twentieth of a pixel is measured as one."""
    from run_helpers import light_curve

    exposure = simulated(exp_type, ints=60, seed=3, oof=0, drift=0.0, tilt=(31, 0.05, 0.05, 0.0))
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow"))
    axes = {"MIR_LRS-SLITLESS": "x", "NRC_TSIMAGE": "xy", "MIR_IMAGE": "xy"}.get(exp_type, "y")
    for axis in axes:
        step = np.mean(rows[axis][30:]) - np.mean(rows[axis][:30])
        assert step == pytest.approx(0.05, abs=0.01), axis


def test_no_transit_no_depth(simulated: Simulated, tmp_path: Path) -> None:
    """What finds a depth must also find none."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=INTS, seed=1, oof=0, transit_depth=0)
    verdict = judge(exposure, reduce(exposure, tmp_path / "lc.arrow"))
    assert verdict.expected == 0
    assert abs(verdict.sigmas) < 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("oof", [0, None])
def test_table(
    oof: float | None, simulated: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight seeds of each mode; with 1/f noise at the instrument's level the table is for reading only."""
    lines = [f"1/f noise: {'none' if oof == 0 else 'as in the instrument'}; {INTS} integrations, seeds 11-18"]
    lines += [
        f"{'mode':<18}{'scatter/error':>16}{'mean pull':>11}{'rms pull':>10}{'ppm/row':>9}{'r(x)':>7}{'r(y)':>7}"
    ]
    for exp_type in SMALL:
        directory = tmp_path / exp_type
        directory.mkdir()
        verdicts = run_seeds(exp_type, range(11, 19), simulated, directory, oof=oof)
        scatter, uncertainty = pooled_scatter(verdicts)
        pulls = np.array([verdict.sigmas for verdict in verdicts])
        error, along_x, along_y = (
            np.median([getattr(verdict, name) for verdict in verdicts])
            for name in ("error", "along_x", "along_y")
        )
        lines.append(
            f"{exp_type:<18}{scatter:9.3f} ±{uncertainty:5.3f}{pulls.mean():11.2f}{np.sqrt((pulls**2).mean()):10.2f}"
            f"{error * 1e6:9.0f}{along_x:7.3f}{along_y:7.3f}"
        )
        if oof == 0:
            assert abs(scatter - 1) < BAND, lines[-1]
            assert abs(pulls.mean()) < 3 / np.sqrt(len(pulls)), lines[-1]
    with capsys.disabled():
        print("\n" + "\n".join(lines))  # noqa: T201

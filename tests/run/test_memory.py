"""P1: memory is computed before the run, kept, shrunk on request, and does not grow with the exposure.

``pytest -m slow tests/run/test_memory.py`` measures full subarrays too (7 GB of scratch space, some minutes).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_helpers import Simulated, differences, reduce

from bench.cases import Case, Data, make_data
from bench.clones import clone
from bench.measure import run_child
from tsostream.errors import MemoryLimitError
from tsostream.run.plan import MemoryPlan
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.simulate import SimulatedExposure, simulate

MB = 1_000_000


@pytest.fixture(scope="module")
def soss(tmp_path_factory: pytest.TempPathFactory) -> SimulatedExposure:
    """Two integrations of a large subarray."""
    return simulate("NIS_SOSS", tmp_path_factory.mktemp("soss"), ints=2, groups=3)


def planned(exposure: SimulatedExposure, **options: Any) -> MemoryPlan:
    request = Request(inputs=tuple(exposure.segments), refs_dir=exposure.directory, workers=4, **options)
    (prepared,) = prepare_all(request)
    return prepared.plan


def test_max_memory_shrinks_the_plan(soss: SimulatedExposure) -> None:
    """Smaller blocks first, then fewer workers, then no read-ahead; never more than allowed."""
    free = planned(soss)
    assert (free.workers, free.read_ahead) == (4, 2)
    plans = []
    allowed = free.total
    while True:
        try:
            plans.append(planned(soss, max_memory=f"{allowed}"))
        except MemoryLimitError:
            break
        assert plans[-1].total <= allowed
        allowed = plans[-1].total - 1
    assert plans[0] == free
    assert len(plans) > 3
    assert plans[-1].workers == 1
    assert plans[-1].read_ahead <= 1
    assert sorted(plans, key=lambda plan: -plan.workers) == plans
    # what a window must hold does not shrink, nor what rows and the separation of orders need
    small, large = (plan.total - plan.program - plan.window - plan.rows for plan in (plans[-1], free))
    assert small < 0.8 * large


def test_then_it_refuses(soss: SimulatedExposure) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        planned(soss, max_memory="100MB")
    text = str(caught.value)
    assert "the smallest plan takes" in text
    assert "more than the 100 MB allowed; raise --max-memory" in text
    for part in ("program", "buffers", "references", "workspaces", "scout"):
        assert part in text
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, MemoryError)


def test_the_advice_helps(simulated: Simulated) -> None:
    exposure = simulated("NIS_SOSS", ints=90, segments=1, seed=2, cosmic_rays=3e-3)
    # where no window holds more than the scout
    alone = ("outlier_detection",)
    assert (
        planned(exposure, scout="spread:8", skip_steps=alone).total
        < planned(exposure, skip_steps=alone).total
    )


def test_the_plan_does_not_know_the_length(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=60, seed=8, cosmic_rays=1e-3)
    plans = []
    for ints in (800, 3000):
        segments = clone(exposure.segments[0], tmp_path / str(ints), ints=ints, segments=2)
        plans.append(planned(replace(exposure, segments=tuple(segments))))
    assert plans[0] == plans[1]


def test_a_shrunk_run_gives_the_same_rows(bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    full = planned(bots)
    small = f"{full.total - full.blocks // 2}"
    assert planned(bots, max_memory=small).total < full.total
    out = reduce(bots, tmp_path / "lc.arrow", workers=4, max_memory=small)
    assert differences(out, bots_rows) == []


def test_peak_memory_does_not_grow(simulated: Simulated, tmp_path: Path) -> None:
    """A thousand integrations and four thousand, in processes of their own."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=60, seed=8, cosmic_rays=1e-3)
    peaks = []
    for ints in (60, 1000, 4000):  # the first one may have to compile
        directory = tmp_path / f"{len(peaks)}"
        segments = clone(exposure.segments[0], directory, ints=ints, segments=2)
        data = Data(tuple(segments), segments[0], exposure.directory, exposure.references["wavelength"])
        measured = run_child(data, directory / "lc.arrow", workers=2)
        assert measured["integrations"] == ints
        peaks.append(measured["peak"])
    assert abs(peaks[2] - peaks[1]) < 0.05 * peaks[1] + 4 * MB
    assert peaks[2] > measured["floor"]  # the libraries alone; or nothing was measured
    assert abs(measured["plan"] / peaks[2] - 1) < 0.10


FULL = [
    (Case("sub512", "NRS_BRIGHTOBJ", "SUB512", 2000, 5, 32, 512), 400),
    (Case("substrip256", "NIS_SOSS", "SUBSTRIP256", 2000, 3, 256, 2048), 900),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("case", "limit"), FULL, ids=lambda value: getattr(value, "name", ""))
def test_full_subarrays(case: Case, limit: int, tmp_path: Path) -> None:
    """200 and 2,000 integrations: flat within 5 per cent, below the limit, as planned within 10 per cent."""
    run_child(make_data(replace(case, ints=20), tmp_path), tmp_path / "lc.arrow")  # compiles if need be
    runs = [
        run_child(make_data(replace(case, ints=ints), tmp_path), tmp_path / "lc.arrow")
        for ints in (200, 2000)
    ]
    peaks = [run["peak"] for run in runs]
    assert abs(peaks[1] / peaks[0] - 1) < 0.05
    assert peaks[1] < limit * MB
    assert abs(runs[1]["plan"] / peaks[1] - 1) < 0.10

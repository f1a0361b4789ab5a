"""jump, large events: snowballs grow as the spec and the official code say, in every order of work (section 16.10)."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators.jump_events import EventRules, event_scratch, flag_cores, flag_events, grow_cores
from tsostream.testing.builders import make_snowballs
from tsostream.testing.naive.events import find_core, grow_snowballs
from tsostream.testing.oracle import official_python

JUMP, SAT = dq.JUMP_DET, dq.SATURATED
DEFAULTS = EventRules(1.0, 5.0, 2.0, True, 2.5, 2.0, 25.0, 400.0)

CHILD = """
import pickle, sys
from types import SimpleNamespace
from stcal.jump.jump import flag_large_events
results = []
for flags, rules, stop in pickle.load(open(sys.argv[1], "rb")):
    own = SimpleNamespace(
        fl_sat=2, fl_jump=4, min_sat_area=rules["min_sat_area"], min_jump_area=rules["min_jump_area"],
        expand_factor=rules["expand_factor"], sat_required_snowball=rules["sat_required"],
        min_sat_radius_extend=rules["min_sat_extend"], sat_expand=rules["sat_expand"], edge_size=rules["edge_size"],
        max_extended_width=rules["longest"], mask_persist_grps_next_int=True, persist_grps_flagged=stop)
    results.append(flag_large_events(flags, 4, 2, own)[0])
pickle.dump(results, open(sys.argv[2], "wb"))
"""


def cores_of(groupdq: np.ndarray, rules: EventRules) -> np.ndarray:
    """Run `grow_cores` alone; uint8 [integration, y, x]."""
    count, _, ny, nx = groupdq.shape
    scratch = [np.empty((count, *shape), dtype) for shape, dtype in event_scratch(ny, nx).values()]
    cores = np.full((count, ny, nx), 255, np.uint8)
    grow_cores(groupdq, rules, *scratch, cores)
    return cores


def grow(groupdq: np.ndarray, rules: EventRules, stop: int) -> np.ndarray:
    out = groupdq.copy()
    count, ngroups, ny, nx = out.shape
    scratch = [np.empty((count, *shape), dtype) for shape, dtype in event_scratch(ny, nx).values()]
    cores = np.full((count, ny, nx), 255, np.uint8)
    flag_events(out, rules, *scratch, cores)
    # cores can be found ahead, without the jumps
    alone = groupdq & np.uint8(255 - JUMP)
    np.testing.assert_array_equal(cores_of(alone, rules), cores)
    np.testing.assert_array_equal(alone & SAT, out & SAT)
    before = np.concatenate([np.zeros_like(cores[:1]), cores[:-1]])
    flag_cores(out, before, min(stop, ngroups))
    return out


def random_rules(rng: np.random.Generator) -> EventRules:
    return EventRules(
        float(rng.choice([1, 3, 9])), float(rng.choice([5, 12, 30])), float(rng.choice([2.0, 1.5, 2.7])),
        bool(rng.random() < 0.8), float(rng.choice([2.5, 0.5, 4.0])), float(rng.choice([2, 3, 0])),
        float(rng.choice([25, 3, 0])), float(rng.choice([400, 10])),
    )  # fmt: skip


def cases(count: int) -> list[tuple[np.ndarray, EventRules, int]]:
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        n, ngroups, ny, nx = rng.integers((1, 3, 8, 8), (4, 7, 80, 80))
        flags = make_snowballs(rng, (n, ngroups, ny, nx))
        found.append((flags, random_rules(rng), int(rng.integers(1, ngroups + 2))))
    return found


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), ny=st.integers(6, 45), nx=st.integers(6, 45), ngroups=st.integers(3, 6)
)
def test_agrees_with_its_twin(seed: int, ny: int, nx: int, ngroups: int) -> None:
    rng = np.random.default_rng(seed)
    flags, rules = make_snowballs(rng, (2, ngroups, ny, nx)), random_rules(rng)
    stop = int(rng.integers(1, ngroups + 1))
    ours, expected = grow(flags, rules, stop), grow_snowballs(flags, rules._asdict(), stop)
    # a pixel exactly on the rim of a round ellipse is in or out by rounding
    assert (ours != expected).mean() < 0.003
    core = cores_of(flags.copy(), rules)[0] > 0
    assert (core != find_core(flags[0].copy(), rules._asdict())).mean() < 0.003


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_equals_the_official_code(tmp_path: Path) -> None:
    made = cases(60)
    plain: list[Any] = [(flags, rules._asdict(), stop) for flags, rules, stop in made]
    (tmp_path / "cases").write_bytes(pickle.dumps(plain))
    command = [official_python(), "-I", "-c", CHILD, str(tmp_path / "cases"), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    changed = 0
    results = pickle.loads((tmp_path / "results").read_bytes())
    for (flags, rules, stop), theirs in zip(made, results, strict=True):
        np.testing.assert_array_equal(grow(flags, rules, stop), theirs)
        changed += int((theirs != flags).sum())
    assert changed > 5_000


def one_snowball(
    radius: float = 6.0, core: float = 3.0, *, later: int = 0, at: tuple[int, int] = (50, 50)
) -> Any:
    """Two integrations of 100 x 100 pixels; jumps in group 2 of the first, their core saturated from there on."""
    flags = np.zeros((2, 5, 100, 100), np.uint8)
    y, x = np.mgrid[:100, :100]
    distance = np.hypot(y - at[0], x - at[1])
    flags[0, 2][distance <= radius] = JUMP
    flags[0, 2 + later :, distance <= core] = SAT
    return flags, distance


def test_a_snowball_grows_to_its_surroundings() -> None:
    flags, distance = one_snowball()
    out = grow(flags, DEFAULTS, 3)
    hit = out[0, 2] & JUMP > 0
    assert 9 < distance[hit].max() < 14, "twice as large"
    assert hit[(distance > 5) & (distance < 9)].all()
    assert not (out[0, [0, 1, 3, 4]] & JUMP).any(), "only in its group"
    grown = out[0, 2] & SAT > 0
    assert grown.sum() > (distance <= 3).sum()
    np.testing.assert_array_equal(out[0, 4] & SAT, out[0, 2] & SAT)


def test_the_next_integration_is_marked_where_the_core_was() -> None:
    flags, distance = one_snowball()
    out = grow(flags, DEFAULTS, 3)
    marked = out[1] & JUMP > 0
    assert marked[1:3, distance < 2].all()
    assert not marked[:, distance > 3].any()
    assert not marked[[0, 3, 4]].any()
    assert not (grow(flags, DEFAULTS, 1)[1] & JUMP).any()


@pytest.mark.parametrize(("later", "grows"), [(0, True), (1, True), (2, False)])
def test_the_core_saturates_in_this_group_or_the_next(later: int, grows: bool) -> None:
    flags, distance = one_snowball(later=later)
    out = grow(flags, DEFAULTS, 1)
    assert bool((out[0, 2, (distance > 7) & (distance < 9)] & JUMP).all()) == grows
    free = DEFAULTS._replace(sat_required=False)
    assert (grow(flags, free, 1)[0, 2, (distance > 7) & (distance < 9)] & JUMP).all()


def test_near_the_edge_no_core_is_needed() -> None:
    flags, distance = one_snowball(core=-1.0, at=(50, 20))
    beyond = (distance > 7) & (distance < 9)
    assert (grow(flags, DEFAULTS, 1)[0, 2, beyond] & JUMP).all()
    assert not (grow(flags, DEFAULTS._replace(edge_size=10.0), 1)[0, 2, beyond] & JUMP).any()


def test_holes_count_for_the_area() -> None:
    flags = np.zeros((1, 3, 40, 40), np.uint8)
    flags[0, 1, 10:15, 10:15] = JUMP
    flags[0, 1, 11:14, 11:14] = 0
    assert (grow(flags, DEFAULTS._replace(min_jump_area=25.0), 1) != flags).any()
    assert not (grow(flags, DEFAULTS._replace(min_jump_area=26.0), 1) != flags).any()
    flags[0, 1, 10, 10] = 0  # now the surroundings reach the hole, over the corner
    assert not (grow(flags, DEFAULTS._replace(min_jump_area=16.0), 1) != flags).any()

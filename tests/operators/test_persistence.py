"""persistence: agrees with its twin and the official step; a bounded past is enough (section 19)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.operators.base import Binding
from tsostream.operators.persistence import Persistence, flag_windows, integrations_before
from tsostream.testing.builders import make_info
from tsostream.testing.naive.corrections import flag_persistence
from tsostream.testing.oracle import Case, official_python, run_official


def saturated(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Flags that stay once set."""
    return (np.maximum.accumulate(rng.random(shape) < 0.03, axis=1) * dq.SATURATED).astype(np.uint8)


def run(
    flags: np.ndarray, starts: np.ndarray, group_time: float, duration: float, lead: int = 0
) -> np.ndarray:
    out, shape = flags.copy(), flags.shape[2:]
    flag_windows(
        out,
        starts,
        group_time,
        duration,
        np.uint8(dq.PERSISTENCE),
        lead,
        np.zeros(shape),
        np.zeros(shape, np.uint8),
    )
    return out


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), duration=st.sampled_from([1.3, 7.1, 20.9, 60.3]))
def test_agrees_with_its_twin(seed: int, duration: float) -> None:
    flags = saturated(np.random.default_rng(seed), (9, 4, 3, 4))
    starts = 1000.0 + 4.5 * np.arange(9)
    expected = flag_persistence(flags, starts, 1.0, duration, dq.PERSISTENCE)
    np.testing.assert_array_equal(run(flags, starts, 1.0, duration), expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), duration=st.sampled_from([1.3, 7.1, 20.9]), k=st.integers(0, 19))
def test_a_bounded_past_is_enough(seed: int, duration: float, k: int) -> None:
    info = make_info(ngroups=4, frame_time=1.0, nints=20)
    flags = saturated(np.random.default_rng(seed), (20, 4, 3, 4))
    starts = 1000.0 + 4.5 * np.arange(20)
    whole = run(flags, starts, 1.0, duration)
    lead = min(k, integrations_before(info, duration))
    part = slice(k - lead, k + 1)
    np.testing.assert_array_equal(run(flags[part], starts[part], 1.0, duration, lead)[lead], whole[k])


def test_without_a_time_nothing_is_done_and_with_one_it_is_refused() -> None:
    assert Persistence().skip
    assert Persistence().bind(Binding(make_info())).skipped == "persistence_time is not given"
    with pytest.raises(ConfigError, match="needs the 6 integrations before"):
        Persistence(persistence_time=60).bind(Binding(make_info(frame_time=2.0, ngroups=5)))
    with pytest.raises(ConfigError, match="dn_threshold"):
        Persistence(persistence_time=60, dn_threshold=1e4).bind(Binding(make_info()))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(2), [], []
    for duration in (3, 20, 60):
        info = make_info(ny=3, nx=4, ngroups=4, nints=12, group_time=1.0, frame_time=1.0)
        flags = saturated(rng, (12, 4, 3, 4))
        mjd = 60000.0 + 4.53 * np.arange(12) / 86400
        case = Case(
            "persistence", info, np.zeros(flags.shape, np.float32), flags, np.zeros((3, 4), np.uint32)
        )
        case.parameters, case.start_mjd = {"persistence_time": duration}, mjd
        cases.append(case)
        ours.append(run(flags, (mjd - 40587.0) * 86400.0, 1.0, duration))
    for out, theirs in zip(ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert (out & dq.PERSISTENCE).any()
        np.testing.assert_array_equal(out, theirs["groupdq"])

"""persistence: agrees with its twin and the official step; a bounded past is enough (section 19)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep
from tsostream.operators.persistence import Persistence, close_windows, epoch_seconds, flag_windows
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import flag_persistence, last_closing
from tsostream.testing.oracle import Case, official_python, run_official

PERS = np.uint8(dq.PERSISTENCE)


def saturated(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Flags that stay once set."""
    return (np.maximum.accumulate(rng.random(shape) < 0.03, axis=1) * dq.SATURATED).astype(np.uint8)


def run(
    flags: np.ndarray,
    starts: np.ndarray,
    duration: float,
    data: np.ndarray | None = None,
    above: float = np.inf,
) -> np.ndarray:
    """Flag the windows of consecutive integrations, groups of a second."""
    out, until = flags.copy(), np.zeros((1, *flags.shape[2:]))
    data = np.zeros(flags.shape, np.float32) if data is None else data
    for i in range(len(out)):
        one = slice(i, i + 1)
        flag_windows(out[one], data[one], starts[one], 1.0, duration, above, PERS, until, 0, out.shape[2])
    return out


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), duration=st.sampled_from([1.3, 7.1, 20.9, 60.3]), bright=st.booleans())
def test_agrees_with_its_twin(seed: int, duration: float, bright: bool) -> None:
    rng = np.random.default_rng(seed)
    flags = saturated(rng, (9, 4, 3, 4))
    data = rng.random(flags.shape).astype(np.float32)
    starts, above = 1000.0 + 4.5 * np.arange(9), 0.9 if bright else np.inf
    expected = flag_persistence(flags, starts, 1.0, duration, PERS, data > above)
    np.testing.assert_array_equal(run(flags, starts, duration, data, above), expected)
    until = np.full((9, 3, 4), np.nan)
    close_windows(flags, starts, 1.0, duration, until)
    np.testing.assert_array_equal(until, last_closing(flags, starts, 1.0, duration))


def bound(info: ExposureInfo, **parameters: Any) -> BoundRampStep:
    return Persistence(**parameters).bind(Binding(info))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), seconds=st.sampled_from([2, 70, 150]), k=st.integers(0, 19))
def test_a_bounded_past_is_enough(seed: int, seconds: int, k: int) -> None:
    """The step alone on all integrations, and on one and those that its memory reaches back to."""
    info = make_info(ngroups=4, frame_time=12.0, nints=20, ny=3, nx=4)
    step, rng = bound(info, persistence_time=seconds), np.random.default_rng(seed)
    ramp = make_ramp(info, rng, 20)
    ramp.groupdq[...] = saturated(rng, ramp.groupdq.shape)
    begin = max(0, k - step.memory.before)
    part = dataclasses.replace(
        ramp, first=begin + 1, data=ramp.data[begin : k + 1].copy(), groupdq=ramp.groupdq[begin : k + 1].copy(),
        times=ramp.times[begin : k + 1],
    )  # fmt: skip
    starts = epoch_seconds(ramp.times)
    expected = flag_persistence(ramp.groupdq, starts, info.group_time, float(seconds), PERS)
    (whole,), (last,) = step.push(ramp), step.push(part)
    np.testing.assert_array_equal(whole.groupdq, expected)
    np.testing.assert_array_equal(last.groupdq[-1], whole.groupdq[k])


def test_what_is_not_done_is_said() -> None:
    assert Persistence().skip
    assert bound(make_info()).skipped == "persistence_time is not given"
    with pytest.raises(ConfigError, match=r"dn_threshold .* all earlier integrations; .*--parity jwst"):
        bound(make_info(), persistence_time=60, dn_threshold=1e4)
    for name in ("persistence_array_file", "save_persistence"):
        with pytest.raises(ConfigError, match=f"{name} is not supported"):
            bound(make_info(), persistence_time=60, **{name: "windows.asdf"})


def test_do_not_use_can_be_set_too() -> None:
    assert Persistence(persistence_dnu=True).flag == dq.PERSISTENCE | dq.DO_NOT_USE


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(2), [], []
    for duration, above in ((3, None), (20, None), (60, None), (7, 0.9)):
        info = make_info(ny=3, nx=4, ngroups=4, nints=12, group_time=1.0, frame_time=1.0)
        flags = saturated(rng, (12, 4, 3, 4))
        mjd = 60000.0 + 4.53 * np.arange(12) / 86400
        data = rng.random(flags.shape).astype(np.float32)
        case = Case("persistence", info, data, flags, np.zeros((3, 4), np.uint32))
        case.parameters, case.start_mjd = {"persistence_time": duration, "dn_threshold": above}, mjd
        cases.append(case)
        ours.append(run(flags, (mjd - 40587.0) * 86400.0, duration, data, np.inf if above is None else above))
    for out, theirs in zip(ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert (out & dq.PERSISTENCE).any()
        np.testing.assert_array_equal(out, theirs["groupdq"])

"""persistence: agrees with its twin and the official step; a bounded past is enough (section 19)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError, InputError
from tsostream.files.open_windows import read_open_windows, write_open_windows
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
    until: np.ndarray | None = None,
) -> np.ndarray:
    """Flag the windows of consecutive integrations, groups of a second."""
    out = flags.copy()
    until = np.zeros((1, *flags.shape[2:])) if until is None else until
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
    # open from before: none, closed already, open, later than a window can be
    before = starts[0] + 1.0 + duration * rng.choice([-1e6, -0.1, 0.5, 0.99, 1.2, 3.0], (3, 4))
    before[before < 0] = 0.0
    expected = flag_persistence(flags, starts, 1.0, duration, PERS, data > above, before)
    np.testing.assert_array_equal(run(flags, starts, duration, data, above, before[None].copy()), expected)
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
    with pytest.raises(ConfigError, match=r"save_persistence writes .*--parity jwst"):
        bound(make_info(), persistence_time=60, save_persistence="windows.asdf")


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


def test_windows_go_through_a_file(tmp_path: Path) -> None:
    """Those of other detectors stay; what does not suit is no window, or told."""
    until, path = np.zeros((3, 4)), tmp_path / "open.dat"
    assert read_open_windows(path, "NRS1", 60.0, (3, 4))[1] == "there is no such file"
    for detector, value in (("NRS1", 5.0), ("NRS2", 7.0), ("NRS1", 6.0)):
        until[1, 2] = value
        path = write_open_windows(path, detector, "a_uncal.fits", 60, until)
    assert [one.name for one in tmp_path.iterdir()] == ["open.asdf"]
    for detector, value in (("NRS1", 6.0), ("NRS2", 7.0)):
        found, reason = read_open_windows(path, detector, 60.0, (3, 4))
        assert (found[1, 2], np.count_nonzero(found), reason) == (value, 1, "")
    for detector, duration, why in (("NIS", 60.0, "nothing of NIS"), ("NRS1", 61.0, "of 60 s, not 61 s")):
        found, reason = read_open_windows(path, detector, duration, (3, 4))
        assert why in reason
        assert not found.any()
    with pytest.raises(InputError, match="do not lie in the subarray"):
        read_open_windows(path, "NRS1", 60.0, (3, 2))
    path.write_text("no windows")
    with pytest.raises(InputError, match="cannot be read as windows of persistence"):
        read_open_windows(path, "NRS1", 60.0, (3, 4))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_windows_of_an_earlier_exposure_are_the_official_ones(tmp_path: Path) -> None:
    """The official step reads what it wrote itself; we read and write the same."""
    rng, cases, ours = np.random.default_rng(3), [], []
    info = make_info(ny=3, nx=4, ngroups=4, nints=6, group_time=1.0, frame_time=1.0)
    path, until = tmp_path / "open.asdf", np.zeros((1, 3, 4))
    for number, gap in enumerate(
        (0, 9, -40)
    ):  # the last one before the windows were opened: they are no windows
        flags, data = saturated(rng, (6, 4, 3, 4)), rng.random((6, 4, 3, 4)).astype(np.float32)
        mjd = 60000.0 + (gap + 27.2 * number + 4.53 * np.arange(6)) / 86400
        case = Case("persistence", info, data, flags, np.zeros((3, 4), np.uint32))
        case.parameters = {
            "persistence_time": 20, "dn_threshold": 0.97, "persistence_array_file": str(path),
            "save_persistence": str(path),
        }  # fmt: skip
        case.start_mjd = mjd
        cases.append(case)
        ours.append(run(flags, (mjd - 40587.0) * 86400.0, 20.0, data, 0.97, until))
    for out, theirs in zip(ours, run_official(cases), strict=True):
        np.testing.assert_array_equal(out, theirs["groupdq"])
    found, reason = read_open_windows(path, info.detector, 20.0, (3, 4))
    assert (reason, found.any()) == ("", True)
    np.testing.assert_array_equal(found, until[0])

"""group_scale: agrees with its twin and the official step (spec stage 1, section 3). Tolerance: none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.base import Binding
from tsostream.operators.group_scale import GroupScale
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import rescale
from tsostream.testing.oracle import Case, official_python, run_official


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 9), divisor=st.integers(1, 16))
def test_agrees_with_its_twin(seed: int, frames: int, divisor: int) -> None:
    info = make_info("NRC_TSGRISM", ny=3, nx=5, nframes=frames, frame_divisor=divisor)
    ramp = make_ramp(info, np.random.default_rng(seed), 2)
    expected = rescale(ramp.data, divisor, frames)
    bound = GroupScale().bind(Binding(info))
    assert bool(bound.skipped) == (frames == divisor)
    (out,) = bound.push(ramp)
    np.testing.assert_allclose(out.data, expected, rtol=2e-7)


def test_without_a_divisor() -> None:
    assert "power of two" in GroupScale().bind(Binding(make_info(nframes=4))).skipped
    assert "FRMDIVSR" in GroupScale().bind(Binding(make_info(nframes=3))).skipped


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    cases, ours = [], []
    for frames, divisor in ((3, 4), (5, 8), (4, 4), (3, None), (8, None)):
        info = make_info("NRC_TSGRISM", ny=3, nx=5, nints=2, nframes=frames, frame_divisor=divisor)
        ramp = make_ramp(info, np.random.default_rng(frames), 2)
        cases.append(Case("group_scale", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq))
        bound = GroupScale().bind(Binding(info))
        (out,) = bound.push(ramp)
        ours.append((bound.skipped, out))
    for (skipped, out), theirs in zip(ours, run_official(cases), strict=True):
        assert theirs["status"] == ("SKIPPED" if skipped else "COMPLETE")
        np.testing.assert_array_equal(out.data, theirs["data"])

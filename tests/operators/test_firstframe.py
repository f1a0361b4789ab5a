"""firstframe: agrees with its twin and the official step (spec stage 1, section 13). Tolerance: none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators.base import Binding
from tsostream.operators.firstframe import Firstframe, flag_first_group
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import keep_bright_first
from tsostream.testing.oracle import Case, official_python, run_official


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(4, 7), keep=st.booleans())
def test_agrees_with_its_twin(seed: int, groups: int, keep: bool) -> None:
    info = make_info("MIR_IMAGE", ny=4, nx=6, ngroups=groups)
    ramp = make_ramp(info, np.random.default_rng(seed), 3, flags=0.1)
    expected, kept = keep_bright_first(ramp.groupdq, keep_bright=keep)
    plane = np.full(kept.shape, 9, np.uint8)
    flags = ramp.groupdq.copy()
    flag_first_group(flags, keep, plane, 0, info.ny)
    np.testing.assert_array_equal(plane, kept)
    (out,) = Firstframe(bright_use_group1=keep).bind(Binding(info)).push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)
    np.testing.assert_array_equal(out.groupdq, flags)


def test_skipped_where_it_does_not_apply() -> None:
    assert Firstframe().skip
    assert Firstframe().bind(Binding(make_info())).skipped == "only MIRI has the effect"
    assert "four groups" in Firstframe().bind(Binding(make_info("MIR_IMAGE", ngroups=3))).skipped


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    cases, ours = [], []
    for groups in (3, 4, 6):
        for keep in (True, False):
            info = make_info("MIR_IMAGE", ny=4, nx=6, ngroups=groups, nints=3)
            ramp = make_ramp(info, np.random.default_rng(groups), 3, flags=0.1)
            case = Case("firstframe", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq)
            case.parameters = {"bright_use_group1": keep}
            cases.append(case)
            (out,) = Firstframe(bright_use_group1=keep).bind(Binding(info)).push(ramp)
            ours.append(out)
    for case, out, theirs in zip(cases, ours, run_official(cases), strict=True):
        np.testing.assert_array_equal(out.groupdq, theirs["groupdq"])
        if case.info.ngroups > 3:
            # the official step marks the pixel of the file, ours the integration
            _, kept = keep_bright_first(case.groupdq, keep_bright=case.parameters["bright_use_group1"])
            estimated = (theirs["pixeldq"] & dq.FLUX_ESTIMATED) != 0
            np.testing.assert_array_equal(estimated, kept.any(axis=0))

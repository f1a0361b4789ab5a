"""lastframe: the last of at least three MIRI groups is not used (spec stage 1, section 13)."""

from __future__ import annotations

import numpy as np
import pytest

from tsostream.operators.lastframe import Lastframe
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import flag_last_group


@pytest.mark.parametrize("ngroups", [1, 2, 3, 5])
def test_agrees_with_its_twin(ngroups: int) -> None:
    rng = np.random.default_rng(ngroups)
    info = make_info("MIR_LRS-SLITLESS", ny=4, nx=4, ngroups=ngroups)
    ramp = make_ramp(info, rng, 2, flags=0.1)
    expected = flag_last_group(ramp.groupdq)
    step = Lastframe().bind(make_binding(Lastframe, info, rng))
    (out,) = step.push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)
    assert bool(step.skipped) == (ngroups < 3)


def test_near_infrared_is_left_alone() -> None:
    info = make_info("NRS_BRIGHTOBJ", ny=4, nx=4)
    rng = np.random.default_rng(0)
    step = Lastframe().bind(make_binding(Lastframe, info, rng))
    assert step.skipped == "only MIRI has the effect"
    (out,) = step.push(make_ramp(info, rng, 1))
    assert not out.groupdq.any()

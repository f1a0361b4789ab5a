"""charge_migration: agrees with its twin and the official step (stage 1, section 15). Tolerance: none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration.payload import Ramp
from tsostream.operators.base import Binding
from tsostream.operators.charge_migration import ChargeMigration
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import flag_charge_loss
from tsostream.testing.oracle import Case, official_python, run_official


def ramps(seed: int, groups: int) -> Ramp:
    info = make_info(ny=7, nx=8, ngroups=groups, nints=2)
    rng = np.random.default_rng(seed)
    ramp = make_ramp(info, rng, 2, flags=0.05)
    ramp.data[...] = rng.choice(
        [100.0, 24999.0, 25000.0, 25001.0, 60000.0], ramp.data.shape, p=[0.8, 0.05, 0.05, 0.05, 0.05]
    )
    return ramp


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(3, 6),
    threshold=st.sampled_from([25000.0, 200.0, 59999.9]),
)
def test_agrees_with_its_twin(seed: int, groups: int, threshold: float) -> None:
    ramp = ramps(seed, groups)
    expected = flag_charge_loss(ramp.data, ramp.groupdq, threshold)
    info = make_info(ny=7, nx=8, ngroups=groups)
    (out,) = ChargeMigration(signal_threshold=threshold).bind(Binding(info)).push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)


def test_skipped_by_default_and_for_short_ramps() -> None:
    assert ChargeMigration().skip
    assert "three groups" in ChargeMigration().bind(Binding(make_info(ngroups=2))).skipped


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    cases, ours = [], []
    for groups in (2, 3, 5):
        info, ramp = make_info(ny=7, nx=8, ngroups=groups, nints=2), ramps(groups, groups)
        cases.append(Case("charge_migration", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq))
        (out,) = ChargeMigration().bind(Binding(info)).push(ramp)
        ours.append(out)
    for out, theirs in zip(ours, run_official(cases), strict=True):
        np.testing.assert_array_equal(out.groupdq, theirs["groupdq"])

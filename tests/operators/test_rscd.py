"""rscd: agrees with its twin and the official step (spec stage 1, section 12). Tolerance: none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding
from tsostream.operators.rscd import Rscd, groups_to_skip, skip_groups
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import skip_initial
from tsostream.testing.oracle import Case, official_python, run_official


def table_of(*rows: tuple[str, str, int, int]) -> Reference:
    kind = [("subarray", "U20"), ("readpatt", "U10"), ("group_skip1", "i4"), ("group_skip", "i4")]
    return Reference("rscd", "rscd.fits", {}, tables={"RSCD_GROUP_SKIP": np.array(list(rows), kind)})


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(6, 9),
    skips=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    first=st.integers(1, 3),
)
def test_agrees_with_its_twin(seed: int, groups: int, skips: tuple[int, int], first: int) -> None:
    info = make_info("MIR_IMAGE", ny=4, nx=6, ngroups=groups)
    ramp = make_ramp(info, np.random.default_rng(seed), 3, first=first, flags=0.1)
    skips = (min(skips[0], groups - 3), min(skips[1], groups - 3))
    expected, lowered = skip_initial(ramp.groupdq, first, skips)
    plane = np.full(lowered.shape, 9, np.uint8)
    flags = ramp.groupdq.copy()
    skip_groups(flags, first, *skips, plane, 0, info.ny)
    np.testing.assert_array_equal(flags, expected)
    np.testing.assert_array_equal(plane, lowered)
    binding = Binding(info, {"rscd": table_of(("SUB64", "FASTR1", *skips))})
    (out,) = Rscd().bind(binding).push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)


def test_numbers_are_lowered_for_short_ramps() -> None:
    reference = table_of(("SUB64", "FASTR1", 5, 3), ("SLITLESSPRISM", "FASTR1", -1, 2))
    assert groups_to_skip(reference, make_info("MIR_IMAGE", ngroups=12)) == (5, 3)
    assert groups_to_skip(reference, make_info("MIR_IMAGE", ngroups=7)) == (4, 3)
    assert groups_to_skip(reference, make_info("MIR_IMAGE", ngroups=5)) == (1, 1)
    assert groups_to_skip(reference, make_info("MIR_IMAGE", ngroups=3)) == (0, 0)
    assert groups_to_skip(reference, make_info("MIR_LRS-SLITLESS", ngroups=12, subarray="SUBPRISM")) == (1, 2)
    assert groups_to_skip(reference, make_info("MIR_IMAGE", subarray="SUB128")) is None


def test_skipped_where_it_does_not_apply() -> None:
    reference = {"rscd": table_of(("SUB64", "FASTR1", 5, 3))}
    assert not Rscd().skip
    assert Rscd().bind(Binding(make_info(), reference)).skipped == "only MIRI has the effect"
    assert Rscd().bind(Binding(make_info("MIR_IMAGE"))).skipped == "no rscd reference"
    assert "three groups" in Rscd().bind(Binding(make_info("MIR_IMAGE", ngroups=2), reference)).skipped
    assert "SUB128" in Rscd().bind(Binding(make_info("MIR_IMAGE", subarray="SUB128"), reference)).skipped


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rows = [("SUB64", "FASTR1", 5, 3)]
    cases, ours = [], []
    for groups in (2, 3, 5, 6, 8, 10):
        for first in (1, 7):
            info = make_info("MIR_IMAGE", ny=6, nx=8, ngroups=groups, nints=20)
            ramp = make_ramp(info, np.random.default_rng(groups), 4, first=first)
            start = np.random.default_rng(first).integers(0, 2 * groups, (4, 1, 6, 8))
            ramp.groupdq[...] = np.where(np.arange(groups)[:, None, None] >= start, dq.SATURATED, 0)
            case = Case("rscd", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq, first=first)
            # columns of the official table: subarray, readpatt, group_skip1, group_skip
            case.references = {"rscd": {"rows": rows}}
            cases.append(case)
            bound = Rscd().bind(Binding(info, {"rscd": table_of(*rows)}))
            (out,) = bound.push(ramp)
            ours.append((bound, out))
    for case, (bound, out), theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == ("SKIPPED" if bound.skipped else "COMPLETE")
        np.testing.assert_array_equal(out.groupdq, theirs["groupdq"])
        if not bound.skipped:
            skips = groups_to_skip(table_of(*rows), case.info)
            assert skips is not None
            _, lowered = skip_initial(case.groupdq, case.first, skips)
            estimated = (theirs["pixeldq"] & dq.FLUX_ESTIMATED) != 0
            np.testing.assert_array_equal(estimated, lowered.any(axis=0))

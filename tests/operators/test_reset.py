"""reset: the absolute integration number picks the plane (spec section 11). Tolerance: float32 rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ReferenceMismatchError
from tsostream.operators.base import Binding
from tsostream.operators.reset import Reset
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import subtract_numbered


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 6),
    members=st.integers(1, 4),
    first=st.integers(1, 6),
    count=st.integers(1, 4),
)
def test_agrees_with_its_twin(seed: int, groups: int, members: int, first: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("MIR_IMAGE", ny=4, nx=5, ngroups=4)
    binding = make_binding(Reset, info, rng)
    planes = rng.normal(0, 50, (members, groups, 4, 5)).astype(np.float32)
    planes[rng.random(planes.shape) < 0.05] = np.nan
    reference = dataclasses.replace(
        binding.references["reset"], arrays={**binding.references["reset"].arrays, "SCI": planes}
    )
    binding = dataclasses.replace(binding, references={"reset": reference})
    ramp = make_ramp(info, rng, count, first=first)
    expected = subtract_numbered(ramp.data, planes, first)
    (out,) = Reset().bind(binding).push(ramp)
    np.testing.assert_array_equal(out.data, expected.astype(np.float32))
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | reference.arrays["DQ"])


def test_skipped_without_reference_and_outside_miri() -> None:
    miri, nir = make_info("MIR_IMAGE"), make_info("NRC_TSIMAGE")
    assert Reset().bind(Binding(miri)).skipped == "no reset reference"
    assert (
        Reset().bind(make_binding(Reset, nir, np.random.default_rng(0))).skipped == "only MIRI has the effect"
    )


def test_a_reference_without_integrations_is_refused() -> None:
    info = make_info("MIR_IMAGE", ny=4, nx=5)
    reference = make_binding(Reset, info, np.random.default_rng(0)).references["reset"]
    flat = dataclasses.replace(reference, arrays={**reference.arrays, "SCI": reference.arrays["SCI"][0]})
    with pytest.raises(ReferenceMismatchError, match="SCI has 3 axes"):
        Reset().bind(Binding(info, {"reset": flat}))

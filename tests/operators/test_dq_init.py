"""dq_init: the mask goes into the static plane whole, into the groups only as DO_NOT_USE."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ReferenceMismatchError
from tsostream.integration import dq
from tsostream.operators.base import Binding
from tsostream.operators.dq_init import DqInit
from tsostream.testing.builders import make_binding, make_info, make_ramp, make_reference
from tsostream.testing.naive.ramps import flag_mask


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ngroups=st.integers(1, 4), count=st.integers(1, 3))
def test_agrees_with_its_twin(seed: int, ngroups: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=5, nx=7, ngroups=ngroups)
    binding = make_binding(DqInit, info, rng, share=0.1)
    ramp = make_ramp(info, rng, count, flags=0.1)
    mask = binding.references["mask"].arrays["DQ"]
    expected = flag_mask(ramp.groupdq, mask)
    data = ramp.data.copy()
    step = DqInit().bind(binding)
    (out,) = step.push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | mask)
    np.testing.assert_array_equal(out.data, data)


def test_other_bits_of_the_mask_do_not_stop_a_group() -> None:
    info = make_info(ny=1, nx=2, ngroups=2)
    mask = make_reference("mask", info, np.random.default_rng(0), share=0.0)
    bits = np.array([[dq.HOT, dq.DEAD | dq.DO_NOT_USE]], np.uint32)
    mask = type(mask)("mask", "m.fits", {"DQ": bits})
    step = DqInit().bind(Binding(info, {"mask": mask}))
    (out,) = step.push(make_ramp(info, np.random.default_rng(1), 1))
    assert out.groupdq[0, :, 0].tolist() == [[0, 1], [0, 1]]
    assert out.pixeldq.tolist() == [[dq.HOT, dq.DEAD | dq.DO_NOT_USE]]


def test_a_mask_of_another_subarray_is_refused() -> None:
    small, large = make_info(ny=4, nx=4), make_info(ny=5, nx=4)
    mask = make_reference("mask", small, np.random.default_rng(0))
    with pytest.raises(
        ReferenceMismatchError, match=r"DQ has shape \(4, 4\), dq_init needs \(\.\.\., 5, 4\)"
    ):
        DqInit().bind(Binding(large, {"mask": mask}))

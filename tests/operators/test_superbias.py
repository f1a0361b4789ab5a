"""superbias: one plane from every group, NaN counts as zero. Tolerance: one float32 rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.superbias import Superbias
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import subtract_static


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ngroups=st.integers(1, 4), count=st.integers(1, 3))
def test_agrees_with_its_twin(seed: int, ngroups: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=5, nx=7, ngroups=ngroups)
    binding = make_binding(Superbias, info, rng, share=0.1)
    ramp = make_ramp(info, rng, count, flags=0.1)
    reference = binding.references["superbias"]
    expected = subtract_static(ramp.data, reference.arrays["SCI"])
    flags = ramp.groupdq.copy()
    (out,) = Superbias().bind(binding).push(ramp)
    np.testing.assert_array_equal(out.data, expected.astype(np.float32))
    np.testing.assert_array_equal(out.groupdq, flags)
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | reference.arrays["DQ"])

"""gain_scale: GAINFACT once on slopes and errors, squared on variances. Tolerance: 2e-7, float32 rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.gain_scale import GainScale
from tsostream.testing.builders import make_binding, make_info, make_rate
from tsostream.testing.naive.slopes import scale_slopes


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.25, 4.0))
def test_agrees_with_its_twin(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=4, nx=6)
    binding = make_binding(GainScale, info, rng)
    gain = dataclasses.replace(binding.references["gain"], keywords={"GAINFACT": factor})
    rate = make_rate(info, rng, 2, broken=0.02)
    names = ("data", "err", "var_poisson", "var_rnoise")
    expected = scale_slopes(tuple(getattr(rate, name) for name in names), factor)
    flags = rate.dq.copy()
    (out,) = GainScale().bind(dataclasses.replace(binding, references={"gain": gain})).push(rate)
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(out, name), values, rtol=3e-7, err_msg=name)
    np.testing.assert_array_equal(out.dq, flags)


def test_skipped_without_the_keyword() -> None:
    info = make_info(ny=4, nx=6)
    rng = np.random.default_rng(0)
    binding = make_binding(GainScale, info, rng)
    gain = dataclasses.replace(binding.references["gain"], keywords={})
    step = GainScale().bind(dataclasses.replace(binding, references={"gain": gain}))
    assert "GAINFACT" in step.skipped
    assert not step.passes
    rate = make_rate(info, rng, 1)
    before = rate.data.copy()
    (out,) = step.push(rate)
    np.testing.assert_array_equal(out.data, before)

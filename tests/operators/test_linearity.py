"""linearity: a polynomial per pixel (spec section 10). Tolerance: 1e-6 of the value, float32 Horner."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators.linearity import Linearity
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import evaluate_polynomial


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), powers=st.integers(2, 6), ngroups=st.integers(1, 4))
def test_agrees_with_its_twin(seed: int, powers: int, ngroups: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=5, nx=9, ngroups=ngroups)
    binding = make_binding(Linearity, info, rng)
    terms = rng.uniform(-1, 1, (powers, 5, 9)) * (3e-6 ** np.arange(powers))[:, None, None] * 3e4
    terms[1] = rng.uniform(0.9, 1.1, (5, 9))
    terms[rng.integers(powers), rng.random((5, 9)) < 0.05] = np.nan
    terms[1, rng.random((5, 9)) < 0.05] = 0.0
    arrays = {**binding.references["linearity"].arrays, "COEFFS": terms.astype(np.float32)}
    reference = dataclasses.replace(binding.references["linearity"], arrays=arrays)
    binding = dataclasses.replace(binding, references={"linearity": reference})
    ramp = make_ramp(info, rng, 2, flags=0.1)
    flags = ramp.groupdq.copy()
    expected, bits = evaluate_polynomial(ramp.data, ramp.groupdq, arrays["COEFFS"], arrays["DQ"])
    (out,) = Linearity().bind(binding).push(ramp)
    np.testing.assert_allclose(out.data, expected, rtol=1e-6, atol=1e-2)
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | bits)
    np.testing.assert_array_equal(out.groupdq, flags)


def test_special_pixels() -> None:
    info = make_info(ny=1, nx=5, ngroups=1)
    coefficients = np.zeros((3, 1, 5), np.float32)
    coefficients[1], coefficients[2] = 1.0, 1e-5
    coefficients[2, 0, 1] = np.nan
    coefficients[1, 0, 2] = 0.0
    bits = np.array([[0, 0, 0, dq.NO_LIN_CORR, 0]], np.uint32)
    binding = make_binding(Linearity, info, np.random.default_rng(0), share=0.0)
    reference = dataclasses.replace(
        binding.references["linearity"], arrays={"COEFFS": coefficients, "DQ": bits}
    )
    ramp = make_ramp(info, np.random.default_rng(0), 1)
    ramp.data[...] = 10000.0
    ramp.groupdq[...] = [0, 0, 0, 0, dq.SATURATED]
    (out,) = Linearity().bind(dataclasses.replace(binding, references={"linearity": reference})).push(ramp)
    # corrected; NaN coefficient; no linear term; flagged in the reference; saturated
    assert out.data[0, 0, 0].tolist() == [11000.0, 10000.0, 10000.0, 10000.0, 10000.0]
    lost = dq.NO_LIN_CORR
    assert out.pixeldq[0].tolist() == [0, lost, lost, lost, 0]


def test_dropped_and_jumped_samples_are_corrected_too() -> None:
    info = make_info(ny=1, nx=3, ngroups=1)
    binding = make_binding(Linearity, info, np.random.default_rng(0), share=0.0)
    ramp = make_ramp(info, np.random.default_rng(0), 1)
    ramp.data[...] = 30000.0
    ramp.groupdq[...] = [dq.DO_NOT_USE, dq.JUMP_DET, dq.AD_FLOOR]
    (out,) = Linearity().bind(binding).push(ramp)
    assert (np.abs(out.data - 30000.0) > 10).all()

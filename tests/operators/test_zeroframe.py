"""Zero frames: agree with their twins and the official steps (stage 1, sections 6, 8, 9, 10)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators import zeroframe
from tsostream.operators.base import Binding
from tsostream.operators.refpix import Refpix
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.zeros import clear_zero, correct_zero, subtract_zero
from tsostream.testing.oracle import Case, compare, official_python, run_official

SHAPE = (2, 9, 11)


def raw(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    zero = rng.uniform(500, 40000, shape).astype(np.float32)
    zero[rng.random(shape) < 0.03] = 60000
    zero[rng.random(shape) < 0.05] = 0
    zero[rng.random(shape) < 0.02] = -5
    return zero


def clear(zero: np.ndarray, threshold: np.ndarray, reach: int) -> np.ndarray:
    out, marks = zero.copy(), np.empty(zero.shape, np.uint8)
    zeroframe.mark_saturated(out, threshold, marks, 0, zero.shape[1])
    for y in range(zero.shape[1]):
        zeroframe.clear_saturated(out, marks, reach, y, y + 1)
    return out


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), reach=st.integers(0, 3))
def test_agree_with_their_twins(seed: int, reach: int) -> None:
    rng = np.random.default_rng(seed)
    zero, threshold = raw(rng), rng.uniform(38000, 50000, SHAPE[1:]).astype(np.float32)
    np.testing.assert_array_equal(clear(zero, threshold, reach), clear_zero(zero, threshold, reach))
    plane = rng.normal(1000, 30, SHAPE[1:]).astype(np.float32)
    less = zero.copy()
    zeroframe.subtract_from_zero(less, plane, 0, SHAPE[1])
    np.testing.assert_allclose(less, subtract_zero(zero, plane), rtol=1e-6, atol=5e-3)
    by_restoring = zero - plane
    zeroframe.restore_zeros(by_restoring, zero, 0, SHAPE[1])
    np.testing.assert_array_equal(by_restoring, less)
    coefficients = np.stack([rng.normal(size=SHAPE[1:]), np.ones(SHAPE[1:]), np.full(SHAPE[1:], 1e-6)])
    coefficients = coefficients.astype(np.float32)
    curved = zero.copy()
    zeroframe.linearize_zero(curved, coefficients, 0, SHAPE[1])
    np.testing.assert_allclose(curved, correct_zero(zero, coefficients), rtol=1e-6, atol=1e-2)


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agree_with_the_official_steps() -> None:
    rng = np.random.default_rng(4)
    info = make_info("NRC_TSGRISM", ny=9, nx=11, ngroups=3, nints=2, nframes=4)
    ramp, zero = make_ramp(info, rng, 2), raw(rng)
    bits = np.zeros(info.frame_shape, np.uint32)
    level = np.full(info.frame_shape, 50000, np.float32)
    bias = rng.normal(1000, 30, info.frame_shape).astype(np.float32)
    terms = np.stack([np.zeros_like(bias), np.ones_like(bias), np.full_like(bias, 1e-6)])
    plane = np.zeros(info.frame_shape, np.uint32)
    plane[:4], plane[:, :4] = dq.REFERENCE_PIXEL, dq.REFERENCE_PIXEL

    def case(step: str, **references: dict[str, np.ndarray]) -> Case:
        content = {name: {"arrays": arrays} for name, arrays in references.items()}
        return Case(
            step, info, ramp.data.copy(), ramp.groupdq.copy(), plane, references=content, zeroframe=zero
        )

    cases = [
        case("saturation", saturation={"SCI": level, "DQ": bits}),
        case("superbias", superbias={"SCI": bias, "DQ": bits}),
        case("refpix"),
        case("linearity", linearity={"COEFFS": terms, "DQ": bits}),
    ]
    less, curved, flat = zero.copy(), zero.copy(), make_ramp(info, rng, 2)
    zeroframe.subtract_from_zero(less, bias, 0, 9)
    zeroframe.linearize_zero(curved, terms, 0, 9)
    single = make_info("NRC_TSGRISM", ny=9, nx=11, ngroups=1, nints=2, nframes=4)
    flat.data = zero[:, None].copy()
    (out,) = Refpix().bind(Binding(single, {}, plane)).push(flat)
    levelled = out.data[:, 0].copy()
    zeroframe.restore_zeros(levelled, zero, 0, 9)
    ours = [clear(zero, level, 1), less, levelled, curved]
    for one, result, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert compare(result, theirs["zeroframe"]).largest < 0.01, one.step
        assert compare(zero, theirs["zeroframe"]).largest > 5

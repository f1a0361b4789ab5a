"""Zero frames: agree with their twins and the official steps (stage 1, sections 6, 8, 9, 10)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.integration.payload import Ramp
from tsostream.operators import zeroframe
from tsostream.operators.base import Binding
from tsostream.operators.likelihood import SegmentLikely
from tsostream.operators.linearity import Linearity
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.ramp_fit_segment import SegmentFit
from tsostream.operators.rate_planes import RatePlanes
from tsostream.operators.refpix import Refpix
from tsostream.operators.saturation import Saturation
from tsostream.operators.superbias import Superbias
from tsostream.testing.builders import make_info, make_ramp, make_reference
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
    info = replace(info, zeroframe=True)
    steps = {"saturation": Saturation, "superbias": Superbias, "refpix": Refpix, "linearity": Linearity}
    ours = []
    for one in cases:
        references = {
            name: replace(make_reference(name, info, rng, share=0.0), arrays=content["arrays"])
            for name, content in one.references.items()
        }
        step = steps[one.step]().bind(Binding(info, references, plane))
        (out,) = step.push(replace(ramp, data=ramp.data.copy(), groupdq=ramp.groupdq.copy(), zeroframe=zero))
        ours.append(out.zeroframe)
    for one, result, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert compare(result, theirs["zeroframe"]).largest < 0.01, one.step
        assert compare(zero, theirs["zeroframe"]).largest > 5


def fit_case(rng: np.random.Generator, ngroups: int, algorithm: str) -> tuple[Case, Binding, Ramp]:
    """Ramps with groups of all kinds, and zero frames."""
    info = replace(
        make_info("NRC_TSIMAGE", ny=9, nx=11, ngroups=ngroups, nints=2, nframes=4, groupgap=1), zeroframe=True
    )
    ramp = make_ramp(info, rng, 2, saturated=0.3, hits=0)
    ramp.zeroframe[:] = raw(rng, ramp.zeroframe.shape)
    if algorithm == "LIKELY":
        # it belongs to the ramp: 1.5 frames before the middle of the first group, with 5 frames a group
        ramp.zeroframe[:] = ramp.data[:, 0] - 0.3 * (ramp.data[:, 1] - ramp.data[:, 0])
    first = rng.integers(0, 2 * ngroups, ramp.zeroframe.shape)
    ramp.groupdq[np.arange(ngroups)[None, :, None, None] >= first[:, None]] |= dq.SATURATED
    ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.1] |= dq.JUMP_DET
    ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.1] |= dq.DO_NOT_USE
    plane = np.zeros(info.frame_shape, np.uint32)
    arrays = {
        name: np.full(info.frame_shape, value, np.float32) for name, value in (("gain", 2), ("readnoise", 9))
    }
    references = {
        name: replace(make_reference(name, info, rng, share=0.0), arrays={"SCI": one})
        for name, one in arrays.items()
    }
    content = {name: {"arrays": {"SCI": one}} for name, one in arrays.items()}
    parameters = {"algorithm": algorithm, "suppress_one_group": False}
    case = Case(
        "ramp_fit", info, ramp.data.copy(), ramp.groupdq.copy(), plane, parameters, content,
        zeroframe=ramp.zeroframe.copy(),
    )  # fmt: skip
    return case, Binding(info, references, plane), ramp


def check_segment(binding: Binding, ramp: Ramp, algorithm: str, theirs: dict[str, np.ndarray]) -> None:
    """The fit of the segment scope equals the official one in every value, bar LIKELY's ramps of few differences."""
    info = binding.info
    gain, read = (binding.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
    dark = np.zeros(info.frame_shape, np.float32)
    fit = SegmentFit(info, gain, read, dark, False)
    if algorithm == "LIKELY":
        fit = SegmentLikely(info, gain, read, dark)
    out, mean = RatePlanes.empty(ramp.zeroframe.shape), RatePlanes.empty(info.frame_shape)
    window = (0, info.ny, 0, info.nx)
    fit.run(
        ramp.data.copy(), ramp.groupdq.copy(), binding.dq_plane, out, mean, window, zero=ramp.zeroframe.copy()
    )
    unused = ramp.groupdq != 0
    sure = np.ones(ramp.zeroframe.shape, bool)
    if algorithm == "LIKELY":
        sure = (~(unused[:, 1:] | unused[:, :-1])).sum(axis=1) + ~unused[:, 0] > 2
    for product, ours, where in (("rateints", out, sure), ("rate", mean, sure.all(axis=0))):
        np.testing.assert_array_equal(ours.dq[where], theirs[f"{product}.dq"][where])
        for name in ("data", "err", "var_poisson", "var_rnoise"):
            expected = theirs[f"{product}.{name}"][where]
            np.testing.assert_allclose(
                getattr(ours, name)[where], expected, rtol=1e-5, atol=1e-4, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_slopes_agree_with_the_official_fit() -> None:
    rng = np.random.default_rng(9)
    kinds = [(1, "OLS_C"), (2, "OLS_C"), (6, "OLS_C"), (6, "LIKELY")]
    made = [fit_case(rng, *kind) for kind in kinds]
    for (_, binding, ramp), kind, theirs in zip(
        made, kinds, run_official([case for case, _, _ in made]), strict=True
    ):
        step = RampFit(algorithm=kind[1], suppress_one_group=False).bind(binding)
        alone = ((ramp.groupdq & ~np.uint8(dq.PERSISTENCE)) != 0).all(axis=1) & (ramp.zeroframe != 0)
        check_segment(binding, ramp, kind[1], theirs)
        (out,) = step.push(ramp)
        data, bits = theirs["rateints.data"], theirs["rateints.dq"]
        there = np.isfinite(data) & ((bits & dq.DO_NOT_USE) == 0) & (theirs["rateints.var_rnoise"] > 0)
        if kind[1] == "LIKELY":
            # with fewer differences, which of them is a hit is rounding on both sides
            unused = ramp.groupdq != 0
            usable = (~(unused[:, 1:] | unused[:, :-1])).sum(axis=1) + ~unused[:, 0]
            there &= usable > 2
            assert there.sum() > 50
            assert np.isfinite(out.data)[there].all()
        else:
            np.testing.assert_array_equal(np.isfinite(out.data), there, err_msg=str(kind))
        np.testing.assert_allclose(out.data[there], data[there], rtol=3e-5, err_msg=str(kind))
        np.testing.assert_allclose(
            out.var_rnoise[there], theirs["rateints.var_rnoise"][there], rtol=1e-5, err_msg=str(kind)
        )
        # the official fit forgets that the first group was saturated; a ramp of one group has no other to tell
        known = ~np.where(ramp.groupdq.shape[1] == 1, np.uint32(dq.SATURATED), np.uint32(0))
        np.testing.assert_array_equal((out.dq & known)[there], bits[there], err_msg=str(kind))
        if kind[1] == "OLS_C":
            assert there[alone].all()
            assert alone.any()

"""Read-level linearity: agrees with its twin and the official step (spec stage 1, section 10)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.integration.payload import Ramp
from tsostream.integration.reference import Reference
from tsostream.operators.base import BoundRampStep
from tsostream.operators.linearity import prepare_coefficients
from tsostream.operators.linearity_reads import reads_pass, wants_reads
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.reads import linearize_frames
from tsostream.testing.oracle import Case, compare, official_python, run_official


def polynomials(
    rng: np.random.Generator, shape: tuple[int, int], *, bad: bool
) -> tuple[np.ndarray, np.ndarray]:
    scale = rng.uniform(0.5, 1.5, shape)
    forward = np.stack([np.zeros(shape), np.ones(shape), 1e-6 * scale, 2e-12 * scale])
    back = np.stack([np.zeros(shape), np.ones(shape), -1e-6 * scale, 1e-13 * scale])
    if bad:
        forward[2, rng.random(shape) < 0.1] = np.nan
        back[3, rng.random(shape) < 0.1] = np.nan
        forward[1, rng.random(shape) < 0.1] = 0
    return forward.astype(np.float32), back.astype(np.float32)


def run(ramp: Ramp, forward: np.ndarray, back: np.ndarray, nframes: int) -> np.ndarray:
    step = BoundRampStep("linearity", ramp.pixeldq, (reads_pass(forward, back, nframes),))
    (out,) = step.push(ramp)
    return out.data


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(2, 6), nframes=st.sampled_from([2, 4, 8]))
def test_agrees_with_its_twin(seed: int, groups: int, nframes: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("NRC_TSGRISM", ny=5, nx=7, ngroups=groups, nframes=nframes)
    ramp = make_ramp(info, rng, 2, flags=0.1)
    forward, back = polynomials(rng, info.frame_shape, bad=False)
    expected = linearize_frames(ramp.data, ramp.groupdq, forward, back, nframes)
    np.testing.assert_allclose(run(ramp, forward, back, nframes), expected, rtol=1e-6)


def test_frames_of_a_curved_ramp_are_told_apart() -> None:
    """The mean of saturating frames is off by the curvature; frame by frame it is not."""
    info = make_info("NRC_TSGRISM", ny=1, nx=1, ngroups=6, nframes=8)
    forward = np.array([0.0, 1.0, 2e-6])[:, None, None].astype(np.float32)
    truth = np.arange(1.0, 49.0) * 900.0
    measured = (-1 + np.sqrt(1 + 4 * 2e-6 * truth)) / (2 * 2e-6)
    back = np.polynomial.Polynomial.fit(truth, measured, 6).convert().coef
    ramp = make_ramp(info, np.random.default_rng(0), 1)
    ramp.groupdq[...] = 0
    ramp.data[0, :, 0, 0] = measured.reshape(6, 8).mean(axis=1)
    wanted = truth.reshape(6, 8).mean(axis=1)
    simple = ramp.data[0, :, 0, 0] + 2e-6 * ramp.data[0, :, 0, 0] ** 2
    ours = run(ramp, forward, back[:, None, None].astype(np.float32), 8)[0, :, 0, 0]
    assert np.abs(ours - wanted).max() < 0.3 * np.abs(simple - wanted).max()


def test_when_it_is_used() -> None:
    plane = np.ones((2, 20, 48), np.float32)
    with_inverse = Reference("linearity", "", {"COEFFS": plane, "INV_COEFFS": plane})
    assert wants_reads(with_inverse, make_info(nframes=4))
    assert not wants_reads(with_inverse, make_info(nframes=1))
    assert not wants_reads(with_inverse, make_info(nframes=4, ngroups=1))
    assert not wants_reads(Reference("linearity", "", {"COEFFS": plane}), make_info(nframes=4))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(5), [], []
    for groups in (2, 3, 6):
        for nframes in (2, 4, 8):
            info = make_info("NRC_TSGRISM", ny=6, nx=9, ngroups=groups, nframes=nframes, groupgap=1, nints=2)
            ramp = make_ramp(info, rng, 2, flags=0.05)
            forward, back = polynomials(rng, info.frame_shape, bad=True)
            bits = np.where(rng.random(info.frame_shape) < 0.1, np.uint32(dq.NO_LIN_CORR), np.uint32(0))
            content = {"COEFFS": forward, "INV_COEFFS": back, "DQ": bits}
            cases.append(
                Case(
                    "linearity", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                    references={"linearity": {"arrays": content}},
                )
            )  # fmt: skip
            clean, flags = prepare_coefficients(forward, bits)
            clean_back, more = prepare_coefficients(back, bits)
            ours.append((run(ramp, clean, clean_back, nframes), flags | more))
    for (data, flags), theirs in zip(ours, run_official(cases), strict=True):
        assert (
            compare(data / np.maximum(1, np.abs(data)), theirs["data"] / np.maximum(1, np.abs(data))).largest
            < 1e-6
        )
        np.testing.assert_array_equal(flags, theirs["pixeldq"])

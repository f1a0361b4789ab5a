"""The likelihood fit equals its dense twin (spec stage 1, 21.11). Tolerance: 1e-6 relative; DQ exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators.likelihood import SegmentLikely, fit_likely, likely_tables, mean_rate
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.rate_planes import RatePlanes
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.likelihood import fit_likelihood

JUMP, SAT, DNU, PERS = dq.JUMP_DET, dq.SATURATED, dq.DO_NOT_USE, dq.PERSISTENCE


def ramps(rng: np.random.Generator, info, n: int, hits: float) -> tuple[np.ndarray, np.ndarray]:
    """Poisson ramps with hits, and some flags."""
    shape = (n, info.ngroups, *info.frame_shape)
    level = 10 ** rng.uniform(0.5, 3.5, info.frame_shape)
    steps = rng.poisson(level, shape) + rng.normal(0, 8, shape)
    steps += (rng.random(shape) < hits) * rng.uniform(50, 5000, shape)
    groupdq = np.zeros(shape, np.uint8)
    groupdq[rng.random(shape) < 0.03] |= JUMP
    groupdq[rng.random(shape) < 0.02] |= DNU
    full = rng.integers(1, 3 * info.ngroups, (n, *info.frame_shape))
    groupdq[np.arange(info.ngroups)[None, :, None, None] >= full[:, None]] |= SAT
    return steps.cumsum(axis=1).astype(np.float32), groupdq


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(4, 14),
    nframes=st.sampled_from([1, 2, 4]),
    gap=st.sampled_from([0, 1]),
    zero=st.booleans(),
    hits=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_agrees_with_its_twin(
    seed: int, ngroups: int, nframes: int, gap: int, zero: bool, hits: float
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=2, nx=9, ngroups=ngroups, nframes=nframes, groupgap=gap)
    zero = zero and nframes > 1
    data, groupdq = ramps(rng, info, 2, hits)
    gain = rng.uniform(1, 3, info.frame_shape).astype(np.float32)
    noise = rng.uniform(5, 12, info.frame_shape).astype(np.float32)
    dark = rng.uniform(0, 0.1, info.frame_shape).astype(np.float32)
    pixeldq = rng.integers(0, 2, info.frame_shape).astype(np.uint32) * np.uint32(dq.HOT)
    planes = np.empty((0, 0, 0), np.float32)
    if zero:
        planes = (data[:, 0] * 0.6 + rng.normal(0, 5, data[:, 0].shape)).astype(np.float32)
    tables = likely_tables(info, zeroframe=zero)
    out = RatePlanes.empty((2, *info.frame_shape))
    fit_likely(
        data, groupdq, planes, nframes, pixeldq, gain, noise, dark, tables.times, tables.covariance,
        tables.shared, tables.pairs, True, out.data, out.err, out.var_poisson, out.var_rnoise, out.dq, 0, 2, 0, 9,
    )  # fmt: skip
    step = (nframes + gap) * info.frame_time
    reads = [np.arange(1, nframes + 1) * info.frame_time + g * step for g in range(ngroups)]
    sure = 0
    for i, y, x in np.ndindex(out.data.shape):
        *expected, bits, margin = fit_likelihood(
            data[i, :, y, x], groupdq[i, :, y, x], int(pixeldq[y, x]), float(gain[y, x]), float(noise[y, x]),
            float(dark[y, x]), reads, zero=float(planes[i, y, x]) if zero else None,
        )  # fmt: skip
        if margin < 1e-6:
            continue  # two choices as good as each other
        sure += 1
        found = [one[i, y, x] for one in (out.data, out.err, out.var_poisson, out.var_rnoise)]
        assert out.dq[i, y, x] == bits
        if np.isnan(expected[0]):
            assert np.isnan(found[0])
            continue
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    assert sure > out.data.size // 2


def test_streaming_says_that_a_ramp_has_no_slope() -> None:
    rng = np.random.default_rng(3)
    info = make_info(ny=4, nx=70, ngroups=6)
    binding = make_binding(RampFit, info, rng)
    ramp = make_ramp(info, rng, 3, bias=0.0)
    ramp.groupdq[1, :, 2, 7] = PERS
    step = RampFit(algorithm="LIKELY").bind(binding)
    (out,) = step.push(ramp)
    assert np.isnan(out.data[1, 2, 7])
    assert out.dq[1, 2, 7] & DNU
    lost = (out.dq & DNU) != 0
    for plane in (out.data, out.err, out.var_poisson, out.var_rnoise):
        np.testing.assert_array_equal(np.isnan(plane), lost)


def test_few_groups_take_ordinary_least_squares() -> None:
    rng = np.random.default_rng(4)
    info = make_info(ny=3, nx=8, ngroups=3)
    binding = make_binding(RampFit, info, rng)
    ramp = make_ramp(info, rng, 2)
    other = replace(ramp, data=ramp.data.copy(), groupdq=ramp.groupdq.copy())
    (likely,) = RampFit(algorithm="LIKELY").bind(binding).push(ramp)
    (ordinary,) = RampFit().bind(binding).push(other)
    np.testing.assert_array_equal(likely.data, ordinary.data)


def test_mean_over_integrations() -> None:
    """Inverse-variance weights whose photon part follows the mean, twice."""
    rng = np.random.default_rng(5)
    info = make_info(ny=3, nx=8, ngroups=5)
    data, groupdq = ramps(rng, info, 6, 0.0)
    gain, noise = np.full(info.frame_shape, 2.0, np.float32), np.full(info.frame_shape, 9.0, np.float32)
    fit = SegmentLikely(info, gain, noise, np.zeros(info.frame_shape, np.float32))
    out, mean = RatePlanes.empty((6, 3, 8)), RatePlanes.empty((3, 8))
    fit.run(data, groupdq, np.zeros(info.frame_shape, np.uint32), out, mean, (0, 3, 0, 8))
    for y, x in np.ndindex(3, 8):
        good = ~np.isnan(out.data[:, y, x])
        if not good.any():
            assert np.isnan(mean.data[y, x])
            continue
        slope, poisson, read = (
            one[good, y, x].astype(float) for one in (out.data, out.var_poisson, out.var_rnoise)
        )
        level = np.median(slope)
        for _ in range(2):
            photons = poisson * np.maximum(level / slope, 0)
            weight = 1 / (photons + read)
            weight /= weight.sum()
            level = (slope * weight).sum()
        np.testing.assert_allclose(mean.data[y, x], level, rtol=1e-5)
        np.testing.assert_allclose(mean.var_rnoise[y, x], (read * weight**2).sum(), rtol=1e-5)
    one = mean_rate(*(plane[:1] for plane in out.arrays()))
    np.testing.assert_array_equal(one[0], out.data[0])


@pytest.mark.parametrize("ngroups", [4, 11, 70])
def test_width_of_a_row_does_not_matter(ngroups: int) -> None:
    rng = np.random.default_rng(6)
    info = make_info(ny=1, nx=130, ngroups=ngroups)
    data, groupdq = ramps(rng, info, 1, 0.02)
    plane = np.full(info.frame_shape, 2.0, np.float32)
    fit = SegmentLikely(info, plane, 5 * plane, 0 * plane)
    bits = np.zeros(info.frame_shape, np.uint32)
    whole, parts = RatePlanes.empty((1, 1, 130)), RatePlanes.empty((1, 1, 130))
    mean = RatePlanes.empty((1, 130))
    fit.run(data, groupdq, bits, whole, mean, (0, 1, 0, 130))
    for x0 in range(0, 130, 7):
        fit.run(data, groupdq, bits, parts, mean, (0, 1, x0, min(x0 + 7, 130)))
    for a, b in zip(whole.arrays(), parts.arrays(), strict=True):
        np.testing.assert_array_equal(a, b)

"""ramp_fit over a segment: every special case of the official fitter (section 21), pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators import ramp_fit_pieces
from tsostream.operators.ramp_fit_segment import SegmentFit
from tsostream.operators.ramp_fit_tables import official_weights
from tsostream.operators.ramp_slopes import POWERS
from tsostream.operators.rate_planes import RatePlanes
from tsostream.testing.builders import make_info
from tsostream.testing.naive.segments import fit_pixel, weights_of_length

DNU, SAT, JUMP, PERS, FLOOR = (
    dq.DO_NOT_USE, dq.SATURATED, dq.JUMP_DET, dq.PERSISTENCE, dq.AD_FLOOR | dq.DO_NOT_USE,
)  # fmt: skip


def run(data, groupdq, pixeldq, fit: SegmentFit, groups=None, zero=None) -> tuple[RatePlanes, RatePlanes]:
    n, _, ny, nx = data.shape
    out, mean = RatePlanes.empty((n, ny, nx)), RatePlanes.empty((ny, nx))
    fit.run(data.copy(), groupdq.copy(), pixeldq, out, mean, (0, ny, 0, nx), groups, zero)
    return out, mean


def check(data, groupdq, pixeldq, fit: SegmentFit, groups=None, zero=None) -> tuple[RatePlanes, RatePlanes]:
    """Compare every pixel with the twin."""
    out, mean = run(data, groupdq, pixeldq, fit, groups, zero)
    info, ngroups = fit.info, data.shape[1]
    tgroup, tframe = float(np.float32(info.group_time)), float(np.float32(info.frame_time))
    gain = fit.gain.astype(np.float64)
    noise = (fit.read * (gain / np.sqrt(2.0 * info.nframes))).astype(np.float32)
    for y, x in np.ndindex(data.shape[2:]):
        if not fit.gain[y, x] > 0:
            continue
        with np.errstate(all="ignore"):
            expected = fit_pixel(
                data[:, :, y, x], groupdq[:, :, y, x], int(pixeldq[y, x]), float(gain[y, x]),
                float(noise[y, x]), float(fit.dark[y, x]),
                tgroup=tgroup, first_time=(info.nframes + 1) * tframe / 2,
                suppress=fit.suppress_one_group and ngroups > 1, groups=groups or (0, ngroups),
                zero=None if zero is None else zero[:, y, x], tframe=tframe,
            )  # fmt: skip
        for i, line in enumerate((*expected.integrations, expected.mean)):
            arrays = out.arrays() if i < len(expected.integrations) else mean.arrays()
            found = [float(one[i, y, x] if one.ndim == 3 else one[y, x]) for one in arrays]
            assert found[4] == line[4], (i, y, x, groupdq[:, :, y, x])
            # a slope is the difference of samples: its rounding is theirs
            size = 3e-7 * np.abs(data[:, :, y, x]).max() / tgroup
            np.testing.assert_allclose(found[:4], line[:4], rtol=2e-6, atol=size, err_msg=f"{i, y, x}")
            np.testing.assert_allclose(found[1:4], line[1:4], rtol=2e-6, err_msg=f"{i, y, x}")
    return out, mean


def make_fit(info, rng, *, suppress: bool = True, dark: float = 0.0) -> SegmentFit:
    shape = info.frame_shape
    gain = rng.uniform(0.5, 3, shape).astype(np.float32)
    read = rng.uniform(3, 20, shape).astype(np.float32)
    return SegmentFit(info, gain, read, np.full(shape, dark, np.float32), suppress)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(1, 12),
    count=st.integers(1, 6),
    nframes=st.sampled_from([1, 4]),
    suppress=st.booleans(),
    dark=st.sampled_from([0.0, 0.3]),
    share=st.sampled_from([0.0, 0.1, 0.5]),
    zeroframe=st.booleans(),
)
def test_agrees_with_its_twin(seed, ngroups, count, nframes, suppress, dark, share, zeroframe) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=4, nx=7, ngroups=ngroups, nframes=nframes, group_time=0.25, frame_time=0.2)
    fit = make_fit(info, rng, suppress=suppress, dark=dark)
    shape = (count, ngroups, 4, 7)
    steps = rng.normal(10.0 ** rng.uniform(-1, 3.5, (4, 7)), 5, shape)
    data = (300 + steps.cumsum(axis=1)).astype(np.float32)
    groupdq = np.where(rng.random(shape) < share, rng.choice([JUMP, JUMP, DNU, PERS, FLOOR], shape), 0)
    saturated = np.maximum.accumulate(rng.random(shape) < share / 4, axis=1)
    groupdq = (groupdq | np.where(saturated, SAT, 0)).astype(np.uint8)
    pixeldq = rng.choice([0, 0, 0, 0, DNU, SAT, 1 << 12], info.frame_shape).astype(np.uint32)
    zero = None
    if zeroframe:
        # persistence, which no parity run flags, would make a ramp of the zero frame and later groups
        groupdq &= ~np.uint8(PERS)
        zero = rng.normal(200, 50, (count, 4, 7)).astype(np.float32)
        zero[rng.random(zero.shape) < 0.2] = 0
    check(data, groupdq, pixeldq, fit, zero=zero)


@pytest.mark.parametrize("groups", [(1, 6), (0, 5), (2, 5)])
def test_discarded_groups(groups: tuple[int, int]) -> None:
    """MIRI: groups that nobody can use are dropped, and the jump of the new first group with them."""
    rng = np.random.default_rng(4)
    info = make_info(ny=3, nx=40, ngroups=6)
    fit = make_fit(info, rng)
    data = rng.normal(200, 4, (3, 6, 3, 40)).cumsum(axis=1).astype(np.float32)
    groupdq = np.where(rng.random(data.shape) < 0.2, JUMP, 0).astype(np.uint8)
    groupdq[:, : groups[0]] |= DNU
    groupdq[:, groups[1] :] |= DNU
    out, _ = check(data, groupdq, np.zeros(info.frame_shape, np.uint32), fit, groups)
    assert np.isfinite(out.data).any()


def one_pixel(ramps, flags=None, *, read: float = 5.0, suppress: bool = True) -> list[float]:
    """Slope, error, variances, DQ of the first of a pixel's integrations."""
    data = np.array(ramps, np.float32)[:, :, None, None]
    groupdq = np.zeros(data.shape, np.uint8) if flags is None else np.array(flags, np.uint8)[:, :, None, None]
    info = make_info(ny=1, nx=1, ngroups=data.shape[1], group_time=1.0, frame_time=1.0)
    one = np.ones((1, 1), np.float32)
    fit = SegmentFit(info, one, read * one, 0 * one, suppress)
    out, _ = run(data, groupdq, np.zeros((1, 1), np.uint32), fit)
    return [float(array[0, 0, 0]) for array in out.arrays()]


@pytest.mark.parametrize(
    ("flags", "slope", "bits"),
    [
        ([0, 0, 0, 0], 100.0, 0),
        ([SAT] * 4, np.nan, DNU | SAT),
        ([DNU] * 4, np.nan, DNU),
        ([0, SAT, SAT, SAT], np.nan, DNU | SAT),
        ([0, 0, SAT, SAT], 100.0, SAT),
        ([0, 0, JUMP, 0], 100.0, JUMP),
        ([DNU, JUMP, JUMP, DNU], 0.0, JUMP),
        ([DNU, JUMP, 0, DNU], np.nan, DNU | JUMP),
        ([PERS, PERS, PERS, PERS], 100.0, PERS),
        ([0, FLOOR, 0, 0], 100.0, 0),
    ],
)
def test_special_cases(flags: list[int], slope: float, bits: int) -> None:
    found = one_pixel([np.arange(4) * 100.0], [flags])
    np.testing.assert_allclose(found[0], slope, rtol=1e-6)
    assert found[4] == bits
    if np.isnan(slope) or slope == 0:
        assert found[1:4] == [0, 0, 0]


def test_photon_variance_comes_from_the_mean_of_all_integrations() -> None:
    """What makes the official numbers depend on where the archive cut the exposure."""
    low, high = np.arange(5) * 100.0, np.arange(5) * 300.0
    np.testing.assert_allclose(one_pixel([low, high])[2], 200 / 4, rtol=1e-6)
    np.testing.assert_allclose(one_pixel([low])[2], 100 / 4, rtol=1e-6)
    # an integration without a rate still counts in the mean
    np.testing.assert_allclose(one_pixel([low, high], [[0] * 5, [SAT] * 5])[2], 50 / 4, rtol=1e-6)
    # with a single group it makes the mean unknown: only read noise is left
    found = one_pixel([[100.0], [100.0]], [[0], [SAT]])
    assert found[2] == 0
    assert found[1] > 0


def test_no_read_noise_at_all() -> None:
    """NaN: no slope and no DO_NOT_USE; zero: no slope either (three groups or more)."""
    for read in (np.nan, 0.0):
        found = one_pixel([np.arange(4) * 100.0], read=read)
        assert np.isnan(found[0])
        assert found[4] == 0


@pytest.mark.parametrize("length", [2, 3, 6, 70])
def test_weights(length: int) -> None:
    rows = official_weights(length)
    ramp = 3.5 * np.arange(length) + 7
    np.testing.assert_allclose(rows @ ramp, 3.5)
    for row, power in zip(rows, POWERS, strict=True):
        if length > 2:
            w = weights_of_length(length, power)
            centred = w * (np.arange(length) - (w * np.arange(length)).sum() / w.sum())
            np.testing.assert_allclose(row, centred / (centred * np.arange(length)).sum(), 1e-6, 1e-9)


def test_segments_of_a_ramp() -> None:
    """A lone jump opens the segment behind it; of two in a row only the last does."""
    flags = np.array([0, 0, JUMP, 0, JUMP, JUMP, 0, 0, DNU, 0], np.uint8)
    found, g = [], 0
    while g < 10:
        start, end = ramp_fit_pieces.segment_from(flags, g, 0, 10)
        if end > start:
            found.append((start, end))
        g = max(end, g + 1)
    assert found == [(0, 2), (2, 4), (5, 8), (9, 10)]

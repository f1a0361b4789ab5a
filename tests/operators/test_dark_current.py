"""dark_current: averaging to the read pattern, extrapolation, MIRI's numbered darks (spec section 14)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.base import Binding
from tsostream.operators.dark_current import DarkCurrent, group_darks
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import subtract_numbered


def naive_groups(frames: np.ndarray, ngroups: int, nframes: int, gap: int) -> np.ndarray:
    """Darks for the exposure's groups from a dark with one frame a group, NaN as zero, in float64."""
    frames = frames.astype(np.float64)
    needed = ngroups * nframes + (ngroups - 1) * gap
    step = frames[-1] - frames[-2] if len(frames) > 1 else 0.0 * frames[-1]
    more = [frames[-1] + k * step for k in range(1, needed - len(frames) + 1)]
    frames = np.concatenate([frames, np.array(more).reshape(-1, *frames.shape[1:])])
    frames = np.where(np.isnan(frames), 0.0, frames)
    return np.array(
        [frames[g * (nframes + gap) : g * (nframes + gap) + nframes].mean(0) for g in range(ngroups)]
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    have=st.integers(1, 12),
    ngroups=st.integers(1, 5),
    nframes=st.integers(1, 4),
    gap=st.integers(0, 2),
)
def test_darks_follow_the_read_pattern(seed: int, have: int, ngroups: int, nframes: int, gap: int) -> None:
    rng = np.random.default_rng(seed)
    frames = (rng.normal(0, 1, (1, have, 3, 4)) + np.arange(have)[:, None, None]).astype(np.float32)
    frames[rng.random(frames.shape) < 0.02] = np.nan
    info = make_info(ny=3, nx=4, ngroups=ngroups, nframes=nframes, groupgap=gap)
    darks = group_darks(frames, 1, 0, info)
    assert darks is not None
    assert darks.dtype == np.float32
    np.testing.assert_allclose(darks[0], naive_groups(frames[0], ngroups, nframes, gap), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("nframes", "gap"), [(2, 0), (1, 1)])
def test_a_coarser_dark_is_not_used(nframes: int, gap: int) -> None:
    info = make_info(ny=3, nx=4)
    rng = np.random.default_rng(0)
    dark = make_binding(DarkCurrent, info, rng).references["dark"]
    coarse = dataclasses.replace(dark, keywords={"NFRAMES": nframes, "GROUPGAP": gap})
    step = DarkCurrent().bind(Binding(info, {"dark": coarse}))
    assert step.skipped == "the dark is averaged more coarsely"
    ramp = make_ramp(info, rng, 1)
    before = ramp.data.copy()
    (out,) = step.push(ramp)
    np.testing.assert_array_equal(out.data, before)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), first=st.integers(1, 6), miri=st.booleans(), count=st.integers(1, 4))
def test_agrees_with_its_twin(seed: int, first: int, miri: bool, count: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("MIR_LRS-SLITLESS" if miri else "NRS_BRIGHTOBJ", ny=4, nx=5)
    binding = make_binding(DarkCurrent, info, rng, share=0.05)
    reference = binding.references["dark"]
    planes = reference.arrays["SCI"]
    planes = planes if planes.ndim == 4 else planes[None]
    ramp = make_ramp(info, rng, count, first=first)
    expected = subtract_numbered(ramp.data, planes, first)
    (out,) = DarkCurrent().bind(binding).push(ramp)
    np.testing.assert_array_equal(out.data, expected.astype(np.float32))
    bits = np.bitwise_or.reduce(reference.arrays["DQ"].reshape(-1, 4, 5), axis=0)
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | bits)

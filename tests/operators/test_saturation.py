"""saturation: flags exactly as the spec's words say (section 6), for any frames and reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.saturation import Saturation
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.ramps import saturate

SAT, DNU, FLOOR = dq.SATURATED, dq.DO_NOT_USE, dq.AD_FLOOR


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(1, 6),
    nframes=st.sampled_from([1, 2, 4, 8]),
    reach=st.integers(0, 2),
    use_readpatt=st.booleans(),
)
def test_agrees_with_its_twin(seed: int, ngroups: int, nframes: int, reach: int, use_readpatt: bool) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=9, nx=11, ngroups=ngroups, nframes=nframes)
    binding = make_binding(Saturation, info, rng, share=0.03)
    level, bias = binding.references["saturation"], binding.references["superbias"]
    ramp = make_ramp(info, rng, 2)
    # steps of a share of the well, some large enough to saturate within a group, some below zero
    well = np.nan_to_num(level.arrays["SCI"], nan=50000.0)
    steps = rng.exponential(0.12, ramp.data.shape) * (rng.random(ramp.data.shape) < 0.7)
    steps[:, min(1, ngroups - 1)] += (rng.random((2, 9, 11)) < 0.1) * 0.6
    ramp.data[...] = np.rint(1000.0 * (rng.random((9, 11)) < 0.9) + steps.cumsum(axis=1) * well)
    given_flags = ramp.groupdq.copy()
    operator = Saturation(n_pix_grow_sat=reach, use_readpatt=use_readpatt)
    expected = saturate(
        ramp.data, given_flags, level.arrays["SCI"], level.arrays["DQ"], bias.arrays["SCI"],
        reach=reach, nframes=nframes, use_readpatt=use_readpatt,
    )  # fmt: skip
    step = operator.bind(binding)
    (out,) = step.push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)
    assert (expected & SAT).any() or ngroups < 3
    lost = np.where(np.isnan(level.arrays["SCI"]), np.uint32(dq.NO_SAT_CHECK), np.uint32(0))
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | level.arrays["DQ"] | lost)


def flags_of(
    samples: list[list[float]], *, well: float = 10000.0, nframes: int = 1, **parameters: Any
) -> np.ndarray:
    """Flags [group, x] of a single row of pixels, given as one ramp for each pixel."""
    data = np.array(samples, np.float32).T[None, :, None, :]
    info = make_info(ny=1, nx=data.shape[3], ngroups=data.shape[1], nframes=nframes)
    reference = make_binding(Saturation, info, np.random.default_rng(0), share=0.0).references["saturation"]
    arrays = {"SCI": np.full(info.frame_shape, well, np.float32), "DQ": np.zeros(info.frame_shape, np.uint32)}
    binding = Binding(info, {"saturation": dataclasses.replace(reference, arrays=arrays)})
    ramp = make_ramp(info, np.random.default_rng(0), 1)
    ramp.data[...] = data
    (out,) = Saturation(**parameters).bind(binding).push(ramp)
    return out.groupdq[0, :, 0]


def test_once_saturated_always_saturated() -> None:
    assert flags_of([[1, 10000, 1, 1]], n_pix_grow_sat=0)[:, 0].tolist() == [0, SAT, SAT, SAT]


def test_neighbours_saturate_with_the_core() -> None:
    flags = flags_of([[1, 2, 3], [1, 20000, 3], [1, 2, 3], [1, 2, 3]])
    assert flags.tolist() == [[0, 0, 0, 0], [SAT, SAT, SAT, 0], [SAT, SAT, SAT, 0]]


def test_floor_is_flagged_in_its_own_group_only() -> None:
    assert flags_of([[5, 0, 7, -3]])[:, 0].tolist() == [0, FLOOR | DNU, 0, FLOOR | DNU]


def test_a_pixel_saturated_at_once_has_no_good_group() -> None:
    assert flags_of([[20000, 20001, 20002]])[:, 0].tolist() == [SAT, SAT, SAT]


def test_group_whose_last_frames_saturated_is_dropped_with_its_neighbours() -> None:
    # with 4 frames the mean of group 1 lags behind its end: 9500 in the mean is more than 10000 at the end
    ramps = [[2000, 3000, 4000], [5000, 9500, 20000], [2000, 3000, 4000]]
    flags = flags_of(ramps, nframes=4)
    assert flags[1].tolist() == [DNU, DNU, DNU]
    assert flags[2].tolist() == [SAT, SAT, SAT]
    assert not (flags_of(ramps, nframes=4, use_readpatt=False)[1] & DNU).any()


def test_second_group_rule_does_not_hide_a_spilled_group() -> None:
    """Both rules drop group 1 of the pixel; its neighbours by the first of them only."""
    flags = flags_of([[500, 600, 700], [500, 9500, 20000], [500, 600, 700]], nframes=4)
    assert flags[1].tolist() == [DNU, DNU, DNU]


@pytest.mark.parametrize(
    ("ramp", "hit"),
    # 4 frames: group 0 is at 2.5 frames on average, group 2 ends at 12; a frame: a quarter of what is left
    [([2000, 4500, 20000], True), ([2100, 4600, 20000], False), ([2000, 3990, 20000], False)],
)
def test_second_group_rule(ramp: list[float], hit: bool) -> None:
    assert flags_of([ramp], nframes=4)[:, 0].tolist() == [0, DNU if hit else 0, SAT]
    assert flags_of([ramp], nframes=4, use_readpatt=False)[:, 0].tolist() == [0, 0, SAT]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_pix_grow_sat": -1}, r"saturation\.n_pix_grow_sat = -1.*>= 0"),
        ({"n_pix_grow_sat": 1.5}, r"saturation\.n_pix_grow_sat = 1\.5"),
        ({"n_pix_grow": 1}, r"saturation has no parameter 'n_pix_grow'; did you mean n_pix_grow_sat\?"),
        ({"use_readpat": False}, r"did you mean use_readpatt\?"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(Saturation, parameters)

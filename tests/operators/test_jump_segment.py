"""jump over a segment: flags exactly as the spec says (section 16), whichever way they are found."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import sigma_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators import jump_clip, jump_clip_screen, jump_marks
from tsostream.operators.jump import Jump
from tsostream.operators.jump_marks import LANES
from tsostream.operators.jump_segment import (
    JumpWorkspace,
    SegmentJump,
    choose_method,
    clear_seeds,
    living_planes,
    spread_seeds,
)
from tsostream.operators.sorting import median_of
from tsostream.testing.builders import make_binding, make_info, make_ramp
from tsostream.testing.naive.segments import clip_list, flag_segment, planes_alive

JUMP, SAT, DNU = dq.JUMP_DET, dq.SATURATED, dq.DO_NOT_USE


def run(data, groupdq, search: SegmentJump, *, reset=None, rows=None) -> np.ndarray:
    """Flags after the search, its neighbours and what follows; in bands of rows when asked."""
    n, ngroups, ny, nx = data.shape
    groupdq = groupdq.copy()
    marked, medians = np.zeros((n, ny), np.uint8), np.full((ny, nx), np.nan)
    reset = np.zeros((n, ngroups), np.uint8) if reset is None else reset
    space = JumpWorkspace(n, ngroups)
    for y in range(0, ny, rows or ny):
        search.find(data, groupdq, marked, medians, reset, space, (y, min(y + (rows or ny), ny), 0, nx))
    if search.jump.flag_4_neighbors:
        spread_seeds(groupdq, marked, 0, ny, 0, nx)
        clear_seeds(groupdq, marked, 0, ny)
    search.flag_after(data, groupdq, medians, (0, ny, 0, nx))
    return groupdq


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(3, 8),
    count=st.integers(2, 40),
    nframes=st.sampled_from([1, 4]),
    method=st.sampled_from(["clip", "clip_all", "single", "iterative"]),
    rejection=st.sampled_from([1.5, 3.0, 4.0]),
    neighbours=st.booleans(),
    seconds=st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.3, 2.0)]),
)
def test_agrees_with_its_twin(seed, ngroups, count, nframes, method, rejection, neighbours, seconds) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=3, nx=5, ngroups=ngroups, nframes=nframes, group_time=0.25)
    binding = make_binding(Jump, info, rng, share=0.03)
    gain, read = (binding.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
    ramp = make_ramp(info, rng, count, hits=0.03, flags=0.04)
    jump = Jump(
        rejection_threshold=rejection, flag_4_neighbors=neighbours,
        min_jump_to_flag_neighbors=4.0, max_jump_to_flag_neighbors=150.0,
        after_jump_flag_dn1=100.0, after_jump_flag_time1=seconds[0],
        after_jump_flag_dn2=2000.0, after_jump_flag_time2=seconds[1],
    )  # fmt: skip
    search = SegmentJump(jump, info, gain, read, 1.5, method)
    expected = flag_segment(
        ramp.data, ramp.groupdq, gain, read, method=method, nframes=nframes, thresholds=(rejection, 5.0, 6.0),
        neighbours=(4.0, 150.0) if neighbours else None,
        after=((150.0, int(seconds[0] // 0.25)), (3000.0, int(seconds[1] // 0.25))),
    )  # fmt: skip
    found = run(ramp.data, ramp.groupdq, search)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(run(ramp.data, ramp.groupdq, search, rows=1), found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 130), k=st.sampled_from([1.0, 2.0, 3.0, 4.0]))
def test_clipping_is_that_of_astropy(seed: int, count: int, k: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 10, count) + rng.choice([0, 300, -200], count, p=[0.9, 0.06, 0.04])
    values = np.where(rng.random(count) < 0.05, np.nan, values.round(1)).astype(np.float32)
    finite = np.isfinite(values)
    masked = np.ma.masked_array(values.astype(np.float64)[:, None], ~finite[:, None])
    official = np.ma.getmaskarray(sigma_clip(masked, sigma=k, axis=0, masked=True))[:, 0]
    np.testing.assert_array_equal(clip_list(values.astype(np.float64), k)[finite], official[finite])
    batch = np.full((count, LANES), np.inf, np.float32)
    batch[:, 5] = np.sort(np.where(finite, values, np.inf))
    lower, upper = jump_clip._bounds(batch, 5, int(finite.sum()), k)
    np.testing.assert_array_equal(((values < lower) | (values > upper))[finite], official[finite])
    hits = screen(values, k)
    assert hits is None or hits == set(np.flatnonzero(official & finite))


def screen(values: np.ndarray, k: float) -> set[int] | None:
    """Outliers of one list by bounds alone; None when they do not decide."""
    count = len(values)
    space = jump_clip_screen.clip_space(count, 2)
    data, groupdq = np.zeros((count, 2, 1), np.float32), np.zeros((count, 2, 1), np.uint8)
    data[:, 1, 0] = values
    jump_clip_screen.fill_lists(data, groupdq, np.ones(1, np.float32), 0, 1, space)
    space.levels[0], space.levels[1] = np.inf, -np.inf
    found = jump_clip_screen.screen_list(0, 1, k, space, 0)
    if space.suspect[0]:
        return None
    if np.isfinite(values).any():
        assert space.levels[0, 0] <= np.nanmedian(values) <= space.levels[1, 0]
    return set((space.hits[:found] // LANES).tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([100, 999, 3000]), hits=st.integers(0, 3))
def test_bounds_decide_without_sorting(seed: int, count: int, hits: int) -> None:
    """Noise, a few values without one, and hits that take several rounds: what is decided is what astropy decides."""
    rng = np.random.default_rng(seed)
    values = rng.normal(40, 7, count)
    values[rng.integers(0, count, hits)] += rng.choice([25.0, 40.0, 90.0, -60.0], hits)
    values[rng.integers(0, count, 4)] = np.nan
    values = values.astype(np.float32)
    masked = np.ma.masked_invalid(values.astype(np.float64)[:, None])
    clipped = np.ma.getmaskarray(sigma_clip(masked, sigma=4.0, axis=0, masked=True))[:, 0] & np.isfinite(
        values
    )
    found = screen(values, 4.0)
    assert found is None or found == set(np.flatnonzero(clipped))
    decided.append(found)


#: what the examples of the test above gave
decided: list[set[int] | None] = []


def test_bounds_decide_nearly_always() -> None:
    decided.clear()
    test_bounds_decide_without_sorting()
    sure = [one for one in decided if one is not None]
    assert len(sure) > 0.7 * len(decided)
    assert sum(bool(one) for one in sure) > 10


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), absolute=st.booleans())
def test_bounds_on_the_median(seed: int, count: int, absolute: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 10, (count, LANES)).round(int(rng.integers(0, 3))).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    moments = np.empty((7, LANES))
    jump_marks.list_moments(values, absolute, moments)
    jump_marks.bracket_median(values, absolute, moments)
    proved = 0
    for lane in range(LANES):
        column = values[:, lane].astype(np.float64)
        column = column[np.isfinite(column)]
        column = np.abs(column) if absolute else column
        assert moments[0, lane] == column.size
        if column.size == 0:
            continue
        work = rng.permutation(column).astype(np.float32)
        assert median_of(work, work.size) == np.median(column)
        found = (column.mean(), column.std(), column.min(), column.max())
        np.testing.assert_allclose(moments[1:5, lane], found, atol=1e-12)
        if np.isfinite(moments[5, lane]):
            proved += 1
            for part in (column, column[column < column.max()]):
                assert moments[5, lane] <= np.median(part) <= moments[6, lane]
    assert proved > 0 or count < 30


def test_a_plane_of_nothing_but_jumps_is_taken_back() -> None:
    """16.4, last paragraph: known beforehand, such a plane gets no flag, and its neighbours none from it."""
    rng = np.random.default_rng(3)
    info = make_info(ny=4, nx=6, ngroups=4)
    data = (np.arange(4) * 100.0)[None, :, None, None] + rng.normal(0, 3, (120, 4, 4, 6)).astype(np.float32)
    data = data.astype(np.float32)
    data[17, 2:] += 5000.0
    groupdq = np.zeros(data.shape, np.uint8)
    groupdq[17, 2, 1, 1] = DNU
    ones = np.ones(info.frame_shape, np.float32)
    search = SegmentJump(Jump(), info, ones, 5 * ones, 1.0, "clip")
    expected = flag_segment(data, groupdq, ones, 5 * ones, method="clip")
    assert not (expected[17, 2] & JUMP).any()
    first = run(data, groupdq, search)
    alive, usable = np.zeros((120, 4), np.uint8), np.zeros((120, 4), np.uint8)
    living_planes(first, np.uint8(JUMP | DNU), alive, 0, 4, 0, 6)
    living_planes(groupdq, np.uint8(DNU), usable, 0, 4, 0, 6)
    np.testing.assert_array_equal(alive, planes_alive(first, JUMP | DNU))
    assert np.argwhere(alive == 0).tolist() == [[17, 2]]
    reset = ((alive == 0) & (usable == 1)).astype(np.uint8)
    np.testing.assert_array_equal(run(data, groupdq, search, reset=reset), expected)


@pytest.mark.parametrize(
    ("nints", "flagged", "ngroups", "method"),
    [
        (100, 0, 5, "clip"), (99, 0, 5, "iterative"), (99, 0, 11, "single"), (99, 1, 11, "iterative"),
        (5, 3, 5, "none"), (5, 2, 5, "iterative"), (200, 0, 2, "none"), (200, 5, 5, "clip"),
    ],
)  # fmt: skip
def test_choice_of_method(nints: int, flagged: int, ngroups: int, method: str) -> None:
    assert choose_method(Jump(), nints, np.array([0, flagged]), ngroups) == method


@pytest.mark.parametrize(
    ("nints", "flagged", "method"), [(25, 0, "clip_all"), (25, 1, "iterative"), (24, 0, "iterative")]
)
def test_all_groups_count_where_all_are_compared(nints: int, flagged: int, method: str) -> None:
    jump = Jump(only_use_ints=False, minimum_sigclip_groups=100)
    assert choose_method(jump, nints, np.array([0, flagged]), 4) == method

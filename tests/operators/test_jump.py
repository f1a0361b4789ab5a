"""jump: flags exactly as the spec says for one integration (section 16); screening never changes one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.operators import jump_search
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.jump import Jump
from tsostream.operators.jump_light import choose_pixels, find_light, gather_ramps, steady_differences
from tsostream.testing.builders import make_binding, make_info, make_ramp, make_reference
from tsostream.testing.naive.jumps import flag_jumps, in_steady_light, pixel_jumps, source_light

JUMP, SAT, DNU, PERS = dq.JUMP_DET, dq.SATURATED, dq.DO_NOT_USE, dq.PERSISTENCE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(3, 14),
    nframes=st.sampled_from([1, 4]),
    rejection=st.sampled_from([2.0, 4.0, 6.0]),
    neighbours=st.booleans(),
    seconds=st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.3, 2.0)]),
)
def test_agrees_with_its_twin(
    seed: int, ngroups: int, nframes: int, rejection: float, neighbours: bool, seconds: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(ny=6, nx=8, ngroups=ngroups, nframes=nframes, group_time=0.25)
    # without a template the step knows nothing of the source
    binding = dataclasses.replace(make_binding(Jump, info, rng, share=0.03), templates={})
    gain, read = (binding.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
    ramp = make_ramp(info, rng, 2, hits=0.03, flags=0.04)
    operator = Jump(
        rejection_threshold=rejection,
        flag_4_neighbors=neighbours,
        min_jump_to_flag_neighbors=8.0,
        max_jump_to_flag_neighbors=150.0,
        after_jump_flag_dn1=100.0,
        after_jump_flag_time1=seconds[0],
        after_jump_flag_dn2=2000.0,
        after_jump_flag_time2=seconds[1],
    )
    typical = float(np.median(gain[gain > 0]))
    expected = flag_jumps(
        ramp.data, ramp.groupdq, gain, read,
        nframes=nframes, thresholds=(rejection, 5.0, 6.0), neighbours=(8.0, 150.0) if neighbours else None,
        after=((100.0 * typical, int(seconds[0] // 0.25)), (2000.0 * typical, int(seconds[1] // 0.25))),
    )  # fmt: skip
    data = ramp.data.copy()
    (out,) = operator.bind(binding).push(ramp)
    np.testing.assert_array_equal(out.groupdq, expected)
    np.testing.assert_array_equal(out.data, data)
    lost = np.where(gain > 0, np.uint32(0), np.uint32(dq.NO_GAIN_VALUE | DNU))
    np.testing.assert_array_equal(out.pixeldq, binding.dq_plane | lost)


def flags_of(
    ramps: np.ndarray,
    *,
    groupdq: np.ndarray | None = None,
    gain: float = 1.0,
    noise: float = 10.0,
    image: np.ndarray | None = None,
    **parameters: Any,
) -> np.ndarray:
    """Flags [group, x] of one row of pixels, given as [x, group]."""
    data = np.asarray(ramps, np.float32).T[None, :, None, :]
    info = make_info(ny=1, nx=data.shape[3], ngroups=data.shape[1], group_time=1.0)
    rng = np.random.default_rng(0)
    references = {name: make_reference(name, info, rng, share=0.0) for name in Jump.references}
    for name, value in (("gain", gain), ("readnoise", noise)):
        plane = np.full(info.frame_shape, value, np.float32)
        references[name] = dataclasses.replace(references[name], arrays={"SCI": plane})
    ramp = make_ramp(info, rng, 1)
    ramp.data[...] = data
    if groupdq is not None:
        ramp.groupdq[...] = np.asarray(groupdq, np.uint8).T[None, :, None, :]
    templates = {} if image is None else {"image": np.asarray(image, np.float32)[None]}
    (out,) = Jump(**parameters).bind(Binding(info, references, templates=templates)).push(ramp)
    return out.groupdq[0, :, 0]


def screened_and_not(d: np.ndarray, noise: float, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """Flags [difference, pixel] of the step, and of its pixel kernel called without screening."""
    operator = Jump(flag_4_neighbors=False, **parameters)
    data = np.concatenate([np.zeros((1, d.shape[1])), d.cumsum(axis=0)]).astype(np.float32)
    found = flags_of(data.T, noise=noise, flag_4_neighbors=False, **parameters)[1:] & JUMP != 0
    n = len(d)
    a, work, flags = np.empty(n), np.empty(n), np.empty(n, np.uint8)
    every = np.zeros(d.shape, bool)
    exact = np.diff(data, axis=0).astype(np.float64)
    for x in range(d.shape[1]):
        jump_search._flag_pixel(
            np.ascontiguousarray(exact[:, x]), n, float(np.float32(noise) ** 2), operator.rejection_threshold,
            operator.four_group_rejection_threshold, operator.three_group_rejection_threshold,
            operator.min_diffs_single_pass, a, work, flags,
        )  # fmt: skip
        every[:, x] = flags
    return found, every


@pytest.mark.parametrize("ndiff", [2, 3, 4, 5, 7, 9, 10, 13, 30])
@pytest.mark.parametrize("kind", ["poisson", "few electrons", "ties", "negative", "at the threshold"])
@pytest.mark.parametrize("single_pass", [2, 10, 50])
def test_screening_never_changes_the_result(ndiff: int, kind: str, single_pass: int) -> None:
    """Most pixels are cleared by bounds; whatever their values, the flags are those of the full search."""
    rng, pixels = np.random.default_rng(ndiff), 3000
    shape, noise = (ndiff, pixels), 5.0
    if kind == "poisson":
        d = rng.poisson(10 ** rng.uniform(0, 4, pixels), shape) + rng.normal(0, 5, shape)
    elif kind == "few electrons":
        d, noise = rng.poisson(10 ** rng.uniform(-1, 1, pixels), shape).astype(float), 0.3
    elif kind == "ties":
        # one low value, all others equal: the robust level leaves out all maxima
        d, noise = np.full(shape, 1.0), 0.1
        d *= rng.integers(1, 12, pixels) / 2
        d[0] = rng.integers(0, 3, pixels) / 2
        d = rng.permuted(d, axis=0)
    elif kind == "negative":
        d = rng.normal(rng.uniform(-40, 40, pixels), 5, shape)
    else:
        # one hit whose size is the threshold, give or take a little
        d = rng.poisson(200, shape) + rng.normal(0, 5, shape)
        sigma = np.sqrt(np.abs(np.median(d, axis=0)) + 25)
        d[rng.integers(ndiff, size=pixels), np.arange(pixels)] += rng.uniform(2, 12, pixels) * sigma
    found, every = screened_and_not(d, noise, min_diffs_single_pass=single_pass, rejection_threshold=3.5)
    np.testing.assert_array_equal(found, every)
    assert kind != "at the threshold" or 0.02 < every.any(axis=0).mean() < 0.98


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ndiff=st.integers(2, 12), single=st.booleans())
def test_pixel_kernel_agrees_with_its_twin_on_ties(seed: int, ndiff: int, single: bool) -> None:
    rng = np.random.default_rng(seed)
    a, work, flags = np.empty(ndiff), np.empty(ndiff), np.empty(ndiff, np.uint8)
    for _ in range(30):
        d = rng.integers(-3, 12, ndiff).astype(float)
        d[rng.random(ndiff) < 0.15] = np.nan
        if np.isfinite(d).sum() < 2:
            continue
        limits = (2.0, 1.5, 1.0)
        jump_search._flag_pixel(d, ndiff, 0.01, *limits, 2 if single else 99, a, work, flags)
        np.testing.assert_array_equal(flags.astype(bool), pixel_jumps(d, 0.01, limits, single=single))


def test_a_hit_is_flagged_in_the_group_after_it() -> None:
    ramp = np.arange(6) * 100.0 + np.array([0, 0, 0, 5000, 5000, 5000])
    assert flags_of([ramp])[:, 0].tolist() == [0, 0, 0, JUMP, 0, 0]


def test_equal_hits_are_flagged_together() -> None:
    """Which of two equal differences comes first must not matter (16.6, step 4)."""
    steps = np.array([100, 900, 100, 100, 900, 100.0])
    assert flags_of([np.r_[0, steps.cumsum()]])[1:, 0].tolist() == [0, JUMP, 0, 0, JUMP, 0]


@pytest.mark.parametrize(
    ("usable", "size", "hit"),
    # differences of 100 e-, read noise 10: sigma is 14.1; thresholds 4 (four or more), 5 (three), 6 (two)
    [(5, 62, True), (5, 52, False), (3, 75, True), (3, 66, False), (2, 90, True), (2, 80, False)],
)
def test_thresholds_by_usable_differences(usable: int, size: float, hit: bool) -> None:
    steps = np.full(usable, 100.0)
    steps[1] += size
    assert bool((flags_of([np.r_[0, steps.cumsum()]]) & JUMP).any()) == hit


def test_neighbours_get_the_flag_in_the_same_group_unless_unusable() -> None:
    clean = np.arange(5) * 100.0
    hit = clean + np.array([0, 0, 500, 500, 500])
    groupdq = np.zeros((4, 5), np.uint8)
    groupdq[2, 2] = SAT
    flags = flags_of([clean, hit, clean, clean], groupdq=groupdq)
    assert flags[2].tolist() == [JUMP, JUMP, SAT, 0]
    assert not (flags[[0, 1, 3, 4]] & JUMP).any()
    small = flags_of([clean, clean + np.array([0, 0, 90, 90, 90]), clean])
    assert small[2].tolist() == [0, JUMP, 0], "a hit below min_jump_to_flag_neighbors stays alone"
    huge = flags_of([clean, clean + np.array([0, 0, 1e6, 1e6, 1e6]), clean])
    assert huge[2].tolist() == [0, JUMP, 0], "so does one above max_jump_to_flag_neighbors"


def test_neighbours_reach_across_rows_of_a_band() -> None:
    rng = np.random.default_rng(0)
    info = make_info(ny=5, nx=5, ngroups=6)
    references = {name: make_reference(name, info, rng, share=0.0) for name in Jump.references}
    ramp = make_ramp(info, rng, 1, hits=0.0, saturated=0.0)
    ramp.data[...] = (np.arange(6) * 100.0)[None, :, None, None]
    ramp.data[0, 3:, 2, 2] += 700.0
    (out,) = Jump().bind(Binding(info, references)).push(ramp)
    cross = np.zeros((5, 5), bool)
    cross[2, 1:4] = cross[1:4, 2] = True
    np.testing.assert_array_equal((out.groupdq[0, 3] & JUMP) != 0, cross)


def test_flags_after_a_large_jump() -> None:
    ramps = [np.arange(8) * 100.0 + np.where(np.arange(8) >= 3, size, 0.0) for size in (300.0, 3000.0)]
    flags = flags_of(
        ramps, flag_4_neighbors=False,
        after_jump_flag_dn1=1000.0, after_jump_flag_time1=2.5,
    )  # fmt: skip
    assert (flags[:, 0] & JUMP != 0).tolist() == [False] * 3 + [True] + [False] * 4
    assert (flags[:, 1] & JUMP != 0).tolist() == [False] * 3 + [True] * 3 + [False] * 2


@pytest.mark.parametrize("ngroups", [1, 2])
def test_too_few_groups(ngroups: int) -> None:
    info = make_info(ny=3, nx=4, ngroups=ngroups)
    rng = np.random.default_rng(0)
    step = Jump().bind(make_binding(Jump, info, rng))
    assert step.skipped == "fewer than three groups"
    ramp = make_ramp(info, rng, 1, hits=0.5)
    (out,) = step.push(ramp)
    assert not out.groupdq.any()


@pytest.mark.parametrize("value", [SAT, DNU])
def test_unusable_everywhere(value: int) -> None:
    rng = np.random.default_rng(0)
    ramps = rng.normal(0, 1e4, (20, 6))
    flags = flags_of(ramps, groupdq=np.full((20, 6), value))
    np.testing.assert_array_equal(flags, value)


def test_one_usable_difference_is_no_difference() -> None:
    groupdq = np.array([[0, 0, DNU, 0, DNU, DNU]])
    assert not (flags_of([[0, 5e4, 0, 5e4, 0, 0]], groupdq=groupdq) & JUMP).any()


def test_persistence_does_not_stop_the_search() -> None:
    flags = flags_of([np.arange(6) * 100.0 + np.array([0, 0, 0, 5e3, 5e3, 5e3])], groupdq=[[PERS] * 6])
    assert flags[:, 0].tolist() == [PERS, PERS, PERS, PERS | JUMP, PERS, PERS]


def test_nan_samples_are_left_out() -> None:
    """A NaN without a flag hides its two differences, not the hit elsewhere."""
    ramp = np.arange(8) * 100.0 + np.where(np.arange(8) >= 5, 5000.0, 0.0)
    ramp[2] = np.nan
    assert flags_of([ramp])[:, 0].tolist() == [0, 0, 0, 0, 0, JUMP, 0, 0]
    infinite = np.where(np.isnan(ramp), np.inf, ramp)
    assert flags_of([infinite])[5, 0] == JUMP
    # two differences are left; with three_group_rejection_threshold = 1 their disagreement is a hit
    short = np.array([0.0, 100.0, 250.0, np.nan, 300.0])
    lenient = flags_of([short], rejection_threshold=50.0, three_group_rejection_threshold=1.0, noise=3.0)
    assert lenient[:, 0].tolist() == [0, 0, JUMP, 0, 0]


def test_no_read_noise_means_no_jumps() -> None:
    assert not flags_of([np.arange(6) * 100.0 + np.array([0, 0, 0, 5e3, 5e3, 5e3])], noise=np.nan).any()


def test_deliberate_difference_in_the_choice_of_method() -> None:
    """The official step counts groups that are DO_NOT_USE in every pixel; here each pixel counts its own.

    A ramp of 12 groups that saturates after 6 has 5 usable differences: here the iterative search with its
    own thresholds, there the single pass meant for long ramps.
    """
    rng = np.random.default_rng(11)
    info = make_info(ny=12, nx=30, ngroups=12)
    references = {name: make_reference(name, info, rng, share=0.0) for name in Jump.references}
    gain, read = (references[name].arrays["SCI"] for name in ("gain", "readnoise"))
    ramp = make_ramp(info, rng, 2, hits=0.08, saturated=0.0)
    ramp.groupdq[:, 6:, :, ::2] |= SAT
    given_flags = ramp.groupdq.copy()
    ours = flag_jumps(ramp.data, given_flags, gain, read)
    official = flag_jumps(ramp.data, given_flags, gain, read, by_plane=True)
    (out,) = Jump().bind(Binding(info, references)).push(ramp)
    np.testing.assert_array_equal(out.groupdq, ours)
    differs = (ours != official).any(axis=(0, 1))
    assert differs[:, ::2].any(), "short ramps may differ"
    alone = flag_jumps(ramp.data, given_flags, gain, read, neighbours=None)
    alone_official = flag_jumps(ramp.data, given_flags, gain, read, neighbours=None, by_plane=True)
    np.testing.assert_array_equal(alone[..., 1::2], alone_official[..., 1::2])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rejection_threshold": 0}, r"jump\.rejection_threshold = 0.*> 0"),
        ({"rejection_treshold": 4}, r"did you mean rejection_threshold\?"),
        ({"four_group_rejection_threshold": "x"}, r"jump\.four_group_rejection_threshold = 'x'"),
        ({"min_diffs_single_pass": 1}, r"jump\.min_diffs_single_pass = 1.*>= 2"),
        (
            {"min_jump_to_flag_neighbors": 200, "max_jump_to_flag_neighbors": 100},
            r"jump\.min_jump_to_flag_neighbors = 200\.0 is not below.*flag_4_neighbors",
        ),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(Jump, parameters)


def test_values_from_the_command_line_are_converted() -> None:
    operator = build_operator(Jump, {"rejection_threshold": "8", "flag_4_neighbors": "false"})
    assert operator == Jump(rejection_threshold=8.0, flag_4_neighbors=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), ndiff=st.integers(2, 9), change=st.sampled_from([0.0, 1e-3, 0.01, 0.3])
)
def test_light_agrees_with_its_twin(seed: int, ndiff: int, change: float) -> None:
    """Stretches of some pixels: with hits, lost samples, a group that nobody has."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(0, 60, 4)
    bounds = np.cumsum([0, *widths]).astype(np.int32)
    source = rng.uniform(100, 20000, bounds[-1])
    gain, noise2 = (rng.uniform(*span, source.size).astype(np.float32) for span in ((1, 2), (50, 150)))
    light = 1 + change * np.linspace(1, -1, ndiff)
    d = rng.normal(source * light[:, None], np.sqrt(source + noise2)) / gain
    d[rng.random(d.shape) < 0.02] += 3000.0
    samples = np.concatenate([np.zeros((1, source.size)), d.cumsum(axis=0)]).astype(np.float32)[None]
    samples[rng.random(samples.shape) < 0.005] = np.nan
    if rng.random() < 0.3:
        samples[:, -1] = np.nan
    found, changes = np.empty((1, 4, ndiff), np.float32), np.empty((1, 4), np.uint8)
    find_light(samples, bounds, gain, noise2, found, changes)
    for stretch in range(4):
        part = slice(*bounds[stretch : stretch + 2])
        expected, wanted = source_light(samples[0, :, part], gain[part], noise2[part])
        assert changes[0, stretch] == wanted
        np.testing.assert_allclose(found[0, stretch], expected, rtol=2e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ndiff=st.integers(2, 9))
def test_steady_differences_agree_with_their_twin(seed: int, ndiff: int) -> None:
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.3, 1.7, ndiff).astype(np.float32)
    d = rng.normal(rng.uniform(-50, 5000, 128) * light[:, None], 30.0).astype(np.float32)
    d[rng.random(d.shape) < 0.1] = np.nan
    noise2 = rng.uniform(50, 150, 128).astype(np.float32)
    expected = np.array(
        [in_steady_light(d[:, x].astype(float), light.astype(float), noise2[x]) for x in range(128)]
    )
    steady_differences(d, light, noise2, 0, 128, np.empty((6, 128), np.float32))
    np.testing.assert_allclose(d, expected.T, rtol=1e-4, atol=0.02)


def test_pixels_that_tell_of_the_light() -> None:
    """The brightest of each stretch, not those that are unusable or alone; ramps that saturate say nothing."""
    rng = np.random.default_rng(1)
    for mode, count in (("NRS_BRIGHTOBJ", 3), ("MIR_LRS-SLITLESS", 3), ("NRC_TSIMAGE", 1)):
        info = make_info(mode, ny=160, nx=300, ngroups=4)
        image = rng.uniform(500, 2000, info.frame_shape).astype(np.float32)
        image[100:, 256:] = np.nan
        usable = rng.random(info.frame_shape) < 0.9
        ones = np.ones(info.frame_shape, np.float32)
        pixels = choose_pixels(info, image, usable, ones, ones)
        assert pixels.count == count
        assert (np.diff(pixels.bounds) == (64 if mode == "NRC_TSIMAGE" else 40)).all()
        assert usable[pixels.rows, pixels.columns].all()
        for stretch in range(count):
            own = slice(*pixels.bounds[stretch : stretch + 2])
            where = pixels.stretches[pixels.rows[own], pixels.columns[own] // 128]
            assert (where == stretch).all()
            inside = np.repeat(pixels.stretches, 128, axis=1)[:, :300] == stretch
            levels = np.sort(np.where(inside & usable, np.nan_to_num(image), 0).ravel())[::-1]
            chosen = image[pixels.rows[own], pixels.columns[own]]
            np.testing.assert_array_equal(np.sort(chosen)[::-1], levels[: chosen.size])
        image[5, 7] = 1e7
        usable[5, 7] = True
        assert choose_pixels(info, image, usable, ones, ones).count == count
        assert choose_pixels(info, image, usable, ones, ones).bounds[1] == 0
        assert choose_pixels(info, None, usable, ones, ones).count == 0
    data = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    groupdq[1, 2, 0, 1], groupdq[0, 3, 2, 4] = SAT, DNU
    samples = np.empty((2, 4, 2), np.float32)
    gather_ramps(data, groupdq, np.array([0, 2], np.int32), np.array([1, 4], np.int32), samples)
    expected = data[:, :, [0, 2], [1, 4]]
    expected[1, :, 0] = expected[0, 3, 1] = np.nan
    np.testing.assert_array_equal(samples, expected)


def test_light_that_changes_is_no_jump() -> None:
    """A quarter of the light goes within one integration: only the hit is flagged, before and in it."""
    rng = np.random.default_rng(5)
    source = np.linspace(5000.0, 20000.0, 120)
    steady = np.ones(8)
    for light in (steady, np.linspace(1.15, 0.85, 8), np.linspace(0.85, 1.15, 8)):
        d = rng.normal(source[:, None] * light, np.sqrt(source[:, None] * light + 100))
        d[40, 5] += 30 * np.sqrt(source[40])
        ramps = np.concatenate([np.zeros((120, 1)), d.cumsum(axis=1)], axis=1)
        for image in (source, None):
            flags = flags_of(ramps, rejection_threshold=6.0, flag_4_neighbors=False, image=image) & JUMP
            # without the scout's image nothing is known of the source
            if image is not None or light is steady:
                assert np.argwhere(flags).tolist() == [[6, 40]]
            else:
                assert len(np.argwhere(flags)) > 100


def test_light_that_changes_leaves_the_rate_of_false_hits_as_it_is() -> None:
    """In an ingress clean pixels are flagged as often as before it, and hits are found as often."""
    rng = np.random.default_rng(8)
    source = rng.uniform(500.0, 20000.0, 128)
    rates = []
    for light in (np.ones(6), np.linspace(1.4, 0.6, 6)):
        flagged = found = 0
        for _ in range(60):
            d = rng.normal(source[:, None] * light, np.sqrt(source[:, None] * light + 100))
            hits = rng.integers(6, size=128)
            struck = rng.random(128) < 0.1
            level = source * light[hits]
            d[struck, hits[struck]] += 5 * np.sqrt(level + 100)[struck]
            ramps = np.concatenate([np.zeros((128, 1)), d.cumsum(axis=1)], axis=1)
            flags = flags_of(ramps, rejection_threshold=3.0, flag_4_neighbors=False, image=source)[1:] & JUMP
            true = np.zeros(flags.shape, bool)
            true[hits[struck], struck] = True
            found += (flags[true] > 0).sum() / struck.sum() / 60
            flagged += (flags[~true] > 0).mean() / 60
        rates.append((flagged, found))
    (before, seen), (after, still) = rates
    assert 2e-3 < before < 2e-2
    assert after < 1.3 * before
    assert still > 0.95 * seen > 0.8

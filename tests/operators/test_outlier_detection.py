"""outlier_detection: kernels against their twins, both scopes, and what must not be flagged."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.coupling import Window
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding
from tsostream.operators.outlier_detection import OutlierDetection, parse_good_bits
from tsostream.operators.outlier_marks import FAR, MARKS, NEAR, THERE, Typical, remember_samples
from tsostream.operators.outlier_segment import flag_against_median, keep_samples, segment_windows
from tsostream.operators.outlier_window import CHUNK, DIGITS, SEVEN, _find_doubtful, count_outliers
from tsostream.operators.pointing import measure_jitter, pointing_variance
from tsostream.operators.sorting import comparators
from tsostream.operators.source_level import find_source, source_level
from tsostream.operators.window import Ring, mark_words, run_blocks, slice_rate
from tsostream.testing.builders import make_info, make_rate, make_times
from tsostream.testing.naive.outliers import (
    level_between,
    marks_of,
    middle_interval,
    official_median,
    source_ratio,
    unfit_removed,
)

FLAGS = dq.DO_NOT_USE | dq.OUTLIER
LOST = np.uint32(dq.DO_NOT_USE)


def random_cube(rng: np.random.Generator, shape: tuple[int, ...], bad: float = 0.1) -> np.ndarray:
    cube = rng.choice([1.0, 2.0, 3.0, 5.0, 9.0, -4.0], shape).astype(np.float32)
    cube += rng.normal(0, 0.3, shape).astype(np.float32)
    cube[rng.random(shape) < bad] = np.nan
    return cube


# --- kernels -----------------------------------------------------------------------------------------------------


def remembered(
    rng: np.random.Generator, n: int, shape: tuple[int, int], bad: float, surprise: float
) -> dict[str, Any]:
    """Samples of so many integrations as they are remembered; ``surprise`` of the pixels are not where expected."""
    data = random_cube(rng, (n, *shape), bad)
    data[rng.random(data.shape) < 0.05] = np.inf
    err = rng.uniform(0.1, 2.0, data.shape).astype(np.float32)
    err[rng.random(err.shape) < 0.1] = np.nan
    rows, columns = (rng.uniform(0.5, 2, (n, size)).astype(np.float32) for size in shape)
    expected = rng.choice([1.5, 2.5], shape).astype(np.float32)
    expected[rng.random(shape) < surprise] = rng.choice([np.nan, 100.0])
    typical = Typical(
        rng.choice([0.0, 0.4, 1.0], shape).astype(np.float32), expected,
        rng.choice([0.5, 2.0, 6.0], shape).astype(np.float32), rng.choice([0.0, 0.5], shape).astype(np.float32),
    )  # fmt: skip
    bits = rng.choice([0, 0, 0, 4, 1, 16], data.shape).astype(np.uint32)
    planes = np.empty(data.shape, np.float32)
    marks = np.empty((n, MARKS, shape[0], mark_words(shape[1])), np.uint64)
    remember_samples(data, bits, np.uint32(5), err, rows, columns, typical, np.float32(3), planes, marks)
    level = np.float32(1) + (rows[:, :, None] * columns[:, None] - np.float32(1)) * typical.share
    limit = np.float32(3) * np.sqrt((err / level) ** 2 + typical.excess)
    return {
        "data": data, "bits": bits, "err": err, "rows": rows, "columns": columns, "typical": typical,
        "planes": planes, "marks": marks, "level": level, "limit": limit,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.floats(0, 0.9),
    st.sampled_from([3, 64, 70]),
    st.floats(0, 1),
)
def test_counting_is_the_distance_from_the_median(
    seed: int, window: int, bad: float, nx: int, surprise: float
) -> None:
    rng = np.random.default_rng(seed)
    n, shape = 5, (3, nx)
    r = remembered(rng, window + 3, shape, bad, surprise)
    slots = np.array([rng.permutation(window + 3)[:window] for _ in range(n)], np.int64)
    own = slots[:, 0].copy()
    slots[rng.random(slots.shape) < 0.1] = -1
    slots[:, 0] = own
    bits = np.zeros((n, *shape), np.uint32)
    count_outliers(
        r["planes"], r["marks"], slots, own, r["err"][own], r["typical"], r["rows"][own], r["columns"][own],
        np.float32(3), bits,
    )  # fmt: skip
    for (i, y, x), flag in np.ndenumerate(bits):
        low, high = middle_interval(r["planes"][slots[i][slots[i] >= 0], y, x])
        value, limit = r["planes"][own[i], y, x], r["limit"][own[i], y, x]
        # the nearer of the two middle samples; compared in single precision, as samples are
        expected = bool(low > value + limit or high < value - limit)
        assert flag == (FLAGS if expected else 0), (i, y, x)


@pytest.mark.parametrize(
    ("window", "words"), [(1, 1), (6, 64), (7, 65), (8, 130), (25, 200), (140, 70), (1023, 3)]
)
def test_marks_settle_where_half_of_the_window_is_near(window: int, words: int) -> None:
    """The counters of 64 pixels at a time against sums of single bits, with gaps in the window."""
    rng = np.random.default_rng(window)
    many = window + 4
    flags = rng.random((many, MARKS, 64 * words)) < rng.choice([0.3, 0.5, 0.7], 64 * words)
    marks = np.packbits(flags, axis=-1, bitorder="little").view(np.uint64)
    slots = rng.permutation(many)[:window].astype(np.int64)
    own = int(slots[0])
    slots[1:][rng.random(window - 1) < 0.1] = -1
    found = np.zeros(words, np.uint64)
    space = np.full((SEVEN + DIGITS + 1) * CHUNK, 7, np.uint64)
    _find_doubtful(marks, slots, own, space, np.empty(CHUNK, np.uint64), found)
    kept = slots[slots >= 0]
    expected = flags[own, THERE] & (flags[own, FAR] | (flags[kept, NEAR].sum(axis=0) < (len(kept) + 1) // 2))
    np.testing.assert_array_equal(np.unpackbits(found.view(np.uint8), bitorder="little"), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 5, 64, 130]))
def test_samples_are_remembered_at_level_1_with_their_marks(seed: int, nx: int) -> None:
    rng = np.random.default_rng(seed)
    r = remembered(rng, 2, (3, nx), 0.1, 0.1)
    kept = np.empty(r["data"].shape, np.float32)
    keep_samples(r["data"], r["bits"], np.array([5, 0], np.uint32), kept)
    for (i, y, x), value in np.ndenumerate(r["data"]):
        unfit = bool(r["bits"][i, y, x] & 5) or not np.isfinite(value)
        share = r["typical"].share[y, x]
        expected = unfit_removed(value, unfit, r["rows"][i, y] * r["columns"][i, x], share)
        np.testing.assert_allclose(r["planes"][i, y, x], expected, rtol=1e-5)
        np.testing.assert_equal(
            kept[i, y, x], np.float32(unfit_removed(value, i == 0 and r["bits"][i, y, x] & 5 > 0))
        )
        word, bit = divmod(x, 64)
        near, far, there = (
            bool(r["marks"][i, mark, y, word] >> np.uint64(bit) & 1) for mark in (NEAR, FAR, THERE)
        )
        sample, limit = float(r["planes"][i, y, x]), float(r["limit"][i, y, x])
        told = (float(r["typical"].expected[y, x]), float(r["typical"].reach[y, x]))
        assert (near, there) == marks_of(sample, limit, *told)[::2]
        # a sample is called far a little earlier than it is, never later
        assert marks_of(sample, limit, *told)[1] <= far <= marks_of(sample, 0.98 * limit, *told)[1]
    used = np.arange(64 * r["marks"].shape[3]) < nx
    stray = np.unpackbits(r["marks"].view(np.uint8), axis=-1, bitorder="little")[..., ~used]
    assert not stray.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_source_level_is_the_median_ratio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = random_cube(rng, (3, 4, 6), 0.4)
    bits = rng.choice([0, 0, 1], data.shape).astype(np.uint32)
    start = np.array([0, 5, 5, 9])
    pixels = rng.permutation(24)[:9].astype(np.int32)
    ground, source = (rng.uniform(0.1, 2, 9).astype(np.float32) for _ in range(2))
    level = np.empty((3, 3))
    source_level(data, bits, start, pixels, ground, source, comparators(5), level)
    for i in range(3):
        for node in range(3):
            part = slice(start[node], start[node + 1])
            lost = (bits[i].ravel()[pixels[part]] & 1) > 0
            expected = source_ratio(data[i].ravel()[pixels[part]], lost, ground[part], source[part])
            # a ratio near zero is a difference of numbers near one, in single precision
            np.testing.assert_allclose(level[i, node], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_levels_between_the_nodes_lie_on_lines(nodes: int) -> None:
    info, _, templates = scene(n=1)
    source = find_source(templates, info, np.zeros(info.frame_shape, np.uint32))
    rng = np.random.default_rng(nodes)
    node = np.sort(rng.choice(200, nodes, replace=False)).astype(float)
    source = dataclasses.replace(source, node=node)
    level = rng.uniform(0.8, 1.2, (3, nodes))
    level[1, 0] = np.nan
    rows, columns = source.spread(level)
    assert (rows == 1).all()
    for i, line in enumerate(columns):
        known = np.isfinite(level[i])
        for x in range(0, 200, 7):
            expected = level_between(level[i, known], node[known], x) if known.any() else 1.0
            assert line[x] == pytest.approx(np.clip(expected, 0.02, 50.0), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 14), st.floats(0, 0.2))
def test_segments_are_judged_as_the_official_step_does(seed: int, n: int, width: int, bad: float) -> None:
    rng = np.random.default_rng(seed)
    cube = random_cube(rng, (n, 2, 3), bad)
    err = rng.uniform(0.2, 2.0, cube.shape).astype(np.float32)
    for value in (np.nan, np.inf):
        err[rng.random(err.shape) < 0.05] = value
    bits = rng.choice([0, 0, 0, 1, 4], cube.shape).astype(np.uint32)
    rolling = 1 < width < n
    samples = np.where(rolling & ((bits & 1) > 0), np.float32(np.nan), cube)
    with np.errstate(invalid="ignore", over="ignore"):
        limit = np.float32(2.5) * np.clip(np.nan_to_num(err), None, np.finfo(np.float32).max)
        expected = np.abs(cube - official_median(samples, width)) > limit
    step = OutlierDetection(scope="segment", rolling_window_width=width, snr=2.5).bind(
        Binding(make_info(nx=3, ny=2), segments=((11, 10 + n),))
    )
    rate = Rate(11, cube, err, err.copy(), err.copy(), bits.copy(), make_times(n, 11))
    cuts = [0, *sorted(rng.integers(0, n, 2)), n]
    blocks = [slice_rate(rate, a, b) for a, b in pairwise(cuts) if b > a]
    out = np.concatenate([one.dq for one in run_blocks(step, iter(blocks), n)])
    np.testing.assert_array_equal(out, bits | np.where(expected, FLAGS, 0).astype(np.uint32))


def test_a_median_of_a_window_that_stays_is_not_sorted_anew() -> None:
    """Edges share one window; the kernel must give each integration the same median."""
    windows, rolling = segment_windows(np.arange(1, 31), 25, ((1, 30),))
    assert rolling.all()
    assert (windows[:13] == [1, 25]).all()
    assert (windows[17:] == [6, 30]).all()
    planes = np.arange(30, dtype=np.float32)[:, None, None]
    data, bits = np.full((30, 1, 1), 14.0, np.float32), np.zeros((30, 1, 1), np.uint32)
    slots = windows[:, :1] - 1 + np.arange(25)
    err = np.full(data.shape, 0.5, np.float32)
    args = (data, np.arange(30), planes, slots, comparators(25), err, np.float32(4), True, bits)
    flag_against_median(*args)
    # medians 12 … 17 against 14 with a limit of 2: only 17 is too far
    np.testing.assert_array_equal(bits.ravel() > 0, windows[:, 0] - 1 + 12 > 16)


# --- the streaming scope -----------------------------------------------------------------------------------------


def scene(*, n: int = 60, flux: Any = 1.0, seed: int = 1, ground: float = 40.0) -> tuple[Any, Rate, dict]:
    """Spectrum on a background of its own with honest noise; the scout's templates of it."""
    rng = np.random.default_rng(seed)
    info = make_info(exp_type="NRS_BRIGHTOBJ", nx=200, ny=16)
    y = np.arange(16)[:, None]
    profile = np.exp(-0.5 * ((y - 7.6) / 1.1) ** 2)
    source = 4000.0 * profile * (1 + 0.3 * np.sin(np.arange(200) / 30.0))
    level = np.broadcast_to(np.asarray(flux, float), (n,))[:, None, None]
    truth = ground + level * source
    variance = truth / 2 + 20.0
    data = rng.normal(truth, np.sqrt(variance)).astype(np.float32)
    planes = [
        np.broadcast_to(one, data.shape).astype(np.float32)
        for one in (variance - 20.0, np.full_like(data, 20.0))
    ]
    rate = Rate(
        1, data, np.sqrt(planes[0] + planes[1]), *planes, np.zeros(data.shape, np.uint32), make_times(n, 1)
    )
    image = (ground + source).astype(np.float32)
    noise = (ground + source) / 2 + 20.0
    templates = {
        "image": image,
        "variance": noise.astype(np.float32),
        "scatter": np.sqrt(noise).astype(np.float32),
    }
    return info, rate, templates


def flag(info: Any, rate: Rate, templates: dict, block: int = 7, **parameters: Any) -> np.ndarray:
    step = OutlierDetection(**parameters).bind(Binding(info, templates=templates))
    blocks = (slice_rate(rate, a, min(a + block, rate.count)) for a in range(0, rate.count, block))
    copies = (dataclasses.replace(one, dq=one.dq.copy(), data=one.data.copy()) for one in blocks)
    return np.concatenate([one.dq for one in run_blocks(step, copies, block)])


def eclipse(n: int) -> np.ndarray:
    """57 % deep, ingress and egress of 3 integrations, in the middle third."""
    flux = np.ones(n)
    flux[n // 3 : 2 * n // 3] = 0.43
    for k, depth in enumerate((0.14, 0.285, 0.43)):
        flux[n // 3 - 3 + k] = flux[2 * n // 3 + 2 - k] = 1 - depth
    return flux


@pytest.mark.parametrize("n", [60, 40, 20])
def test_an_eclipse_is_no_outlier_and_a_cosmic_ray_is(n: int) -> None:
    info, rate, templates = scene(n=n, flux=eclipse(n))
    spots = [(2, 8, 50), (n // 3, 7, 120), (n // 2, 2, 30), (n - 1, 9, 199)]
    for i, y, x in spots:
        rate.data[i, y, x] += 8 * rate.err[i, y, x]
    found = flag(info, rate, templates)
    assert all(found[spot] == FLAGS for spot in spots)
    # 5 sigma: six in ten million of the others
    assert np.count_nonzero(found) <= len(spots) + 2
    # the official form takes ingress and egress for outliers
    official = flag(info, rate, templates, scope="segment")
    if n > 25:
        assert np.count_nonzero(official) > 500


def test_background_does_not_follow_the_source() -> None:
    """Pixels without source keep their level in eclipse; dividing by the flux scale would flag them."""
    info, rate, templates = scene(n=40, flux=eclipse(40), ground=2000.0)
    assert np.count_nonzero(flag(info, rate, templates)) <= 2


def test_a_flare_of_the_blue_only_is_no_outlier() -> None:
    info, rate, templates = scene(n=50)
    rise = 0.25 * np.exp(-np.arange(10) / 3.0)[:, None, None] * np.linspace(1, 0, 200)
    source = np.clip(templates["image"] - 40.0, 0, None)
    rate.data[20:30] += (rise * source).astype(np.float32)
    assert np.count_nonzero(flag(info, rate, templates)) <= 3


def test_bad_samples_in_the_window_do_not_end_the_test() -> None:
    info, rate, templates = scene(n=30)
    rate.dq[10:18, 8, 60] |= LOST
    rate.data[13, 8, 60] = np.nan
    rate.data[20, 8, 60] += 20 * rate.err[20, 8, 60]
    found = flag(info, rate, templates)
    assert found[20, 8, 60] == FLAGS
    assert (found[10:18, 8, 60] == LOST).all()
    assert flag(info, rate, templates, scope="segment")[20, 8, 60] == 0, "the official form misses it"


@pytest.mark.parametrize("block", [1, 3, 25, 60])
def test_blocks_change_nothing(block: int) -> None:
    info, rate, templates = scene(flux=eclipse(60))
    rng = np.random.default_rng(7)
    rate.dq[rng.random(rate.dq.shape) < 0.02] |= LOST
    rate.data[rng.random(rate.dq.shape) < 0.002] *= 1.5
    whole = flag(info, rate, templates, block=60)
    assert np.count_nonzero(whole & dq.OUTLIER) > 50
    np.testing.assert_array_equal(flag(info, rate, templates, block=block), whole)


def test_a_window_may_begin_anywhere() -> None:
    """What a resumed run sees: as many integrations before the first one as the window looks back."""
    info, rate, templates = scene()
    rate.data[np.random.default_rng(3).random(rate.dq.shape) < 0.002] *= 1.5
    whole = flag(info, rate, templates)
    late = flag(info, slice_rate(rate, 30 - 12, 60), templates)
    np.testing.assert_array_equal(late[12:], whole[30:])


def test_one_integration_flags_nothing() -> None:
    info, rate, templates = scene(n=1)
    rate.data[0, 8, 60] *= 5
    assert not flag(info, rate, templates).any()
    assert not flag(info, rate, templates, scope="segment").any()


def test_values_stay_unless_set_nan() -> None:
    info, rate, templates = scene(n=30)
    rate.data[9, 8, 60] *= 3
    step = OutlierDetection().bind(Binding(info, templates=templates))
    kept = rate.data.copy()
    (out,) = step.push(rate)
    np.testing.assert_array_equal(out.data, kept)
    assert out.dq[9, 8, 60] == FLAGS
    (out,) = OutlierDetection(set_nan=True).bind(Binding(info, templates=templates)).push(rate)
    assert np.isnan([out.data[9, 8, 60], out.err[9, 8, 60], out.var_rnoise[9, 8, 60]]).all()


def test_a_pixel_that_always_varies_is_judged_by_its_own_scatter() -> None:
    info, rate, templates = scene(n=60)
    rng = np.random.default_rng(2)
    wild = rng.normal(0, 6 * np.sqrt(templates["variance"][8, 60]), 60)
    rate.data[:, 8, 60] += wild.astype(np.float32)
    templates["scatter"][8, 60] *= 6
    assert np.count_nonzero(flag(info, rate, templates)[:, 8, 60]) == 0
    assert np.count_nonzero(flag(info, rate, templates, excess_scatter=False)[:, 8, 60]) > 10


def jittered(n: int, scout: int, jitter: tuple[float, float]) -> tuple[Any, Rate, dict]:
    """A bright star that moves, and what a scout of few integrations knows of it."""
    rng = np.random.default_rng(10)
    info = make_info(exp_type="NRC_TSIMAGE")
    yy, xx = np.indices(info.frame_shape, dtype=float)

    def star(dy: float, dx: float) -> np.ndarray:
        return 60.0 + 9e5 / 16 * np.exp(-0.5 * ((yy - 15.8 - dy) ** 2 + (xx - 15.3 - dx) ** 2) / 1.6**2)

    moves = rng.normal(0, 1, (n + scout, 2)) * jitter
    truth = np.stack([star(*move) for move in moves])
    variance = np.broadcast_to(star(0, 0) / 100 + 20.0, truth.shape).astype(np.float32)
    data = rng.normal(truth, np.sqrt(variance)).astype(np.float32)
    low, middle, high = np.percentile(data[n:], [15.87, 50, 84.13], axis=0)
    templates = {
        "image": middle.astype(np.float32), "scatter": ((high - low) / 2).astype(np.float32),
        "variance": variance[0], "count": scout,
    }  # fmt: skip
    part = variance[:n].copy()
    none = np.zeros(part.shape, np.uint32)
    return info, Rate(1, data[:n], np.sqrt(part), part, part * 0, none, make_times(n, 1)), templates


@pytest.mark.parametrize("jitter", [(0.02, 0.02), (0.03, 0.0), (0.0, 0.0)])
def test_pixels_of_a_star_that_moves_are_no_outliers(jitter: tuple[float, float]) -> None:
    """By chance some pixels vary little in sixteen integrations of a scout; the star's movement tells better."""
    info, rate, templates = jittered(100, 16, jitter)
    spots = [(30, 15, 17), (60, 16, 13), (80, 3, 3)]
    for i, y, x in spots:
        gradient = max(np.abs(np.gradient(templates["image"].astype(float))[k][y, x]) for k in (0, 1))
        rate.data[i, y, x] += 10 * np.hypot(rate.err[i, y, x], gradient * max(jitter))
    found = flag(info, rate, templates)
    assert all(found[spot] == FLAGS for spot in spots)
    assert np.count_nonzero(found) <= len(spots) + 2
    if max(jitter):
        assert np.count_nonzero(flag(info, rate, templates, excess_scatter=False)) > 500
        # the pixels' own scatter alone lets some of them be flagged
        alone = {**templates, "image": np.full_like(templates["image"], 60.0)}
        assert np.count_nonzero(flag(info, rate, alone)) > np.count_nonzero(found) + 10


@pytest.mark.parametrize("truth", [(9e-4, 2e-4), (4e-4, 0.0), (0.0, 0.0)])
def test_jitter_is_measured_on_all_pixels(truth: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    gradients = rng.normal(0, 3000.0, (2, 200))
    noise = 500.0
    scatter2 = noise + truth @ gradients**2
    seen = scatter2 * (1 + rng.normal(0, 0.2, 200))
    seen[:5] += 1e6  # pixels that vary for another reason
    found = measure_jitter(gradients, seen - noise, np.sqrt(seen), 64)
    np.testing.assert_allclose(found, truth, rtol=0.15, atol=1e-5)
    assert measure_jitter(gradients[:, :3], seen[:3], seen[:3], 64) == (0.0, 0.0)


def test_what_is_not_known_does_not_move() -> None:
    _, _, templates = jittered(4, 16, (0.03, 0.015))
    image, scatter, variance = (templates[name].copy() for name in ("image", "scatter", "variance"))
    share = np.ones(image.shape)
    assert (pointing_variance(image, scatter, variance, share, 16)[14:18, 14:18] > 100).any()
    image[15, 15] = scatter[3, 3] = np.nan
    assert np.isfinite(pointing_variance(image, scatter, variance, share, 16)).all()
    assert not pointing_variance(image, scatter, variance, 0 * share, 16).any()
    assert not pointing_variance(np.full_like(image, np.nan), scatter, variance, share, 16).any()


def test_binds_without_templates() -> None:
    info, rate, _ = scene(n=30)
    rate.data[9, 2, 60] += 2000
    assert flag(info, rate, {})[9, 2, 60] == FLAGS


def test_images_have_one_level() -> None:
    info = make_info(exp_type="NRC_TSIMAGE")
    rng = np.random.default_rng(5)
    flux = eclipse(60)
    rate = make_rate(info, rng, 60, flux=flux, bad=0.0)
    calm = make_rate(info, rng, 1, noise=0.0, bad=0.0)
    variance = calm.var_poisson[0] + calm.var_rnoise[0]
    templates = {"image": calm.data[0], "variance": variance, "scatter": np.sqrt(variance)}
    source = find_source(templates, info, np.zeros(info.frame_shape, np.uint32))
    assert source.node.shape == (1,)
    level = source.measure(rate.data, rate.dq)[:, 0]
    np.testing.assert_allclose(level, flux, atol=0.1)
    assert np.count_nonzero(flag(info, rate, templates)) <= 2


# --- the ring ----------------------------------------------------------------------------------------------------


def test_a_ring_tells_frames_that_are_not_there() -> None:
    info, rate, templates = scene(n=20)
    ring = Ring(OutlierDetection().bind(Binding(info, templates=templates)), 8)
    ring.put(slice_rate(rate, 0, 5))
    ring.put(slice_rate(rate, 5, 11))
    slots = ring.frames.slots(np.array([-1, 0, 1, 3, 4, 11, 12]))
    np.testing.assert_array_equal(slots, [-1, -1, -1, -1, 4, 3, -1])
    expected = np.empty((1, 16, 200), np.float32)
    rows = np.ones((1, 16), np.float32)
    source = find_source(templates, info, np.zeros(info.frame_shape, np.uint32))
    _, columns = source.spread(source.measure(rate.data[10:11], rate.dq[10:11]))
    part = rate.data[10:11], rate.dq[10:11], LOST, rate.err[10:11]
    typical = Typical(source.share, *(np.zeros((16, 200), np.float32) for _ in range(3)))
    marks = np.empty((1, MARKS, 16, mark_words(200)), np.uint64)
    remember_samples(*part, rows, columns, typical, np.float32(5), expected, marks)
    np.testing.assert_array_equal(ring.frames.planes[3], expected[0])


# --- parameters --------------------------------------------------------------------------------------------------


def test_parameters_under_their_official_names() -> None:
    assert parse_good_bits("~DO_NOT_USE") == 0xFFFFFFFE
    assert parse_good_bits("~(DO_NOT_USE + SATURATED)") == 0xFFFFFFFC
    assert parse_good_bits("JUMP_DET, 16") == 20
    assert parse_good_bits(None) == 0xFFFFFFFF
    assert OutlierDetection(snr="4.0 3.0").limit == 4.0
    assert OutlierDetection(snr=6.0).limit == 6.0
    coupling = OutlierDetection(rolling_window_width=24).coupling
    assert coupling == Window(12, 11, "shrink", ("image", "scatter", "variance", "count"))
    for wrong in ({"snr": "much"}, {"snr": "-1"}, {"good_bits": "~NICE"}, {"rolling_window_width": 0}):
        with pytest.raises(ConfigError, match="outlier_detection"):
            OutlierDetection(**wrong)


def test_good_bits_choose_the_samples() -> None:
    info, rate, templates = scene(n=30)
    rate.dq[:, 8, 60] |= np.uint32(dq.JUMP_DET)
    rate.data[9, 8, 60] *= 3
    assert flag(info, rate, templates)[9, 8, 60] & dq.OUTLIER
    strict = flag(info, rate, templates, good_bits="~DO_NOT_USE+JUMP_DET")
    assert not (strict[:, 8, 60] & dq.OUTLIER).any(), "no good sample is left"

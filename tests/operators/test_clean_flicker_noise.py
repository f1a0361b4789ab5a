"""clean_flicker_noise: agrees with its twin and the official step (stage 1, section 17). Tolerance: rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Ramp
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise, add_scene, draft_slopes
from tsostream.operators.flicker import clip_image
from tsostream.operators.flicker_columns import clean_columns, scene_level, scene_steps
from tsostream.operators.flicker_mask import scene_mask
from tsostream.operators.flicker_segment import SegmentFlicker, bind_segment
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.sorting import median_comparators
from tsostream.operators.tile import Tile, make_scratch, run_passes
from tsostream.testing.builders import make_info, make_ramp, make_references
from tsostream.testing.naive.flicker import (
    clean_integration,
    clean_short_columns,
    clip_background,
    mean_slopes,
    rising_scene,
    scene_ratio,
)
from tsostream.testing.oracle import Case, compare, official_python, run_official


def striped(info: ExposureInfo, rng: np.random.Generator, count: int = 2) -> Any:
    """Ramps with a common level in each line, flags, and a few lost samples."""
    ramp = make_ramp(info, rng, count)
    lines = (info.ny, 1) if along_x(info) else (1, info.nx)
    ramp.data[...] += rng.normal(0, 20, (count, info.ngroups, *lines))
    ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.02] |= dq.JUMP_DET
    ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.02] |= dq.DO_NOT_USE
    ramp.data[rng.random(ramp.data.shape) < 0.001] = np.nan
    return ramp


def along_x(info: ExposureInfo) -> bool:
    return not info.is_miri and abs(info.slowaxis) == 2


def segment(
    info: ExposureInfo, scene: np.ndarray, references: Any = None, **parameters: Any
) -> SegmentFlicker:
    """The step of the segment scope with the user's mask."""
    step = CleanFlickerNoise(user_mask="mask.fits", scope="segment", **parameters)
    found = bind_segment(step, Binding(info, references or {}, templates={"user_mask": scene}))
    assert not isinstance(found, str)
    return found


def clean(
    info: ExposureInfo, ramp: Any, scene: np.ndarray, references: Any = None, **parameters: Any
) -> np.ndarray:
    step, data = segment(info, scene, references, **parameters), ramp.data.copy()
    work = step.working_arrays()
    for i in range(len(data)):
        step.clean(data[i], ramp.groupdq[i], scene, work)
    return data


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["NRC_TSGRISM", "NRS_BRIGHTOBJ", "MIR_IMAGE"]),
    level=st.booleans(),
    n_sigma=st.sampled_from([0.0, 2.0]),
    divided=st.booleans(),
)
def test_agrees_with_its_twin(seed: int, mode: str, level: bool, n_sigma: float, divided: bool) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(mode, ny=12, nx=16, ngroups=4)
    ramp, scene = striped(info, rng), rng.random((12, 16)) < 0.7
    flat = rng.uniform(0.8, 1.2, (12, 16)).astype(np.float32) if divided else None
    expected = [
        clean_integration(data, flags, scene, level=level, n_sigma=n_sigma, along_x=along_x(info), flat=flat)
        for data, flags in zip(ramp.data, ramp.groupdq, strict=True)
    ]
    given_flat = {} if flat is None else {"flat": Reference("flat", "flat.fits", {"SCI": flat})}
    method = "median" if level else None
    ours = clean(
        info, ramp, scene, given_flat, background_method=method, n_sigma=n_sigma, apply_flat_field=divided
    )
    np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-5, atol=2e-2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n_sigma=st.sampled_from([0.0, 1.0, 2.0]))
def test_scene_agrees_with_its_twin(seed: int, n_sigma: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(5, 1, (12, 16)).astype(np.float32)
    image[4:6] += 100
    image[rng.random(image.shape) < 0.05] = rng.choice([np.nan, 0.0])
    expected = np.isfinite(image) & (image != 0)
    if n_sigma:
        expected = clip_background(image, expected, 3.0, n_sigma, halved=False)
    np.testing.assert_array_equal(scene_mask(image, n_sigma), expected)


def test_takes_the_lines_out() -> None:
    info = make_info("NRC_TSGRISM", ny=40, nx=200, ngroups=5)
    rng = np.random.default_rng(1)
    ramp = make_ramp(info, rng, 2, hits=0.0, saturated=0.0)
    clean_data = ramp.data.copy()
    ramp.data[...] += rng.normal(0, 30, (2, 5, 40, 1))
    image = np.zeros(info.frame_shape, np.float32) + rng.normal(5, 1, info.frame_shape).astype(np.float32)
    image[15:25] = 4000
    binding = Binding(info, templates={"image": image})
    before = np.median(np.abs(np.diff(ramp.data - clean_data, axis=1)))
    (out,) = CleanFlickerNoise().bind(binding).push(ramp)
    # lines that are off by more than n_sigma are taken for signal and left alone, as in the official step
    rest = np.diff(out.data - clean_data, axis=1)[:, :, np.r_[0:12, 28:40]]
    # the level that all lines have in common is put back
    after = np.median(np.abs(rest - np.median(rest, axis=(2, 3), keepdims=True)))
    assert after < 0.1 * before


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_scene_is_scaled_by_the_integration_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("NRS_BRIGHTOBJ", ny=6, nx=10, ngroups=5)
    ramp = striped(info, rng, 1)
    image = rng.uniform(0.1, 900, info.frame_shape).astype(np.float32)
    pixels = np.sort(rng.choice(60, 20, replace=False)).astype(np.int32)
    levels = np.ascontiguousarray(image.ravel()[pixels])
    found = scene_level(ramp.data[0], ramp.groupdq[0], pixels, levels, 0.7, np.empty(20))
    expected = scene_ratio(ramp.data[0], ramp.groupdq[0], image, pixels, 0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    data = ramp.data[0].copy()
    add_scene(data, image, -found)
    np.testing.assert_allclose(data, ramp.data[0] - rising_scene(image, found, 5), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("depth", [1.0, 0.9])
def test_lines_come_out_where_the_source_covers_them(depth: float) -> None:
    """With the image taken out the source's own columns are cleaned, in transit as well as out of it."""
    info = make_info("NRS_BRIGHTOBJ", ny=32, nx=64, ngroups=5)
    rng = np.random.default_rng(4)
    image = np.zeros(info.frame_shape, np.float32)
    image[4:28] = rng.uniform(2000, 4000, (24, 64))  # three quarters of every column
    ramp = make_ramp(info, rng, 1, hits=0.0, saturated=0.0)
    times = info.group_time * np.arange(5, dtype=np.float32)[:, None, None]
    ramp.data[0] = rng.normal(0, 1, ramp.data[0].shape) + depth * image * times
    lines = rng.normal(0, 30, (5, 1, 64))
    ramp.data[0] += lines
    binding = Binding(info, templates={"image": image})
    scene = depth * image * times
    (out,) = CleanFlickerNoise(background_method="median_image").bind(binding).push(ramp)
    rest = np.diff(out.data[0] - scene, axis=0)
    left = np.median(rest, axis=1) - np.median(rest)
    assert np.std(left) < 0.05 * np.std(np.diff(lines, axis=0))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), ny=st.sampled_from([1, 2, 7, 16]), nx=st.sampled_from([1, 40, 128, 150])
)
def test_short_columns_agree_with_their_twin(seed: int, ny: int, nx: int) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("NRS_BRIGHTOBJ", ny=ny, nx=nx, ngroups=4)
    ramp = striped(info, rng, 2)
    ramp.groupdq[rng.random(ramp.groupdq.shape) < rng.choice([0.0, 0.4])] |= dq.SATURATED
    scene = rng.uniform(0, 900, (ny, nx)).astype(np.float32)
    scene[rng.random(scene.shape) < rng.choice([0.0, 0.5, 1.0])] = np.nan
    steps = rng.uniform(0.5, 2.0, 2).round(3)
    expected = [
        clean_short_columns(*one, scene, step)
        for *one, step in zip(ramp.data, ramp.groupdq, steps, strict=True)
    ]
    together, alone = ramp.data.copy(), ramp.data[1:].copy()
    clean_columns(together, ramp.groupdq, scene, steps, median_comparators(ny))
    np.testing.assert_allclose(together, np.stack(expected), rtol=1e-6, atol=1e-2)
    clean_columns(alone, ramp.groupdq[1:], scene, steps[1:], median_comparators(ny))
    np.testing.assert_array_equal(together[1:], alone)


@pytest.mark.parametrize("kind", ["jump", "saturated", "unusable", "lost", "masked", "none"])
def test_what_does_not_count_in_a_column(kind: str) -> None:
    """Most samples of a column are wrong in one group: they move no median if a flag, a mask or NaN says so."""
    rng = np.random.default_rng(6)
    data = rng.normal(0, 1, (1, 5, 9, 3)).astype(np.float32)
    flags, scene = np.zeros(data.shape, np.uint8), np.zeros((9, 3), np.float32)
    before, wrong = data.copy(), data[0, :, 2:8]
    bad = flags[0, :, 2:8]
    wrong[2] += 1e5
    if kind == "jump":  # stays from there on
        wrong[3:] += 1e5
        bad[2] = dq.JUMP_DET
    elif kind == "saturated":
        bad[2:] = dq.SATURATED
    elif kind == "unusable":
        bad[2] = dq.DO_NOT_USE
    elif kind == "lost":
        wrong[2] = np.nan
    elif kind == "masked":
        scene[2:8] = np.nan
    given_data = data.copy()
    clean_columns(data, flags, scene, np.ones(1), median_comparators(9))
    moved = np.abs(data - before)[0][:, [0, 1, 8]].max()
    assert moved > 1e4 if kind == "none" else moved < 10  # medians of three unit noises, four times
    # a sample that is lost spoils no other group of its pixel
    np.testing.assert_array_equal(np.isnan(data), np.isnan(given_data))


def test_scales_of_all_integrations() -> None:
    rng = np.random.default_rng(9)
    info = make_info("NRS_BRIGHTOBJ", ny=6, nx=10, ngroups=5)
    ramp, pixels = striped(info, rng, 3), np.arange(0, 60, 7, dtype=np.int32)
    levels, ratios, steps = np.full(pixels.size, 50, np.float32), np.empty(pixels.size), np.empty(3)
    scene_steps(ramp.data, ramp.groupdq, pixels, levels, 0.7, ratios, steps)
    alone = [
        0.7 * scene_level(*one, pixels, levels, 0.7, ratios)
        for one in zip(ramp.data, ramp.groupdq, strict=True)
    ]
    np.testing.assert_array_equal(steps, alone)
    scene_steps(ramp.data, ramp.groupdq, pixels[:0], levels[:0], 0.7, ratios, steps)
    np.testing.assert_array_equal(steps, 0.0)


def test_in_one_walk_or_through_images_the_same_comes_out() -> None:
    """Columns go through the same medians in both ways; only rounding differs."""
    rng = np.random.default_rng(11)
    info = make_info("NRS_BRIGHTOBJ", ny=32, nx=200, ngroups=5)
    image = rng.uniform(5, 900, info.frame_shape).astype(np.float32)
    ramp = make_ramp(info, rng, 2, hits=0.0, saturated=0.0)
    ramp.data[...] += rng.normal(0, 20, (2, 5, 1, 200))
    ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.02] |= dq.JUMP_DET
    flat = {"flat": Reference("flat", "f.fits", {"SCI": np.ones(info.frame_shape, np.float32)})}
    results = []
    for references, divided in (({}, False), (flat, True)):
        step = CleanFlickerNoise(background_method="median_image", apply_flat_field=divided)
        bound = step.bind(Binding(info, references, templates={"image": image}))
        assert ("clean_flicker_noise.image" in bound.scratch) == divided
        given_ramp = Ramp(1, ramp.data.copy(), ramp.groupdq, ramp.pixeldq, ramp.times)
        results.append(bound.push(given_ramp)[0].data)
    assert np.abs(results[0] - ramp.data).max() > 20
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=2e-2)


def test_skipped() -> None:
    image = {"image": np.ones((20, 48), np.float32)}
    assert CleanFlickerNoise().skip
    miri = Binding(make_info("MIR_LRS-SLITLESS"), templates=image)
    assert "MIR_LRS" in CleanFlickerNoise().bind(miri).skipped
    assert "two groups" in CleanFlickerNoise().bind(Binding(make_info(ngroups=1), templates=image)).skipped
    soss = Binding(make_info("NIS_SOSS"), templates=image)
    assert "fft is not for NIS_SOSS" in CleanFlickerNoise(fit_method="fft").bind(soss).skipped


def test_waits_for_the_scouts_image_with_all_its_working_arrays() -> None:
    """The memory plan is made from steps without templates."""
    info, rng = make_info(), np.random.default_rng(3)
    for step in (CleanFlickerNoise(), CleanFlickerNoise(fit_method="fft", save_noise=True)):
        early = step.bind(Binding(info))
        late = step.bind(Binding(info, templates={"image": np.ones(info.frame_shape, np.float32)}))
        assert not early.skipped
        assert dict(early.scratch) == dict(late.scratch)
        ramp = make_ramp(info, rng, 1)
        (out,) = early.push(Ramp(1, ramp.data.copy(), ramp.groupdq, ramp.pixeldq, ramp.times))
        np.testing.assert_array_equal(out.data, ramp.data)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), sigma=st.sampled_from([1.0, 3.0]))
def test_clip_agrees_with_its_twin(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 5, (9, 11)).astype(np.float32) + (rng.random((9, 11)) < 0.1) * np.float32(80)
    good = rng.random((9, 11)) < rng.choice([0.0, 0.7])
    expected = clip_background(image, good.copy(), sigma, sigma, halved=True)
    work = (np.empty(99, np.float32), np.empty(99, np.float32), np.empty(100), np.empty(100))
    assert clip_image(image, good, sigma, *work) == expected.sum()
    np.testing.assert_array_equal(good, expected)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_draft_slopes_agree_with_their_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(0, 1e4, (4, 5, 6)).astype(np.float32)
    flags = (rng.random(data.shape) < 0.3).astype(np.uint8)
    slopes = np.empty((5, 6), np.float32)
    draft_slopes(data, flags, 1.7, slopes)
    np.testing.assert_allclose(slopes, mean_slopes(data, flags, 1.7), rtol=1e-6)


def test_masks_of_the_integrations_own_slopes() -> None:
    """With a source that doubles, the mask of one image is right for both; masks of their own are, too."""
    info, rng = make_info("NRS_BRIGHTOBJ", ny=32, nx=64, ngroups=4), np.random.default_rng(5)
    times = info.group_time * np.arange(4, dtype=np.float32)[:, None, None]
    image = np.zeros(info.frame_shape, np.float32)
    image[10:22] = 3000
    ramp = make_ramp(info, rng, 2, hits=0.0, saturated=0.0)
    lines = rng.normal(0, 30, (2, 4, 1, 64))
    for i in range(2):
        ramp.data[i] = rng.normal(0, 1, ramp.data[i].shape) + (i + 1) * image * times + lines[i]
    binding = Binding(info, templates={"image": image + rng.normal(5, 1, image.shape).astype(np.float32)})
    for single in (True, False):
        given_ramp = Ramp(1, ramp.data.copy(), ramp.groupdq, ramp.pixeldq, ramp.times)
        (out,) = (
            CleanFlickerNoise(single_mask=single, background_method=None, n_sigma=3.0)
            .bind(binding)
            .push(given_ramp)
        )
        rest = np.diff(out.data, axis=1)[:, :, np.r_[0:8, 24:32]]
        assert np.std(rest.mean(axis=2)) < 0.05 * np.std(np.diff(lines, axis=1))


def test_masks_from_regions_and_from_the_user() -> None:
    info = make_info("NRS_BRIGHTOBJ", ny=12, nx=20)
    slit = {"SLTSTRT1": 3, "SLTSTRT2": 5, "SLTSIZE1": 4, "SLTSIZE2": 6}
    plane = np.zeros(info.frame_shape, np.uint32)
    plane[0, 0] = dq.MSA_FAILED_OPEN
    step = CleanFlickerNoise(mask_science_regions=True)
    allowed = step.allowed(Binding(info, {}, plane, {"slit": slit}))
    expected = np.ones((12, 20), bool)
    expected[4:10, 2:6] = expected[0, 0] = False
    np.testing.assert_array_equal(allowed, expected)
    with pytest.raises(ConfigError, match="window of the slit is not known"):
        step.allowed(Binding(info, {}, plane))
    with pytest.raises(ConfigError, match="where the traces are is not known"):
        step.allowed(Binding(make_info("NIS_SOSS")))
    miri = make_info("MIR_IMAGE", ny=12, nx=20)
    flags = np.zeros((12, 20), np.uint32)
    flags[3, 4], plane[5, 6] = dq.NON_SCIENCE, dq.DO_NOT_USE
    allowed = step.allowed(Binding(miri, {"flat": Reference("flat", "f.fits", {"DQ": flags})}, plane))
    assert sorted(np.argwhere(~allowed).tolist()) == [[3, 4], [5, 6]]
    with pytest.raises(ConfigError, match=r"user_mask has shape \(3, 4\)"):
        CleanFlickerNoise(user_mask="m.fits").bind(
            Binding(info, templates={"user_mask": np.ones((3, 4), bool), "image": np.ones((12, 20))})
        )


def test_width_of_the_background_from_its_histogram() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(10, 2, (200, 200)).astype(np.float32)
    image[:40] += rng.exponential(4, (40, 200))
    by_clip, by_histogram = scene_mask(image, 2.0), scene_mask(image, 2.0, fit_histogram=True)
    tops = [float(image[mask].max()) for mask in (by_histogram, by_clip)]
    assert 14.0 < tops[0] < tops[1] - 0.1


def test_what_is_saved_is_what_was_done() -> None:
    info, rng = make_info("NRS_BRIGHTOBJ", ny=16, nx=64, ngroups=4), np.random.default_rng(8)
    ramp = striped(info, rng, 2)
    before = ramp.data.copy()
    image = rng.normal(5, 1, info.frame_shape).astype(np.float32)
    step = CleanFlickerNoise(save_noise=True, save_background=True, save_mask=True)
    bound = step.bind(Binding(info, templates={"image": image}))
    scratch = make_scratch([bound], 2)
    run_passes(Tile(1, None, ramp.data, ramp.groupdq, None, scratch), bound.passes, info.ny, info.ny)
    noise, background, mask = (
        scratch[f"clean_flicker_noise.{name}"] for name in ("noise", "background", "mask")
    )
    np.testing.assert_array_equal(noise, ramp.data - before)
    np.testing.assert_array_equal(mask[1], scene_mask(image, 2.0))
    assert (background[:, 0] == 0).all()
    assert (np.ptp(background, axis=(2, 3)) == 0).all()
    assert np.abs(background[:, 1:]).max() > 0


official = pytest.mark.skipif(
    not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst"
)
#: parameters of the official step, and mode; everything that depends on the mode
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((mode, {"background_method": method, "n_sigma": n_sigma})
      for mode in ("NRC_TSGRISM", "NRS_BRIGHTOBJ", "NIS_SOSS", "MIR_IMAGE")
      for method, n_sigma in (("median", 2.0), ("median", 0.0), (None, 2.0), ("model", 2.0), ("model", 0.0))),
    ("NRC_TSGRISM", {"apply_flat_field": True}),
    ("NRS_BRIGHTOBJ", {"background_method": "model", "background_box_size": (8, 16)}),
    ("NRS_BRIGHTOBJ", {"fit_method": "fft"}),
    ("NRS_BRIGHTOBJ", {"fit_method": "fft", "background_method": None, "nx": 200, "detector": "NRS2"}),
    ("NRS_BRIGHTOBJ", {"fit_method": "fft", "nx": 300, "ny": 16, "share": 0.2}),
    ("NRS_BRIGHTOBJ", {"fit_method": "fft", "nx": 300, "share": 0.06, "background_method": None}),
]  # fmt: skip


@pytest.mark.oracle
@official
def test_agrees_with_the_official_step() -> None:
    """The same numbers, bit for bit; waves are fitted in single precision there."""
    rng, cases, ours = np.random.default_rng(0), [], []
    for mode, given_parameters in VARIANTS:
        parameters = dict(given_parameters)
        size = {"ny": parameters.pop("ny", 32), "nx": parameters.pop("nx", 64)}
        info = make_info(mode, ngroups=4, nints=2, **size)
        info = replace(info, detector=parameters.pop("detector", info.detector))
        ramp, scene = striped(info, rng), rng.random(info.frame_shape) < parameters.pop("share", 0.7)
        scene[:, 5], scene[7] = False, False
        references = {}
        if "apply_flat_field" in parameters:
            flat = rng.uniform(0.8, 1.2, info.frame_shape).astype(np.float32)
            flat[3, 3:6], flat[9, 9] = 0, np.nan
            references = {"flat": Reference("flat", "flat.fits", {"SCI": flat})}
        cases.append(
            Case(
                "clean_flicker_noise", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                parameters={"user_mask": scene, **parameters},
                references={key: {"arrays": dict(one.arrays)} for key, one in references.items()},
            )
        )  # fmt: skip
        ours.append(clean(info, ramp, scene, references, **parameters))
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        exact = not {"fit_method", "apply_flat_field"} & {*case.parameters}
        limit = 0.0 if exact else 0.05
        assert compare(data, theirs["data"]).largest <= limit, (case.info.exp_type, case.parameters)


@pytest.mark.oracle
@official
def test_scene_from_draft_slopes_agrees_with_the_official_step() -> None:
    """Its masks come from slopes of the same ramps; per integration, or of a file with a single one."""
    rng, cases, ours = np.random.default_rng(0), [], []
    for mode in ("NRC_TSGRISM", "NRS_BRIGHTOBJ", "MIR_IMAGE"):
        for single, histogram in ((True, False), (False, False), (True, True)):
            count = 1 if single else 3
            info = make_info(mode, ny=32, nx=64, ngroups=5, nints=count)
            ramp = make_ramp(info, rng, count, hits=0.0)
            ramp.data[...] += rng.normal(0, 1, ramp.data.shape)  # no slope is exactly zero
            ramp.groupdq[rng.random(ramp.groupdq.shape) < 0.02] |= dq.JUMP_DET
            references = make_references(("gain", "readnoise"), info, rng, share=0.0)
            plain = {key: {"arrays": {"SCI": np.array(one.arrays["SCI"])}} for key, one in references.items()}
            data = ramp.data.copy()
            cases.append(
                Case(
                    "clean_flicker_noise", info, data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                    parameters={"single_mask": single, "fit_histogram": histogram}, references=plain,
                )
            )  # fmt: skip
            (rate,) = RampFit().bind(Binding(info, references, ramp.pixeldq)).push(ramp)
            step = CleanFlickerNoise(scope="segment", single_mask=single, fit_histogram=histogram)
            bound = bind_segment(step, Binding(info))
            assert not isinstance(bound, str)
            work = bound.working_arrays()
            for i in range(count):
                bound.clean(data[i], cases[-1].groupdq[i], bound.scene(rate.data[i]), work)
            ours.append(data)
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert compare(data, theirs["data"]).largest < 0.01, (case.info.exp_type, case.parameters)

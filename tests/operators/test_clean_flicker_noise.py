"""clean_flicker_noise: agrees with its twin and the official step (stage 1, section 17). Tolerance: rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding
from tsostream.operators.clean_flicker_noise import (
    CleanFlickerNoise,
    add_scene,
    clean_ramp,
    scene_level,
    scene_mask,
    working_arrays,
)
from tsostream.operators.ramp_fit import RampFit
from tsostream.testing.builders import make_info, make_ramp, make_references
from tsostream.testing.naive.flicker import clean_integration, clip_background, rising_scene, scene_ratio
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


def clean(info: ExposureInfo, ramp: Any, scene: np.ndarray, *, level: bool, n_sigma: float) -> np.ndarray:
    data = ramp.data.copy()
    for i in range(len(data)):
        arrays = [np.empty(shape, kind) for shape, kind in working_arrays(info).values()]
        clean_ramp(data[i], ramp.groupdq[i], scene, level, n_sigma, along_x(info), 1, *arrays)
    return data


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["NRC_TSGRISM", "NRS_BRIGHTOBJ", "MIR_IMAGE"]),
    level=st.booleans(),
    n_sigma=st.sampled_from([0.0, 2.0]),
)
def test_agrees_with_its_twin(seed: int, mode: str, level: bool, n_sigma: float) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(mode, ny=12, nx=16, ngroups=4)
    ramp, scene = striped(info, rng), rng.random((12, 16)) < 0.7
    expected = [
        clean_integration(data, flags, scene, level=level, n_sigma=n_sigma, along_x=along_x(info))
        for data, flags in zip(ramp.data, ramp.groupdq, strict=True)
    ]
    ours = clean(info, ramp, scene, level=level, n_sigma=n_sigma)
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


def test_skipped_and_refused() -> None:
    image = {"image": np.ones((20, 48), np.float32)}
    assert CleanFlickerNoise().skip
    assert "no image" in CleanFlickerNoise().bind(Binding(make_info())).skipped
    miri = Binding(make_info("MIR_LRS-SLITLESS"), templates=image)
    assert "MIR_LRS" in CleanFlickerNoise().bind(miri).skipped
    assert "two groups" in CleanFlickerNoise().bind(Binding(make_info(ngroups=1), templates=image)).skipped
    with pytest.raises(ConfigError, match="2 problems"):
        CleanFlickerNoise(fit_method="fft", single_mask=False).bind(Binding(make_info(), templates=image))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(0), [], []
    for mode in ("NRC_TSGRISM", "NRS_BRIGHTOBJ", "NIS_SOSS", "MIR_IMAGE"):
        for method, n_sigma in (("median", 2.0), ("median", 0.0), (None, 2.0)):
            info = make_info(mode, ny=32, nx=64, ngroups=4, nints=2)
            ramp, scene = striped(info, rng), rng.random((32, 64)) < 0.7
            scene[:, 5], scene[7] = False, False
            cases.append(
                Case(
                    "clean_flicker_noise", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                    parameters={"user_mask": scene, "background_method": method, "n_sigma": n_sigma},
                )
            )  # fmt: skip
            ours.append(clean(info, ramp, scene, level=method == "median", n_sigma=n_sigma))
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert compare(data, theirs["data"]).largest < 0.01, (case.info.exp_type, case.parameters)


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_scene_from_draft_slopes_agrees_with_the_official_step() -> None:
    """Its masks come from slopes of the same ramps; per integration, or of a file with a single one."""
    rng, cases, ours = np.random.default_rng(0), [], []
    for mode in ("NRC_TSGRISM", "NRS_BRIGHTOBJ", "MIR_IMAGE"):
        for single in (True, False):
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
                    parameters={"single_mask": single}, references=plain,
                )
            )  # fmt: skip
            (rate,) = RampFit().bind(Binding(info, references, ramp.pixeldq)).push(ramp)
            for i in range(count):
                arrays = [np.empty(shape, kind) for shape, kind in working_arrays(info).values()]
                scene = scene_mask(rate.data[i], 2.0)
                clean_ramp(data[i], cases[-1].groupdq[i], scene, True, 2.0, along_x(info), 1, *arrays)
            ours.append(data)
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert compare(data, theirs["data"]).largest < 0.01, (case.info.exp_type, case.parameters)

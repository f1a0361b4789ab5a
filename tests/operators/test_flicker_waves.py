"""Waves of the readout's clock: agree with their twin, and take 1/f noise out. Tolerance: rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.flicker_waves import WAVE_SCRATCH, subtract_waves, wave_scratch, wave_tables
from tsostream.testing.builders import make_info
from tsostream.testing.naive.waves import clean_waves, fit_waves, pass_band, quiet_pixels


def subtract(image: np.ndarray, good: np.ndarray, *, flip: bool) -> tuple[np.ndarray, bool]:
    info = make_info("NRS_BRIGHTOBJ", ny=image.shape[0], nx=image.shape[1])
    tables = wave_tables(replace(info, detector="NRS2" if flip else "NRS1"))
    shapes = wave_scratch(info.frame_shape, tables.most)
    arrays = [np.full(*shapes[f"clean_flicker_noise.wave_{name}"][:1], 7).astype(
        shapes[f"clean_flicker_noise.wave_{name}"][1]) for name in WAVE_SCRATCH]  # fmt: skip
    out = image.copy()
    done = subtract_waves(out, good, *tables.arguments(), *arrays)
    return out, bool(done)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(8, 40), (16, 150), (32, 70)]),
    share=st.sampled_from([0.08, 0.3, 0.8]),
    flip=st.booleans(),
)
def test_agree_with_their_twin(seed: int, size: tuple[int, int], share: float, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.normal(0, 5, size) + np.cumsum(rng.normal(0, 2, size[1]))).astype(np.float32)
    image[rng.random(size) < 0.01] += 500
    good = rng.random(size) < share
    out, done = subtract(image, good, flip=flip)
    assert done
    expected = clean_waves(image, good, flip=flip)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-3)
    assert np.abs(out - image).max() > 1


def test_outliers_are_no_background() -> None:
    image = np.random.default_rng(1).normal(0, 1, (9, 30)).astype(np.float32)
    image[4, 7] = 500
    quiet = quiet_pixels(image, np.ones((9, 30), bool))
    assert not quiet[4, 6:9].any()
    assert not quiet[3:6, 7].any()
    assert quiet[3, 6]


def test_frequencies() -> None:
    """Slow ones, and alternating columns; nothing between."""
    tables = wave_tables(make_info("NRS_BRIGHTOBJ", ny=32, nx=64))
    for rows in (1, 7, 64):
        gain = pass_band(rows * 44)
        own = tables.gains[tables.starts[rows] : tables.starts[rows + 1]]
        np.testing.assert_allclose(own, gain[gain > 0], atol=1e-6)
        assert tables.lows[rows] == np.argmax(gain == 0)
        assert tables.highs[rows] + (gain > 0).sum() - tables.lows[rows] == len(gain)


def test_noise_with_a_memory_goes_and_the_source_stays() -> None:
    rng = np.random.default_rng(3)
    ny, nx = 32, 128
    slow = np.cumsum(rng.normal(0, 1.0, nx * 44)).reshape(nx, 44)[:, :32].T
    slow = (slow - slow.mean()).astype(np.float32)
    source = np.zeros((ny, nx), np.float32)
    source[14:18] = 4000
    white = rng.normal(0, 3, (ny, nx)).astype(np.float32)
    good = source == 0
    out, done = subtract(slow + source + white, good, flip=False)
    assert done
    assert np.std((out - source)[good]) < 4.0
    assert np.std((out - source)[~good]) < 0.3 * np.std(slow)
    model = fit_waves((slow + white).T, good.T)
    assert np.corrcoef(model.ravel(), slow.T.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("places", [[], [(0, 2), (5, 39)]])
def test_too_little_background(places: list[tuple[int, int]]) -> None:
    image, good = np.ones((8, 40), np.float32), np.zeros((8, 40), bool)
    for place in places:
        good[place] = True
    out, done = subtract(image, good, flip=False)
    # none at all cannot be fitted; where it is thin nothing is subtracted
    assert done == good.any()
    np.testing.assert_array_equal(out, image)

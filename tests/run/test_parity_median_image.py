"""clean_flicker_noise against the median image of a file, in the segment scope: light, medians, what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, reduce

from tsostream.errors import ConfigError
from tsostream.run.parity.cleaning import Background, MedianImage, median_ramp
from tsostream.run.parity.light import relative_light
from tsostream.run.parity.spool import RampSpool
from tsostream.testing.builders import make_info

ON = ("clean_flicker_noise.skip=false", "clean_flicker_noise.background_method=median_image")


def in_turn(work: Any, jobs: range) -> None:
    for job in jobs:
        work(job)


def test_light_is_relative_and_the_median_stands_for_what_is_unknown() -> None:
    light = relative_light(np.array([2.0, np.nan, 4.0, 6.0, np.inf]))
    # the infinite one counts for the median, as officially
    np.testing.assert_allclose(light, np.array([2, 4, 4, 6, 4]) / 5)
    assert relative_light(np.full(3, np.nan)) is None
    assert relative_light(np.zeros(3)) is None


@pytest.mark.parametrize("piece", [500, 60])
@pytest.mark.parametrize("background", [False, True])
def test_median_ramp(background: bool, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsostream.run.parity.cleaning.PIECE_BYTES", piece)  # some rows, and a part of one
    rng = np.random.default_rng(3)
    spool = RampSpool.make(make_info("NRS_BRIGHTOBJ", nx=7, ny=9, ngroups=3), 5, None)
    spool.data[...] = rng.normal(100, 5, spool.data.shape)
    spool.data[1:4, 1, 2, 3] = np.nan
    spool.data[:, 0, 4, 4] = np.nan
    slopes = rng.normal(2, 0.1, (5, 9, 7)).astype(np.float32)
    level = Background(slopes, np.array([1.0, 2.0, 3.0])) if background else None
    found = median_ramp(spool, level, in_turn)
    for g, y, x in np.ndindex(found.shape):
        values = spool.data[:, g, y, x] - (slopes[:, y, x] * np.float32(g + 1) if background else 0)
        values = sorted(values[np.isfinite(values)])
        expected = np.nan if not values else (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        np.testing.assert_allclose(found[g, y, x], expected, rtol=1e-6)
    image = MedianImage(found, np.linspace(0.9, 1.1, 5), level)
    expected = 1.1 * found[2] + (slopes[4] * 3 if background else 0)
    np.testing.assert_allclose(image.expected(4, 2), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["NRS_BRIGHTOBJ", "NIS_SOSS", "NRC_TSIMAGE"])
def test_noise_of_lines_is_taken_out_and_light_stays(mode: str, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated(mode, ints=6, **SMALL[mode])
    options: dict[str, Any] = {"parity": "jwst", "products": ("ramp",), "save_steps": ("jump",)}
    if mode == "NRC_TSIMAGE":
        options["position"] = (19.5, 19.5)
    reduce(exposure, tmp_path / "lc.arrow", settings=ON, products_dir=tmp_path, **options)
    (before,), (after,) = (tuple(tmp_path.glob(f"*_{name}.fits")) for name in ("jump", "ramp"))
    with fits.open(before) as one, fits.open(after) as other:
        noisy, clean = one["SCI"].data, other["SCI"].data
        flags = other["PIXELDQ"].data & 1
    change = clean - noisy
    # whole lines move together, all groups and also the first one
    assert np.abs(change[:, 0]).max() > 0
    axis = -1 if mode == "NRC_TSIMAGE" else -2
    spread = np.where(flags == 0, change, np.nan)
    # in the star's pixels as in all others: its light that comes and goes is not noise
    assert np.nanstd(spread - np.nanmean(spread, axis=axis, keepdims=True)) < 0.05 * np.nanstd(spread)


def test_spectra_must_be_found(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=3, **SMALL["NRS_BRIGHTOBJ"])
    with pytest.raises(ConfigError, match=r"median_image looks where the spectrum lies.*--wavelengths"):
        reduce(exposure, tmp_path / "lc.arrow", settings=ON, parity="jwst", wavelengths=None)


def test_one_integration_is_left_as_it_is(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=1, **SMALL["NRS_BRIGHTOBJ"])
    options: dict[str, Any] = {"parity": "jwst", "products": ("ramp",), "save_steps": ("jump",)}
    reduce(exposure, tmp_path / "lc.arrow", settings=ON, products_dir=tmp_path, **options)
    (before,), (after,) = (tuple(tmp_path.glob(f"*_{name}.fits")) for name in ("jump", "ramp"))
    with fits.open(before) as one, fits.open(after) as other:
        np.testing.assert_array_equal(one["SCI"].data, other["SCI"].data)

"""Photometry of simulated stars whose light is known: level, depth and scatter with the recommended radii."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photutils.aperture import CircularAperture
from run_helpers import light_curve, reduce

import tsostream
from tsostream.run.scouting import _covariance
from tsostream.simulate import SimulatedExposure, simulate
from tsostream.simulate.modes import Mode, find_mode, with_pupil
from tsostream.simulate.readout import reference_pixels
from tsostream.simulate.scene import build_scene
from tsostream.simulate.truth import read_truth

#: what is simulated, and the radii that are recommended for it
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "focused": ("NRC_TSIMAGE", {"groups": 5}),
    "weak lens": ("NRC_TSIMAGE", {"groups": 4, "subarray": "SUB160P", "pupil": "WLP8"}),
    "MIRI": ("MIR_IMAGE", {"groups": 8}),
}


@dataclass(frozen=True)
class Known:
    """What is known of a star, in electrons of one integration.

    Parameters
    ----------
    light
        Its light inside the aperture, less what the annulus takes for sky.
    bound
        Photon and read noise of the aperture and of the sky under it, if every slope were the difference of the last
        and the first of its reads.
    """

    light: float
    bound: float


def mode_of(exp_type: str, options: dict[str, Any]) -> Mode:
    mode = find_mode(exp_type, options.get("subarray"))
    return with_pupil(mode, options["pupil"]) if "pupil" in options else mode


def known_star(mode: Mode, exposure: SimulatedExposure, metadata: dict[str, Any]) -> Known:
    """Put the aperture of an output on the star that was simulated, with photutils."""
    _, truth = read_truth(exposure.truth)
    frame, groups, noise = truth["frame_time_s"], truth["ngroups"], truth["noise"]
    rate = build_scene(mode, truth["transit_depth"]).source * float(truth["peak_electron_per_s"])
    aperture = CircularAperture((metadata["x"], metadata["y"]), metadata["aperture_radii"][0])
    weight = aperture.to_mask(method="exact").to_image(rate.shape)
    rows, columns = np.indices(rate.shape)
    distance = np.hypot(columns - metadata["x"], rows - metadata["y"])
    ring = (distance >= metadata["radius_inner"]) & (distance <= metadata["radius_outer"])
    ring &= ~reference_pixels(mode)
    weight = weight - ring * (weight.sum() / ring.sum())
    # of MIRI's groups the last one is not used
    used = frame * (groups - 2 if mode.is_miri else groups - 1)
    read = noise["readnoise_single_dn"] * noise["gain"]
    variance = (rate + truth["background_electron_per_s"]) / used + 2 * (read / used) ** 2
    whole = frame * groups
    return Known(whole * float((weight * rate).sum()), whole * float(np.sqrt((weight**2 * variance).sum())))


def test_wings_of_a_star_that_moves_are_no_shared_noise() -> None:
    """The noise that background pixels share is what lines have in common, not what jitter does to the star's wings."""
    rng = np.random.default_rng(3)
    yy, xx = np.indices((64, 64))
    image = (1e6 / (400 + np.hypot(yy - 31.4, xx - 32.2) ** 2)).astype(np.float32)
    gy, gx = np.gradient(image)
    dy, dx, brighter = rng.normal(0, (0.05, 0.05, 2e-3), (40, 3)).T[:, :, None, None]
    noise, lines = rng.normal(0, 3.0, (40, 64, 64)), rng.normal(0, 1.0, (40, 64, 1))
    stack = (image * (1 + brighter) + gy * dy + gx * dx + noise + lines).astype(np.float32)
    variance = np.full(image.shape, 9.0, np.float32)
    found = [
        _covariance(stack, np.ones(40), image, variance, slow_is_x=False, wings=wings)
        for wings in (False, True)
    ]
    # a pixel's row shares its level with it, others nothing
    row = [one[63, 63 + np.arange(-20, 21)].mean() for one in found]
    far = [np.abs(one[63 + np.arange(4, 30)][:, 63 + np.arange(-20, 21)].mean(axis=1)).max() for one in found]
    assert row[1] == pytest.approx(1.0, abs=0.15)
    assert far[1] < 0.2, far
    assert far[0] > 3 * far[1], far


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", list(CASES))
def test_level_depth_and_scatter(case: str, tmp_path: Path) -> None:
    exp_type, options = CASES[case]
    level, pulls, squares, errors, rows = [], [], [], [], 0
    for seed in range(11, 15):
        exposure = simulate(
            exp_type, tmp_path / f"{seed}", ints=300, seed=seed, oof=0, cosmic_rays=0.0, **options
        )
        out = reduce(exposure, tmp_path / f"{seed}.arrow", settings=("flat_field.skip=false",))
        table, (columns, truth) = light_curve(out), read_truth(exposure.truth)
        known = known_star(mode_of(exp_type, options), exposure, tsostream.open(out).metadata)
        flux, error = table["flux"], table["flux_err"]
        outside, inside = columns["transit"] == 0, columns["transit"] == 1
        mean = flux[outside].mean()
        level.append(mean / known.light)
        depth = 1 - flux[inside].mean() / mean
        each = (np.sqrt((error[part] ** 2).sum()) / part.sum() for part in (outside, inside))
        pulls.append((depth - truth["transit_depth"]) / (np.hypot(*each) / mean))
        squares.append(np.var(flux[outside], ddof=1) / known.bound**2)
        errors.append(np.median(error[outside]) / known.bound)
        rows += int(outside.sum())
    ratio = np.sqrt(np.mean(squares))
    told = f"level {level}, pulls {pulls}, scatter/bound {ratio}, errors/bound {errors}"
    assert np.abs(np.array(level) - 1).max() < 1e-3, told
    assert np.abs(pulls).max() < 3, told
    # a scatter from so few rows is known to 1 / sqrt(2 rows)
    assert abs(ratio - 1) < 0.05 + 2 / np.sqrt(2 * rows), told
    assert np.abs(np.array(errors) - 1).max() < 0.05, told
    assert abs(np.mean(errors) / ratio - 1) < 0.05 + 2 / np.sqrt(2 * rows), told


@pytest.mark.slow
def test_a_deep_eclipse_through_a_weak_lens(tmp_path: Path) -> None:
    """The star's wings fill the annulus and fade with it: none of them is an outlier there."""
    exp_type, options = CASES["weak lens"]
    exposure = simulate(exp_type, tmp_path / "data", ints=48, transit_depth=0.57, noise="none", **options)
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow", settings=("flat_field.skip=false",)))
    covered = read_truth(exposure.truth)[0]["transit"]
    depth = 1 - rows["flux"][covered == 1].mean() / rows["flux"][covered == 0].mean()
    assert depth == pytest.approx(0.57, abs=2e-5)

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
        Photon and read noise of the aperture and of the sky under it, if every slope were the difference of its last
        and its first read.
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
    used = frame * (groups - 1)
    read = noise["readnoise_single_dn"] * noise["gain"]
    variance = (rate + truth["background_electron_per_s"]) / used + 2 * (read / used) ** 2
    whole = frame * groups
    return Known(whole * float((weight * rate).sum()), whole * float(np.sqrt((weight**2 * variance).sum())))


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
    assert ratio < 1.05 + 2 / np.sqrt(2 * rows), told
    assert np.mean(errors) > 0.95, told

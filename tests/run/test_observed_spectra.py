"""Observed products and scenes: methods agree with each other, traces are found, spectra are the scenes' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import light_curve, reduce

import tsostream
from tsostream.operators.aperture.geometry import box_weights
from tsostream.simulate import simulate
from tsostream.simulate.modes import find_mode
from tsostream.simulate.scene import build_scene
from tsostream.simulate.truth import read_truth

METHODS = ("box", "optimal", "profile")


def test_methods_agree_on_an_official_product(shared: Path, tmp_path: Path) -> None:
    """MIRI LRS, with a neighbour's trace ten pixels beside it."""
    path = shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits"
    (out,) = tsostream.process(
        path, tmp_path / "lc.arrow", allow_gaps=True,
        settings=["extract_1d.extraction_type=[box,optimal,profile]"],
    )  # fmt: skip
    lc = tsostream.open(out)
    assert lc.metadata["wavelength_source"] == f"WAVELENGTH of {path.name}"
    spectra = lc.spectra

    def cube(name: str) -> np.ndarray:
        rows = spectra.array(name).astype(float)
        return rows.reshape(-1, len(METHODS), rows.shape[-1]).swapaxes(0, 1)

    flux, error = cube("flux"), cube("flux_err")
    assert np.isfinite(flux).all()
    box, box_error = flux[0], error[0]
    for other, other_error in zip(flux[1:], error[1:], strict=True):
        away = np.abs(other - box) / box_error
        assert away.max() < 2.0
        assert (away > 1.0).mean() < 0.01
        # no column is off in all integrations
        mean_error = np.sqrt((box_error**2).sum(axis=0)) / len(box)
        assert np.abs((other - box).mean(axis=0) / mean_error).max() < 2.0
        assert 0.6 < np.median(other_error / box_error) < 0.8
    white = light_curve(out)
    sums = white["flux"].reshape(-1, len(METHODS))
    assert np.abs(sums - sums[:, :1]).max() < white["flux_err"].min()
    # the neighbour is no background
    background = cube("background")[0].mean(axis=0)
    assert background[340:380].mean() == pytest.approx(background[385:410].mean(), abs=0.03)


#: scene, mode, what is simulated, where its trace or star is across [px], and columns that have light
SCENES: dict[str, tuple[str, str, dict[str, Any], float, int]] = {
    "PRISM": ("scene_nirspec_prism_jw06456.fits", "NRS_BRIGHTOBJ", {}, 13.6, 380),
    "PRISM, WASP-39": ("scene_nirspec_prism_wasp39_tiny.fits", "NRS_BRIGHTOBJ", {}, 14.4, 310),
    "grism": ("scene_nircam_grism64_noiseless.fits", "NRC_TSGRISM", {}, 34.1, 1600),
    "grism elsewhere": (
        "scene_nircam_grism_jw00042.fits", "NRC_TSGRISM", {"subarray": "SUBGRISM128"}, 68.1, 1550,
    ),
    "SOSS": ("scene_niriss_soss_wasp94ab.fits", "NIS_SOSS", {}, 32.2, 2000),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(SCENES))
def test_spectra_of_real_scenes(name: str, shared: Path, tmp_path: Path) -> None:
    """From ramps: the trace is followed, and each column holds the scene's own light within the box."""
    file, exp_type, options, across, lit = SCENES[name]
    path = shared / "data" / file
    exposure = simulate(exp_type, tmp_path / "data", ints=16, groups=4, seed=3, scene=path, oof=0, **options)
    settings = ["flat_field.skip=false", "extract_1d.extraction_type=[box,optimal]"]
    if name == "grism elsewhere":
        # the window of the official step ends at row 63
        settings.append("extract_2d.skip=true")
    lc = tsostream.open(reduce(exposure, tmp_path / "lc.arrow", settings=settings))
    columns, truth = read_truth(exposure.truth)
    info = tsostream.files.find_exposures(list(exposure.segments))[0].info
    scene = build_scene(find_mode(exp_type, options.get("subarray")), truth["transit_depth"], path)
    image = scene.source * float(truth["peak_electron_per_s"]) * info.integration_time
    trace = np.array(lc.metadata["trace"], float)
    width = lc.metadata["apertures"][0]["extract_width"]
    chosen = lc.metadata["config"]["steps"]["extract_1d"]
    distance = np.abs(np.arange(len(image))[:, None] - trace)
    sky = (distance >= (chosen["bkg_inner"] or width / 2 + 2)) & (distance <= (chosen["bkg_outer"] or np.inf))
    weight = box_weights(trace, width, len(image))
    level = [np.median(image[:, x][sky[:, x]]) if sky[:, x].any() else 0.0 for x in range(image.shape[1])]
    light = (weight * image).sum(axis=0) - weight.sum(axis=0) * np.array(level)
    flux = lc.spectra.array("flux").astype(float)
    flux = flux.reshape(-1, 2, flux.shape[-1])[columns["transit"] == 0].mean(axis=0)
    error = lc.spectra.array("flux_err").astype(float).reshape(-1, 2, flux.shape[-1]).mean(axis=0)
    for one, own in zip(flux, error, strict=True):
        bright = one > 20 * own
        assert bright.sum() > lit
        assert np.average(trace[bright], weights=one[bright]) == pytest.approx(across, abs=0.2)
        ratio = one[bright] / light[bright]
        assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
        assert np.subtract(*np.quantile(ratio, [0.95, 0.05])) < 0.06

"""Spectra of simulated exposures whose spectrum and transit are known: level, scatter, depth by wavelength."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsostream
from tsostream.simulate import simulate
from tsostream.simulate.truth import read_truth

MODES: dict[str, dict[str, Any]] = {
    "NRS_BRIGHTOBJ": {"nx": 160, "groups": 6},
    "NRC_TSGRISM": {"nx": 192, "ny": 64, "groups": 6},
    "MIR_LRS-SLITLESS": {"ny": 160, "groups": 8},
}
METHODS = ("box", "optimal", "profile")


@dataclass
class Run:
    """An output beside the truth.

    Parameters
    ----------
    flux, error, own : float64 [method, integration, column]
        Spectra, their errors, and the errors from photon and read noise alone.
    bins, bin_error : float64 [method, integration, bin]
        Binned light curves.
    outside, inside : bool [integration]
        Out of and in full transit.
    expected : float64 [bin]
        True depths.
    truth : float64 [column]
        True spectrum in the unit of the flux.
    """

    flux: np.ndarray
    error: np.ndarray
    own: np.ndarray
    bins: np.ndarray
    bin_error: np.ndarray
    outside: np.ndarray
    inside: np.ndarray
    expected: np.ndarray
    truth: np.ndarray


def process(mode: str, folder: Path, **options: Any) -> Run:
    exposure = simulate(mode, folder / "data", ints=120, seed=7, **{**MODES[mode], **options})
    out = folder / "lc.arrow"
    tsostream.process(
        list(exposure.segments), out, refs_dir=exposure.directory, wavelengths=exposure.references["wavelength"],
        bins="N=6", settings=("extract_1d.extraction_type=[box,optimal,profile]", "flat_field.skip=false"),
    )  # fmt: skip
    lc = tsostream.open(out)
    spectra, bins = lc.spectra, lc.bins
    assert spectra is not None
    assert bins is not None
    columns, truth = read_truth(exposure.truth)
    order = {name: np.array(values) for name, values in truth["orders"]["1"].items()}
    light = order["electron_per_s"]
    wave = order["wavelength_um"]
    expected = []
    for low, high in bins.edges():
        inside = (wave >= low) & (wave < high)
        expected.append(np.average(order["depth"][inside], weights=light[inside]))

    def cube(table: Any, name: str) -> np.ndarray:
        rows = table.array(name).astype(float)
        return rows.reshape(-1, len(METHODS), rows.shape[-1]).swapaxes(0, 1)

    info = tsostream.files.find_exposures(list(exposure.segments))[0].info
    return Run(
        flux=cube(spectra, "flux"),
        error=cube(spectra, "flux_err"),
        own=np.sqrt(cube(spectra, "flux_var_poisson") + cube(spectra, "flux_var_rnoise")),
        bins=cube(bins, "flux"),
        bin_error=cube(bins, "flux_err"),
        outside=columns["transit"] == 0,
        inside=columns["transit"] == 1,
        expected=np.array(expected),
        truth=light * info.integration_time,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(MODES))
def test_level_scatter_and_depths(mode: str, tmp_path: Path) -> None:
    (tmp_path / "noisy").mkdir()
    (tmp_path / "clean").mkdir()
    run = process(mode, tmp_path / "noisy")
    clean = process(
        mode, tmp_path / "clean", noise="none", cosmic_rays=0.0, oof=0.0, jitter=0.0, transit_depth=1e-9
    )
    for k, method in enumerate(METHODS):
        mean = np.nanmean(run.flux[k][run.outside], axis=0)
        level = np.nanmean(clean.flux[k], axis=0)
        bright = mean > 40 * np.nanmean(run.error[k], axis=0)
        assert bright.sum() > 40
        # unbiased against the same exposure without noise, and against the spectrum that went in
        ratio = mean[bright] / level[bright]
        assert abs(np.median(ratio) - 1) < 1e-3, method
        if mode != "NRC_TSGRISM":  # the grism has no aperture correction
            assert abs(np.median(level[bright] / run.truth[bright]) - 1) < 3e-3, method
        steps = np.diff(run.flux[k][run.outside], axis=0)[:, bright]
        scatter = np.sqrt(np.nanmean(steps**2, axis=0) / 2)
        assert np.median(scatter / np.nanmean(run.error[k], axis=0)[bright]) == pytest.approx(1.0, abs=0.06)
        depth = 1 - run.bins[k][run.inside].mean(axis=0) / run.bins[k][run.outside].mean(axis=0)
        each = [
            np.sqrt((run.bin_error[k][part] ** 2).sum(axis=0)) / part.sum()
            for part in (run.outside, run.inside)
        ]
        error = np.hypot(*each) / run.bins[k][run.outside].mean(axis=0)
        assert np.abs((depth - run.expected) / error).max() < 3.0, method
        if method != "box":
            box = np.sqrt(np.nanmean(np.diff(run.flux[0][run.outside], axis=0)[:, bright] ** 2, axis=0) / 2)
            assert np.median(scatter / box) < 1.005, method
            assert np.median(scatter / np.nanmean(run.own[k], axis=0)[bright]) < 1.05, method

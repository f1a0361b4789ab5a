"""SOSS orders of a star whose spectrum and transit are known, whole frames: level, scatter, depth by wavelength."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import reduce

import tsostream
from tsostream.operators.soss.geometry import box_weights
from tsostream.simulate import SimulatedExposure, simulate
from tsostream.simulate.modes import find_mode
from tsostream.simulate.readout import reference_pixels
from tsostream.simulate.truth import read_truth

METHODS = ("box", "optimal", "profile")
#: full width of the box [px], the default of the mode
WIDTH = 30.0


@dataclass(frozen=True)
class Judged:
    """One series against the truth.

    Parameters
    ----------
    bright
        Columns with at least 40 sigma.
    level
        Median of flux over true light in the box.
    scatter, own
        Median scatter over the rows' errors, and over photon and read noise alone.
    steps : float64 [column]
        Scatter of bright columns.
    pulls : float64 [bin]
        Depth of each bin, less the true one, in errors.
    """

    bright: np.ndarray
    level: float
    scatter: float
    own: float
    steps: np.ndarray
    pulls: np.ndarray


def true_light(exposure: SimulatedExposure, trace: np.ndarray, order: int) -> np.ndarray:
    """Light of an order in the box about its trace, per second, float64 [column]."""
    _, truth = read_truth(exposure.truth)
    mode = find_mode("NIS_SOSS", truth["subarray"])
    with fits.open(exposure.references["specprofile"]) as hdus:
        profile = hdus["ORDER", order].data.astype(float)
    lit = ~reference_pixels(mode)
    whole = (profile * lit).sum(axis=0)
    share = (np.nan_to_num(box_weights(trace, WIDTH, mode.ny)) * profile).sum(axis=0)
    share = np.divide(share, whole, out=np.zeros_like(share), where=whole > 0)
    return np.array(truth["orders"][str(order)]["electron_per_s"]) * share


def run(folder: Path, subarray: str, *, ints: int, **options: Any) -> dict[tuple[int, str], Judged]:
    """Simulate, reduce, and judge every order and method."""
    exposure = simulate(
        "NIS_SOSS", folder / "data", ints=ints, groups=3, subarray=subarray, seed=7, **options
    )
    out = reduce(
        exposure, folder / "lc.arrow", bins="N=6",
        settings=("extract_1d.extraction_type=[box,optimal,profile]", "flat_field.skip=false"),
    )  # fmt: skip
    lc = tsostream.open(out)
    info = tsostream.files.find_exposures(list(exposure.segments))[0].info
    columns, truth = read_truth(exposure.truth)
    outside, inside = columns["transit"] == 0, columns["transit"] == 1
    apertures = lc.metadata["apertures"]

    def cube(table: Any, name: str) -> np.ndarray:
        rows = table.array(name).astype(float)
        return rows.reshape(-1, len(apertures), rows.shape[-1]).swapaxes(0, 1)

    flux, error = cube(lc.spectra, "flux"), cube(lc.spectra, "flux_err")
    own = np.sqrt(cube(lc.spectra, "flux_var_poisson") + cube(lc.spectra, "flux_var_rnoise"))
    bins, bin_error = cube(lc.bins, "flux"), cube(lc.bins, "flux_err")
    found = {}
    for k, one in enumerate(apertures):
        order = one["order"]
        assert one["overlap"] == ("modelled" if order < 3 or subarray == "SUBSTRIP256" else "not modelled")
        light = true_light(exposure, np.array(lc.metadata["trace"][str(order)], float), order)
        known = {name: np.array(values) for name, values in truth["orders"][str(order)].items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = flux[k][outside].mean(axis=0)
            typical = error[k].mean(axis=0)
            bright = (mean > 40 * typical) & (light > 0)
            ratio = mean / (light * info.integration_time)
        steps = np.sqrt((np.diff(flux[k][outside], axis=0)[:, bright] ** 2).mean(axis=0) / 2)
        depth = 1 - bins[k][inside].mean(axis=0) / bins[k][outside].mean(axis=0)
        each = [np.sqrt((bin_error[k][part] ** 2).sum(axis=0)) / part.sum() for part in (outside, inside)]
        expected = np.array([
            np.average(known["depth"][part], weights=known["electron_per_s"][part])
            for low, high in lc.bins.edges(order)
            for part in [(known["wavelength_um"] >= low) & (known["wavelength_um"] < high)]
        ])  # fmt: skip
        found[order, one["extraction_type"]] = Judged(
            bright=bright,
            level=float(np.median(ratio[bright])),
            scatter=float(np.median(steps / typical[bright])),
            own=float(np.median(steps / own[k].mean(axis=0)[bright])),
            steps=steps,
            pulls=(depth - expected) / (np.hypot(*each) / bins[k][outside].mean(axis=0)),
        )
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("subarray", "orders"), [("SUBSTRIP96", (1, 2)), ("SUBSTRIP256", (1, 2, 3))])
def test_orders_of_a_known_star(subarray: str, orders: tuple[int, ...], tmp_path: Path) -> None:
    """Without 1/f noise: unbiased in every order, and as precise as photons and reads allow."""
    found = run(tmp_path, subarray, ints=48, oof=0, cosmic_rays=0.0)
    assert sorted(found) == sorted((order, method) for order in orders for method in METHODS)
    for (order, method), one in found.items():
        told = f"order {order}, {method}: {one}"
        assert one.bright.sum() > {1: 1900, 2: 400, 3: 100}[order], told
        assert abs(one.level - 1) < 1e-3, told
        assert one.scatter == pytest.approx(1.0, abs=0.06), told
        assert np.abs(one.pulls).max() < 3.0, told
    best, box = found[1, "optimal"], found[1, "box"]
    assert best.own < 1.05
    # few pixels of a column are sky in 96 rows: with all of them and perfectly known wings it would be 1.04
    assert found[2, "optimal"].own < 1.09
    both = best.bright & box.bright
    assert np.median(best.steps[both[best.bright]] / box.steps[both[box.bright]]) < 1.005


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_scatter_of_1_over_f_noise_is_told(tmp_path: Path) -> None:
    """With 1/f noise as in the instrument, the scatter of columns is that of their errors."""
    found = run(tmp_path, "SUBSTRIP96", ints=48, cosmic_rays=1e-4)
    for method in METHODS:
        one = found[1, method]
        assert one.scatter == pytest.approx(1.0, abs=0.06), (method, one)
        assert abs(one.level - 1) < 1e-3, (method, one)
        assert np.abs(one.pulls).max() < 3.0, (method, one)


@pytest.mark.slow
def test_the_sky_is_no_light_of_the_other_order(tmp_path: Path) -> None:
    """Where order 1 lies over order 2, a sky that does not fade with the star spoilt the depth of order 2."""
    exposure = simulate(
        "NIS_SOSS", tmp_path / "data", ints=24, groups=3, subarray="SUBSTRIP96", transit_depth=0.57, noise="none"
    )  # fmt: skip
    lc = tsostream.open(reduce(exposure, tmp_path / "lc.arrow", settings=("flat_field.skip=false",)))
    columns, truth = read_truth(exposure.truth)
    flux = lc.spectra.array("flux").astype(float).reshape(24, 2, -1)[:, 1]
    order = {name: np.array(values) for name, values in truth["orders"]["2"].items()}
    for part in (slice(128, 256), slice(256, 384)):
        outside, inside = (flux[columns["transit"] == covered, part].mean() for covered in (0, 1))
        expected = np.average(order["depth"][part], weights=order["electron_per_s"][part])
        # it was 0.047 and 0.0075; what is left is that of the model of order 1
        assert 1 - inside / outside == pytest.approx(expected, abs=3e-3)

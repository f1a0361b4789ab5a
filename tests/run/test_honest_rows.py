"""P7: bad data become bits, NaN, counts and larger errors; never an exception, never a missing row."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import SMALL, Simulated, edited, light_curve, make_rateints, reduce

import tsostream
from tsostream.records.quality import Quality
from tsostream.run.observer import Silent
from tsostream.run.request import Request
from tsostream.run.scout import load_scout
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure

DO_NOT_USE = 1
MODES = ("NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS", "NRC_TSIMAGE")

Planes = dict[str, np.ndarray]


def brightest(planes: Planes) -> tuple[int, int]:
    image = np.where(planes["DQ"].any(axis=0), -np.inf, np.median(planes["SCI"], axis=0))
    return tuple(int(index) for index in np.unravel_index(np.argmax(image), image.shape))  # type: ignore[return-value]


@pytest.mark.parametrize("exp_type", MODES)
def test_integrations_without_a_pixel(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """One is NaN, one has every pixel marked DO_NOT_USE, one infinite; the others are as they were."""
    exposure = simulated(exp_type, ints=30, seed=2)

    def ruin(planes: Planes) -> None:
        planes["SCI"][4] = np.nan
        planes["DQ"][9] |= DO_NOT_USE
        planes["SCI"][14] = np.inf

    good = make_rateints(exposure, tmp_path / "good", bounds=[30])
    bad = make_rateints(exposure, tmp_path / "bad", bounds=[12, 30], change=ruin)
    # neighbours in a window do notice
    alone = {"skip_steps": ("outlier_detection",)}
    rows = light_curve(reduce(exposure, tmp_path / "bad.arrow", bad, **alone))
    scout = str(tmp_path / "bad.scout.npz")
    reference = light_curve(reduce(exposure, tmp_path / "good.arrow", good, scout=scout, **alone))
    np.testing.assert_array_equal(rows["integration"], np.arange(1, 31))
    lost = [4, 9, 14]
    rest = np.setdiff1d(np.arange(30), lost)
    assert rows["present"].all()
    assert np.isnan(rows["flux"][lost]).all()
    assert np.isnan(rows["flux_err"][lost]).all()
    assert ((rows["quality"][lost] & Quality.NO_FLUX) != 0).all()
    assert ((rows["quality"][lost] & Quality.MISSING) == 0).all()
    assert (rows["n_bad"][lost] > rows["n_bad"][rest].max()).all()
    for name in ("flux", "flux_err", "x", "y"):
        np.testing.assert_array_equal(rows[name][rest], reference[name][rest], err_msg=name)
    assert tsostream.open(tmp_path / "bad.arrow").metadata["rows_without_flux"] == 3


@pytest.mark.parametrize("exp_type", MODES)
def test_a_killed_pixel_in_the_core_moves_nothing_by_more_than_its_error(
    exp_type: str, simulated: Simulated, tmp_path: Path
) -> None:
    exposure = simulated(exp_type, ints=40, seed=2)
    place: list[tuple[int, int]] = []

    def kill(planes: Planes) -> None:
        place.append(brightest(planes))
        planes["SCI"][20, place[0][0], place[0][1]] = 1e9
        planes["DQ"][20, place[0][0], place[0][1]] |= DO_NOT_USE

    good = make_rateints(exposure, tmp_path / "good", bounds=[40])
    bad = make_rateints(exposure, tmp_path / "bad", bounds=[40], change=kill)
    reference = light_curve(reduce(exposure, tmp_path / "good.arrow", good))
    scout = str(tmp_path / "good.scout.npz")
    rows = light_curve(reduce(exposure, tmp_path / "bad.arrow", bad, scout=scout))
    assert rows["frac_filled"][20] > reference["frac_filled"][20]
    assert rows["quality"][20] & Quality.LOST_PIXELS
    assert rows["n_bad"][20] == reference["n_bad"][20] + 1
    moved = abs(rows["flux"][20] - reference["flux"][20])
    assert 0 < moved < rows["flux_err"][20]
    assert rows["flux_err"][20] >= 0.999 * reference["flux_err"][20]
    others = np.arange(40) != 20
    np.testing.assert_array_equal(rows["flux"][others], reference["flux"][others])


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NIS_SOSS", "MIR_LRS-SLITLESS", "NRC_TSIMAGE"])
def test_a_cosmic_ray_in_the_core_moves_nothing_by_more_than_its_error(
    exp_type: str, simulated: Simulated, tmp_path: Path
) -> None:
    exposure = simulated(exp_type, ints=40, seed=2, cosmic_rays=0, oof=0)
    clean = reduce(exposure, tmp_path / "clean.arrow")
    image = load_scout(tmp_path / "clean.scout.npz", _shape(tmp_path / "clean.arrow")).image
    y, x = np.unravel_index(np.nanargmax(image), image.shape)

    def hit(ramps: np.ndarray) -> None:
        # small enough that the detector's non-linearity does not matter: raw counts are added, not light
        ramps[20, 2:, y, x] += 1000

    paths = edited(exposure, tmp_path / "hit", hit)
    rows = light_curve(
        reduce(exposure, tmp_path / "hit.arrow", paths, scout=str(tmp_path / "clean.scout.npz"))
    )
    reference = light_curve(clean)
    assert rows["n_jump"][20] > reference["n_jump"][20]
    assert rows["quality"][20] & Quality.JUMP
    assert abs(rows["flux"][20] - reference["flux"][20]) < rows["flux_err"][20]
    others = np.arange(40) != 20
    np.testing.assert_array_equal(rows["flux"][others], reference["flux"][others])


def _shape(path: Path) -> tuple[int, int]:
    facts = tsostream.open(path).metadata["exposure"]
    return facts["ny"], facts["nx"]


@pytest.mark.parametrize("exp_type", list(SMALL))
@pytest.mark.parametrize(("ints", "groups"), [(1, 5), (6, 1), (6, 2), (1, 1)])
def test_shortest_exposures(
    exp_type: str, ints: int, groups: int, simulated: Simulated, tmp_path: Path
) -> None:
    exposure = simulated(exp_type, ints=ints, groups=groups, seed=2)
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow"))
    np.testing.assert_array_equal(rows["integration"], np.arange(1, ints + 1))
    assert (rows["flux"] > 0).all()
    assert (rows["flux_err"] > 0).all()
    assert (rows["flux"] / rows["flux_err"] > 50).all()


@pytest.mark.parametrize("exp_type", list(SMALL))
def test_a_saturated_source(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """Its core is full in the middle of the ramp: counted, and the flux is that of the groups before."""
    options: dict[str, Any] = {"ints": 24, "seed": 2, "transit_depth": 0, "cosmic_rays": 0}
    faint = simulated(exp_type, peak=0.6, **options)
    bright = simulated(exp_type, peak=1.4, **options)
    settings = ["tso_photometry.radius=5", "tso_photometry.radius_inner=8", "tso_photometry.radius_outer=14"]
    chosen = {} if "wavelength" in faint.references else {"settings": settings}
    reduced = [reduce(one, tmp_path / f"{k}.arrow", **chosen) for k, one in enumerate((faint, bright))]
    reference, rows = (light_curve(path) for path in reduced)
    np.testing.assert_array_equal(rows["integration"], np.arange(1, 25))
    # some pixels of the simulated detector are full in any light
    assert (rows["n_saturated"] > reference["n_saturated"]).all()
    assert ((rows["quality"] & Quality.SATURATED) != 0).all()
    assert np.isfinite(rows["flux"]).all()
    spectra = [tsostream.open(path).spectra for path in reduced]
    fluxes = (
        [reference["flux"], rows["flux"]]
        if None in spectra
        else [one.array("flux") for one in spectra if one]
    )
    levels = [np.median(flux, axis=0) for flux in fluxes]
    # columns that carry light
    lit = levels[0] > 0.1 * np.nanmax(levels[0])
    assert np.isfinite(levels[1])[lit].mean() > 0.9
    assert abs(np.nanmedian((levels[1] / levels[0])[lit]) / (1.4 / 0.6) - 1) < 0.01


def test_everything_saturated_in_the_first_group(simulated: Simulated, tmp_path: Path) -> None:
    """One integration of nothing but full wells has a row without flux."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=30, seed=2)

    def flood(ramps: np.ndarray) -> None:
        ramps[7] = 65535

    paths = edited(exposure, tmp_path / "flood", flood)
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow", paths))
    assert len(rows["flux"]) == 30
    assert np.isnan(rows["flux"][7])
    assert np.flatnonzero(~np.isfinite(rows["flux"])).tolist() == [7]
    assert rows["quality"][7] & Quality.SATURATED


def test_a_dead_column(simulated: Simulated, tmp_path: Path) -> None:
    """NaN in the spectrum, in every integration alike; the white light goes on without it."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=30, seed=2)

    def kill(planes: Planes) -> None:
        planes["DQ"][:, :, 80] |= DO_NOT_USE

    good = make_rateints(exposure, tmp_path / "good", bounds=[30])
    paths = make_rateints(exposure, tmp_path / "dead", bounds=[30], change=kill)
    out = reduce(exposure, tmp_path / "lc.arrow", paths)
    lc, reference = tsostream.open(out), tsostream.open(reduce(exposure, tmp_path / "good.arrow", good))
    assert lc.spectra is not None
    flux = lc.spectra.array("flux")
    assert np.isnan(flux[:, 80]).all()
    assert np.isfinite(flux[:, [79, 81]]).all()
    rows = light_curve(out)
    assert np.isfinite(rows["flux"]).all()
    assert lc.metadata["white_light_columns"] == reference.metadata["white_light_columns"] - 1


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NRC_TSIMAGE"])
def test_nan_in_single_planes(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """A variance or an error that is NaN or infinite makes no exception and no false precision."""
    exposure = simulated(exp_type, ints=30, seed=2)

    def ruin(planes: Planes) -> None:
        planes["VAR_POISSON"][3] = np.nan
        planes["VAR_RNOISE"][4] = np.nan
        planes["VAR_RNOISE"][5] = np.inf
        planes["DQ"][6] = 0xFFFFFFFF

    paths = make_rateints(exposure, tmp_path / "rates", bounds=[30], change=ruin)
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow", paths))
    assert len(rows["flux"]) == 30
    usual = np.median(rows["flux_err"][10:])
    for index in (3, 4, 5, 6):
        error = rows["flux_err"][index]
        assert np.isnan(error) or error > 0.9 * usual, index
    assert np.isfinite(rows["flux"][7:]).all()


@pytest.mark.parametrize("exp_type", ["NRC_TSIMAGE", "NRS_BRIGHTOBJ"])
def test_a_core_without_slopes_is_told(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """Ramps that saturate in the second group have no slope; what remains of the source is not taken for all of it."""
    told: list[str] = []

    class Told(Silent):
        def message(self, text: str) -> None:
            told.append(text)

    for peak in (0.75, 3.0):
        exposure = simulated(exp_type, ints=8, seed=3, peak=peak, cosmic_rays=0)
        wanted = Request(
            inputs=tuple(exposure.segments), out=tmp_path / f"{peak}.arrow", refs_dir=exposure.directory,
            wavelengths=exposure.references.get("wavelength"),
        )  # fmt: skip
        (prepared,) = prepare_all(wanted)
        asyncio.run(run_exposure(prepared, Told()))
        lines = [text for text in told if "no slope in any integration of the scout" in text]
        assert len(lines) == (peak > 1), told

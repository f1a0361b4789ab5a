"""One lost pixel, one cosmic ray, one deep eclipse: through a whole run, in every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, edited, light_curve, make_rateints, reduce

import tsostream
from tsostream.simulate import SimulatedExposure, simulate
from tsostream.simulate.truth import read_truth

INTS = 64
#: integrations (1-based) that lose a pixel, and that are hit
KILLED, HIT = 21, 41


def exposure_of(mode: str, simulated: Simulated) -> SimulatedExposure:
    return simulated(mode, ints=INTS, seed=6, oof=0, cosmic_rays=0.0)


def brightest(planes: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Bright pixels that are good: the brightest, and one of a third of its light."""
    image = np.where(planes["DQ"][0] == 0, np.median(planes["SCI"], axis=0), 0.0)
    first = np.unravel_index(np.argmax(image), image.shape)
    # beside the middle of the trace
    second = np.unravel_index(np.argmin(np.abs(image - image[first] / 3)), image.shape)
    return [(int(first[0]), int(first[1])), (int(second[0]), int(second[1]))]


@pytest.mark.parametrize("mode", list(SMALL))
def test_a_lost_pixel_and_a_hit_move_nothing_by_more_than_its_error(
    mode: str, simulated: Simulated, tmp_path: Path
) -> None:
    exposure = exposure_of(mode, simulated)

    def spoil(planes: dict[str, np.ndarray]) -> None:
        for y, x in brightest(planes):
            planes["DQ"][KILLED - 1, y, x] |= np.uint32(1)
            planes["SCI"][KILLED - 1, y, x] = np.nan
            error = np.sqrt(planes["VAR_POISSON"][HIT - 1, y, x] + planes["VAR_RNOISE"][HIT - 1, y, x])
            planes["SCI"][HIT - 1, y, x] += np.float32(40) * error

    outs = []
    for name, change in (("clean", None), ("spoilt", spoil)):
        inputs = make_rateints(exposure, tmp_path / name, bounds=[INTS], change=change)
        outs.append(reduce(exposure, tmp_path / f"{name}.arrow", inputs))
    clean, spoilt = (light_curve(out) for out in outs)
    touched = np.zeros(INTS, bool)
    touched[[KILLED - 1, HIT - 1]] = True
    for name in ("flux", "x", "y"):
        error = spoilt[f"{name}_err"]
        moved = np.abs(spoilt[name] - clean[name]) / error
        assert moved[touched].max() < 1.0, (name, moved[touched])
        # others know of it only through the templates
        assert moved[~touched].max() < 0.25, name
    assert spoilt["frac_filled"][KILLED - 1] > clean["frac_filled"][KILLED - 1]
    assert spoilt["n_outlier"][HIT - 1] > clean["n_outlier"][HIT - 1]
    if exposure_is_spectral(mode):
        tables = [tsostream.open(out).spectra for out in outs]
        flux = [table.array("flux").astype(float) for table in tables]
        error = tables[1].array("flux_err").astype(float)
        with np.errstate(invalid="ignore"):
            moved = np.nanmax(np.abs(flux[1] - flux[0]) / error, axis=1)
        assert moved[touched].max() < 1.5
        # a sample at the very limit of an outlier may change sides with the template
        assert np.quantile(moved[~touched], 0.95) < 0.2


@pytest.mark.parametrize("mode", list(SMALL))
def test_a_cosmic_ray_in_a_ramp_moves_nothing_by_more_than_its_error(
    mode: str, simulated: Simulated, tmp_path: Path
) -> None:
    """Charge of forty sigma that two bright pixels keep from one group on."""
    exposure = exposure_of(mode, simulated)
    gain = float(np.nanmedian(fits.getdata(exposure.references["gain"])))
    groups = fits.getdata(exposure.segments[0], "SCI").shape[1]

    def hit(ramps: np.ndarray) -> None:
        slope = (np.median(ramps[:, -1], axis=0) - np.median(ramps[:, 0], axis=0)) / (groups - 1)
        good = fits.getdata(exposure.references["mask"], "DQ") == 0
        # a hit must not saturate the pixel: that is another loss
        room = np.median(ramps[:, -1], axis=0) + 60 * np.sqrt(np.abs(slope) / gain) < 0.9 * fits.getdata(
            exposure.references["saturation"]
        )
        image = np.where(good & room, slope, 0.0)
        y, x = np.unravel_index(np.argmax(image), image.shape)
        beside = np.unravel_index(np.argmin(np.abs(image - image[y, x] / 3)), image.shape)
        for place in ((y, x), beside):
            ramps[HIT - 1, groups // 2 :, *place] += np.uint16(
                40 * np.sqrt(image[place] / gain + 100 / gain**2)
            )

    clean = light_curve(reduce(exposure, tmp_path / "clean.arrow"))
    files = edited(exposure, tmp_path / "hit", hit)
    spoilt = light_curve(reduce(exposure, tmp_path / "spoilt.arrow", files))
    touched = np.zeros(len(clean["flux"]), bool)
    touched[clean["integration"] == HIT] = True
    assert (spoilt["n_jump"] > clean["n_jump"])[touched].any()
    for name in ("flux", "x", "y"):
        moved = np.abs(spoilt[name] - clean[name]) / spoilt[f"{name}_err"]
        assert moved[touched].max() < 1.0, (name, moved[touched])
        assert moved[~touched].max() < 0.25, name


def exposure_is_spectral(mode: str) -> bool:
    return mode not in ("NRC_TSIMAGE", "MIR_IMAGE")


@pytest.mark.parametrize("mode", list(SMALL))
def test_a_sharp_deep_eclipse_is_no_outlier(mode: str, simulated: Simulated, tmp_path: Path) -> None:
    """57 % deep, an ingress of three integrations: its depth comes out, and nothing of it is flagged or filled."""
    flat = exposure_of(mode, simulated)
    # ingress takes a twentieth of an exposure
    deep = simulated(mode, ints=INTS, seed=6, oof=0, cosmic_rays=0.0, transit_depth=0.57)
    whole = light_curve(reduce(deep, tmp_path / "deep.arrow"))
    columns, truth = read_truth(deep.truth)
    covered = columns["transit"]
    edge = (covered > 0) & (covered < 1)
    assert 4 <= edge.sum() <= 8
    outside, inside = covered == 0, covered == 1
    depth = 1 - whole["flux"][inside].mean() / whole["flux"][outside].mean()
    error = np.hypot(*(whole["flux_err"][part].mean() / np.sqrt(part.sum()) for part in (outside, inside)))
    expected = truth["transit_depth"]
    if exposure_is_spectral(mode):
        order = truth["orders"]["1"]
        expected = np.average(order["depth"], weights=order["electron_per_s"])
    slack = 3 * error / whole["flux"][outside].mean() + (2e-3 if exposure_is_spectral(mode) else 0.0)
    assert depth == pytest.approx(expected, abs=slack)
    # slopes from first to last read: the jump step looks at ramps whose two ends differ by a quarter in the ingress
    before, rows = (
        light_curve(
            reduce(one, tmp_path / f"{k}.arrow", make_rateints(one, tmp_path / f"{k}", bounds=[INTS]))
        )
        for k, one in enumerate((flat, deep))
    )
    # what is flagged without an eclipse is noise; in it there is no more
    assert rows["n_outlier"][~outside].mean() <= 2 * before["n_outlier"].mean() + 0.5
    assert rows["frac_filled"][edge].max() <= 2 * before["frac_filled"].max() + 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharp_deep_eclipse_of_soss_is_no_jump(tmp_path: Path) -> None:
    """From ramps, whole frames: half of the light goes within one integration, and hardly a sample is flagged."""
    out = {}
    for name, depth in (("flat", 0.0), ("deep", 0.57)):
        exposure = simulate(
            "NIS_SOSS", tmp_path / name, ints=INTS, groups=4, subarray="SUBSTRIP96", seed=6, oof=0,
            cosmic_rays=0.0, transit_depth=depth,
        )  # fmt: skip
        rows = light_curve(reduce(exposure, tmp_path / f"{name}.arrow"))
        out[name] = {column: values[rows["order"] == 1] for column, values in rows.items()}
    columns, truth = read_truth(exposure.truth)
    covered = columns["transit"]
    edge, outside, inside = (covered > 0) & (covered < 1), covered == 0, covered == 1
    deep = out["deep"]
    # of 28,000 pixels in the aperture of the first order
    assert deep["n_jump"][edge].mean() < 60
    assert deep["n_outlier"][edge].mean() < 40
    assert deep["frac_filled"][edge].max() < 0.005
    assert deep["n_jump"][~edge].mean() < out["flat"]["n_jump"].mean() + 0.5
    order = truth["orders"]["1"]
    expected = np.average(order["depth"], weights=order["electron_per_s"])
    assert 1 - deep["flux"][inside].mean() / deep["flux"][outside].mean() == pytest.approx(expected, abs=5e-4)

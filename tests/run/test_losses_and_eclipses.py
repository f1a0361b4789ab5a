"""One lost pixel, one cosmic ray, one deep eclipse: through a whole run, in every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, edited, light_curve, make_rateints, reduce

import tsostream
from tsostream.integration import dq
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


def flags_of(
    exposure: SimulatedExposure, folder: Path, files: list[Path] | None = None
) -> dict[str, np.ndarray]:
    """Flags [integration, y, x] after outlier_detection, from ramps; rows in ``folder``."""
    folder.mkdir()
    reduce(exposure, folder / "lc.arrow", files, products=("crfints",), products_dir=folder)
    (path,) = folder.glob("*crfints.fits")
    return {name: fits.getdata(path, name) for name in ("SCI", "DQ")}


def strike(
    ramps: np.ndarray, numbers: np.ndarray, exposure: SimulatedExposure
) -> list[tuple[int, int, int, int]]:
    """Hit one bright pixel in the middle of each of these integrations; tells ``(integration, group, y, x)``."""
    gain = float(np.nanmedian(fits.getdata(exposure.references["gain"])))
    groups = ramps.shape[1]
    step = (np.median(ramps[:, -2], axis=0) - np.median(ramps[:, 0], axis=0)) / (groups - 2)
    room = np.median(ramps[:, -1], axis=0) + 60 * np.sqrt(np.abs(step) / gain) < 0.9 * fits.getdata(
        exposure.references["saturation"]
    )
    image = np.where((fits.getdata(exposure.references["mask"], "DQ") == 0) & room, step, 0.0)
    order = np.argsort(-image, axis=None)
    places = []
    for k, number in enumerate(numbers):
        # not beside each other
        y, x = np.unravel_index(order[7 * k], image.shape)
        size = 40 * np.sqrt(image[y, x] / gain + 100 / gain**2)
        ramps[number, groups // 2 :, y, x] += np.uint16(size)
        places.append((int(number), groups // 2, int(y), int(x)))
    return places


@pytest.mark.parametrize("mode", list(SMALL))
def test_a_sharp_deep_eclipse_is_neither_jump_nor_outlier(
    mode: str, simulated: Simulated, tmp_path: Path
) -> None:
    """57 % deep, an ingress of three integrations, from ramps: what is flagged is what would be without it.

    But for cosmic rays in the ingress itself, which are found.
    """
    flat = exposure_of(mode, simulated)
    # ingress takes a twentieth of an exposure
    deep = simulated(mode, ints=INTS, seed=6, oof=0, cosmic_rays=0.0, transit_depth=0.57)
    columns, truth = read_truth(deep.truth)
    covered = columns["transit"]
    parts = {"outside": covered == 0, "edge": (covered > 0) & (covered < 1), "inside": covered == 1}
    assert 4 <= parts["edge"].sum() <= 8
    hits: list[tuple[int, int, int, int]] = []
    files = edited(
        deep, tmp_path / "hit", lambda ramps: hits.extend(strike(ramps, np.flatnonzero(parts["edge"]), deep))
    )
    before, after = flags_of(flat, tmp_path / "flat"), flags_of(deep, tmp_path / "deep", files)
    quiet = np.ones(after["DQ"].shape, bool)
    for number, _, y, x in hits:
        assert after["DQ"][number, y, x] & (dq.JUMP_DET | dq.OUTLIER)
        # it may spread to the pixels beside it
        quiet[number, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = False
    lost = (before["DQ"] & dq.DO_NOT_USE).astype(bool).mean(axis=0) > 0.3
    image = np.median(np.where(lost, 0.0, before["SCI"]), axis=0)
    core = image > 0.1 * np.nanmax(image)
    for bit in (dq.JUMP_DET, dq.OUTLIER):
        usual, found = ((one["DQ"] & bit != 0)[:, core] for one in (before, after))
        found &= quiet[:, core]
        for part, chosen in parts.items():
            assert found[chosen].mean() <= 2 * usual.mean() + 1e-3, (bit, part)
            # nor is it always the same pixel
            assert found[chosen].sum(axis=0).max() <= max(usual.sum(axis=0).max(), 2), (bit, part)
    whole = light_curve(tmp_path / "deep" / "lc.arrow")
    inside, outside = parts["inside"], parts["outside"]
    depth = 1 - whole["flux"][inside].mean() / whole["flux"][outside].mean()
    error = np.hypot(*(whole["flux_err"][part].mean() / np.sqrt(part.sum()) for part in (outside, inside)))
    expected = truth["transit_depth"]
    if exposure_is_spectral(mode):
        order = truth["orders"]["1"]
        expected = np.average(order["depth"], weights=order["electron_per_s"])
    slack = 3 * error / whole["flux"][outside].mean() + (2e-3 if exposure_is_spectral(mode) else 0.0)
    assert depth == pytest.approx(expected, abs=slack)


@pytest.mark.parametrize("mode", list(SMALL))
def test_a_sharp_deep_eclipse_is_no_outlier(mode: str, simulated: Simulated, tmp_path: Path) -> None:
    """The same without a jump step, from slopes of first to last read: nothing is flagged or filled."""
    flat = exposure_of(mode, simulated)
    deep = simulated(mode, ints=INTS, seed=6, oof=0, cosmic_rays=0.0, transit_depth=0.57)
    covered = read_truth(deep.truth)[0]["transit"]
    edge, outside = (covered > 0) & (covered < 1), covered == 0
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
    assert deep["n_jump"][edge].mean() < out["flat"]["n_jump"].mean() + 2
    # pixels that saturate before the last group see an earlier moment than all others, and rightly are outliers then
    assert deep["n_outlier"][edge].mean() < 20
    assert deep["frac_filled"][edge].max() < 0.004
    assert deep["n_jump"][~edge].mean() < out["flat"]["n_jump"].mean() + 0.5
    lc = tsostream.open(tmp_path / "deep.arrow")
    spectra = lc.spectra.array("flux").astype(float).reshape(INTS, 2, -1)
    rows = light_curve(tmp_path / "deep.arrow")
    for k, (number, slack) in enumerate(((1, 5e-4), (2, 1e-3))):
        # of order 2 only the red half has its trace in the subarray
        there = np.isfinite(spectra[:, k]).all(axis=0)
        order = {name: np.array(values)[there] for name, values in truth["orders"][str(number)].items()}
        flux = rows["flux"][rows["order"] == number]
        expected = np.average(order["depth"], weights=order["electron_per_s"])
        assert 1 - flux[inside].mean() / flux[outside].mean() == pytest.approx(expected, abs=slack), number

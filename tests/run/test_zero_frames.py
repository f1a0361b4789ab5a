"""Zero frames from the file to the slopes, and files whose zero frames are not what they should be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import differences, reduce

import tsostream
from tsostream.errors import InputError
from tsostream.run.parity import segment as parity_segment
from tsostream.run.parity.windows import plan_windows
from tsostream.simulate import SimulatedExposure

Simulated = Callable[..., SimulatedExposure]
#: a row and columns whose ramps are saturated from the first group on
ROW, COLUMNS = 20, slice(12, 16)


def with_zero_frames(
    exposure: SimulatedExposure, folder: Path, change: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> list[Path]:
    """Copy the segments; half of the first group beyond the bias is what the first read saw."""
    folder.mkdir()
    paths = []
    for segment in exposure.segments:
        path = Path(shutil.copy(segment, folder))
        with fits.open(path, mode="update") as hdus:
            ramps = hdus["SCI"].data
            bias = fits.getdata(exposure.references["superbias"])
            zero = np.clip(bias + (ramps[:, 0] - bias) / 2, 1, 40000).astype(np.uint16)
            ramps[:, :, ROW, COLUMNS] = 65535
            zero[:, ROW, COLUMNS] = np.rint(bias[ROW, COLUMNS] + 900).astype(np.uint16)
            hdus["SCI"].data = ramps
            hdus[0].header["ZEROFRAM"] = True
            hdus.append(fits.ImageHDU(change(zero), name="ZEROFRAME"))
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def exposure(simulated: Simulated) -> SimulatedExposure:
    return simulated("NRC_TSIMAGE", nx=40, ny=40, groups=5, ints=12, segments=2)


def slopes(
    exposure: SimulatedExposure, inputs: list[Path], out: Path, **options: Any
) -> dict[str, np.ndarray]:
    """Slopes and flags of all segments as the product shows them."""
    reduce(exposure, out, inputs, products=("rateints",), **options)
    files = sorted(out.parent.glob("*rateints.fits"))
    assert len(files) == 2
    return {name: np.concatenate([fits.getdata(one, name) for one in files]) for name in ("SCI", "DQ", "ERR")}


def test_saturated_ramps_get_the_slope_of_the_first_read(exposure: SimulatedExposure, tmp_path: Path) -> None:
    inputs = with_zero_frames(exposure, tmp_path / "in")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = slopes(exposure, inputs, tmp_path / "a" / "lc.arrow")
    assert np.isnan(plain["SCI"][:, ROW, COLUMNS]).all()
    settings = ("ramp_fit.suppress_one_group=false",)
    found = slopes(exposure, inputs, tmp_path / "b" / "lc.arrow", settings=settings)
    inside = found["SCI"][:, ROW, COLUMNS]
    frame_time = fits.getheader(inputs[0])["TFRAME"]
    # what linearity and the reference pixels add is a part of it
    np.testing.assert_allclose(inside, 900 / frame_time, rtol=0.2)
    assert (found["DQ"][:, ROW, COLUMNS] & 3 == 2).all()
    assert (found["ERR"][:, ROW, COLUMNS] > 0).all()
    apart = np.ones(found["SCI"].shape[1:], bool)
    apart[ROW - 1 : ROW + 2, COLUMNS.start - 1 : COLUMNS.stop + 1] = False
    good = np.isfinite(plain["SCI"]) & apart
    np.testing.assert_allclose(found["SCI"][good], plain["SCI"][good], rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_rows_do_not_depend_on_blocks(exposure: SimulatedExposure, tmp_path: Path, algorithm: str) -> None:
    inputs = with_zero_frames(exposure, tmp_path / "in")
    settings = ("ramp_fit.suppress_one_group=false", f"ramp_fit.algorithm={algorithm}")
    one = reduce(exposure, tmp_path / "a.arrow", inputs, settings=settings, workers=1)
    other = reduce(exposure, tmp_path / "b.arrow", inputs, settings=settings, workers=2, block_bytes=1)
    assert differences(one, other) == []


def test_a_promise_that_is_not_kept_is_told(exposure: SimulatedExposure, tmp_path: Path) -> None:
    inputs = with_zero_frames(exposure, tmp_path / "in")
    for path in inputs:
        with fits.open(path, mode="update") as hdus:
            del hdus["ZEROFRAME"]
    out = reduce(exposure, tmp_path / "a.arrow", inputs, settings=("ramp_fit.suppress_one_group=false",))
    assert tsostream.open(out).metadata["status"] == "complete"


def test_wrong_zero_frames_are_refused(exposure: SimulatedExposure, tmp_path: Path) -> None:
    inputs = with_zero_frames(exposure, tmp_path / "in", lambda zero: zero[:, :-1])
    with pytest.raises(InputError, match=r"ZEROFRAME has shape \(6, 39, 40\)"):
        reduce(exposure, tmp_path / "a.arrow", inputs)


@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_parity_whatever_the_windows(
    exposure: SimulatedExposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    inputs = with_zero_frames(exposure, tmp_path / "in")
    settings = ("ramp_fit.suppress_one_group=false", f"ramp_fit.algorithm={algorithm}")
    made = []
    for budget in (1 << 26, 60_000):
        folder = tmp_path / str(budget)
        folder.mkdir()
        monkeypatch.setattr(
            parity_segment, "plan_windows", lambda n, info, halo, _, b=budget: plan_windows(n, info, halo, b)
        )
        made.append(slopes(exposure, inputs, folder / "lc.arrow", settings=settings, parity="jwst"))
    for name, plane in made[0].items():
        np.testing.assert_array_equal(plane, made[1][name], err_msg=name)
    if algorithm == "OLS_C":
        frame_time = fits.getheader(inputs[0])["TFRAME"]
        np.testing.assert_allclose(made[0]["SCI"][:, ROW, COLUMNS], 900 / frame_time, rtol=0.2)

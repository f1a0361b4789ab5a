"""``dq_init.user_supplied_dq``: flags of the user's own, in both scopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, reduce

from tsostream.errors import InputError, TsoStreamError
from tsostream.integration import dq

MODE = "NRS_BRIGHTOBJ"


@pytest.mark.parametrize("parity", [None, "jwst"])
def test_flags_are_added_to_the_mask(parity: str | None, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated(MODE, ints=3, **SMALL[MODE])
    flags = np.zeros((16, 160), np.int32)
    flags[3, 40], flags[5, 50] = dq.DO_NOT_USE | dq.HOT, dq.HOT
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(flags, name="DQ")]).writeto(tmp_path / "mine.fits")
    planes = []
    for number, settings in enumerate([(), (f"dq_init.user_supplied_dq={tmp_path / 'mine.fits'}",)]):
        place = tmp_path / str(number)
        place.mkdir()
        reduce(
            exposure,
            place / "lc.arrow",
            settings=settings,
            parity=parity,
            products=("rateints",),
            products_dir=place,
        )
        (path,) = place.glob("*_rateints.fits")
        with fits.open(path) as hdus:
            planes.append((hdus["DQ"].data.copy(), hdus["SCI"].data.copy()))
    (bits, _), (mine, slopes) = planes
    expected = bits | flags.astype(np.uint32)
    # without a group that can be used there are no other flags
    there = np.ones(flags.shape, bool)
    there[3, 40] = False
    np.testing.assert_array_equal(mine[:, there], expected[:, there])
    assert ((mine[:, 3, 40] & np.uint32(dq.DO_NOT_USE | dq.HOT)) == (dq.DO_NOT_USE | dq.HOT)).all()
    assert not np.nan_to_num(slopes[:, 3, 40]).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 160), np.int32), r"flags of \(4, 160\) pixels .* the subarray has \(16, 160\)"),
        (np.zeros((16, 160), np.float32), "an image of .*float32, and flags are whole numbers"),
        (None, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_told(content: Any, message: str, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated(MODE, ints=3, **SMALL[MODE])
    path = tmp_path / "mine.fits"
    if content is not None:
        fits.PrimaryHDU(content).writeto(path)
    with pytest.raises((InputError, TsoStreamError), match=message):
        reduce(exposure, tmp_path / "lc.arrow", settings=(f"dq_init.user_supplied_dq={path}",))

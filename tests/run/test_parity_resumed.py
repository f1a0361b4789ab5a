"""What the official pipeline takes from the first integration of a file is the same after a stop in its middle."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import Simulated, differences, edited, light_curve

import tsostream
from tsostream.records import Batcher, RowPair
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure


class StopError(Exception):
    """What the test stops a run with."""


def run(wanted: Request, stop_at: int | None = None) -> None:
    def stop(pair: RowPair) -> None:
        if stop_at is not None and pair.last_integration >= stop_at:
            raise StopError

    (prepared,) = prepare_all(wanted)
    asyncio.run(run_exposure(prepared, on_rows=stop))


def table(folder: Path) -> np.ndarray:
    (path,) = folder.glob("*_x1dints.fits")
    with fits.open(path) as hdus:
        flux = [np.array(hdu.data["FLUX"]) for hdu in hdus if hdu.name == "EXTRACT1D"]
    return np.concatenate(flux)


def test_the_aperture_correction_is_that_of_the_first_integration(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NIRSpec's depends on how many pixels a column has; the second file begins with columns that lose some."""
    # a fast machine would write all rows after the 49th as one batch, and leave nothing to stop
    monkeypatch.setitem(Batcher.__init__.__kwdefaults__, "max_rows", 5)
    exposure = simulated("NRS_BRIGHTOBJ", ints=90, segments=2, seed=6)

    def lose(words: np.ndarray) -> None:
        words[45, :, 6:9, 60:90] = 65535

    files = edited(exposure, tmp_path / "edited", lose)
    made = {}
    for name in ("whole", "stopped", "plain"):
        (tmp_path / name).mkdir()
        wanted = Request(
            inputs=tuple(files), out=tmp_path / name / "lc.arrow", refs_dir=exposure.directory, block_bytes=1,
            wavelengths=exposure.references["wavelength"], parity="jwst", products=("x1dints",),
            settings=("extract_1d.apply_apcorr=false",) if name == "plain" else (),
        )  # fmt: skip
        if name == "stopped":
            with pytest.raises(StopError):
                run(wanted, 50)
            # in the middle of the second file
            assert 46 < tsostream.open(wanted.out).table["integration"][-1].as_py() < 90
            wanted = replace(wanted, resume=True)
        run(wanted)
        made[name] = table(tmp_path / name)
    assert differences(tmp_path / "whole" / "lc.arrow", tmp_path / "stopped" / "lc.arrow") == []
    np.testing.assert_array_equal(made["whole"], made["stopped"])
    # each file has a correction of its own, which its later integrations would not have given
    factor = made["whole"] / made["plain"]
    np.testing.assert_allclose(factor[1:45], factor[:1].repeat(44, axis=0), rtol=1e-6)
    np.testing.assert_allclose(factor[46:], factor[45:46].repeat(44, axis=0), rtol=1e-6)
    assert np.nanmax(np.abs(factor[45] / factor[0] - 1)) > 1e-3
    assert len(light_curve(tmp_path / "whole" / "lc.arrow")["flux"]) == 90

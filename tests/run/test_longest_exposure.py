"""130,000 integrations, the longest exposures there are, as one run from ramps to x1dints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import tsostream
from bench.cases import Data
from bench.clones import clone
from bench.measure import run_child
from tsostream.simulate import simulate

#: integrations of the exposure, and of a shorter one
LONG, SHORT = 130_000, 13_000
#: integrations that differ, and columns of the detector
CYCLE, WAVES = 200, 32


def peak_of(folder: Path, ints: int, source: Path, references: Path, wavelengths: Path) -> int:
    """Run an exposure of some length; its pixels repeat. Gives the peak memory."""
    segments = clone(source, folder / "data", ints=ints, segments=3)
    data = Data(tuple(segments), segments[0], references, wavelengths)
    return int(run_child(data, folder / "lc.arrow", products=["x1dints"])["peak"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_130_000_integrations(tmp_path: Path) -> None:
    """The archive could not save their table. Here it is whole, and takes no more memory than a short one's."""
    exposure = simulate(
        "NRS_BRIGHTOBJ", tmp_path / "source", ints=CYCLE, groups=2, subarray="SUB512S", nx=WAVES, seed=3
    )
    (wavelengths,) = exposure.directory.glob("*wavelength*.fits")
    given = (exposure.segments[0], exposure.directory, wavelengths)
    short = peak_of(tmp_path / "short", SHORT, *given)
    long = peak_of(tmp_path / "long", LONG, *given)
    assert long < 1.05 * short, (short, long)
    out = tsostream.open(tmp_path / "long" / "lc.arrow")
    rows = out.spectra.array("flux")
    assert rows.shape == (LONG, WAVES)
    (path,) = (tmp_path / "long").glob("*_x1dints.fits")
    with fits.open(path, memmap=True) as hdus:
        hdus.verify("exception")
        table = hdus["EXTRACT1D"].data
        np.testing.assert_array_equal(table["INT_NUM"], np.arange(1, LONG + 1))
        assert (np.diff(table["TDB-MID"]) > 0).all()
        np.testing.assert_array_equal(np.asarray(table["FLUX"], rows.dtype), rows)
    read = Table.read(path, hdu="EXTRACT1D", memmap=True)
    assert len(read) == LONG
    # far from the scout's integrations and the ends of files the same pixels give the same spectra
    middle = np.asarray(read["FLUX"][LONG // 2 : LONG // 2 + 3 * CYCLE])
    assert np.isfinite(middle).any(axis=1).all()
    np.testing.assert_array_equal(middle[:CYCLE], middle[2 * CYCLE :])

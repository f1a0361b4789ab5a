"""x1dints and whtlt of whole parity runs against the official ones, column by column and keyword by keyword."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

import tsostream

CASES = ["nrs_sub512", "nrs_sub512_short", "miri_slitless", "nrc_subgrism64"]

#: what a difference of large numbers is compared with
ERRORS = {"FLUX": "FLUX_ERROR", "SURF_BRIGHT": "SB_ERROR", "BACKGROUND": "BKGD_ERROR"}


def run(folder: Path, out: Path, level: str, **options: object) -> Path:
    given = {"products": "x1dints,whtlt", "overrides": f"extract1d={folder / 'extract1d.json'}", **options}
    source = next(folder.glob(f"*_{level}.fits.gz"))
    tsostream.process(source, out, parity="jwst", refs_dir=folder, workers=1, **given)
    return out.parent


#: where the source is on the sky is known where the packages for coordinate systems are
SKY = {"SLIT_RA", "SLIT_DEC"} if find_spec("gwcs") and find_spec("stdatamodels") else set()


def check(made: Path, folder: Path) -> None:
    (path,) = made.glob("*_x1dints.fits")
    with fits.open(path, uint=True) as ours, fits.open(folder / "x1dints.fits", uint=True) as theirs:
        for hdu in theirs:
            if hdu.name == "EXTRACT1D":
                a, b = ours["EXTRACT1D", hdu.ver], hdu
                assert a.data.dtype == b.data.dtype
                for name in b.data.dtype.names:
                    if b.data[name].dtype.kind == "u":
                        np.testing.assert_array_equal(a.data[name], b.data[name], err_msg=name)
                        continue
                    error = b.data[ERRORS[name]] if name in ERRORS else np.zeros(1)
                    slack = 1e-6 * np.nan_to_num(np.abs(b.data[name])) + 1e-6 * np.nan_to_num(error)
                    np.testing.assert_array_equal(
                        np.isnan(a.data[name]), np.isnan(b.data[name]), err_msg=name
                    )
                    assert not (np.nan_to_num(np.abs(a.data[name] - b.data[name])) > slack).any(), name
                for key in SKY & {*b.header}:
                    assert a.header[key] == pytest.approx(b.header[key], abs=1e-9), key
                different = {key for key in b.header if key and a.header.get(key) != b.header[key]}
                assert different <= {"SLIT_RA", "SLIT_DEC"}
            if hdu.name == "INT_TIMES":
                assert ours["INT_TIMES"].data.tolist() == hdu.data.tolist()
        assert [hdu.name for hdu in ours] == [hdu.name for hdu in theirs]
    (path,) = made.glob("*_whtlt.ecsv")
    table, official = QTable.read(path), QTable.read(folder / "whtlt.ecsv")
    assert table.colnames == official.colnames
    assert {**official.meta, "number_of_integrations": len(official)} == dict(table.meta)
    for name in official.colnames:
        np.testing.assert_allclose(
            np.asarray(table[name]), np.asarray(official[name]), rtol=1e-6, err_msg=name
        )
        assert getattr(table[name], "unit", None) == getattr(official[name], "unit", None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", ["crfints", "calints"])
def test_from_calibrated_slopes(shared: Path, tmp_path: Path, case: str, level: str) -> None:
    folder = shared / "golden_stage2" / case
    check(run(folder, tmp_path / "lc.arrow", level), folder)


@pytest.mark.parametrize("case", CASES)
def test_from_slopes(shared: Path, tmp_path: Path, case: str) -> None:
    folder = shared / "golden_stage2" / case
    calints = next(folder.glob("*_calints.fits.gz"))
    check(run(folder, tmp_path / "lc.arrow", "rateints", wavelengths=calints), folder)

"""The shared exposures, made by another simulator, and archived products: rows, times and spectra make sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import light_curve

import tsostream
from tsostream.files import TIME_FLAGS

pytestmark = pytest.mark.oracle

CASES = (
    "miri_slitless", "miri_sub64", "nis_substrip96", "nis_substrip256", "nrc_sub64p", "nrc_sub64p_sigclip",
    "nrc_subgrism64", "nrc_subgrism256", "nrs_sub512", "nrs_sub2048",
)  # fmt: skip
ERS = "miri_lrs_ers_sim_seg041"


def test_no_case_is_left_out(shared: Path) -> None:
    assert {path.name for path in (shared / "golden").iterdir() if path.is_dir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / name
    segments = sorted(case.glob("*_uncal.fits"))
    (out,) = tsostream.process(segments[::-1], tmp_path / "lc.arrow", refs_dir=case)
    rows = light_curve(out)
    tables = [fits.getdata(path, "INT_TIMES") for path in segments]
    numbers = np.concatenate([table["integration_number"] for table in tables])
    np.testing.assert_array_equal(rows["integration"], numbers)
    for scale, column in (("mjd_utc", "MJD_UTC"), ("bmjd_tdb", "BJD_TDB")):
        for point in ("start", "mid", "end"):
            expected = np.concatenate([table[f"int_{point}_{column}"] for table in tables])
            np.testing.assert_array_equal(rows[f"time_{scale}_{point}"], expected)
    assert not rows["time_flag"].any()
    assert rows["present"].all()
    assert np.isfinite(rows["flux"]).all()
    assert (rows["flux"] > 0).all()
    assert (rows["flux"] / rows["flux_err"] > 100).all()
    # these exposures have a transit of one per cent
    assert np.abs(rows["flux"] / np.median(rows["flux"]) - 1).max() < 0.03
    assert np.isfinite(rows["x"] + rows["y"] + rows["background"]).all()
    assert (rows["frac_filled"] < 0.3).all()
    lc = tsostream.open(out)
    if lc.spectra is not None:
        flux = lc.spectra.array("flux")
        lit = np.nanmedian(flux, axis=0) > 0.2 * np.nanmax(np.nanmedian(flux, axis=0))
        assert lit.sum() > 20
        assert (flux[:, lit] > 0).mean() > 0.99


@pytest.mark.parametrize("level", ["rateints", "calints"])
def test_archived_product(level: str, shared: Path, tmp_path: Path) -> None:
    """MIRI LRS, segment 41 by itself: empty INT_TIMES, integrations 1847-1850 of an exposure that says 4."""
    path = shared / "data" / f"{ERS}_{level}.fits"
    calints = shared / "data" / f"{ERS}_calints.fits"
    options = {} if level == "calints" else {"wavelengths": calints}
    (out,) = tsostream.process(path, tmp_path / "lc.arrow", **options)
    rows = light_curve(out)
    np.testing.assert_array_equal(rows["integration"], np.arange(1847, 1851))
    flags = TIME_FLAGS["HEADER_TIMES"] | TIME_FLAGS["NO_BJD"] | TIME_FLAGS["ABSENT"]
    assert (rows["time_flag"] == flags).all()
    assert np.isnan(rows["time_bmjd_tdb_mid"]).all()
    header = fits.getheader(path)
    start = header["EXPSTART"] + (rows["integration"] - 1) * np.diff(rows["time_mjd_utc_start"])[0]
    assert np.abs(rows["time_mjd_utc_start"] - start).max() * 86400 < 0.1
    assert (np.diff(rows["time_mjd_utc_mid"]) > 0).all()
    assert np.isfinite(rows["flux"]).all()
    assert (rows["flux"] / rows["flux_err"] > 100).all()
    assert np.abs(rows["flux"] / rows["flux"].mean() - 1).max() < 0.02
    lc = tsostream.open(out)
    assert any("NINTS" in note for note in lc.metadata["notes"])
    assert lc.spectra is not None
    wave, flux = lc.spectra.wavelength(), np.nanmedian(lc.spectra.array("flux"), axis=0)
    with np.errstate(invalid="ignore"):
        expected = np.nanmedian(fits.getdata(calints, "WAVELENGTH"))
    assert 3 < np.nanmin(wave) < 6
    assert 11 < np.nanmax(wave) < 15
    assert np.nanmin(wave) < expected < np.nanmax(wave)
    middle = (wave > 5.5) & (wave < 10)
    assert middle.sum() > 50
    assert (flux[middle] > 0).all()
    # a star: the Rayleigh-Jeans side
    assert np.median(flux[(wave > 5.5) & (wave < 6.5)]) > np.median(flux[(wave > 9) & (wave < 10)])


def test_slopes_are_binned(shared: Path, tmp_path: Path) -> None:
    """Bins are no step of the official pipeline, so the headers of files that hold slopes know nothing of them."""
    calints = shared / "data" / f"{ERS}_calints.fits"
    (out,) = tsostream.process(calints, tmp_path / "lc.arrow", bins="N=5")
    bins = tsostream.open(out).bins
    assert bins is not None
    assert bins.array("flux").shape == (4, 5)
    assert np.isfinite(bins.array("flux_err")).all()


def test_optimal_weights_of_pixels_without_a_gain_are_none(shared: Path, tmp_path: Path) -> None:
    """Such a pixel is lost to its column, not the column."""
    case = shared / "golden" / "nrs_sub512"
    (out,) = tsostream.process(
        case, tmp_path / "lc.arrow", refs_dir=case, settings=("extract_1d.extraction_type=optimal",)
    )
    spectra = tsostream.open(out).spectra
    assert spectra is not None
    flux, error = spectra.array("flux"), spectra.array("flux_err")
    assert np.isfinite(flux).sum() > 0.9 * flux.size
    assert (error[np.isfinite(flux)] > 0).all()
    assert (light_curve(out)["flux_err"] > 0).all()


def test_without_wavelengths_the_pixel_index_stands_in(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / f"{ERS}_rateints.fits"
    (out,) = tsostream.process(path, tmp_path / "lc.arrow")
    lc = tsostream.open(out)
    assert lc.metadata["wavelength_unit"] == "pixel"
    assert any("NO WAVELENGTHS" in note for note in lc.metadata["notes"])
    assert lc.spectra is not None
    np.testing.assert_array_equal(lc.spectra.wavelength(), np.arange(len(lc.spectra.wavelength())))

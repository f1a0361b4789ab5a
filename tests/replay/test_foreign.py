"""Other pipelines' products are read, matched and compared."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from tsostream.errors import InputError
from tsostream.replay.against import compare_with, draw_agreement
from tsostream.replay.foreign import read_foreign

COUNT, WAVES = 20, 30
WAVE = np.linspace(1, 5, WAVES)
MJD = 59770 + np.arange(COUNT) / 1000


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    spectra = np.linspace(100, 200, WAVES) * (1 + 1e-3 * rng.standard_normal((COUNT, WAVES)))
    return {
        "order": np.ones(COUNT, np.int16),
        "aperture": np.zeros(COUNT, np.int32),
        "integration": np.arange(1, COUNT + 1),
        "time_mjd_utc_mid": MJD,
        "time_bmjd_tdb_mid": MJD + 0.003,
        "flux": spectra.sum(axis=1),
        "flux_err": np.full(COUNT, 0.5),
        "spectra.flux": spectra,
    }


def x1dints(path, rows, numbers):
    """One table, integrations as rows, in other units."""
    take = numbers - 1
    columns = [
        fits.Column("INT_NUM", "J", array=numbers),
        fits.Column("WAVELENGTH", f"{WAVES}D", array=np.broadcast_to(WAVE, (len(numbers), WAVES))),
        fits.Column("FLUX", f"{WAVES}D", array=2.5e-6 * rows["spectra.flux"][take]),
        fits.Column("MJD-AVG", "D", array=MJD[take]),
        fits.Column("TDB-MID", "D", array=MJD[take] + 0.003),
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="EXTRACT1D")]).writeto(path)
    return path


def test_x1dints_by_integration(tmp_path, rows):
    numbers = np.array([5, 3, 4, 6, 7, 8, 99 - 80])
    foreign = read_foreign(x1dints(tmp_path / "a_x1dints.fits", rows, numbers))
    found = compare_with(rows, WAVE, foreign, "file")
    assert found.matched_by == "integration"
    np.testing.assert_array_equal(found.integration, sorted(numbers))
    assert found.alone == (COUNT - 7, 0)
    assert found.ratio == pytest.approx(1 / 2.5e-6)
    assert found.rms == pytest.approx(0, abs=1e-6)
    assert len(found.wavelength) == WAVES
    np.testing.assert_allclose(found.levels, 1 / 2.5e-6)
    np.testing.assert_allclose(found.scatter, 0, atol=1e-6)
    draw_agreement(tmp_path / "a.png", "a", found)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_difference_is_told(tmp_path, rows):
    path = x1dints(tmp_path / "a_x1dints.fits", rows, np.arange(1, COUNT + 1))
    rows["flux"][10] *= 1 + 300e-6
    found = compare_with(rows, WAVE, read_foreign(path), "file")
    # the median moves a little, too
    assert found.difference[10] == pytest.approx(300, rel=0.05)
    assert found.rms == pytest.approx(300 / np.sqrt(COUNT), rel=0.1)
    facts = dict(found.facts())
    assert facts["largest"].endswith("ppm at integration 11")
    assert "of our errors" in facts["difference, rms"]


def test_the_older_form_has_a_table_per_integration(tmp_path, rows):
    hdus = [fits.PrimaryHDU()]
    for number in range(1, COUNT + 1):
        columns = [
            fits.Column("WAVELENGTH", "D", array=WAVE),
            fits.Column("FLUX", "D", array=rows["spectra.flux"][number - 1]),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="EXTRACT1D"))
        hdus[-1].header["INT_NUM"] = number
    fits.HDUList(hdus).writeto(tmp_path / "old_x1dints.fits")
    found = compare_with(rows, WAVE, read_foreign(tmp_path / "old_x1dints.fits"), "file")
    assert (len(found.integration), found.alone) == (COUNT, (0, 0))
    assert found.rms == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("end", ["", "_NRS1"])
@pytest.mark.parametrize("clock", ["MJD_UTC", "BJD_TDB"])
def test_white_light_by_time(tmp_path, rows, end, clock):
    shift = 0.0 if clock == "MJD_UTC" else 0.003 + 2400000.5
    table = QTable({f"{clock}{end}": MJD[2:] + shift, f"whitelight_flux{end}": rows["flux"][2:] * u.Jy})
    table.write(tmp_path / "a_whtlt.ecsv")
    found = compare_with(rows, WAVE, read_foreign(tmp_path / "a_whtlt.ecsv"), "file")
    assert found.matched_by == {"MJD_UTC": "MJD (UTC)", "BJD_TDB": "BMJD (TDB)"}[clock]
    np.testing.assert_array_equal(found.integration, np.arange(3, COUNT + 1))
    assert found.rms == pytest.approx(0, abs=1e-6)
    assert found.wavelength is None


def test_photometry(tmp_path, rows):
    table = QTable(
        {"MJD": MJD, "aperture_sum": rows["flux"] * 3 * u.Jy, "net_aperture_sum": rows["flux"] * u.Jy}
    )
    table.write(tmp_path / "a_phot.ecsv")
    found = compare_with(rows, None, read_foreign(tmp_path / "a_phot.ecsv"), "file")
    assert found.ratio == pytest.approx(1)


@pytest.mark.parametrize("stage", [3, 4])
def test_eureka(tmp_path, rows, stage):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "S3_SpecData.h5"
    with h5py.File(path, "w") as file:
        if stage == 3:
            file["optspec"], file["wave_1d"] = rows["spectra.flux"], WAVE
        else:
            file["data"], file["wave_mid"] = rows["spectra.flux"].T, WAVE
        file["time"] = MJD + 0.003
        file["time"].attrs["time_units"] = "BMJD_TDB"
    found = compare_with(rows, WAVE, read_foreign(path), "file")
    assert found.matched_by == "BMJD (TDB)"
    assert (len(found.integration), len(found.wavelength)) == (COUNT, WAVES)
    assert found.rms == pytest.approx(0, abs=1e-6)


def test_times_that_do_not_meet(tmp_path, rows):
    QTable({"MJD_UTC": MJD + 50, "whitelight_flux": rows["flux"]}).write(tmp_path / "a_whtlt.ecsv")
    with pytest.raises(InputError, match="no integration in common"):
        compare_with(rows, WAVE, read_foreign(tmp_path / "a_whtlt.ecsv"), "file")


@pytest.mark.parametrize(
    ("name", "data"), [("a.fits", b"no FITS"), ("a.h5", b"no"), ("a.ecsv", b"x\n1\n"), ("a.txt", b"")]
)
def test_what_cannot_be_read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_foreign(tmp_path / name)
    with pytest.raises(InputError, match="is not there"):
        read_foreign(tmp_path / "nothing.fits")

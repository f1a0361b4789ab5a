"""Wavelengths from images, products and tables."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from segment_makers import NX, NY, make_segment

from tsostream.errors import ConfigError
from tsostream.files import wavelength_image

WAVE = np.linspace(1, 5, NX)


def refused(path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        wavelength_image(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_product(tmp_path):
    path = make_segment(tmp_path / "a_calints.fits", level="calints")
    found = wavelength_image(path)
    assert list(found) == [1]
    np.testing.assert_allclose(found[1], np.tile(WAVE, (NY, 1)), rtol=1e-6)
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(wavelength_image(packed)[1], found[1])


def test_image_in_metres_with_unknown_pixels(tmp_path):
    image = np.tile(WAVE * 1e-6, (NY, 1))
    image[0] = 0
    image[1] = np.nan
    hdu = fits.PrimaryHDU(image.astype(np.float32))
    hdu.header["BUNIT"] = "m"
    hdu.writeto(tmp_path / "a.fits")
    found = wavelength_image(tmp_path / "a.fits")[1]
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2], WAVE, rtol=1e-6)


def test_wave_map_with_orders_and_padding(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for order in (1, 2):
        hdu = fits.ImageHDU(np.full((NY + 4, NX + 4), float(order), np.float32), name="ORDER", ver=order)
        hdu.header["ORDER"], hdu.header["PADDING"], hdu.header["OVERSAMP"] = order, 2, 1
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    found = wavelength_image(tmp_path / "a.fits")
    assert {order: (image.shape, image[0, 0]) for order, image in found.items()} == {
        1: ((NY, NX), 1.0),
        2: ((NY, NX), 2.0),
    }


@pytest.mark.parametrize("kind", ["ecsv", "csv", "fits"])
def test_tables(tmp_path, kind):
    table = Table({"X": np.arange(2, 6), "Wavelength": [1.0, 2.0, 3.0, 4.0]})
    path = tmp_path / f"a.{kind}"
    table.write(path, format={"ecsv": "ascii.ecsv", "csv": "ascii.csv", "fits": "fits"}[kind])
    np.testing.assert_array_equal(wavelength_image(path)[1], [np.nan, np.nan, 1, 2, 3, 4])


def test_table_units_and_orders(tmp_path):
    from astropy import units

    path = tmp_path / "a.ecsv"
    QTable({"order": [1, 1, 2], "wavelength": [1000.0, 2000.0, 700.0] * units.nm}).write(
        path, format="ascii.ecsv"
    )
    found = wavelength_image(path)
    np.testing.assert_allclose(found[1], [1, 2])
    np.testing.assert_allclose(found[2], [0.7])


def test_refusals(tmp_path):
    refused(tmp_path / "none", "no such file")
    refused(tmp_path, "cannot be read")
    refused(
        make_segment(tmp_path / "a_rateints.fits", level="rateints"),
        r"there are no wavelengths \(found: PRIMARY, SCI",
    )
    text = tmp_path / "a.txt"
    text.write_text("hello\nworld, again, and, again\n")
    refused(text, "neither FITS nor a table|no column of numbers")
    text.write_bytes(bytes(range(256)))
    refused(text, "neither FITS nor a table|no column of numbers")
    text.write_text("x,wavelength\n0,1.0\n0,2.0\n")
    refused(text, "several rows")
    text.write_text("x,wavelength\n0.5,1.0\n")
    refused(text, "x is 0.5 in one row, expected whole pixels")
    text.write_text("x,wavelength\n0,10000\n")
    refused(text, "median wavelength is 10000 µm.*check the unit")
    text.write_text("x,flux\n0,10000\n")
    refused(text, "no column of numbers called wavelength .found: x, flux")
    image = fits.PrimaryHDU(np.ones((NY, NX), np.float32))
    image.header["BUNIT"] = "electron"
    image.writeto(tmp_path / "b.fits")
    refused(tmp_path / "b.fits", "are in 'electron', expected um")
    fits.PrimaryHDU(np.full((NY, NX), np.nan, np.float32)).writeto(tmp_path / "c.fits")
    refused(tmp_path / "c.fits", "all wavelengths are NaN")
    raw = (tmp_path / "c.fits").read_bytes()
    (tmp_path / "c.fits").write_bytes(raw[:2900])
    refused(tmp_path / "c.fits", "breaks off inside extension PRIMARY")


def test_golden(shared):
    found = wavelength_image(shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits")
    assert found[1].shape == (416, 72)
    assert 4 < np.nanmin(found[1]) < np.nanmax(found[1]) < 14.5
    assert list(wavelength_image(shared / "data" / "jwst_niriss_wavemap_0020.fits")) == [1, 2, 3]

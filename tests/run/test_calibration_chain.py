"""All steps on slopes in one run: windows that are cut, units, and rows that do not depend on files or blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import Simulated, differences, light_curve, make_rateints, reduce

import tsostream
from tsostream.simulate import SimulatedExposure

X0, Y0, NX, NY = 6, 2, 140, 12


def cutout(exposure: SimulatedExposure, path: Path) -> Path:
    """Wavelengths of the slit's window alone, as calints hold them."""
    whole = fits.getdata(exposure.references["wavelength"])
    head = fits.PrimaryHDU()
    head.header["S_WAVCOR"] = "COMPLETE"
    wave = fits.ImageHDU(whole[Y0 : Y0 + NY, X0 : X0 + NX], name="WAVELENGTH")
    wave.header.update(SLTSTRT1=X0 + 1, SLTSTRT2=Y0 + 1, BUNIT="um")
    fits.HDUList([head, wave]).writeto(path)
    return path


def unit(path: Path) -> str:
    return tsostream.open(path).table.schema.field("flux").metadata[b"unit"].decode()


def test_a_slit_is_cut_calibrated_and_measured(simulated: Simulated, tmp_path: Path) -> None:
    options: dict[str, Any] = {"ints": 12, "seed": 5, "oof": 0}
    one, three = (
        simulated("NRS_BRIGHTOBJ", segments=1, **options),
        simulated("NRS_BRIGHTOBJ", segments=3, **options),
    )
    waves = cutout(one, tmp_path / "cut.fits")
    a = reduce(one, tmp_path / "a.arrow", wavelengths=waves, calibrated=True, products=["calints"])
    b = reduce(three, tmp_path / "b.arrow", wavelengths=waves, calibrated=True, block_bytes=1, workers=1)
    assert differences(a, b) == []
    assert unit(a) == "Jy"
    flux = light_curve(a)["flux"]
    assert np.isfinite(flux).all()
    assert (flux > 0).all()
    spectra = tsostream.open(a).spectra
    assert spectra is not None
    assert spectra.table.schema.field("flux").type.list_size == NX
    with fits.open(tmp_path / one.segments[0].name.replace("uncal", "calints")) as hdus:
        assert hdus["SCI"].shape == (12, NY, NX)
        head = hdus["SCI"].header
        assert [head[key] for key in ("SLTSTRT1", "SLTSTRT2", "SLTSIZE1", "SLTSIZE2")] == [
            X0 + 1,
            Y0 + 1,
            NX,
            NY,
        ]
        assert head["BUNIT"] == "MJy"
        assert head["SRCTYPE"] == "POINT"
        whole = fits.getdata(one.references["wavelength"])
        np.testing.assert_allclose(hdus["WAVELENGTH"].data, whole[Y0 : Y0 + NY, X0 : X0 + NX], rtol=1e-6)
        # the whole chain by hand for one good pixel would be another pipeline; the flat variance says it was divided
        assert np.nanmedian(hdus["VAR_FLAT"].data) > 0


@pytest.mark.slow
def test_rows_of_a_grism_are_cut(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSGRISM", subarray="SUBGRISM128", ny=80, ints=6, seed=3)
    path = reduce(exposure, tmp_path / "lc.arrow", calibrated=True, products=["calints"])
    with fits.open(tmp_path / exposure.segments[0].name.replace("uncal", "calints")) as hdus:
        assert hdus["SCI"].shape == (6, 64, 160)
        assert hdus["SCI"].header["SLTSIZE2"] == 64
        assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
        assert hdus["AREA"].shape == hdus["WAVELENGTH"].shape == (64, 160)
    assert np.isfinite(light_curve(path)["flux"]).all()


@pytest.mark.slow
def test_soss_spectra_become_janskys(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NIS_SOSS", ints=6, seed=3)
    raw = reduce(exposure, tmp_path / "raw.arrow")
    lit = reduce(exposure, tmp_path / "lit.arrow", calibrated=True)
    assert (unit(raw), unit(lit)) == ("electron", "Jy")
    one, other = (tsostream.open(path).spectra for path in (raw, lit))
    assert one is not None
    assert other is not None
    ratio = np.array([np.array(x) / np.array(y) for x, y in zip(
        other.table.column("flux").to_pylist(), one.table.column("flux").to_pylist(), strict=True)])  # fmt: skip
    gain = float(np.median(fits.getdata(exposure.references["gain"])))
    time = fits.getheader(exposure.segments[0])["EFFINTTM"]
    row = fits.getdata(exposure.references["photom"], "PHOTOM")[0]
    response = np.nanmedian(ratio, axis=0) * gain * time / (float(row["photmj"]) * 1e6)
    low, high = float(row["relresponse"].min()), float(row["relresponse"].max())
    known = np.isfinite(response)
    assert known.mean() > 0.9
    assert ((response[known] > 0.9 * low) & (response[known] < 1.1 * high)).all()


@pytest.mark.slow
def test_background_exposures_of_an_association(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("MIR_LRS-SLITLESS", ints=8, seed=3)
    folder = tmp_path / "in"
    (source,) = make_rateints(exposure, folder, bounds=[8])
    level = 40.0

    def brighter(planes: dict[str, np.ndarray]) -> None:
        planes["SCI"] += np.float32(level)

    other = tmp_path / "other"
    (science,) = make_rateints(exposure, other, bounds=[8], change=brighter)
    head = fits.getheader(source)
    flat = np.full((3, head["SUBSIZE2"], head["SUBSIZE1"]), level, np.float32)
    hdus = fits.HDUList([fits.PrimaryHDU(header=head), fits.ImageHDU(flat, name="SCI")])
    hdus[1].header["BUNIT"] = "DN/s"
    hdus.writeto(other / "b_rateints.fits")
    members = [
        {"expname": science.name, "exptype": "science"},
        {"expname": "b_rateints.fits", "exptype": "background"},
    ]
    asn = other / "asn.json"
    asn.write_text(json.dumps({"products": [{"name": "p", "members": members}]}))
    options = {"settings": ["extract_1d.subtract_background=false"]}
    plain = reduce(exposure, tmp_path / "plain.arrow", [source], **options)
    cleaned = reduce(exposure, tmp_path / "cleaned.arrow", [asn], **options)
    np.testing.assert_allclose(light_curve(cleaned)["flux"], light_curve(plain)["flux"], rtol=1e-5)

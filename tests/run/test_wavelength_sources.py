"""Wavelengths of pixels: every source, the order in which they count, and what is recorded."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tsostream.errors import ConfigError, ReferenceMismatchError
from tsostream.files import (
    find_exposures,
    fit_to_frame,
    gwcs_wavelengths,
    open_system,
    wavelength_maps,
)
from tsostream.files.wavelengths import WaveMap
from tsostream.integration.reference import Reference
from tsostream.operators.soss.geometry import soss_traces
from tsostream.references import load_references
from tsostream.references.specwcs import LIGHT, lrs_wavelengths
from tsostream.run.official_wcs import official_wavelengths
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.wavelengths import _from_references, find_wavelengths
from tsostream.simulate import SimulatedExposure, simulate
from tsostream.testing.builders import make_info
from tsostream.testing.oracle import official_python

oracle = pytest.mark.skipif(
    not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst"
)


@pytest.fixture(scope="module")
def soss(tmp_path_factory: pytest.TempPathFactory) -> SimulatedExposure:
    return simulate("NIS_SOSS", tmp_path_factory.mktemp("soss"), ints=2, groups=2, noise="none")


@pytest.fixture(scope="module")
def lrs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedExposure:
    return simulate("MIR_LRS-SLITLESS", tmp_path_factory.mktemp("lrs"), ints=2, groups=4, noise="none")


def specwcs(path: Path) -> Path:
    """A SPECWCS table such as the observatory's, with the prism's dispersion bent a little."""
    y = np.arange(10.0, -380.0, -1.0)
    wave = 3.3 + 10.7 * np.sqrt((y.max() - y) / np.ptp(y))
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format="E", array=values)
            for name, values in (
                ("x_center", 0.3 * np.sin(y / 100)), ("y_center", y), ("wavelength", wave), ("x0", y * 0 - 5),
                ("y0", y + 0.5), ("x1", y * 0 + 5), ("y1", y + 0.5), ("x2", y * 0 + 5), ("y2", y - 0.5),
                ("x3", y * 0 - 5), ("y3", y - 0.5),
            )
        ],
        name="WAVETABLE",
    )  # fmt: skip
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "JWST", "REFTYPE": "SPECWCS", "INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L",
         "EXP_TYPE": "MIR_LRS-SLITLESS", "DATAMODL": "MiriLRSSpecwcsModel", "IMX": 326.1, "IMY": 300.7,
         "IMXSLTL": 38.5, "IMYSLTL": 829.0}
    )  # fmt: skip
    fits.HDUList([primary, table]).writeto(path)
    return path


def test_wavelength_image_and_coordinate_system_agree(shared: Path) -> None:
    pytest.importorskip("gwcs")
    pytest.importorskip("stdatamodels")
    path = shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits"
    image = wavelength_maps(path)[1].values
    system = gwcs_wavelengths(path)[1]
    assert np.array_equal(np.isfinite(image), np.isfinite(system))
    # the image is float32
    assert np.nanmax(np.abs(image - system)) < 1e-6
    assert np.isfinite(image).sum() > 20000


def test_coordinate_system_is_used_where_the_image_is_missing(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("gwcs")
    pytest.importorskip("stdatamodels")
    path = tmp_path / "seg041_calints.fits"
    with fits.open(shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits") as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name != "WAVELENGTH"]).writeto(path)
    (prepared,) = prepare_all(Request(inputs=(path,), config="none", allow_gaps=True))
    assert prepared.wavelength_source == "gwcs of seg041_calints.fits"
    expected = wavelength_maps(shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits")[1].values
    np.testing.assert_allclose(prepared.wavelengths[1], expected, atol=1e-6)


def test_missing_packages_are_named_in_one_line(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stdatamodels", None)
    with pytest.raises(ConfigError, match=r"pip install 'tsostream\[wcs\]'") as caught:
        gwcs_wavelengths(shared / "data" / "miri_lrs_ers_sim_seg041_calints.fits")
    assert len(caught.value.problems) == 1


def test_a_product_without_coordinates_has_none(soss: SimulatedExposure) -> None:
    assert gwcs_wavelengths(soss.segments[0]) == {}


def test_soss_from_the_trace_reference(soss: SimulatedExposure) -> None:
    (prepared,) = prepare_all(Request(inputs=soss.segments, refs_dir=soss.directory))
    assert prepared.wavelength_source.startswith("PASTASOSS reference")
    assert "turned by +0.0000 degree" in prepared.wavelength_source
    with fits.open(soss.references["wavelength"]) as hdus:
        for hdu in hdus[1:]:
            wave = prepared.wavelengths[hdu.header["SPORDER"]]
            known = np.isfinite(wave)
            assert known.sum() > 900
            np.testing.assert_allclose(wave[known], hdu.data[0][known], atol=2e-4)


def test_a_trace_reference_of_another_wheel_position_is_refused(soss: SimulatedExposure) -> None:
    (exposure,) = find_exposures(soss.segments)
    references = load_references({"pastasoss": soss.references["pastasoss"]}, exposure.info).references
    header = {**exposure.info.header, "PWCPOS": 250.0}
    with pytest.raises(ReferenceMismatchError, match=r"PWCPOS is 250\.0"):
        soss_traces(references, dataclasses.replace(exposure.info, header=header))
    del header["PWCPOS"]
    with pytest.raises(ConfigError, match="no PWCPOS"):
        soss_traces(references, dataclasses.replace(exposure.info, header=header))


def test_turned_traces_turn(soss: SimulatedExposure) -> None:
    """A quarter of a degree moves the ends of a trace by some four pixels, and the pivot not at all."""
    (exposure,) = find_exposures(soss.segments)
    references = load_references({"pastasoss": soss.references["pastasoss"]}, exposure.info).references
    straight = soss_traces(references, exposure.info)[1].columns(2048)[0]
    header = {**exposure.info.header, "PWCPOS": exposure.info.header["PWCPOS"] + 0.2}
    turned = soss_traces(references, dataclasses.replace(exposure.info, header=header))[1].columns(2048)[0]
    moved = turned - straight
    # positive angles turn x towards y; about (1100, 48)
    assert moved[0] == pytest.approx(-1100 * np.radians(0.2), abs=0.4)
    assert moved[2040] == pytest.approx(940 * np.radians(0.2), abs=0.4)
    assert abs(moved[1100]) < 0.05


def test_old_trace_table_and_padded_map(shared: Path) -> None:
    """Files of the observatory's old formats, for SUBSTRIP96."""
    info = make_info("NIS_SOSS", ny=96, nx=2048, subarray="SUBSTRIP96", xstart=1, ystart=1803)
    paths = {
        "spectrace": shared / "data" / "jwst_niriss_spectrace_0022.fits",
        "wavemap": shared / "data" / "jwst_niriss_wavemap_0020.fits",
    }
    references = load_references(paths, info).references
    traces = soss_traces(references, info)
    centre, wave = traces[1].columns(2048)
    assert traces[1].cutoff == 2048
    assert centre[1500] == pytest.approx(29.0, abs=0.2)
    assert wave[1454] == pytest.approx(1.40, abs=1e-3)
    assert wave[0] == pytest.approx(2.833, abs=5e-3)
    assert 0 < traces[2].cutoff < 2048
    from_map = _from_references(info, {"wavemap": references["wavemap"]})
    assert from_map is not None
    assert from_map.source == "WAVEMAP reference jwst_niriss_wavemap_0020.fits"
    assert from_map.by_order[1].shape == (96, 2048)
    # the map is of another epoch and another wheel position: pixels, not nanometres
    assert np.nanmax(np.abs(from_map.by_order[1][30] - wave)) < 3e-3


def test_specwcs(lrs: SimulatedExposure, tmp_path: Path) -> None:
    path = specwcs(tmp_path / "specwcs.fits")
    (exposure,) = find_exposures(lrs.segments)
    references = load_references({"specwcs": path}, exposure.info).references
    found = find_wavelengths(Request(inputs=lrs.segments), exposure, references)
    assert found.source == "SPECWCS reference specwcs.fits"
    image = found.by_order[1]
    assert image.shape == (416, 72)
    assert np.isnan(image[:, :4]).all()
    column = image[:, 40]
    known = np.isfinite(column)
    assert known.sum() > 300
    assert (np.diff(column[known]) < 0).all()
    moving = dataclasses.replace(exposure.info, header={**exposure.info.header, "VELOSYS": 30000.0})
    ratio = lrs_wavelengths(references["specwcs"], moving)[known, 40] / column[known]
    np.testing.assert_allclose(ratio, 1 / (1 + 30000.0 / LIGHT), rtol=1e-13)


def test_specwcs_of_another_instrument(lrs: SimulatedExposure) -> None:
    (exposure,) = find_exposures(lrs.segments)
    with pytest.raises(ReferenceMismatchError, match="no table of wavelengths"):
        lrs_wavelengths(Reference("specwcs", "x.asdf", {}), exposure.info)


_REFERENCES = """
import sys
from astropy import units as u
from astropy.modeling import models
from stdatamodels.jwst.datamodels import DistortionModel
model = (models.Shift(-500.0) & models.Shift(-500.0)) | (models.Scale(0.11) & models.Scale(0.11))
model = model | (models.Shift(-400.0) & models.Shift(-420.0))
reference = DistortionModel(model=model, input_units=u.pix, output_units=u.arcsec)
reference.meta.instrument.name, reference.meta.instrument.detector = "MIRI", "MIRIMAGE"
reference.meta.author = reference.meta.description = reference.meta.pedigree = "DUMMY"
reference.meta.useafter = "2021-12-25T00:00:00"
reference.meta.exposure.type = "MIR_LRS-SLITLESS"
reference.save(sys.argv[1])
"""


@oracle
@pytest.mark.oracle
@pytest.mark.timeout(300)
def test_official_assign_wcs_runs_once_and_agrees(
    lrs: SimulatedExposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = tmp_path / "refs"
    refs.mkdir()
    path = specwcs(refs / "specwcs.fits")
    subprocess.run([official_python(), "-c", _REFERENCES, str(refs / "distortion.asdf")], check=True)
    monkeypatch.setenv("TSOSTREAM_WCS_PYTHON", official_python())
    monkeypatch.setenv("TSOSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    (exposure,) = find_exposures(lrs.segments)
    images, source, _, kept = official_wavelengths(exposure, refs)
    assert source.startswith("assign_wcs of jwst ")
    references = load_references({"specwcs": path}, exposure.info).references
    np.testing.assert_allclose(images[1], lrs_wavelengths(references["specwcs"], exposure.info), atol=1e-6)
    assert [kept] == [*(tmp_path / "cache" / "wavelengths").iterdir()]
    system = open_system(kept)
    assert system is not None
    np.testing.assert_allclose(system.wavelengths(), images[1], atol=1e-6)
    before = kept.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")
    again, *_ = official_wavelengths(exposure, refs)
    np.testing.assert_array_equal(again[1], images[1])
    assert kept.stat().st_mtime_ns == before


def test_a_failing_official_pipeline_is_a_note(
    lrs: SimulatedExposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSOSTREAM_WCS_PYTHON", "/bin/false")
    monkeypatch.setenv("TSOSTREAM_CACHE_DIR", str(tmp_path))
    (exposure,) = find_exposures(lrs.segments)
    found = find_wavelengths(Request(inputs=lrs.segments), exposure, {})
    assert not found.by_order
    assert any("assign_wcs of the official pipeline failed" in note for note in found.notes)
    assert any("NO WAVELENGTHS" in note for note in found.notes)


INFO = make_info("NRS_BRIGHTOBJ", ny=8, nx=20, xstart=5, ystart=11)


@pytest.mark.parametrize(
    ("one", "first"),
    [
        (WaveMap(np.arange(160.0).reshape(8, 20)), 0.0),
        (WaveMap(np.arange(2048.0 * 2048).reshape(2048, 2048)), 10 * 2048 + 4.0),
        (WaveMap(np.arange(40.0 * 16).reshape(16, 40), corner=(3, 9)), 2 * 40 + 2.0),
        (WaveMap(np.arange(2048.0)), 4.0),
        (WaveMap(np.arange(20.0)), 0.0),
    ],
)  # fmt: skip
def test_wavelengths_are_cut_to_the_frame(one: WaveMap, first: float) -> None:
    fitted = fit_to_frame(one, INFO, "x")
    assert fitted.shape in ((8, 20), (20,))
    assert fitted.ravel()[0] == first


def test_a_cutout_is_placed() -> None:
    fitted = fit_to_frame(WaveMap(np.ones((3, 10)), corner=(5, 11), window=(4, 2)), INFO, "x")
    assert np.isfinite(fitted).sum() == 30
    assert np.isfinite(fitted[1:4, 3:13]).all()


def test_wavelengths_of_elsewhere_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected"):
        fit_to_frame(WaveMap(np.ones((16, 40)), corner=(30, 9)), INFO, "x")
    with pytest.raises(ConfigError, match="expected"):
        fit_to_frame(WaveMap(np.ones((16, 40))), INFO, "x")

"""Steps of stages 2 and 3, each alone against jwst's on the same arrays, with every pathology.

What flat_field, photom, bkg_subtract, pixel_replace and wavecorr do is compared beside their own tests, extract_1d's
functions in ``test_extract_oracle.py``, whole chains in ``tests/run/test_golden_*.py``.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

import tsostream
import tsostream.testing
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate, Times
from tsostream.operators.base import Binding
from tsostream.operators.extract_2d import box_window, grism_window
from tsostream.operators.flat_field import FlatField
from tsostream.operators.outlier_detection import OutlierDetection
from tsostream.operators.photom import Photom
from tsostream.operators.srctype import Srctype
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.operators.window import run_blocks
from tsostream.references import load_references
from tsostream.testing.builders import make_info, make_rate, make_times
from tsostream.testing.oracle import official_python
from tsostream.testing.rate_oracle import RateCase, assert_parity, run_official_rates

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst"),
]


def copy(rate: Rate) -> Rate:
    arrays = ("data", "err", "dq", "var_poisson", "var_rnoise")
    flat = None if rate.var_flat is None else rate.var_flat.copy()
    return replace(rate, **{name: getattr(rate, name).copy() for name in arrays}, var_flat=flat)


def series(exp_type: str, seed: int, n: int, bad: float, *, synchronised: bool) -> tuple[ExposureInfo, Rate]:
    """Slopes with outliers, NaN and DO_NOT_USE, also one without the other."""
    info = make_info(exp_type, level="calints", ny=8, nx=12, nints=n, tsovisit=True)
    rng = np.random.default_rng(seed)
    flux = 1 + 0.02 * np.sin(np.arange(n))
    rate = make_rate(info, rng, n, flux=flux, bad=bad)
    hit = rng.random(rate.data.shape) < 0.02
    rate.data[hit] += (9 * rate.err[hit]).astype(np.float32)
    if not synchronised:
        rate.dq[rng.random(rate.data.shape) < bad] |= np.uint32(1)
        rate.data[rng.random(rate.data.shape) < bad] = np.nan
        for value in (np.nan, np.inf, 0.0):
            rate.err[rng.random(rate.data.shape) < 0.01] = value
    return info, rate


OUTLIERS = [
    # integrations, window, limit, share of bad samples, whether NaN and DO_NOT_USE go together
    (60, 25, "5.0 4.0", 0.01, True), (60, 25, "5.0 4.0", 0.03, False), (26, 25, "5.0 4.0", 0.01, False),
    (25, 25, "5.0 4.0", 0.03, False), (12, 25, "5.0 4.0", 0.03, False), (40, 6, "4.0 3.0", 0.01, False),
    (30, 2, "4.0 3.0", 0.01, False), (30, 1, "4.0 3.0", 0.01, False), (2, 25, "5.0 4.0", 0.0, True),
]  # fmt: skip


def test_outlier_detection() -> None:
    cases, results = [], []
    for number, (n, width, snr, bad, together) in enumerate(OUTLIERS):
        exp_type = ("NRS_BRIGHTOBJ", "NIS_SOSS", "NRC_TSIMAGE")[number % 3]
        info, rate = series(exp_type, number, n, bad, synchronised=together)
        cases.append(
            RateCase(
                "outlier_detection", info, copy(rate), parameters={"rolling_window_width": width, "snr": snr}
            )
        )
        step = OutlierDetection(
            scope="segment", rolling_window_width=width, snr=float(snr.split()[0]), set_nan=True
        ).bind(Binding(info, segments=((1, n),)))
        results.append(list(run_blocks(step, iter([rate]), n)))
    flagged = 0
    for case, blocks, official in zip(cases, results, run_official_rates(cases), strict=True):
        assert "error" not in official, official
        found = {
            name: np.concatenate([getattr(one, name) for one in blocks])
            for name in ("data", "err", "dq", "var_poisson", "var_rnoise")
        }
        np.testing.assert_array_equal(found["dq"], official["dq"], err_msg=str(case.parameters))
        for name, ours in found.items():
            np.testing.assert_array_equal(ours, official[name], err_msg=f"{name} {case.parameters}")
        flagged += int((official["dq"] & 16 > 0).sum())
    assert flagged > 100


def test_srctype() -> None:
    cases, expected = [], []
    kinds = ("NRS_BRIGHTOBJ", "NRC_TSGRISM", "NIS_SOSS", "MIR_LRS-SLITLESS")
    for exp_type, tso, background, apt, wanted in itertools.product(
        kinds, (True, False), (None, True), (None, "POINT", "EXTENDED", "UNKNOWN"), (None, "EXTENDED")
    ):
        if exp_type == "NIS_SOSS" and wanted is not None:
            continue  # the official step fails
        header = {"BKGDTARG": background, "SRCTYAPT": apt}
        info = make_info(
            exp_type, level="rateints", tsovisit=tso, nints=4, ny=6, nx=8,
            header={key: value for key, value in header.items() if value is not None},
        )  # fmt: skip
        rate = make_rate(info, np.random.default_rng(0), 2)
        meta = {"observation.bkgdtarg": background, "target.source_type_apt": apt}
        parameters = {} if wanted is None else {"source_type": wanted}
        cases.append(RateCase("srctype", info, rate, parameters=parameters, meta=meta))
        expected.append(Srctype(source_type=wanted).bind(Binding(info)).facts["SRCTYPE"])
    for case, ours, official in zip(cases, expected, run_official_rates(cases), strict=True):
        assert "error" not in official, (case.info.exp_type, official)
        assert ours == official["target.source_type"], (case.info.exp_type, case.meta, case.parameters)


def test_windows_of_extract_2d() -> None:
    info = make_info("NRC_TSGRISM", level="rateints", ny=256, nx=64, tsovisit=True)
    heights = [1, 2, 10, 33, 34, 64, 68, 70, 100, 256, 400]
    wide = RateCase(
        "extract_2d", info, make_rate(info, np.random.default_rng(0), 1), meta={"wcsinfo.siaf_yref_sci": 35.0}
    )
    cases: list[Any] = [{**wide.plain(), "height": height} for height in heights]
    ours = [grism_window(info, height) for height in heights]
    slit = make_info("NRS_BRIGHTOBJ", level="rateints", ny=32, nx=512, tsovisit=True)
    for bounds in (((-0.5, 511.5), (-0.5, 31.5)), ((9.5, 480.5), (3.5, 27.5)), ((0.2, 100.7), (4.49, 20.51))):
        cases.append({"step": "extract_2d", "bounds": bounds})
        ours.append(box_window(bounds, slit))
    for case, window, official in zip(cases, ours, run_official_rates(cases), strict=True):
        assert "error" not in official, official
        y0, y1, x0, x1 = official["window"]
        # the official upper row may lie beyond the frame, where slicing ends it
        expected = [y0, min(y1, 256), x0, x1]
        assert [window.y0, window.y1, window.x0, window.x1] == expected, case.get(
            "height", case.get("bounds")
        )


def images(
    seed: int, count: int, bad: float, x: float, y: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    yy, xx = np.indices((34, 36), dtype=float)
    place = rng.normal(0, 0.1, (count, 2))
    star = [np.exp(-0.5 * (((xx - x - a) / 1.6) ** 2 + ((yy - y - b) / 1.9) ** 2)) for a, b in place]
    data = (400 * np.array(star) + 6 + rng.normal(0, 0.7, (count, 34, 36))).astype(np.float32)
    error = rng.uniform(0.5, 1.5, data.shape).astype(np.float32)
    flags = (rng.random(data.shape) < bad).astype(np.uint32)
    data[rng.random(data.shape) < bad] = np.nan
    return data, error, flags


PHOTOMETRY: list[tuple[dict[str, Any], dict[str, Any], float]] = [
    ({}, {}, 0.0), ({}, {}, 0.03), ({"moving_centroid": True}, {}, 0.02), ({"centroid_source": False}, {}, 0.02),
    ({"radius": 6.5, "radius_inner": 8.0, "radius_outer": 12.5}, {}, 0.02),
    ({"search_box_width": 20, "fit_box_width": 8}, {}, 0.01), ({}, {"bunit": "MJy/sr"}, 0.01),
    ({}, {"pupil": "WLP8", "subarray": "SUB64P"}, 0.02),
]  # fmt: skip


def test_tso_photometry(tmp_path: Path) -> None:
    gain = tmp_path / "gain.fits"
    cases, results = [], []
    for number, (parameters, facts, bad) in enumerate(PHOTOMETRY):
        info = make_info("NRC_TSIMAGE", level="crfints", ny=34, nx=36, nints=5, tsovisit=True, **facts)
        header = {**info.header, "XREF_SCI": 19.0, "YREF_SCI": 17.0, "PIXAR_SR": 2e-13}
        info = replace(info, header=header, xstart=1, ystart=1)
        data, error, flags = images(number, 5, bad, 17.6, 16.3)
        rate = Rate(
            1, data, error, error**2, error**2, flags, Times(make_times(5).values, np.zeros(5, np.uint32))
        )
        unit = facts.get("bunit", "DN/s")
        meta = {"wcsinfo.siaf_xref_sci": 19.0, "wcsinfo.siaf_yref_sci": 17.0, "bunit_data": unit, "bunit_err": unit,
                "exposure.integration_time": info.integration_time, "photometry.pixelarea_steradians": 2e-13,
                "instrument.channel": "SHORT", "target.catalog_name": "T", "exposure.start_time": 60000.0,
                "exposure.integration_start": 1, "exposure.integration_end": 5,
                "int_times": rate.times.values}  # fmt: skip
        if number == 0:
            primary = fits.PrimaryHDU()
            primary.header.update(
                {"TELESCOP": "JWST", "REFTYPE": "GAIN", "INSTRUME": "NIRCAM", "DETECTOR": info.detector, "SUBSTRT1": 1,
                 "SUBSTRT2": 1, "SUBSIZE1": 36, "SUBSIZE2": 34, "DATAMODL": "GainModel", "FASTAXIS": info.fastaxis,
                 "SLOWAXIS": info.slowaxis}
            )  # fmt: skip
            plane = fits.ImageHDU(np.full((34, 36), 1.7, np.float32), name="SCI")
            fits.HDUList([primary, plane]).writeto(gain)
        references = load_references({"gain": gain}, replace(info, subarray="")).references
        cases.append(
            RateCase(
                "tso_photometry",
                info,
                copy(rate),
                parameters=parameters,
                references={"gain": gain},
                meta=meta,
            )
        )
        step = TsoPhotometry(scope="segment", **parameters).bind(Binding(info, references))
        results.append((step, step.push(rate)[0]))
    same = {"net_aperture_sum": "flux", "net_aperture_sum_err": "flux_err", "centroid_x": "x", "centroid_y": "y",
            "psf_width_x": "width_x", "psf_width_y": "width_y"}  # fmt: skip
    for case, (step, measured), official in zip(cases, results, run_official_rates(cases), strict=True):
        assert "error" not in official, (case.parameters, official)
        assert official["units"]["net_aperture_sum"].replace("electron", "e-") in (
            step.unit,
            "e-",
            "electron",
            "Jy",
        )
        compared = 0
        for name, theirs in official["columns"].items():
            ours = measured.extras.get(name, measured.columns.get(same.get(name, name)))
            if ours is None:
                assert name.endswith("_icrs") or name in ("MJD", "BJD_TDB"), name
                continue
            ours = np.asarray(ours)[:, 0]
            # in Jy the official Gaussian fit stops at once, where its gradient (1e-12) is smaller than its tolerance
            fit = 1e-3 if step.unit != "Jy" else 0.15
            kind = {"rtol": fit} if name.startswith("psf_") else {"rtol": 1e-6}
            if name.endswith(("_x", "_y")) and not name.startswith("psf_"):
                kind = {"rtol": 0.0, "atol": 1e-4}
            np.testing.assert_allclose(ours, theirs, err_msg=f"{name} {case.parameters}", **kind)
            compared += 1
        assert compared >= 8, case.parameters


def test_real_nirspec_references(shared: Path, tmp_path: Path) -> None:
    """The archive's fore-optics flat and conversion of the prism, read by both pipelines."""
    folder = shared / "data"
    info = make_info(
        "NRS_BRIGHTOBJ", filter="CLEAR", grating="PRISM", subarray="SUB512", ny=32, nx=512, level="rateints",
        detector="NRS1", xstart=1, ystart=1, tsovisit=True, nints=2,
    )  # fmt: skip
    wave = np.broadcast_to(np.linspace(0.5, 5.5, 512), (32, 512)).copy()
    wave[:, :3] = np.nan
    rng = np.random.default_rng(2)
    none = dict.fromkeys(("flat", "fflat", "sflat", "dflat"), "N/A")
    cases, results = [], []
    # jwst 3 wants a column of errors, which old files do not have
    fflat = tmp_path / "fflat.fits"
    with fits.open(folder / "nirspec_fflat_0017.fits") as hdus:
        table = hdus["FAST_VARIATION"]
        error = fits.Column("error", table.columns["data"].format, array=0.01 * table.data["data"])
        wide = fits.BinTableHDU.from_columns([*table.columns, error], name="FAST_VARIATION")
        fits.HDUList([hdus[0], wide]).writeto(fflat)
    rate = make_rate(info, rng, 2, bad=0.02)
    cases.append(RateCase("flat_field", info, copy(rate), wave, references={**none, "fflat": fflat}))
    references = load_references({"fflat": fflat}, info).references
    results += FlatField().bind(Binding(info, references, None, {"wavelength": {1: wave}})).push(rate)
    rate = make_rate(info, rng, 2, bad=0.02)
    photom = {"photom": folder / "nirspec_photom_0014.fits"}
    photom["area"] = tmp_path / "area.fits"
    slits = np.array([(b"S200A1", 0.02), (b"S1600A1", 0.01)], [("slit_id", "S15"), ("pixarea", "<f4")])
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "JWST", "REFTYPE": "AREA", "INSTRUME": "NIRSPEC", "DATAMODL": "NirspecSlitAreaModel"}
    )
    fits.HDUList([primary, fits.BinTableHDU(slits, name="AREA")]).writeto(photom["area"])
    # the table was made for the other detector, and serves both
    meta = {"instrument.detector": "NRS2"}
    conversion = RateCase("photom", info, copy(rate), wave, references=photom, meta=meta)
    found = run_official_rates([*cases, conversion])
    for result, official in zip(results, found, strict=False):
        assert "error" not in official, official
        assert_parity(result, official)
    step = Photom().bind(
        Binding(info, load_references(photom, info).references, None, {"wavelength": {1: wave}})
    )
    (ours,) = step.push(rate)
    assert "error" not in found[-1], found[-1]
    assert_parity(ours, found[-1])


OFFLINE = """
import runpy, sys, tempfile, warnings
from pathlib import Path
runpy.run_path(sys.argv.pop(1))["go_offline"](Path(tempfile.mkdtemp()) / "crds")
warnings.simplefilter("ignore")
"""


def ask(script: str, *words: str) -> None:
    """Let the official interpreter run a script."""
    helper = str(Path(tsostream.testing.__file__).with_name("official.py"))
    command = [official_python(), "-I", "-c", OFFLINE + script, helper, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


SOURCE = """
import json
import numpy as np
from astropy import coordinates as coord, units as u
from astropy.modeling.models import Mapping, Polynomial1D, Polynomial2D, Scale, Shift
from gwcs import coordinate_frames as cf, wcs
from stdatamodels.jwst import datamodels
from jwst.extract_1d import Extract1dStep
from jwst.extract_1d.source_location import location_from_wcs
source, folder, xpos, ypos, width = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
model = datamodels.open(source)
ny, nx = model.data.shape[-2:]
w0, w1 = 2.87, 5.14
dw, middle, scale, tilt = (w1 - w0) / (nx - 1), ny / 2 - 0.5, 6.0, 0.012
to_slit = Mapping((0, 0, 1, 0)) | Scale(0.0) & Polynomial2D(1, c0_0=-middle / scale, c1_0=-tilt / scale,
    c0_1=1 / scale) & Polynomial1D(1, c0=w0 * 1e-6, c1=dw * 1e-6)
x = Polynomial1D(1, c0=-w0 / dw, c1=1e6 / dw)
y = Polynomial2D(1, c0_0=middle - tilt * w0 / dw, c1_0=scale, c0_1=tilt * 1e6 / dw)
to_slit.inverse = Mapping((2, 1, 2)) | x & y
world = (Scale(1e-9) | Shift(217.3)) & (Scale(1e-5) | Shift(-3.4)) & Scale(1e6)
frames = [cf.Frame2D(name=name, axes_order=(0, 1), unit=(u.pix, u.pix)) for name in ("detector", "gwa")]
spec = cf.SpectralFrame(name="spectral", axes_order=(2,), unit=(u.micron,))
slit = cf.CoordinateFrame(3, ("SPATIAL",) * 3, (0, 1, 2), unit=(u.one,) * 3, name="slit_frame")
place = cf.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=coord.ICRS())
sky = cf.CompositeFrame([place, spec], name="world")
system = wcs.WCS([(frames[0], Scale(1.0) & Scale(1.0)), (frames[1], to_slit), (slit, world), (sky, None)])
system.bounding_box = ((1.5, nx - 2.5), (-0.5, ny - 0.5))
model.meta.wcs = system
model.source_xpos, model.source_ypos = xpos, ypos
model.meta.photometry.pixelarea_steradians = 2.35e-13
model.save(f"{folder}/jw01366003001_04101_00001-seg001_nrs1_calints.fits", overwrite=True)
model = datamodels.open(f"{folder}/jw01366003001_04101_00001-seg001_nrs1_calints.fits")
entry = dict(id="S1600A1", spectral_order=1, region_type="target", bkg_order=0, dispaxis=1, xstart=0, xstop=nx - 1,
             ystart=ny // 2 - 4, ystop=ny // 2 + 4, bkg_coeff=[[0.5], [2.5]])
if width != "none":
    entry["extract_width"] = float(width)
json.dump(dict(reftype="EXTRACT1D", instrument="NIRSPEC", telescope="JWST", apertures=[entry]),
          open(f"{folder}/extract1d.json", "w"))
middle, wave, location, trace = location_from_wcs(model, None)
json.dump([middle, location, [None if np.isnan(one) else one for one in trace]], open(f"{folder}/place.json", "w"))
none = {f"override_{name}": "N/A" for name in ("apcorr", "psf", "pastasoss", "specprofile", "speckernel")}
out = Extract1dStep.call(model, override_extract1d=f"{folder}/extract1d.json", apply_apcorr=False, **none)
out.save(f"{folder}/official_x1dints.fits")
"""


@pytest.mark.parametrize(
    ("xpos", "ypos", "width"), [(0.0, 0.21, "none"), (0.0, -0.13, "6.4"), (0.0, 0.0, "5")]
)
def test_the_aperture_follows_the_source(
    shared: Path, tmp_path: Path, xpos: float, ypos: float, width: str
) -> None:
    """NIRSpec's source is where the coordinate system puts SRCXPOS and SRCYPOS, as the official extraction has it."""
    pytest.importorskip("gwcs")
    pytest.importorskip("stdatamodels")
    (source,) = (shared / "golden_stage2" / "nrs_sub512_short").glob("*_crfints.fits.gz")
    ask(SOURCE, str(source), str(tmp_path), str(xpos), str(ypos), width)
    (calints,) = tmp_path.glob("*_calints.fits")
    from tsostream.files import open_system

    system = open_system(calints)
    assert system is not None
    place = system.source_place(xpos, ypos)
    assert place is not None
    middle, location, trace = json.loads((tmp_path / "place.json").read_text())
    assert place["pixel"] == middle
    assert place["location"] == pytest.approx(location, abs=1e-6)
    np.testing.assert_allclose(place["trace"], np.array(trace, float), atol=1e-6)
    (tmp_path / "out").mkdir()
    tsostream.process(
        calints, tmp_path / "out" / "lc.arrow", parity="jwst", products="x1dints", workers=1,
        overrides=f"extract1d={tmp_path / 'extract1d.json'}",
    )  # fmt: skip
    (made,) = (tmp_path / "out").glob("*_x1dints.fits")
    with fits.open(made) as ours, fits.open(tmp_path / "official_x1dints.fits") as theirs:
        a, b = ours["EXTRACT1D"], theirs["EXTRACT1D"]
        for name in ("WAVELENGTH", "FLUX", "FLUX_ERROR", "BACKGROUND", "NPIXELS", "SURF_BRIGHT"):
            slack = 1e-6 * np.nan_to_num(b.data["FLUX_ERROR"]) if name == "FLUX" else 0.0
            difference = np.abs(a.data[name] - b.data[name])
            np.testing.assert_array_equal(np.isnan(a.data[name]), np.isnan(b.data[name]), err_msg=name)
            assert not (
                np.nan_to_num(difference) > 1e-6 * np.nan_to_num(np.abs(b.data[name])) + slack + 1e-12
            ).any(), name
        for key in ("SLIT_RA", "SLIT_DEC", "SRCXPOS", "SRCYPOS"):
            assert a.header[key] == pytest.approx(b.header[key], abs=1e-9), key


WHITE = """
from stdatamodels.jwst import datamodels
from jwst.white_light import WhiteLightStep
model = datamodels.open(sys.argv[1])
limits = {name: float(value) for name, value in zip(("min_wavelength", "max_wavelength"), sys.argv[3:])}
table = WhiteLightStep.call(model, override_wavelengthrange="N/A", **limits)
table.write(sys.argv[2], format="ascii.ecsv", overwrite=True)
"""


@pytest.mark.parametrize("limits", [(), (3.0, 4.5)])
def test_white_light_of_our_own_spectra(shared: Path, tmp_path: Path, limits: tuple[float, ...]) -> None:
    """What jwst sums of our x1dints is our white light: NaN, repeated times, limits of wavelength."""
    folder = shared / "golden_stage2" / "nrs_sub512"
    (source,) = folder.glob("*_crfints.fits.gz")
    changed = tmp_path / source.name.removesuffix(".gz")
    with fits.open(source) as hdus:
        table = hdus["INT_TIMES"].data
        for name in ("int_mid_MJD_UTC", "int_mid_BJD_TDB"):
            table[name][7] = table[name][6]
        hdus["SCI"].data[3] = np.nan
        hdus.writeto(changed)
    names = ("min_wavelength", "max_wavelength")
    settings = tuple(f"white_light.{name}={value}" for name, value in zip(names, limits, strict=False))
    tsostream.process(
        changed, tmp_path / "lc.arrow", parity="jwst", products="x1dints,whtlt", workers=1,
        overrides=f"extract1d={folder / 'extract1d.json'}", settings=settings,
    )  # fmt: skip
    (spectra,), (white,) = tmp_path.glob("*_x1dints.fits"), tmp_path.glob("*_whtlt.ecsv")
    ask(WHITE, str(spectra), str(tmp_path / "official.ecsv"), *map(str, limits))
    ours, theirs = QTable.read(white), QTable.read(tmp_path / "official.ecsv")
    assert ours.colnames == theirs.colnames
    assert len(ours) == len(theirs)
    for name in theirs.colnames:
        a, b = (np.asarray(getattr(one[name], "value", one[name])) for one in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)

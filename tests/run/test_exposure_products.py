"""x1dints, whtlt and phot of whole runs: what the rows say, whatever the segments; names; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from run_helpers import Simulated, differences, light_curve, reduce

import tsostream
from tsostream.errors import ConfigError, OutputExistsError
from tsostream.simulate import SimulatedExposure

INTS = 24
KINDS = "x1dints,whtlt"


@pytest.fixture(scope="module")
def cut(simulated: Simulated) -> dict[int, SimulatedExposure]:
    """The same exposure as one and as three files."""
    return {files: simulated("NRS_BRIGHTOBJ", ints=INTS, segments=files, seed=2, nx=96) for files in (1, 3)}


@pytest.fixture(scope="module")
def made(cut: dict[int, SimulatedExposure], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reduce(cut[3], tmp_path_factory.mktemp("made") / "lc.arrow", products=KINDS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "jw" in path.name)


def test_rows_and_products_agree(made: Path) -> None:
    rows = light_curve(made)
    lc = tsostream.open(made)
    (white,) = made.parent.glob("*_whtlt.ecsv")
    table = QTable.read(white)
    assert table.colnames == [
        "MJD_UTC_NRS1",
        "BJD_TDB_NRS1",
        "whitelight_flux_NRS1",
        "whitelight_flux_err_NRS1",
    ]
    np.testing.assert_array_equal(table["whitelight_flux_NRS1"].value, rows["flux"])
    np.testing.assert_array_equal(table["whitelight_flux_err_NRS1"].value, rows["flux_err"])
    np.testing.assert_array_equal(table["BJD_TDB_NRS1"], rows["time_bmjd_tdb_mid"])
    assert table["whitelight_flux_NRS1"].unit == "electron"
    (spectra,) = made.parent.glob("*_x1dints.fits")
    with fits.open(spectra, uint=True) as hdus:
        hdus.verify("exception")
        data = hdus["EXTRACT1D"].data
        assert data["INT_NUM"].tolist() == list(range(1, INTS + 1))
        assert set(data["SEGMENT"]) == {1, 2, 3}
        np.testing.assert_array_equal(data["FLUX"].astype(np.float32), lc.spectra.array("flux"))
        np.testing.assert_array_equal(data["DQ"], lc.spectra.array("dq"))
        np.testing.assert_array_equal(data["WAVELENGTH"][3], lc.wavelength())
        np.testing.assert_array_equal(data["TDB-MID"], rows["time_bmjd_tdb_mid"])
        times = hdus["INT_TIMES"].data
        assert times["integration_number"].tolist() == list(range(1, INTS + 1))
        np.testing.assert_array_equal(times["int_mid_MJD_UTC"], rows["time_mjd_utc_mid"])
        header = hdus["EXTRACT1D"].header
        assert (header["SPORDER"], header["DISPAXIS"], header["DETECTOR"]) == (1, 1, "NRS1")
        primary = hdus[0].header
        assert (primary["INTSTART"], primary["INTEND"], primary["NINTS"]) == (1, INTS, INTS)
        assert "EXSEGNUM" not in primary
        assert primary["S_EXTR1D"] == "COMPLETE"
    assert set(lc.metadata["products"]) == {white.name, spectra.name}


def test_segments_and_blocks_do_not_matter(
    cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path
) -> None:
    out = reduce(cut[1], tmp_path / "lc.arrow", products=KINDS, block_bytes=1, workers=2)
    (one,), (other,) = (path.parent.glob("*_whtlt.ecsv") for path in (made, out))
    assert one.read_bytes() == other.read_bytes()
    (one,), (other,) = (path.parent.glob("*_x1dints.fits") for path in (made, out))
    with fits.open(one) as a, fits.open(other) as b:
        for name in a["EXTRACT1D"].columns.names:
            if name != "SEGMENT":
                np.testing.assert_array_equal(
                    a["EXTRACT1D"].data[name], b["EXTRACT1D"].data[name], err_msg=name
                )


def test_an_association_names_them(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    members = [{"expname": str(path), "exptype": "science"} for path in cut[3].segments]
    asn = tmp_path / "asn.json"
    asn.write_text(
        json.dumps({"asn_type": "tso3", "products": [{"name": "jw01366-o002_t001", "members": members}]})
    )
    reduce(cut[3], tmp_path / "lc.arrow", [asn], products=KINDS)
    assert names(tmp_path) == ["jw01366-o002_t001_whtlt.ecsv", "jw01366-o002_t001_x1dints.fits"]


@pytest.mark.parametrize("level", [2, 3])
def test_associations_of_both_levels_give_the_rows_of_their_files(
    cut: dict[int, SimulatedExposure], tmp_path: Path, level: int
) -> None:
    """Level 2: a product and its rateints for each segment. Level 3: one product of all calints."""
    suffix = {2: "rateints", 3: "calints"}[level]
    reduce(cut[3], tmp_path / "made.arrow", products=[suffix])
    paths = sorted(tmp_path.glob(f"*_{suffix}.fits"))
    assert len(paths) == 3
    direct = reduce(cut[3], tmp_path / "direct.arrow", paths)
    members = [{"expname": path.name, "exptype": "science"} for path in paths]
    products = [{"name": "jw01366-o002_t001", "members": members}]
    if level == 2:
        products = [{"name": path.stem, "members": [one]} for path, one in zip(paths, members, strict=True)]
    asn = tmp_path / "asn.json"
    asn.write_text(json.dumps({"asn_type": {2: "tso-spec2", 3: "tso3"}[level], "products": products}))
    out = tmp_path / "out"
    out.mkdir()
    found = reduce(cut[3], out / "lc.arrow", [asn], products=KINDS)
    assert differences(direct, found) == []
    exposure = tsostream.open(found).metadata["exposure"]["exposure_id"]
    root = "jw01366-o002_t001" if level == 3 else f"{exposure}_nrs1"
    assert names(out) == [f"{root}_whtlt.ecsv", f"{root}_x1dints.fits"]


def test_images_have_a_catalogue(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=12, segments=2, seed=3, nx=48, ny=48, groups=5)
    out = reduce(
        exposure, tmp_path / "lc.arrow", products="phot", settings=("tso_photometry.radius=[5,8,3]",)
    )
    lc = tsostream.open(out)
    table = lc.to_pandas()
    assert sorted(set(table["aperture"])) == [0, 1, 2]
    assert lc.metadata["aperture_radii"] == [5.0, 8.0, 3.0]
    first = table[table["aperture"] == 0]
    assert (table[table["aperture"] == 1]["flux"].to_numpy() > first["flux"].to_numpy()).all()
    curve = lc.metadata["growth_curve"]
    assert curve["flux"] == sorted(curve["flux"]) or min(np.diff(curve["flux"])) > -0.01
    assert len(curve["radius"]) == len(curve["snr"])
    (path,) = tmp_path.glob("*_phot.ecsv")
    phot = QTable.read(path)
    assert len(phot) == 12
    np.testing.assert_array_equal(phot["net_aperture_sum"].value, first["flux"])
    np.testing.assert_array_equal(phot["centroid_x"].value, first["x"])
    np.testing.assert_allclose((phot["aperture_sum"] - phot["aperture_bkg"]).value, first["flux"], rtol=1e-12)
    assert phot["net_aperture_sum"].unit == "electron"
    assert "r=5.0 pixels" in phot.meta["apertures"]


def test_a_weak_lens_that_fills_the_subarray(simulated: Simulated, tmp_path: Path) -> None:
    """All of it is summed; no pixel is without the star's light."""
    exposure = simulated("NRC_TSIMAGE", ints=12, seed=3, nx=64, ny=64, groups=3, pupil="WLP8")
    lc = tsostream.open(reduce(exposure, tmp_path / "lc.arrow", products="phot"))
    assert lc.metadata["whole_frame"] is True
    assert any("no background subtracted" in note for note in lc.metadata["measurement_notes"])
    (path,) = tmp_path.glob("*_phot.ecsv")
    phot = QTable.read(path)
    assert phot.meta["apertures"].startswith("Photometry measured as the sum of all values in the subarray")
    np.testing.assert_array_equal(phot["net_aperture_sum"], phot["aperture_sum"])
    assert (phot["net_aperture_sum"].value > 1e6).all()
    assert lc.export("phot", tmp_path / "again.ecsv").read_bytes() == path.read_bytes()


def test_products_of_another_kind_are_refused(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NRS_BRIGHTOBJ has no phot"):
        reduce(cut[1], tmp_path / "lc.arrow", products="phot")
    with pytest.raises(ConfigError, match="did you mean x1dints"):
        reduce(cut[1], tmp_path / "lc.arrow", products="x1dint")
    with pytest.raises(ConfigError, match="no pair of numbers"):
        reduce(cut[1], tmp_path / "lc.arrow", position="here")


def test_what_is_there_is_not_replaced(cut: dict[int, SimulatedExposure], made: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="_x1dints"):
        reduce(cut[1], tmp_path / "lc.arrow", products=KINDS, products_dir=made.parent)
    assert not (tmp_path / "lc.arrow").exists()

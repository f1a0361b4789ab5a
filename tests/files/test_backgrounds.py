"""Background exposures: found in an association, averaged, cut; what cannot be used is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tsostream.errors import InputError
from tsostream.files import load_association
from tsostream.files.backgrounds import average_background
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.testing.builders import make_info

INFO = make_info("MIR_LRS-SLITLESS", level="rateints", ny=12, nx=10, xstart=3, ystart=5)


def write(path: Path, data: np.ndarray, bits: np.ndarray | None = None, **header: Any) -> Path:
    head = fits.PrimaryHDU()
    head.header.update(DETECTOR="MIRIMAGE", **header)
    hdus = [head, fits.ImageHDU(data.astype("f4"), name="SCI")]
    hdus[1].header["BUNIT"] = header.get("BUNIT", "DN/s")
    if bits is not None:
        hdus.append(fits.ImageHDU(bits.astype("u4"), name="DQ"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_mean_without_outliers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(5, 0.1, (20, 12, 10))
    bits = np.zeros(data.shape, "u4")
    data[3, 4, 5], data[7, 4, 5], bits[3, 1, 1], bits[4, 1, 1] = 1e4, np.nan, 4, 2
    image, flags = average_background([write(tmp_path / "a.fits", data, bits)], INFO)
    expected = np.delete(data[:, 4, 5], [3, 7]).mean()
    assert image[4, 5] == pytest.approx(expected, rel=1e-6)
    assert flags[1, 1] == 6
    assert (image > 4.8).all()
    assert (image < 5.2).all()


def test_several_files_images_and_larger_frames(tmp_path: Path) -> None:
    whole = np.arange(20 * 18.0).reshape(20, 18)
    one = write(tmp_path / "a.fits", whole, SUBSTRT1=1, SUBSTRT2=1)
    two = write(tmp_path / "b.fits", whole[None] + 2, SUBSTRT1=1, SUBSTRT2=1)
    image, _ = average_background([one, two], INFO)
    np.testing.assert_allclose(image, whole[4:16, 2:12] + 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"SUBSTRT1": 4}, "does not cover the subarray"),
        ({"BUNIT": "MJy/sr"}, "its unit is MJy/sr, expected DN/s"),
    ],
)
def test_refusals_name_the_file(tmp_path: Path, change: dict, text: str) -> None:
    path = write(tmp_path / "bad.fits", np.ones((12, 10)), **{"SUBSTRT1": 3, "SUBSTRT2": 5, **change})
    with pytest.raises(InputError, match=text) as caught:
        average_background([path], INFO)
    assert "bad.fits" in str(caught.value)


def test_another_detector_and_no_fits(tmp_path: Path) -> None:
    other = ExposureInfo(
        **{**{name: getattr(INFO, name) for name in INFO.__dataclass_fields__}, "detector": "NRS1"}
    )
    path = write(tmp_path / "a.fits", np.ones((12, 10)))
    (tmp_path / "b.fits").write_text("no")
    with pytest.raises(InputError) as caught:
        average_background([path, tmp_path / "b.fits"], other)
    assert len(caught.value.problems) == 2


def test_members_of_an_association(tmp_path: Path) -> None:
    for name in ("s_rateints.fits", "b1_rateints.fits", "b2_rateints.fits.gz"):
        (tmp_path / name).write_bytes(b"")
    members = [("s_rateints.fits", "science"), ("b1_rateints.fits", "background"), ("b2_rateints.fits", "background"),
               ("t.fits", "target_acquisition")]  # fmt: skip
    content = {"products": [{"name": "p", "members": [{"expname": n, "exptype": k} for n, k in members]}]}
    path = tmp_path / "asn.json"
    path.write_text(json.dumps(content))
    found = load_association(path)
    assert [one.name for one in found.backgrounds] == ["b1_rateints.fits", "b2_rateints.fits.gz"]
    assert "1 members are not science exposures" in found.notes[0]

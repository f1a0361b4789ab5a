"""References of the flux calibration: what the simulator writes is found, fits, and opens in the official models."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tsostream.errors import ReferenceMismatchError
from tsostream.files import find_exposures
from tsostream.operators.base import Binding
from tsostream.operators.flat_field import FlatField
from tsostream.operators.photom import Photom
from tsostream.references import find_references, load_reference, load_references
from tsostream.simulate import simulate
from tsostream.testing.oracle import official_python

SMALL: dict[str, dict[str, Any]] = {
    "NRS_BRIGHTOBJ": {"nx": 64, "ny": 16},
    "NRC_TSGRISM": {"nx": 64, "ny": 16},
    "MIR_LRS-SLITLESS": {"ny": 64},
    "NRC_TSIMAGE": {"nx": 32, "ny": 32},
}
NIRSPEC = ("fflat", "sflat", "dflat")


@pytest.mark.parametrize("exp_type", SMALL)
def test_simulated_references_are_found_and_calibrate(exp_type: str, tmp_path: Path) -> None:
    exposure = simulate(exp_type, tmp_path, ints=1, groups=3, **SMALL[exp_type])
    (found,) = find_exposures(exposure.segments)
    info = dataclasses.replace(found.info, level="rateints", bunit="DN/s")
    wanted = [*(NIRSPEC if info.instrument == "NIRSPEC" else ("flat",)), "photom", "area"]
    chosen = find_references(info, wanted=wanted, refs_dir=tmp_path)
    assert chosen.missing == {}
    references = load_references(chosen.paths, info).references
    templates = {}
    if info.is_spectroscopy:
        templates["wavelength"] = {1: fits.getdata(exposure.references["wavelength"])}
    flat = FlatField().bind(Binding(info, references, None, templates))
    photom = Photom().bind(Binding(flat.info, references, flat.pixeldq, templates))
    assert not flat.skipped
    assert not photom.skipped
    assert (photom.pixeldq & 1).mean() < 0.05
    assert photom.info.bunit == ("MJy" if info.instrument == "NIRSPEC" else "MJy/sr")
    assert photom.facts["PIXAR_SR"] > 0
    # the product of the three factors is the detector's own flat
    if info.instrument == "NIRSPEC":
        own = fits.getdata(exposure.references["flat"])
        applied = flat.run.keywords["factor"]
        known = (flat.pixeldq & 1) == 0
        np.testing.assert_allclose(1 / applied[known], own[known], rtol=1e-5)


def test_a_window_is_cut_from_a_larger_reference() -> None:
    from tsostream.integration.reference import Reference
    from tsostream.testing.builders import make_info

    info = make_info("NRS_BRIGHTOBJ", xstart=11, ystart=21, nx=40, ny=20)
    image = np.arange(800.0).reshape(20, 40)
    one = Reference("dflat", "d.fits", {"SCI": image[None], "KERNEL": np.ones((3, 3))}, box=(11, 21, 40, 20))
    assert one.within(info) is one
    small = dataclasses.replace(info, xstart=13, ystart=24, nx=5, ny=4)
    cut = one.within(small)
    np.testing.assert_array_equal(cut.arrays["SCI"][0], image[3:7, 2:7])
    assert cut.arrays["KERNEL"].shape == (3, 3)
    assert cut.within(small) is cut
    outside = dataclasses.replace(info, xstart=1)
    assert one.within(outside) is one


def test_an_area_without_image_and_table_is_refused(tmp_path: Path) -> None:
    from tsostream.testing.builders import make_info

    head = fits.PrimaryHDU()
    head.header.update(REFTYPE="AREA", INSTRUME="NIRCAM", DETECTOR="NRCB1")
    fits.HDUList([head, fits.ImageHDU(name="OTHER")]).writeto(tmp_path / "a.fits")
    with pytest.raises(ReferenceMismatchError, match="needs the extension SCI or AREA"):
        load_reference(tmp_path / "a.fits", "area", make_info("NRC_TSIMAGE"), notes=[])


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_they_open_in_the_official_models(tmp_path: Path) -> None:
    paths = []
    for exp_type, options in SMALL.items():
        folder = tmp_path / exp_type
        folder.mkdir()
        exposure = simulate(exp_type, folder, ints=1, groups=3, **options)
        paths += [
            str(path)
            for kind, path in exposure.references.items()
            if kind in (*NIRSPEC, "photom", "area", "flat")
        ]
    script = (
        "import sys, json, warnings; warnings.simplefilter('error', UserWarning)\n"
        "from stdatamodels.jwst import datamodels\n"
        "found = {}\n"
        "for path in sys.argv[1:]:\n"
        "    with datamodels.open(path) as model:\n"
        "        model.validate(); found[path] = type(model).__name__\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [official_python(), "-I", "-c", script, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for path in paths:
        assert found[path] == fits.getheader(path)["DATAMODL"], path

"""Slopes to calibrated slopes, against what the official flat_field and photom made of the shared exposures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tsostream.files import find_exposures, wavelength_image
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding
from tsostream.operators.flat_field import FlatField
from tsostream.operators.photom import Photom
from tsostream.references import find_references, load_references
from tsostream.testing.builders import make_times
from tsostream.testing.rate_oracle import assert_parity

pytestmark = pytest.mark.oracle

CASES = ["nrs_sub512", "nrs_sub512_short", "nrc_subgrism64", "miri_slitless", "nrc_sub64p", "miri_sub64"]


def planes(path: Path) -> dict[str, np.ndarray]:
    with fits.open(path) as hdus:
        names = {"data": "SCI", "err": "ERR", "dq": "DQ", "var_poisson": "VAR_POISSON", "var_rnoise": "VAR_RNOISE",
                 "var_flat": "VAR_FLAT"}  # fmt: skip
        kind = {"dq": np.uint32}
        return {
            key: np.array(hdus[name].data, kind.get(key, np.float32))
            for key, name in names.items()
            if name in hdus
        }


def block(path: Path) -> Rate:
    arrays = planes(path)
    return Rate(1, **arrays, times=make_times(len(arrays["data"])))


@pytest.mark.parametrize("name", CASES)
def test_rateints_to_calints(shared: Path, name: str) -> None:
    folder = shared / "golden_stage2" / name
    (source,), (target,) = (list(folder.glob(f"*_{level}.fits.gz")) for level in ("rateints", "calints"))
    (exposure,) = find_exposures([source])
    info: ExposureInfo = replace(exposure.info, tsovisit=True)
    steps = [Photom()] if info.instrument == "NIRSPEC" else [FlatField(), Photom()]
    wanted = [kind for step in steps for kinds in step.wants(info) for kind in kinds]
    found = find_references(info, wanted=wanted, refs_dir=folder)
    assert {*found.missing} <= {"area"}, found.missing
    references = load_references(found.paths, info).references
    templates: dict[str, Any] = {"wavelength": wavelength_image(target)} if info.is_spectroscopy else {}
    rate, pixeldq = block(source), None
    facts: dict[str, Any] = {}
    for step in steps:
        bound = step.bind(Binding(info, references, pixeldq, templates))
        assert not bound.skipped
        (rate,) = bound.push(rate)
        info, pixeldq = bound.info, bound.pixeldq
        facts |= bound.facts
    assert_parity(rate, planes(target))
    header = fits.getheader(target, "SCI")
    assert info.bunit == header["BUNIT"]
    for key, value in facts.items():
        assert value == pytest.approx(header[key], rel=1e-6), key

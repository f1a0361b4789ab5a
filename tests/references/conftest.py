"""Tiny references in CRDS format, and the exposures they are for."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo

NIRSPEC = {
    "exposure_id": "jw01366003001_04101_00001",
    "instrument": "NIRSPEC",
    "detector": "NRS1",
    "exp_type": "NRS_BRIGHTOBJ",
    "level": "uncal",
    "subarray": "SUB512",
    "xstart": 1025,
    "ystart": 957,
    "nx": 24,
    "ny": 6,
    "fastaxis": 2,
    "slowaxis": 1,
    "nints": 10,
    "ngroups": 5,
    "readpatt": "NRSRAPID",
    "filter": "CLEAR",
    "grating": "PRISM",
    "frame_time": 0.22616,
}
MIRI = NIRSPEC | {
    "instrument": "MIRI",
    "detector": "MIRIMAGE",
    "exp_type": "MIR_LRS-SLITLESS",
    "subarray": "SLITLESSPRISM",
    "xstart": 1,
    "ystart": 529,
    "nx": 12,
    "ny": 8,
    "fastaxis": 1,
    "slowaxis": 2,
    "readpatt": "FASTR1",
    "filter": "P750L",
    "grating": "",
    "frame_time": 0.159,
}


@pytest.fixture
def make_info() -> Callable[..., ExposureInfo]:
    """Give an exposure; keyword arguments change it."""

    def make(base: dict[str, Any] | None = None, **changes: Any) -> ExposureInfo:
        return ExposureInfo(**{**(base or NIRSPEC), **changes})

    return make


@pytest.fixture
def info(make_info) -> ExposureInfo:
    return make_info()


@pytest.fixture
def miri(make_info) -> ExposureInfo:
    return make_info(MIRI)


@pytest.fixture
def write(tmp_path, info):
    """Write a reference: ``write("dark", {"SCI": array}, {"NGROUPS": 5}, name=..., dq_def=[(value, name)])``.

    The keywords are those of the subarray of `info`; a keyword of None is left out.
    """

    def make(
        reftype: str,
        arrays: dict[str, np.ndarray] | None = None,
        keywords: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        dq_def: list[tuple[int, str]] | None = None,
        of: ExposureInfo = info,
        bunit: str | None = None,
        extra: list[Any] | None = None,
    ) -> Path:
        header = {
            "TELESCOP": "JWST",
            "REFTYPE": reftype.upper(),
            "INSTRUME": of.instrument,
            "DETECTOR": of.detector,
            "SUBARRAY": of.subarray,
            "SUBSTRT1": of.xstart,
            "SUBSTRT2": of.ystart,
            "SUBSIZE1": of.nx,
            "SUBSIZE2": of.ny,
        } | (keywords or {})
        primary = fits.PrimaryHDU()
        for key, value in header.items():
            if value is not None:
                primary.header[key] = value
        hdus = fits.HDUList([primary])
        for key, array in (arrays or {}).items():
            hdus.append(fits.ImageHDU(array, name=key))
            if bunit and key != "DQ":
                hdus[-1].header["BUNIT"] = bunit
        if dq_def is not None:
            table = np.array(
                [(i, value, text, "") for i, (value, text) in enumerate(dq_def)],
                dtype=[("BIT", "i4"), ("VALUE", "u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")],
            )
            hdus.append(fits.BinTableHDU(table, name="DQ_DEF"))
        for hdu in extra or []:
            hdus.append(hdu)
        path = tmp_path / (name or f"{reftype}.fits")
        if path.name.endswith(".gz"):
            plain = tmp_path / "plain.tmp"
            hdus.writeto(plain, overwrite=True)
            path.write_bytes(gzip.compress(plain.read_bytes(), 1))
            plain.unlink()
        else:
            hdus.writeto(path, overwrite=True)
        return path

    return make


@pytest.fixture
def standard_bits() -> list[tuple[int, str]]:
    return [(value, name) for name, value in dq.BITS.items()]


@pytest.fixture
def image(info) -> np.ndarray:
    """A plane of the subarray with a different number in every pixel."""
    return np.arange(info.ny * info.nx, dtype=np.float32).reshape(info.ny, info.nx)


@pytest.fixture
def refused():
    """Call a function that must be refused, and give the one text of the error."""
    from tsostream.errors import ReferenceMismatchError

    def call(function, *args, **kwargs) -> str:
        with pytest.raises(ReferenceMismatchError) as caught:
            function(*args, **kwargs)
        return str(caught.value)

    return call

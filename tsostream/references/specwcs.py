"""Wavelengths of MIRI LRS slitless spectra from the SPECWCS table (spec stages 2-3, B.1)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["barycentric_factor", "lrs_wavelengths", "read_specwcs"]

#: [m/s]
LIGHT = 299792458.0
#: the smoothing of the official pipeline
SMOOTHING = 0.002
#: light-blind columns at the left edge of the slitless subarray
BLIND = 4

_COLUMNS = ("wavelength", "y_center", "y0", "y2")


def read_specwcs(path: Path) -> tuple[dict[str, npt.NDArray], dict[str, Any]]:
    """Read the table of a MIRI LRS SPECWCS reference; of other instruments' (ASDF) nothing.

    Raises
    ------
    OSError, ValueError
        When it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(5) == b"#ASDF":
            return {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as hdus:
            keywords = {
                name: hdus[0].header[name] for name in ("IMXSLTL", "IMYSLTL") if name in hdus[0].header
            }
            for hdu in hdus[1:]:
                names = [name.lower() for name in getattr(hdu.data, "names", None) or ()]
                if set(_COLUMNS) <= set(names):
                    for name in ("IMXSLTL", "IMYSLTL"):
                        keywords.setdefault(name, hdu.header.get(name))
                    return {name: np.array(hdu.data[name], np.float64) for name in _COLUMNS}, keywords
    return {}, keywords


def barycentric_factor(info: ExposureInfo) -> float:
    """Factor that takes wavelengths to the barycentre, ``1 / (1 + VELOSYS / c)``; 1 where VELOSYS is unknown."""
    velocity = info.header.get("VELOSYS")
    if not isinstance(velocity, int | float) or isinstance(velocity, bool) or not np.isfinite(velocity):
        return 1.0
    return 1.0 / (1.0 + velocity / LIGHT)


def lrs_wavelengths(reference: Reference, info: ExposureInfo) -> npt.NDArray[np.float64]:
    """Wavelength of each pixel of a slitless LRS exposure.

    Parameters
    ----------
    reference
        SPECWCS.
    info
        The exposure; SUBSTRT1/2 and VELOSYS are used.

    Returns
    -------
    wavelength : float64 [y, x]
        [µm], barycentric; NaN outside the table.

    Raises
    ------
    ReferenceMismatchError
        When the reference is not one of MIRI LRS.
    """
    keys, table = reference.keywords, reference.arrays
    if "wavelength" not in table or not isinstance(keys.get("IMYSLTL"), int | float):
        raise ReferenceMismatchError(
            Problem("there is no table of wavelengths with IMYSLTL", reference.path or reference.name,
                    "give a SPECWCS reference of MIRI LRS", "specwcs")
        )  # fmt: skip
    zero = float(keys["IMYSLTL"]) - 1 - (info.ystart - 1)
    row = table["y_center"] + zero
    order = np.argsort(row)
    row, wave = row[order], table["wavelength"][order]
    # only one mode needs it, and it takes a fifth of a second to load
    from scipy.interpolate import UnivariateSpline

    smooth = UnivariateSpline(row, wave, s=SMOOTHING)(row)
    y = np.arange(info.ny, dtype=np.float64)
    column = np.interp(y, row, smooth, left=np.nan, right=np.nan) * barycentric_factor(info)
    low = np.floor(table["y2"].min() + zero) - 0.5
    high = np.ceil(table["y0"].max() + zero) + 0.5
    column[(y < low) | (y > high)] = np.nan
    image = np.repeat(column[:, None], info.nx, axis=1)
    # the official bounding box: the subarray's first column plus four, in subarray coordinates
    image[:, : max(0, info.xstart - 1 + BLIND)] = np.nan
    return image

"""Masks and flags that the user gives as image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from tsostream.errors import InputError, Problem

__all__ = ["read_flags", "read_mask"]


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask: of SCI, or of the first extension that is an image, or of the primary.

    Returns
    -------
    mask : bool [y, x] or [integration, y, x]
        True where the file is not 0.

    Raises
    ------
    InputError
        There is no such file, or no image in it.
    """
    return np.ascontiguousarray(np.nan_to_num(_read_image(Path(path), "SCI", (2, 3))) != 0)


def read_flags(path: str | Path) -> np.ndarray:
    """Read DQ flags: of DQ, or of the first image there is.

    Returns
    -------
    flags : uint32 [y, x]

    Raises
    ------
    InputError
        There is no such file, or no image of whole numbers in it.
    """
    data = _read_image(Path(path), "DQ", (2,))
    if not np.issubdtype(data.dtype, np.integer):
        what = f"holds an image of {data.dtype.name}, and flags are whole numbers"
        raise InputError(Problem(what, str(path), "give flags as integers", "mask"))
    return np.ascontiguousarray(data.astype(np.uint32))


def _read_image(path: Path, name: str, axes: tuple[int, ...]) -> np.ndarray:
    """Read the extension of a name, or the first image there is, with one of these numbers of axes."""
    place = path.expanduser()
    try:
        with fits.open(place) as hdus:
            names = [hdu.name for hdu in hdus]
            chosen = [hdus[name]] if name in names else list(hdus)
            images = [hdu for hdu in chosen if hdu.is_image and hdu.header.get("NAXIS", 0) in axes]
            if not images:
                raise InputError(Problem("holds no image", str(place), "give a mask as a FITS image", "mask"))
            return np.asarray(images[0].data)
    except (OSError, ValueError, TypeError) as error:  # the last two: shorter than its header says
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InputError(Problem(what, str(place), "give a mask as a FITS image", "mask")) from None

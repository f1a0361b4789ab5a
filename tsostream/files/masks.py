"""A mask that the user gives as an image file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from tsostream.errors import InputError, Problem

__all__ = ["read_mask"]


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
    place = Path(path).expanduser()
    try:
        with fits.open(place) as hdus:
            names = [hdu.name for hdu in hdus]
            chosen = [hdus["SCI"]] if "SCI" in names else list(hdus)
            images = [hdu for hdu in chosen if hdu.is_image and hdu.header.get("NAXIS", 0) in (2, 3)]
            if not images:
                raise InputError(Problem("holds no image", str(place), "give a mask as a FITS image", "mask"))
            data = np.asarray(images[0].data)
    except (OSError, ValueError, TypeError) as error:  # the last two: shorter than its header says
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InputError(Problem(what, str(place), "give a mask as a FITS image", "mask")) from None
    return np.ascontiguousarray(np.nan_to_num(data) != 0)

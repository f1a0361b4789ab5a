"""The mean of background exposures, which an association names beside the science (spec stages 2-3, B.7)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import InputError, Problem
from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["average_background"]

#: rows of all integrations of a file that are held at once [bytes]
_BAND_BYTES = 32 << 20


def average_background(
    paths: Sequence[Path], info: ExposureInfo, *, sigma: float = 3.0, maxiters: int | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32]]:
    """Average background exposures: over their integrations, then over the exposures, both sigma-clipped.

    Parameters
    ----------
    paths
        rate or rateints files of the same detector, in DN/s, of the subarray or a larger one.
    info
        The exposure they are subtracted from.
    sigma, maxiters
        Values further than so many standard deviations from the median are left out, again and again; maxiters None:
        until nothing changes.

    Returns
    -------
    image : float32 [y, x]
        Mean background [DN/s]; 0 where nothing is known.
    bits : uint32 [y, x]
        All DQ bits of all integrations.

    Raises
    ------
    InputError
        With every file that cannot be read or does not cover the subarray.
    """
    problems: list[Problem] = []
    images = np.full((len(paths), *info.frame_shape), np.nan)
    bits = np.zeros(info.frame_shape, np.uint32)
    for index, path in enumerate(paths):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with fits.open(path, memmap=False) as hdus:
                    _add(hdus, info, images[index], bits, sigma, maxiters)
        except (OSError, ValueError, KeyError) as error:
            what = f"this background exposure cannot be used ({error})"
            problems.append(
                Problem(what, str(path), "give a rate or rateints file of this detector", "background")
            )
    if problems:
        raise InputError(problems)
    return _clipped_mean(images, sigma, maxiters).astype(np.float32), bits


def _add(
    hdus: fits.HDUList,
    info: ExposureInfo,
    image: npt.NDArray[np.float64],
    bits: npt.NDArray[np.uint32],
    sigma: float,
    maxiters: int | None,
) -> None:
    """Put the mean of one file into the image, and its DQ into the bits, a band of rows at a time."""
    head, data = hdus[0].header, hdus["SCI"]
    if str(head.get("DETECTOR", info.detector)).strip() != info.detector:
        raise ValueError(f"DETECTOR is {head['DETECTOR']}, the exposure's {info.detector}")
    unit = str(data.header.get("BUNIT", "DN/s")).strip()
    if unit != "DN/s":
        raise ValueError(f"its unit is {unit}, expected DN/s")
    *planes, ny, nx = data.shape
    y0 = info.ystart - int(head.get("SUBSTRT2", info.ystart))
    x0 = info.xstart - int(head.get("SUBSTRT1", info.xstart))
    if min(y0, x0) < 0 or y0 + info.ny > ny or x0 + info.nx > nx or len(planes) > 1:
        raise ValueError(f"its array {data.shape} does not cover the subarray {info.frame_shape}")
    count = planes[0] if planes else 1
    columns = slice(x0, x0 + info.nx)
    rows = max(1, _BAND_BYTES // max(1, count * nx * 8))
    flags: Any = next((hdu for hdu in hdus if hdu.name == "DQ"), None)
    for low in range(0, info.ny, rows):
        high = min(low + rows, info.ny)
        part: Any = (slice(y0 + low, y0 + high), slice(None))
        part = (slice(None), *part) if planes else part
        band = np.asarray(data.section[part], np.float64).reshape(count, high - low, nx)[..., columns]
        image[low:high] = _clipped_mean(band, sigma, maxiters)
        if flags is not None:
            words = (
                np.asarray(flags.section[part]).astype(np.uint32).reshape(count, high - low, nx)[..., columns]
            )
            bits[low:high] |= np.bitwise_or.reduce(words, axis=0)


def _clipped_mean(values: npt.NDArray, sigma: float, maxiters: int | None) -> npt.NDArray[np.float64]:
    """Mean over the first axis without outliers; 0 where nothing is left."""
    from astropy.stats import sigma_clip  # loads tables and models, which few runs need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clipped = sigma_clip(values, sigma=sigma, maxiters=maxiters, axis=0, copy=True)
        return np.ma.filled(np.ma.mean(clipped, axis=0), 0.0)

"""Effective time of each wavelength relative to the row's mid time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.readout import read_times

__all__ = ["effective_times"]


def effective_times(info: ExposureInfo, extract: Any, cut: ExposureInfo | None = None) -> np.ndarray:
    """Read time of each column, weighted by the profile in its aperture, less half a frame (spec stages 2-3, G.3).

    Parameters
    ----------
    info
        The exposure.
    extract
        The bound extraction.
    cut
        The part of the frame it works on; default the whole.

    Returns
    -------
    dt_eff_s : float64 [column]
        [s]; positive where the detector reads later than mid-frame. NaN for columns without aperture.
    """
    aperture = extract.aperture
    cut = cut or info
    top, left = cut.ystart - info.ystart, cut.xstart - info.xstart
    tau = read_times(info)[top : top + cut.ny, left : left + cut.nx].ravel()
    column = np.repeat(np.arange(aperture.start.size - 1), np.diff(aperture.start))
    weight = np.clip(aperture.weight * aperture.shape[:, 0], 0.0, None)
    length = aperture.start.size - 1
    total = np.bincount(column, weight, length)
    # columns without flux: the plain mean of their aperture
    weight = np.where(total[column] > 0, weight, aperture.weight)
    total = np.bincount(column, weight, length)
    mean = np.bincount(column, weight * tau[aperture.pixel], length) / np.where(total > 0, total, np.nan)
    return mean - info.frame_time / 2

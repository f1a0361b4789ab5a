"""From the unit of the slopes to the unit of the rows."""

from __future__ import annotations

import numpy as np

from tsostream.operators.base import Binding, reference_array

__all__ = ["flux_scale_map"]


def flux_scale_map(binding: Binding) -> tuple[np.ndarray, str]:
    """Factor per pixel that turns slopes into the rows' flux, and its unit.

    Electrons where the gain is known and the slopes are DN/s: gain x effective integration time (EFFINTTM), as
    the official time-series photometry does. Jy where the slopes are calibrated (MJy, or MJy/sr with the size of a
    pixel in PIXAR_SR). Else the unit of the file.

    Returns
    -------
    scale : float32 [y, x]
        NaN where the gain is not usable.
    unit : str
        Unit of the flux.
    """
    info = binding.info
    unit = info.bunit or "DN/s"
    bare = unit.replace(" ", "")
    area = info.header.get("PIXAR_SR")
    if bare == "MJy":
        return np.full(info.frame_shape, 1e6, np.float32), "Jy"
    if bare == "MJy/sr" and isinstance(area, int | float) and area > 0:
        return np.full(info.frame_shape, 1e6 * area, np.float32), "Jy"
    gain = binding.references.get("gain")
    if gain is None or bare not in ("DN/s", "DN"):
        return np.ones(info.frame_shape, np.float32), unit
    values = reference_array(gain, "SCI", info.frame_shape, "extract_1d")
    time = info.integration_time or info.group_time * max(info.ngroups, 1)
    return np.where(values > 0, values * np.float32(time), np.nan).astype(np.float32), "electron"

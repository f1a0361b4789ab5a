"""From the unit of the slopes to the unit of the rows."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, reference_array

__all__ = ["flux_scale_map", "note_lost"]


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


def note_lost(binding: Binding, weight: np.ndarray) -> tuple[str, ...]:
    """Say how many pixels of an aperture have no slope in the scout's template though nothing else is wrong with them.

    They saturate too early for a slope. The official pipeline leaves them out as well, and says nothing.

    Parameters
    ----------
    binding
        What the step was bound with.
    weight : float64 [y, x]
        Share of each pixel in the aperture.
    """
    never = np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL | dq.NON_SCIENCE)
    lost = ~np.isfinite(binding.templates["image"]) & ((binding.dq_plane & never) == 0) & (weight > 0)
    count = int(lost.sum())
    if not count:
        return ()
    are = "pixel of the source aperture has" if count == 1 else "pixels of the source aperture have"
    what = (
        f"{count} {are} no slope in any integration of the scout, as happens where the first groups saturate: "
        "their light is missing from the flux, which only tells relative changes"
    )
    return (what,)

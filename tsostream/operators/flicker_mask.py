"""Which pixels clean_flicker_noise takes for background (stage 1, section 17.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.flicker import SIGMA, clip_limits
from tsostream.operators.ranks import clipped_stretch, sums_of_squares
from tsostream.operators.soss.geometry import soss_traces

__all__ = ["check_user_mask", "outside_science", "scene_mask"]

#: bins of the histogram a Gaussian is fitted to, and how far it reaches [sigma]
BINS, REACH = 2000, 4.0
#: pixels on either side of a SOSS trace that belong to it
HALF_WIDTH = 16


def scene_mask(
    image: np.ndarray, n_sigma: float, allowed: np.ndarray | None = None, *, fit_histogram: bool = False
) -> np.ndarray:
    """Find the pixels without signal.

    Parameters
    ----------
    image : float32 [y, x]
        Slopes [DN/s].
    n_sigma
        Pixels further above the median are signal [sigma]; 0: all are background.
    allowed : bool [y, x]
        Only these can be background.
    fit_histogram
        Take centre and width from a Gaussian fitted to the histogram of the values.

    Returns
    -------
    mask : bool [y, x]
        True where there is background only; NaN and exact zeros are no data.
    """
    mask = np.isfinite(image) & (image != 0)
    if allowed is not None:
        mask &= allowed
    count = int(mask.sum())
    if n_sigma > 0 and count:
        values = np.sort(image[mask].astype(np.float32))
        if fit_histogram:
            centre, width = _gaussian(values)
            low, high = centre - SIGMA * width, centre + n_sigma * width
        else:
            work = np.empty(count + 1), np.empty(count + 1)
            low, high = clip_limits(values, 0, count, SIGMA, float(n_sigma), False, *work)
        with np.errstate(invalid="ignore"):
            mask &= (image >= low) & (image <= high)
    return np.ascontiguousarray(mask)


def _gaussian(values: np.ndarray) -> tuple[float, float]:
    """Centre and width of sorted values: of a Gaussian, or of what clipping leaves where that cannot be fitted."""
    from scipy.optimize import curve_fit

    count, zero = len(values), float(values[len(values) // 2])
    sums, squares = np.empty(count + 1), np.empty(count + 1)
    sums_of_squares(values, 0, count, zero, sums, squares)
    first, last, _, width = clipped_stretch(values, 0, count, SIGMA, zero, sums, squares)
    wide = values.astype(np.float64)
    centre = float(wide[first:last].mean())
    if not width > 0:
        return centre, float(width)
    limits = (centre - REACH * width, centre + REACH * width)
    heights, edges = np.histogram(wide, bins=BINS, range=limits)
    places = (edges[1:] + edges[:-1]) / 2.0
    top = int(np.argmax(heights))

    def shape(x: np.ndarray, height: float, middle: float, sigma: float) -> np.ndarray:
        return np.asarray(height * np.exp(-0.5 * ((x - middle) / sigma) ** 2))

    bounds = ([0, places[0], 0], [np.inf, places[-1], places[-1] - places[0]])
    try:
        found, _ = curve_fit(shape, places, heights, p0=(heights[top], places[top], width), bounds=bounds)
    except RuntimeError:
        return centre, float(width)
    return float(found[1]), float(found[2])


def outside_science(
    info: ExposureInfo, plane: np.ndarray, references: Mapping[str, Reference], slit: Mapping[str, Any]
) -> np.ndarray:
    """Find the pixels outside the regions that are known to hold science; all of them where none is known.

    Parameters
    ----------
    info
        The exposure.
    plane : uint32 [y, x]
        Static DQ plane.
    references
        ``pastasoss`` or ``spectrace`` of SOSS, ``flat`` of MIRI.
    slit
        Window of NIRSpec's slit, ``SLTSTRT1/2`` (1-based) and ``SLTSIZE1/2``.

    Returns
    -------
    allowed : bool [y, x]

    Raises
    ------
    ConfigError
        The region is not known.
    """
    allowed = np.ones(info.frame_shape, bool)
    if info.exp_type.startswith("NRS"):
        names = ("SLTSTRT1", "SLTSTRT2", "SLTSIZE1", "SLTSIZE2")
        if not all(isinstance(slit.get(name), int | float) for name in names):
            raise _unknown("the window of the slit", "give --wavelengths CALINTS, or install tsostream[jwst]")
        x, y, nx, ny = (int(slit[name]) for name in names)
        allowed[max(y - 1, 0) : y - 1 + ny, max(x - 1, 0) : x - 1 + nx] = False
        allowed &= (plane & np.uint32(dq.MSA_FAILED_OPEN)) == 0
    elif info.exp_type == "NIS_SOSS":
        traces = soss_traces(references, info)
        if not traces:
            raise _unknown("where the traces are", "give a pastasoss reference with --refs or --override")
        rows = np.arange(info.ny)[:, None]
        for trace in traces.values():
            centre = np.interp(np.arange(info.nx), trace.x, trace.y)
            allowed &= (rows < np.floor(centre - HALF_WIDTH)) | (rows > np.ceil(centre + HALF_WIDTH))
    elif info.exp_type == "MIR_IMAGE":
        bits = plane
        if "flat" in references:
            bits = bits | references["flat"].arrays.get("DQ", np.zeros(info.frame_shape, np.uint32))
        allowed &= (bits & np.uint32(dq.DO_NOT_USE | dq.NON_SCIENCE)) == 0
    return allowed


def _unknown(what: str, todo: str) -> ConfigError:
    return ConfigError(
        Problem(f"clean_flicker_noise.mask_science_regions: {what} is not known", todo=todo, code="parameter")
    )


def check_user_mask(mask: np.ndarray, info: ExposureInfo, path: str) -> np.ndarray:
    """Check the user's mask, and take it as it is meant: True, or not 0, is background.

    Parameters
    ----------
    mask : [y, x] or [integration, y, x]
        One for all integrations, or one for each of the exposure.

    Raises
    ------
    ConfigError
        It has another shape.
    """
    shapes = ((*info.frame_shape,), (info.nints, *info.frame_shape))
    if mask.shape not in shapes:
        what = f"user_mask has shape {mask.shape}, the exposure {shapes[0]} (or {shapes[1]})"
        raise ConfigError(Problem(what, path, "give a mask of this subarray", "parameter"))
    return np.ascontiguousarray(mask.astype(bool))

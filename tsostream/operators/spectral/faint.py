"""Profiles of columns that have hardly any light: those of their neighbours (numpy and scipy, once per exposure).

The profile of a column is that of the scout's template. Where the template holds noise alone, so would the profile, and
a fit of it would follow that noise, or find nothing at all where the sum happens to be negative. The neighbours along
the trace are brighter and have nearly the same profile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.operators.aperture import geometry
from tsostream.operators.smoothing import gaussian

__all__ = ["FaintProfile", "faint_profile"]

#: a column has a profile of its own when its light in the template is so many times its error
OWN = 5.0
#: over how many columns neighbours are averaged [px]: as few as it takes
REACHES = (8.0, 32.0, 128.0, 512.0)


@dataclass(frozen=True)
class FaintProfile:
    """Profiles of the columns that have none of their own.

    Parameters
    ----------
    columns : bool [disp]
        Which they are.
    shape : float64 [term, cross, disp]
        Profile, first and second derivative across, of unit sum in the aperture; 0 in other columns.
    """

    columns: np.ndarray
    shape: np.ndarray


def faint_profile(
    source: np.ndarray, error: np.ndarray, trace: np.ndarray, weight: np.ndarray
) -> FaintProfile:
    """Take the profile of faint columns from brighter ones near them, weighed by their light.

    Parameters
    ----------
    source : float64 [cross, disp]
        Template without background.
    error : float64 [cross, disp]
        Its error.
    trace : float64 [disp]
        Centre across.
    weight : float64 [cross, disp]
        Aperture.
    """
    ncross, ndisp = source.shape
    error2 = np.where(np.isfinite(error), error, 0.0) ** 2
    total, total2 = (source * weight).sum(axis=0), (error2 * weight * weight).sum(axis=0)
    known = np.isfinite(trace)
    rows = np.rint(np.where(known, trace, 0.0)).astype(int)
    # rows about the trace, so that the mean of neighbours is not blurred by its slope
    place = np.arange(ncross)[:, None] + rows - ncross // 2
    inside = (place >= 0) & (place < ncross) & known
    columns = np.broadcast_to(np.arange(ndisp), place.shape)
    straight = np.where(inside, source[np.clip(place, 0, ncross - 1), columns], 0.0)
    covered = (weight.sum(axis=0) > 0) & known
    own = covered & (total > OWN * np.sqrt(total2)) & (total > 0)
    wanted = covered & ~own
    found = np.zeros(ndisp, bool)
    mean = np.zeros_like(straight)
    for reach in REACHES:
        if not (wanted & ~found).any() or not own.any():
            break
        near = gaussian(own.astype(float), reach, axis=0, mode="constant")
        new = wanted & ~found & (near > 1e-2)
        smooth = gaussian(np.where(own, straight, 0.0), reach, axis=1, mode="constant")
        mean[:, new] = smooth[:, new]
        found |= new
    # back to the rows of the frame
    back = np.arange(ncross)[:, None] - rows + ncross // 2
    inside = (back >= 0) & (back < ncross)
    profile = np.where(inside & found, np.clip(mean, 0.0, None)[np.clip(back, 0, ncross - 1), columns], 0.0)
    norm = (profile * weight).sum(axis=0)
    found &= norm > 0
    profile = np.where(found, profile / np.where(found, norm, 1.0), 0.0)
    first, second = geometry.derivatives(profile, 0)
    return FaintProfile(found, np.stack([profile, first, second]))

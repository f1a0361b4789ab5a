"""A reference file as a step sees it: arrays cut to the subarray, and the keywords that steer their use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["Reference"]


@dataclass(frozen=True)
class Reference:
    """One reference, ready to bind.

    Parameters
    ----------
    reftype
        CRDS reference type, lower case (``superbias``, ``readnoise``, ...).
    name
        File name, for messages and product headers.
    arrays
        Extension name -> array in native byte order, cut to the subarray ``[..., y, x]``. ``DQ`` is uint32 with the
        standard bits (a DQ_DEF table has been applied); everything else is float32. Read-only.
    keywords
        PRIMARY (and SCI) keywords, such as NGROUPS, NFRAMES, GAINFACT.
    tables
        Extension name -> structured array, for table references.
    path, sha256
        Where it came from.
    box
        ``(xstart, ystart, nx, ny)`` of the pixels that arrays of this shape cover, 1-based on the detector; None
        when nothing is on detector pixels, or the place is not known.
    """

    reftype: str
    name: str
    arrays: Mapping[str, npt.NDArray]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, npt.NDArray] = field(default_factory=dict)
    path: str = ""
    sha256: str = ""
    box: tuple[int, int, int, int] | None = None

    def within(self, info: ExposureInfo) -> Reference:
        """Cut the arrays to the window of an exposure that an earlier step made smaller.

        Parameters
        ----------
        info
            The exposure as the step sees it; ``xstart, ystart, nx, ny`` are those of the window.

        Returns
        -------
        Reference
            This one when there is nothing to cut.
        """
        if self.box is None or self.box == (info.xstart, info.ystart, info.nx, info.ny):
            return self
        x0, y0, nx, ny = self.box
        left, top = info.xstart - x0, info.ystart - y0
        if left < 0 or top < 0 or left + info.nx > nx or top + info.ny > ny:
            return self
        cut = {}
        for name, array in self.arrays.items():
            if array.shape[-2:] == (ny, nx):
                part = np.ascontiguousarray(array[..., top : top + info.ny, left : left + info.nx])
                part.flags.writeable = False
                cut[name] = part
        window = (info.xstart, info.ystart, info.nx, info.ny)
        return replace(self, arrays={**self.arrays, **cut}, box=window)

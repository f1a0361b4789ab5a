"""What the fits of the segment scope have in common: a window of an exposure with all integrations of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.rate_planes import RatePlanes

__all__ = ["WindowFit"]


@dataclass(frozen=True)
class WindowFit(ABC):
    """A fit of ramps, joined to a window of an exposure.

    Parameters
    ----------
    info
        The exposure.
    gain, read : float32 [y, x]
        References of the window [e-/DN, DN].
    dark : float32 [y, x]
        Average dark current of the window [DN/s].
    """

    info: ExposureInfo
    gain: np.ndarray
    read: np.ndarray
    dark: np.ndarray

    @abstractmethod
    def run(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        pixeldq: np.ndarray,
        out: RatePlanes,
        rate: RatePlanes,
        window: tuple[int, int, int, int],
        groups: tuple[int, int] | None = None,
        zero: np.ndarray | None = None,
    ) -> None:
        """Fit rows ``y0 <= y < y1`` and columns ``x0 <= x < x1`` of all integrations.

        Parameters
        ----------
        data, groupdq : float32, uint8 [integration, group, y, x]
            Linearised signal [DN] and flags; may be changed.
        pixeldq : uint32 [y, x]
            Static flags.
        out, rate
            Slopes of the integrations [integration, y, x] and of all together [y, x], written.
        window
            ``(y0, y1, x0, x1)``.
        groups
            First group in use and the one after the last; default all.
        zero : float32 [integration, y, x]
            Zero frames [DN], if there are some.
        """

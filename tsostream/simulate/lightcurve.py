"""When the planet covers the star: a transit with smooth ingress whose time integral is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Transit"]


@dataclass(frozen=True)
class Transit:
    """Fraction of the depth that is covered, 0 outside, 1 between second and third contact.

    Ingress and egress follow 3u² - 2u³, so the fraction and its slope are continuous.

    Parameters
    ----------
    first, second, third, fourth
        Contact times [s since the start of the exposure].
    """

    first: float
    second: float
    third: float
    fourth: float

    @classmethod
    def centred(cls, length: float) -> Transit:
        """Put a transit into the middle of an exposure of ``length`` seconds; it takes a third of it."""
        middle, half, full = length / 2, 0.18 * length, 0.13 * length
        return cls(middle - half, middle - full, middle + full, middle + half)

    def constant(self, start: float, end: float) -> float | None:
        """Return the fraction covered during all of [start, end], or None when it changes."""
        if end <= self.first or start >= self.fourth:
            return 0.0
        if start >= self.second and end <= self.third:
            return 1.0
        return None

    def covered(self, time: NDArray) -> NDArray[np.float64]:
        """Fraction covered at ``time`` [s]."""
        u = np.clip((time - self.first) / (self.second - self.first), 0, 1)
        v = np.clip((time - self.third) / (self.fourth - self.third), 0, 1)
        return u * u * (3 - 2 * u) - v * v * (3 - 2 * v)

    def integral(self, time: NDArray) -> NDArray[np.float64]:
        """Integral of :meth:`covered` from the start of the exposure to ``time`` [s]."""

        def step(start: float, end: float) -> NDArray[np.float64]:
            w = end - start
            u = np.clip((time - start) / w, 0, 1)
            return w * u**3 * (1 - u / 2) + np.maximum(time - end, 0)

        return step(self.first, self.second) - step(self.third, self.fourth)

"""The weighted mean of a segment's slopes, summed in the order of the integrations (``rate``).

Weights are those of the official product (the read noise of each slope), but sums run over integrations, in double
precision and in order, so the mean depends neither on blocks nor on workers. Blocks that come early wait, as
copies, for those before them; as many as there are workers at most.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tsostream.integration import dq
from tsostream.integration.payload import Rate

__all__ = ["MeanRate", "RateSums", "sums_bytes"]

Array = npt.NDArray

#: flags a mean has when any of its integrations has them
_ANY = np.uint32(dq.SATURATED | dq.JUMP_DET | dq.PERSISTENCE)


def sums_bytes(frame: int, waiting: int) -> int:
    """Memory of the sums of two segments, and of so many waiting integrations [bytes]."""
    return frame * (2 * 32 + 5 * 8) + waiting * frame * 16


class RateSums:
    """Sums over integrations.

    Parameters
    ----------
    shape
        ``(y, x)``.
    """

    def __init__(self, shape: tuple[int, int]):
        self.weighted = np.zeros(shape)
        self.rnoise = np.zeros(shape)
        self.poisson = np.zeros(shape)
        self.any = np.zeros(shape, np.uint32)
        self.all = np.full(shape, np.uint32(0xFFFFFFFF))

    def add(self, slope: Array, var_poisson: Array, var_rnoise: Array, flags: Array) -> None:
        """Add one integration; each array is [y, x]."""
        good = np.isfinite(slope) & (var_rnoise > 0)
        weight = np.zeros(slope.shape)
        np.divide(1.0, var_rnoise, out=weight, where=good)
        self.rnoise += weight
        weight *= np.where(good, slope, np.float32(0))
        self.weighted += weight
        weight.fill(0.0)
        np.divide(1.0, var_poisson, out=weight, where=good & (var_poisson > 0))
        self.poisson += weight
        self.any |= flags
        self.all &= flags

    def planes(self, *, unusable: float = np.nan) -> dict[str, Array]:
        """Mean, errors and flags, as the extensions of an image.

        Parameters
        ----------
        unusable
            Errors and variances of pixels without any good slope (the official product has 0).
        """
        good = self.rnoise > 0
        mean, rnoise, poisson = (np.full(good.shape, fill) for fill in (np.nan, unusable, unusable))
        np.divide(1.0, self.rnoise, out=rnoise, where=good)
        np.multiply(self.weighted, rnoise, out=mean, where=good)
        poisson[good] = 0.0
        np.divide(1.0, self.poisson, out=poisson, where=good & (self.poisson > 0))
        flags = self.all | (self.any & _ANY)
        flags[~good] |= np.uint32(dq.DO_NOT_USE)
        return {
            "SCI": mean.astype(np.float32),
            "ERR": np.sqrt(poisson + rnoise).astype(np.float32),
            "DQ": flags,
            "VAR_POISSON": poisson.astype(np.float32),
            "VAR_RNOISE": rnoise.astype(np.float32),
        }


@dataclass
class MeanRate:
    """Sums of one segment, fed by blocks in any order.

    Parameters
    ----------
    first, count
        Integrations of the segment.
    shape
        ``(y, x)``.
    """

    first: int
    count: int
    shape: tuple[int, int]
    _sums: RateSums | None = None
    _next: int = 0
    _waiting: dict[int, tuple[Array, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, rate: Rate) -> RateSums | None:
        """Take a block of the segment.

        Returns
        -------
        RateSums
            When this block completed the segment; else None.
        """
        arrays: tuple[Array, ...] = (rate.data, rate.var_poisson, rate.var_rnoise, rate.dq)
        with self._lock:
            if self._sums is None:
                self._sums, self._next = RateSums(self.shape), self.first
            if rate.first != self._next:
                # the arrays belong to a worker who goes on with the next block
                self._waiting[rate.first] = tuple(array.copy() for array in arrays)
                return None
            self._waiting[rate.first] = arrays
            sums = self._sums
            while self._next in self._waiting:
                ready = self._waiting.pop(self._next)
                for one in zip(*ready, strict=True):
                    sums.add(*one)
                self._next += len(ready[0])
            if self._next < self.first + self.count:
                return None
            self._sums = None
            return sums

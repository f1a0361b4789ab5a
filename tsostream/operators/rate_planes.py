"""Slopes with errors as plain arrays, which the segment scope fills window by window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration.payload import Rate, Times

__all__ = ["RatePlanes", "pixels_in_line"]


@dataclass(frozen=True)
class RatePlanes:
    """Slope, error, two variances and DQ: of every integration [integration, y, x], or of their mean [y, x]."""

    data: np.ndarray
    err: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    dq: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> RatePlanes:
        """Make arrays to be written."""
        a, b, c, d = (np.empty(shape, np.float32) for _ in range(4))
        return cls(a, b, c, d, np.empty(shape, np.uint32))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All five, in the order of the kernels' arguments."""
        return self.data, self.err, self.var_poisson, self.var_rnoise, self.dq

    def rate(self, first: int, times: Times, part: slice | None = None) -> Rate:
        """Wrap the arrays, or copies of some integrations, as a block."""
        data, err, poisson, rnoise, bits = (
            one if part is None else np.array(one[part]) for one in self.arrays()
        )
        return Rate(first, data, err, poisson, rnoise, bits, times)


def pixels_in_line(array: np.ndarray) -> np.ndarray:
    """Bring pixels [..., y, x] onto one axis [..., pixel], without a copy.

    Raises
    ------
    ValueError
        Rows do not lie one behind the other.
    """
    if not array.flags.c_contiguous:
        raise ValueError("the rows of a window must lie one behind the other")
    return array.reshape(*array.shape[:-2], -1)

"""When each pixel is read: the clocks of the detectors, in DMS orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsostream.simulate.modes import CLOCK, EDGELESS, LINE_OVERHEAD, Mode

__all__ = ["Readout", "dark_columns", "fast_index", "reference_pixels", "to_dms"]


def to_dms(plane: NDArray, mode: Mode) -> NDArray:
    """Turn ``[slow, fast]`` (the order of reading) into ``[y, x]``.

    Parameters
    ----------
    plane
        Array whose last two axes count rows and pixels in the order the detector reads them.
    """
    rows = slice(None, None, 1 if mode.slow > 0 else -1)
    columns = slice(None, None, 1 if mode.fast > 0 else -1)
    plane = plane[..., rows, columns]
    return np.swapaxes(plane, -1, -2) if abs(mode.fast) == 2 else plane


def fast_index(mode: Mode) -> NDArray[np.int64]:
    """Position of each pixel along the fast axis, ``[y, x]``, counted in the detector, not the subarray.

    The parity of this number is what "odd and even columns" means, and it decides the amplifier.
    """
    j = np.broadcast_to(np.arange(mode.n_fast), (mode.n_slow, mode.n_fast))
    start = (mode.xstart if abs(mode.fast) == 1 else mode.ystart) - 1
    if mode.fast < 0 and not mode.is_miri:
        start = 2048 - start - mode.n_fast
    return to_dms(j, mode) + start


@dataclass(frozen=True)
class Readout:
    """Read times and read order of one subarray.

    Parameters
    ----------
    clock
        ``[y, x]`` int64: clock within the frame at which the pixel is sampled (10 µs units).
    output
        ``[y, x]`` int64: detector output that reads the pixel.
    frame_clocks
        Clocks of one frame with its overheads.
    """

    clock: NDArray[np.int64]
    output: NDArray[np.int64]
    frame_clocks: int
    nout: int

    @property
    def tau(self) -> NDArray[np.float64]:
        """``[y, x]`` [s]: read time within the frame."""
        return np.asarray(self.clock * CLOCK, np.float64)

    @classmethod
    def of(cls, mode: Mode) -> Readout:
        """Lay out the clocks of a mode."""
        i, j = np.mgrid[0 : mode.n_slow, 0 : mode.n_fast]
        if mode.is_miri:
            # four neighbouring columns are sampled at once, one by each output
            return cls(i * mode.rowclocks + j // 4, j % 4, mode.frame_clocks, 4)
        width = mode.n_fast // mode.nout
        output, k = np.divmod(j, width)
        k = np.where(output % 2 == 1, width - 1 - k, k)  # every other output reads backwards
        clock = i * (width + LINE_OVERHEAD) + k
        return cls(
            np.ascontiguousarray(to_dms(clock, mode)),
            np.ascontiguousarray(to_dms(output, mode)),
            mode.frame_clocks,
            mode.nout,
        )


def reference_pixels(mode: Mode) -> NDArray[np.bool_]:
    """``[y, x]``: light-blind pixels at the detector's border that fall into the subarray."""
    x = np.arange(mode.xstart - 1, mode.xstart - 1 + mode.nx)
    y = np.arange(mode.ystart - 1, mode.ystart - 1 + mode.ny)
    width = 1032 if mode.is_miri else 2048
    in_x = (x < 4) | (x >= width - 4)
    in_y = np.zeros(mode.ny, bool) if mode.is_miri else (y < 4) | (y >= 2044)
    return in_y[:, None] | in_x[None, :]


def dark_columns(mode: Mode) -> NDArray[np.bool_]:
    """``[y, x]``: live pixels that no light reaches.

    The official pipeline takes the outer four columns of NIRSpec's edgeless subarrays for reference pixels;
    that only works because the slit's spectrum does not reach them.
    """
    dark = np.zeros((mode.ny, mode.nx), bool)
    if mode.subarray in EDGELESS:
        dark[:, :4] = dark[:, -4:] = True
    return dark

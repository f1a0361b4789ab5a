"""ipc: take out the charge that pixels seem to share through their capacitance (spec stage 1, section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["Ipc", "convolve", "copy_rows", "science_region"]

#: width of the border of reference pixels, and the size of the near-infrared detectors [px]
BORDER, FULL = 4, 2048
#: first reference column on the right of the MIRI detector
MIRI_RIGHT = 1028


@kernel
def copy_rows(data, copy, y0, y1):
    """Keep the samples as they were, for the neighbours.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    copy : float32 [integration, group, y, x]
        Written.
    y0, y1 : int
        Rows.
    """
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(y0, y1):
                for x in range(data.shape[3]):
                    copy[i, g, y, x] = data[i, g, y, x]


@kernel
def convolve(data, copy, weights, bottom, top, left, right, y0, y1):
    """Convolve the science pixels; what lies beyond them counts as zero.

    The central weight is added last, as the largest term.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Science pixels are written, reference pixels left alone.
    copy : float32 [integration, group, y, x]
        Signal before the step [DN].
    weights : float32 [row, column, y, x]
        Kernel of each (output) pixel; the last axes may have length 1: the same for all.
    bottom, top, left, right : int
        Science pixels are ``bottom <= y < top`` and ``left <= x < right``.
    y0, y1 : int
        Rows.
    """
    height, width = weights.shape[0], weights.shape[1]
    cy, cx = height // 2, width // 2
    same = weights.shape[3] == 1
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(max(y0, bottom), min(y1, top)):
                line = 0 if same else y
                data[i, g, y, left:right] = 0.0
                for j in range(height):
                    row = y + height - 1 - j - cy
                    if row < bottom or row >= top:
                        continue
                    for k in range(width):
                        shift = width - 1 - k - cx
                        if j == cy and k == cx:
                            continue
                        for x in range(max(left, left - shift), min(right, right - shift)):
                            weight = weights[j, k, line, 0 if same else x]
                            data[i, g, y, x] += weight * copy[i, g, row, x + shift]
                for x in range(left, right):
                    data[i, g, y, x] += weights[cy, cx, line, 0 if same else x] * copy[i, g, y, x]


def science_region(info: ExposureInfo) -> tuple[int, int, int, int]:
    """Rows and columns of the subarray that hold no reference pixels: bottom, top, left, right."""
    x, y = info.xstart - 1, info.ystart - 1
    last = MIRI_RIGHT if info.is_miri else FULL - BORDER
    left, right = max(0, BORDER - x), info.nx - max(0, x + info.nx - last)
    if info.is_miri:
        return 0, info.ny, left, right
    return max(0, BORDER - y), info.ny - max(0, y + info.ny - last), left, right


@dataclass(frozen=True, kw_only=True)
class Ipc(Operator):
    """Convolve each group with the deconvolution kernel.

    Skipped by default, unlike in the official code, where only the parameter files switch the step off: it
    is run for no mode.
    """

    name: ClassVar[str] = "ipc"
    optional_references: ClassVar[tuple[str, ...]] = ("ipc",)

    skip: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Bring the kernel into one shape."""
        info = binding.info
        reference = binding.references.get("ipc")
        if reference is None:
            return BoundRampStep(self.name, binding.dq_plane, skipped="no ipc reference")
        weights = reference.arrays["SCI"]
        if weights.ndim == 2:
            weights = weights[:, :, None, None]
        elif weights.ndim == 4:
            weights = reference_array(reference, "SCI", info.frame_shape, self.name)
        else:
            what = f"SCI has {weights.ndim} axes, expected (row, column) or (row, column, y, x)"
            raise ReferenceMismatchError(
                Problem(what, reference.path or reference.name, "choose another file")
            )
        weights = np.ascontiguousarray(weights, np.float32)
        run = partial(_convolve, weights=weights, region=science_region(info))
        scratch = {"ipc.copy": ((info.ngroups, *info.frame_shape), np.float32)}
        passes = (RowPass(_copy), RowPass(run, halo=weights.shape[0] // 2))
        return BoundRampStep(self.name, binding.dq_plane, passes, scratch)


def _copy(tile: Tile, y0: int, y1: int) -> None:
    copy_rows(tile.data, tile.scratch["ipc.copy"], y0, y1)


def _convolve(
    tile: Tile, y0: int, y1: int, *, weights: np.ndarray, region: tuple[int, int, int, int]
) -> None:
    convolve(tile.data, tile.scratch["ipc.copy"], weights, *region, y0, y1)

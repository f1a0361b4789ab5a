"""Cutting a segment into windows of rows and columns that hold all its integrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["Window", "cut_info", "cut_references", "plan_windows"]

#: bytes of a sample in a window: signal and flags
SAMPLE_BYTES = 5
#: bytes of a slope with error, two variances and DQ
RATE_BYTES = 20
#: fewer rows than this are not worth their halo: cut columns instead
FEWEST_ROWS = 8


@dataclass(frozen=True)
class Window:
    """Part of a frame, with the pixels around it that its own pixels depend on.

    Parameters
    ----------
    y0, y1, x0, x1
        The pixels whose results are kept.
    top, bottom, left, right
        The pixels that are worked on: ``top <= y < bottom``, ``left <= x < right``.
    """

    y0: int
    y1: int
    x0: int
    x1: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are worked on."""
        return self.bottom - self.top, self.right - self.left

    @property
    def core(self) -> tuple[int, int, int, int]:
        """``(y0, y1, x0, x1)`` of the pixels to keep, within the window."""
        return self.y0 - self.top, self.y1 - self.top, self.x0 - self.left, self.x1 - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """The pixels to keep, in the frame."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, reach: int) -> tuple[int, int, int, int]:
        """`core` and the pixels around it, as far as the window has them."""
        y0, y1, x0, x1 = self.core
        ny, nx = self.shape
        return max(0, y0 - reach), min(ny, y1 + reach), max(0, x0 - reach), min(nx, x1 + reach)


def plan_windows(count: int, info: ExposureInfo, halo: int, budget: int) -> list[Window]:
    """Cut a frame so that all integrations of a window fit into memory.

    Parameters
    ----------
    count
        Integrations of the segment.
    info
        The exposure.
    halo
        Pixels around a window that its results depend on.
    budget
        Bytes a window may take, its slopes included.
    """
    each = count * (info.ngroups * SAMPLE_BYTES + RATE_BYTES)
    rows, columns = info.ny, info.nx
    if each * info.ny * info.nx > budget:
        rows = budget // (each * info.nx) - 2 * halo
        if rows < FEWEST_ROWS and rows < info.ny:
            rows = info.ny if each * info.ny <= budget // 16 else FEWEST_ROWS
            columns = max(1, budget // (each * min(info.ny, rows + 2 * halo)) - 2 * halo)
    # equal shares, so that the last one is not a sliver
    rows = -(-info.ny // -(-info.ny // rows))
    columns = -(-info.nx // -(-info.nx // columns))
    return [
        Window(
            y, min(y + rows, info.ny), x, min(x + columns, info.nx),
            max(0, y - halo), min(y + rows + halo, info.ny), max(0, x - halo), min(x + columns + halo, info.nx),
        )
        for y in range(0, info.ny, rows)
        for x in range(0, info.nx, columns)
    ]  # fmt: skip


def cut_info(info: ExposureInfo, window: Window) -> ExposureInfo:
    """Describe a window as if it were the subarray."""
    ny, nx = window.shape
    return replace(info, ny=ny, nx=nx, ystart=info.ystart + window.top, xstart=info.xstart + window.left)


def cut_references(
    references: Mapping[str, Reference], info: ExposureInfo, window: Window
) -> dict[str, Reference]:
    """Cut all arrays on detector pixels to a window."""

    def cut(array: np.ndarray) -> np.ndarray:
        if array.shape[-2:] != info.frame_shape:
            return array
        return np.ascontiguousarray(array[..., window.top : window.bottom, window.left : window.right])

    return {
        name: replace(one, arrays={key: cut(array) for key, array in one.arrays.items()})
        for name, one in references.items()
    }

"""Which reference pixels `refpix` reads, and which columns and rows they correct: worked out once per exposure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.sorting import comparators

__all__ = ["FULL", "Layout", "Sides", "edge_layout", "pooled_layout", "side_tables"]

#: side and width of the near-infrared detectors, width of their border of reference pixels, and of an output
#: [px]
FULL, BORDER, OUTPUT = 2048, 4, 512
#: subarrays without a reference pixel, whose outermost columns (x) are dark enough to serve
EDGELESS = ("SUB512", "SUB512S", "SUB32")


@dataclass(frozen=True)
class Layout:
    """Which reference pixels are read, and what they correct.

    Parameters
    ----------
    rows, columns : int32 [pixel]
        Reference pixels in the subarray, list after list.
    bounds : int32 [list + 1]
        Where each list begins.
    halves : int32 [level, 2]
        Lists that make a level.
    level_of : int32 [column]
        Level of each detector column of the subarray, in the order of the science axis it lies along; -1 for
        none.
    """

    rows: np.ndarray
    columns: np.ndarray
    bounds: np.ndarray
    halves: np.ndarray
    level_of: np.ndarray


def _detector_axes(info: ExposureInfo) -> tuple[np.ndarray, np.ndarray]:
    """Absolute detector column of each pixel along the fast science axis, and row along the slow one."""
    x, y = np.arange(info.nx) + info.xstart - 1, np.arange(info.ny) + info.ystart - 1
    fast, slow = (x, y) if abs(info.fastaxis) == 1 else (y, x)
    return (fast if info.fastaxis > 0 else FULL - 1 - fast), (slow if info.slowaxis > 0 else FULL - 1 - slow)


def _detector_frame(info: ExposureInfo) -> tuple[np.ndarray, np.ndarray]:
    """Detector column and row of each pixel; int [y, x]."""
    fast, slow = _detector_axes(info)
    if abs(info.fastaxis) == 1:
        row, column = np.meshgrid(slow, fast, indexing="ij")
    else:
        column, row = np.meshgrid(fast, slow, indexing="ij")
    return column, row


def _collect(lists: list[np.ndarray], halves: list[tuple[int, int]], level_of: np.ndarray) -> Layout:
    where = [np.nonzero(one) for one in lists]
    sizes = [0, *(one[0].size for one in where)]
    rows, columns = (
        np.concatenate([np.empty(0, int), *(one[axis] for one in where)]).astype(np.int32) for axis in (0, 1)
    )
    pairs = np.array(halves, np.int32).reshape(-1, 2)
    return Layout(rows, columns, np.cumsum(sizes).astype(np.int32), pairs, level_of.astype(np.int32))


def pooled_layout(info: ExposureInfo, pixeldq: np.ndarray, *, odd_even: bool) -> Layout:
    """One output (9.2): every good reference pixel of the subarray, split by detector column parity.

    Without any in one of the parities the layout has no levels.
    """
    reference = (pixeldq & np.uint32(dq.REFERENCE_PIXEL)) != 0
    if info.subarray in EDGELESS:
        reference[:, :BORDER] = True
        reference[:, -BORDER:] = True
    reference &= (pixeldq & np.uint32(dq.DO_NOT_USE)) == 0
    column, row = _detector_frame(info)
    parity = column % 2 if odd_even else np.zeros_like(column)
    lists = [reference & (parity == k) for k in range(2 if odd_even else 1)]
    fast, _ = _detector_axes(info)
    if not all(one.any() for one in lists):
        return _collect([], [], np.full(fast.size, -1))
    level_of = fast % 2 if odd_even else np.zeros_like(fast)
    layout = _collect(lists, [(k, -1) for k in range(len(lists))], level_of)
    # in the order of the detector's readout, which decides how sums are rounded
    order = np.concatenate(
        [
            low + np.lexsort((column[y, x], row[y, x]))
            for low, high in pairwise(layout.bounds)
            for y, x in [(layout.rows[low:high], layout.columns[low:high])]
        ]
    )
    return replace(layout, rows=layout.rows[order], columns=layout.columns[order])


def edge_layout(info: ExposureInfo, pixeldq: np.ndarray, *, odd_even: bool) -> Layout:
    """Four outputs (9.3): per output and column parity the mean of the bottom and the top rows' levels.

    An output is corrected only when each of its parities has a level.
    """
    good = (pixeldq & np.uint32(dq.DO_NOT_USE)) == 0
    column, row = _detector_frame(info)
    fast, _ = _detector_axes(info)
    parities = 2 if odd_even else 1
    kind = column // OUTPUT * parities + column % parities
    lists: list[np.ndarray] = []
    halves: list[tuple[int, int]] = []
    level_of = np.full(fast.size, -1)
    for output in range(FULL // OUTPUT):
        found: list[tuple[int, list[np.ndarray]]] = []
        for parity in range(parities):
            number = output * parities + parity
            edges = [good & (kind == number) & edge for edge in (row >= FULL - BORDER, row < BORDER)]
            found.append((number, [one for one in edges if one.any()]))
        if all(one for _, one in found):
            for number, one in found:
                start = len(lists)
                lists += one
                level_of[fast // OUTPUT * parities + fast % parities == number] = len(halves)
                halves.append((start, start + 1 if len(one) == 2 else -1))
    return _collect(lists, halves, level_of)


@dataclass(frozen=True)
class Sides:
    """Tables of `tsostream.operators.refpix_levels.side_levels`; see there."""

    pixels: np.ndarray
    level_of: np.ndarray
    windows: np.ndarray
    pairs: np.ndarray
    gain: float


def side_tables(
    info: ExposureInfo, pixeldq: np.ndarray, layout: Layout, length: int, gain: float
) -> Sides | None:
    """Find the side reference pixels; None when the subarray has none."""
    fast, slow = _detector_axes(info)
    swapped = abs(info.fastaxis) == 2
    good = (pixeldq & np.uint32(dq.DO_NOT_USE)) == 0
    pixels = np.full((2, slow.size, BORDER, 2), -1, np.int32)
    level_of = np.full((2, BORDER), -1, np.int32)
    for side in range(2):
        for c in range(BORDER):
            for along_fast in np.flatnonzero(fast == (c if side == 0 else FULL - BORDER + c)):
                level_of[side, c] = layout.level_of[along_fast]
                for r in range(slow.size):
                    y, x = (along_fast, r) if swapped else (r, along_fast)
                    if good[y, x]:
                        pixels[side, r, c] = y, x
    reached = slow[None, :] + np.arange(-(length // 2), length - length // 2)[:, None]
    reached = np.abs(reached)  # the window is mirrored at the detector's edges, the edge row not repeated
    reached = np.where(reached > FULL - 1, 2 * (FULL - 1) - reached, reached)
    local = np.full(FULL, -1, np.int32)
    local[slow] = np.arange(slow.size)
    windows = local[reached].astype(np.int32)
    if not (pixels >= 0).any():
        return None
    return Sides(pixels, level_of, windows, comparators(BORDER * length), float(gain))

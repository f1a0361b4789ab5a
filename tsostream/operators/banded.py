"""Corrected samples, jumps and slopes of a few rows in one go, in arrays that hold nothing but these rows.

In the array of a whole frame the groups of a pixel lie a frame apart. For the usual sizes of subarrays that is a power
of two, so that all groups of a row fall into the same few places of the cache and drive each other out. A band of its
own lies in one piece: what the correction writes is still in the level-2 cache when jumps are sought in it and slopes
fitted to it.

Only a hit that spreads to its neighbours needs more than the band. Slopes are fitted before it has spread; the few
pixels that get a flag from their neighbours are fitted again. Every pixel ends with the bits it would have got from the
steps one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tsostream.operators.base import RowPass
from tsostream.operators.fused import Correction
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["band", "keep_band"]


@kernel
def keep_band(data, groupdq, whole, flags, top, rows):
    """Copy the first ``rows`` rows of a band into the arrays of the frame, at row ``top``."""
    nx = data.shape[3]
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(rows):
                source, target = data[i, g, y], whole[i, g, top + y]
                for x in range(nx):
                    target[x] = source[x]
                bits, kept = groupdq[i, g, y], flags[i, g, top + y]
                for x in range(nx):
                    kept[x] = bits[x]


def band(passes: Sequence[tuple[str, RowPass]]) -> list[tuple[str, RowPass]]:
    """Do correction, jump search and fit band by band, where they follow each other.

    Parameters
    ----------
    passes
        Step names and passes, as `tsostream.operators.fused.fuse` leaves them.
    """
    kinds = ["" if one.part is None else one.part.kind for _, one in passes]
    if "corrected" not in kinds:
        return list(passes)
    at = kinds.index("corrected")
    for middle in ([], ["jump"], ["jump", "spread"]):
        if kinds[at + 1 : at + 2 + len(middle)] == [*middle, "fit"]:
            break
    else:
        return list(passes)
    end = at + len(middle) + 2
    parts: list[Any] = [one.part for _, one in passes[at:end]]
    fit = parts[-1].arrays
    run = partial(
        _band,
        correction=parts[0].arrays["correction"],
        find=parts[1].arrays["find"] if middle else None,
        fit=fit["fit"],
        keep="spread" in middle,
    )
    together = [("band", RowPass(run, halo=passes[at][1].halo))]
    if "spread" in middle:
        together += [passes[at + 2], ("ramp_fit", RowPass(partial(_again, again=fit["again"])))]
    return [*passes[:at], *together, *passes[end:]]


def _band(
    tile: Tile,
    y0: int,
    y1: int,
    *,
    correction: Correction,
    find: Callable[..., None] | None,
    fit: Callable[..., None],
    keep: bool,
) -> None:
    data, groupdq = _arrays(tile, y1 - y0)
    top = 0 if data is tile.data else y0
    correction.run(tile, data, groupdq, y0, y1, top)
    if find is not None:
        find(data, groupdq, tile.scratch, y0, y1, top)
    fit(tile, data, groupdq, y0, y1, top)
    if keep and data is not tile.data:
        keep_band(data, groupdq, tile.data, tile.groupdq, y0, y1 - y0)


def _arrays(tile: Tile, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Give samples and flags of so many rows, in one piece; the same memory again and again."""
    count, ngroups, ny, nx = tile.data.shape
    if rows == ny:
        return tile.data, tile.groupdq
    size = count * ngroups * rows * nx
    held = tile.band
    if held is None or held[0].size < size:
        held = tile.band = np.empty(size, np.float32), np.empty(size, np.uint8)
    shape = (count, ngroups, rows, nx)
    return held[0][:size].reshape(shape), held[1][:size].reshape(shape)


def _again(tile: Tile, y0: int, y1: int, *, again: Callable[..., None]) -> None:
    again(tile, y0, y1, touched=tile.scratch["jump.touched"])

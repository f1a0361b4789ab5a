"""What some pixels say of the source's light, from the words of the file: the walk over rows need not stop for it.

The search for jumps wants to know it before its first row (`tsostream.operators.jump_light`). In a chain that corrects,
searches and fits band by band no sample is corrected by then, so these few are, one by one, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Part, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["correct_some", "light_from_words"]

UNUSABLE = np.uint8(dq.SATURATED | dq.DO_NOT_USE)


@kernel
def _is_whole(first, ngroups, reach, y, x):
    """Whether neither a pixel nor a neighbour saturates (``first``: int16 [y, x])."""
    for near in range(max(0, y - reach), min(first.shape[0], y + reach + 1)):
        for k in range(max(0, x - reach), min(first.shape[1], x + reach + 1)):
            if first[near, k] < ngroups:
                return False
    return True


@kernel
def correct_some(
    raw, rows, columns, flags, unused, first, reach, bias, reset, along_x, along_y, coefficients, dark, number, samples
):  # fmt: skip
    """Correct the samples of some pixels, as `tsostream.operators.fused_samples.correct_samples` all of them.

    Parameters
    ----------
    rows, columns : int32 [pixel]
        Which pixels.
    flags, bias, reset, coefficients, dark
        As there, with ``[pixel]`` for ``[y, x]``: what is fixed stands side by side.
    first : int16 [integration, y, x]
        First saturated group of each pixel.
    reach : int
        How far saturation grows.
    samples : float32 [integration, group, pixel]
        Written [DN]; NaN where a sample is unusable, and in all groups where the ramp saturates.
    """
    n, ngroups = raw.shape[:2]
    whole = np.empty(rows.size, np.bool_)
    top = coefficients.shape[0] - 1
    for i in range(n):
        early, late = min(number + i - 1, reset.shape[0] - 1), min(number + i - 1, dark.shape[0] - 1)
        for p in range(rows.size):
            whole[p] = (flags[p] & UNUSABLE) == 0 and _is_whole(first[i], ngroups, reach, rows[p], columns[p])
        for g in range(ngroups):
            for p in range(rows.size):
                word = raw[i, g, rows[p], columns[p]]
                word = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8))) ^ np.uint16(0x8000)
                if not whole[p] or g == unused or word == np.uint16(0):
                    samples[i, g, p] = np.float32(np.nan)
                    continue
                value = np.float32(word)
                if bias.size > 0:
                    value = value - bias[p]
                if g < reset.shape[1]:
                    value = value - reset[early, g, p]
                if along_x.shape[0] > 0:
                    value = np.float32((value - along_x[i, g, columns[p]]) - along_y[i, g, rows[p]])
                result = value
                if top >= 0:
                    result = coefficients[top, p]
                    for k in range(top - 1, -1, -1):
                        result = result * value + coefficients[k, p]
                if g < dark.shape[1]:
                    result = result - dark[late, g, p]
                samples[i, g, p] = result


def light_from_words(correction: Any, part: Part) -> RowPass:
    """Make the pass that finds the light before any sample of the frame is corrected.

    Parameters
    ----------
    correction
        A `tsostream.operators.fused.Correction`.
    part
        What the jump step says of its own pass.
    """
    pixels = part.arrays["pixels"]

    def chosen(array: np.ndarray) -> np.ndarray:
        if array.shape[0] == 0:
            return np.empty((0,) * (array.ndim - 1), array.dtype)
        return np.ascontiguousarray(array[..., pixels.rows, pixels.columns])

    names = ("flags", "bias", "reset", "coefficients", "dark")
    fixed = {name: chosen(getattr(correction, name)) for name in names}
    run = partial(_look, correction=correction, pixels=pixels, fixed=fixed, find=part.arrays["find"])
    return RowPass(run, frame=True)


def _look(
    tile: Tile,
    _y0: int,
    _y1: int,
    *,
    correction: Any,
    pixels: Any,
    fixed: dict[str, np.ndarray],
    find: Callable[..., None],
) -> None:
    scratch: dict[str, np.ndarray] = tile.scratch
    along_x, along_y = correction.levels(scratch)
    correct_some(
        tile.raw, pixels.rows, pixels.columns, fixed["flags"], correction.unused, scratch["saturation.first"],
        correction.reach, fixed["bias"], fixed["reset"], along_x, along_y, fixed["coefficients"], fixed["dark"],
        tile.first, scratch["jump.samples"],
    )  # fmt: skip
    find(scratch)

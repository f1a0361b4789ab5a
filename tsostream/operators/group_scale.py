"""group_scale: undo an on-board average with the wrong divisor (spec stage 1, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["GroupScale", "scale_groups"]


@kernel
def scale_groups(data, factor, y0, y1):
    """Multiply every sample.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place.
    factor : float32
        Factor.
    y0, y1 : int
        Rows.
    """
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(y0, y1):
                for x in range(data.shape[3]):
                    data[i, g, y, x] *= factor


@dataclass(frozen=True, kw_only=True)
class GroupScale(Operator):
    """Multiply by FRMDIVSR / NFRAMES where the two differ; DQ is not touched."""

    name: ClassVar[str] = "group_scale"

    def bind(self, binding: Binding) -> BoundRampStep:
        """Compare the number of frames with the divisor."""
        info, plane = binding.info, binding.dq_plane
        divisor, frames = info.frame_divisor, info.nframes
        if divisor is None:
            power = frames & (frames - 1) == 0
            reason = "NFRAMES is a power of two" if power else "the header has no FRMDIVSR"
            return BoundRampStep(self.name, plane, skipped=reason)
        if divisor == frames:
            return BoundRampStep(self.name, plane, skipped="FRMDIVSR equals NFRAMES")

        run = partial(_scale, factor=np.float32(float(divisor) / frames))
        return BoundRampStep(self.name, plane, (RowPass(run),))


def _scale(tile: Tile, y0: int, y1: int, *, factor: np.float32) -> None:
    scale_groups(tile.data, factor, y0, y1)

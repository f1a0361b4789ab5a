"""superbias: subtract the bias level (spec stage 1, section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile
from tsostream.operators.zeroframe import subtract_from_zero, zero_scratch

__all__ = ["Superbias", "subtract_plane"]


@kernel
def subtract_plane(data, plane, y0, y1):
    """Subtract one plane from every group.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place.
    plane : float32 [y, x]
        What to subtract [DN].
    y0, y1 : int
        Rows.
    """
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(y0, y1):
                for x in range(data.shape[3]):
                    data[i, g, y, x] -= plane[y, x]


@dataclass(frozen=True, kw_only=True)
class Superbias(Operator):
    """Subtract the superbias; a NaN of the reference counts as zero."""

    name: ClassVar[str] = "superbias"
    references: ClassVar[tuple[str, ...]] = ("superbias",)

    def bind(self, binding: Binding) -> BoundRampStep:
        """Scrub NaN and merge the reference's DQ."""
        reference = binding.references["superbias"]
        info = binding.info
        shape = info.frame_shape
        plane = np.nan_to_num(reference_array(reference, "SCI", shape, self.name), nan=0.0).astype(np.float32)
        bits = reference_array(reference, "DQ", shape, self.name)

        passes = [RowPass(partial(_subtract, plane=plane), part=Part("plane", {"plane": plane}))]
        if info.zeroframe:
            passes.append(RowPass(partial(_subtract_from_zero, plane=plane)))
        return BoundRampStep(self.name, binding.dq_plane | bits, tuple(passes), zero_scratch(info))


def _subtract(tile: Tile, y0: int, y1: int, *, plane: np.ndarray) -> None:
    subtract_plane(tile.data, plane, y0, y1)


def _subtract_from_zero(tile: Tile, y0: int, y1: int, *, plane: np.ndarray) -> None:
    subtract_from_zero(tile.scratch["zeroframe"], plane, y0, y1)

"""Kernel shared by the steps that subtract a plane per group: reset and dark_current."""

from __future__ import annotations

from functools import partial

import numpy as np

from tsostream.operators.base import Part, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["subtract_groups", "subtraction_pass"]


@kernel
def subtract_groups(data, planes, first, y0, y1):
    """Subtract group planes, chosen by the integration's number in the exposure.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place.
    planes : float32 [member, group, y, x]
        What to subtract [DN]; the last member serves all later integrations. May have fewer groups than the data.
    first : int
        Number in the exposure (1-based) of the first integration.
    y0, y1 : int
        Rows.
    """
    groups = min(data.shape[1], planes.shape[1])
    for i in range(data.shape[0]):
        member = min(first + i - 1, planes.shape[0] - 1)
        for g in range(groups):
            for y in range(y0, y1):
                for x in range(data.shape[3]):
                    data[i, g, y, x] -= planes[member, g, y, x]


def _subtract(tile: Tile, y0: int, y1: int, *, planes: np.ndarray) -> None:
    subtract_groups(tile.data, planes, tile.first, y0, y1)


def subtraction_pass(planes: np.ndarray) -> RowPass:
    """Make the row pass that subtracts ``planes`` (float32 [member, group, y, x])."""
    return RowPass(partial(_subtract, planes=planes), part=Part("groups", {"planes": planes}))

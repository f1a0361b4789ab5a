"""charge_migration: bright pixels lose charge to their neighbours; leave those out (stage 1, section 15).

Once a sample is above the threshold, all later groups of the pixel and of its four neighbours are flagged,
so one number per pixel says it all: the first such group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["ChargeMigration", "find_bright", "flag_bright"]

DNU = np.uint8(dq.DO_NOT_USE)
LOSS = np.uint8(dq.CHARGELOSS | dq.DO_NOT_USE)


@kernel
def find_bright(data, groupdq, threshold, first, y0, y1):
    """Find the first sample above the threshold whose flags are not exactly DO_NOT_USE.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Read.
    threshold : float32
        signal_threshold [DN].
    first : int16 [integration, y, x]
        Index of the group, NGROUPS if none; written.
    y0, y1 : int
        Rows.
    """
    ngroups = data.shape[1]
    for i in range(data.shape[0]):
        for y in range(y0, y1):
            for x in range(data.shape[3]):
                first[i, y, x] = ngroups
            for g in range(ngroups - 1, -1, -1):
                for x in range(data.shape[3]):
                    if data[i, g, y, x] > threshold and groupdq[i, g, y, x] != DNU:
                        first[i, y, x] = g


@kernel
def flag_bright(groupdq, first, y0, y1):
    """Set CHARGELOSS and DO_NOT_USE from the first bright group of a pixel or one of its four neighbours on.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    first : int16 [integration, y, x]
        As from `find_bright`.
    y0, y1 : int
        Rows.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            for x in range(nx):
                start = first[i, y, x]
                if y > 0:
                    start = min(start, first[i, y - 1, x])
                if y < ny - 1:
                    start = min(start, first[i, y + 1, x])
                if x > 0:
                    start = min(start, first[i, y, x - 1])
                if x < nx - 1:
                    start = min(start, first[i, y, x + 1])
                for g in range(start, ngroups):
                    groupdq[i, g, y, x] |= LOSS


@dataclass(frozen=True, kw_only=True)
class ChargeMigration(Operator):
    """Do not use groups in which charge has begun to spill.

    Parameters
    ----------
    signal_threshold
        Signal from which charge spills [DN].
    """

    name: ClassVar[str] = "charge_migration"

    signal_threshold: float = 25000.0
    skip: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Nothing to prepare."""
        info, plane = binding.info, binding.dq_plane
        if info.ngroups < 3:
            return BoundRampStep(self.name, plane, skipped="fewer than three groups")
        find = RowPass(partial(_find, threshold=np.float32(self.signal_threshold)))

        scratch = {"charge_migration.first": (info.frame_shape, np.int16)}
        return BoundRampStep(self.name, plane, (find, RowPass(_flag, halo=1)), scratch)


def _find(tile: Tile, y0: int, y1: int, *, threshold: np.float32) -> None:
    find_bright(tile.data, tile.groupdq, threshold, tile.scratch["charge_migration.first"], y0, y1)


def _flag(tile: Tile, y0: int, y1: int) -> None:
    flag_bright(tile.groupdq, tile.scratch["charge_migration.first"], y0, y1)

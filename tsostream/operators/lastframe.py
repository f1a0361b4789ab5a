"""lastframe: leave out the last group of MIRI ramps, read while the next row resets (spec stage 1, section 13)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["Lastframe", "flag_group"]

DNU = np.uint8(dq.DO_NOT_USE)


@kernel
def flag_group(groupdq, group, y0, y1):
    """Set DO_NOT_USE in one group.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    group : int
        Index of the group.
    y0, y1 : int
        Rows.
    """
    for i in range(groupdq.shape[0]):
        for y in range(y0, y1):
            for x in range(groupdq.shape[3]):
                groupdq[i, group, y, x] |= DNU


@dataclass(frozen=True, kw_only=True)
class Lastframe(Operator):
    """Do not use the last group of MIRI ramps with more than two groups."""

    name: ClassVar[str] = "lastframe"

    def bind(self, binding: Binding) -> BoundRampStep:
        """Nothing to prepare."""
        last = binding.info.ngroups - 1
        if not binding.info.is_miri:
            return BoundRampStep(self.name, binding.dq_plane, skipped="only MIRI has the effect")
        if last < 2:
            return BoundRampStep(self.name, binding.dq_plane, skipped="fewer than three groups")

        return BoundRampStep(
            self.name,
            binding.dq_plane,
            (RowPass(partial(_flag, group=last), part=Part("unused", {"group": last})),),
        )


def _flag(tile: Tile, y0: int, y1: int, *, group: int) -> None:
    flag_group(tile.groupdq, group, y0, y1)

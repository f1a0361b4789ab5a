"""firstframe: the first group of a MIRI ramp is off; leave it out (spec stage 1, section 13)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["Firstframe", "flag_first_group"]

SAT = np.uint8(dq.SATURATED)
DNU = np.uint8(dq.DO_NOT_USE)


@kernel
def flag_first_group(groupdq, keep_bright, kept, y0, y1):
    """Set DO_NOT_USE in the first group, unless the third is saturated already.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    keep_bright : bool
        bright_use_group1.
    kept : uint8 [integration, y, x]
        1 where the first group was kept, written.
    y0, y1 : int
        Rows.
    """
    for i in range(groupdq.shape[0]):
        for y in range(y0, y1):
            for x in range(groupdq.shape[3]):
                bright = keep_bright and (groupdq[i, 2, y, x] & SAT) != 0
                kept[i, y, x] = bright
                if not bright:
                    groupdq[i, 0, y, x] |= DNU


@dataclass(frozen=True, kw_only=True)
class Firstframe(Operator):
    """Do not use the first group of MIRI ramps with more than three groups.

    Parameters
    ----------
    bright_use_group1
        Keep it in pixels whose third group is saturated. The official step then sets FLUX_ESTIMATED in every
        integration of the file; here it belongs to the integration it happened in, whose pixels are marked
        in the scratch plane ``firstframe.kept``.
    """

    name: ClassVar[str] = "firstframe"

    bright_use_group1: bool = True
    skip: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Nothing to prepare."""
        info, plane = binding.info, binding.dq_plane
        if not info.is_miri:
            return BoundRampStep(self.name, plane, skipped="only MIRI has the effect")
        if info.ngroups <= 3:
            return BoundRampStep(self.name, plane, skipped="fewer than four groups")

        run = partial(_flag, keep_bright=self.bright_use_group1)
        return BoundRampStep(
            self.name, plane, (RowPass(run),), {"firstframe.kept": (info.frame_shape, np.uint8)}
        )


def _flag(tile: Tile, y0: int, y1: int, *, keep_bright: bool) -> None:
    flag_first_group(tile.groupdq, keep_bright, tile.scratch["firstframe.kept"], y0, y1)

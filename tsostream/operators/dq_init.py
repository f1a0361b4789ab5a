"""dq_init: the mask reference into the DQ planes (spec stage 1, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["DqInit", "flag_masked"]


@kernel
def flag_masked(groupdq, flags, y0, y1):
    """OR a plane of flags into every group.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    flags : uint8 [y, x]
        Flags to set.
    y0, y1 : int
        Rows.
    """
    for i in range(groupdq.shape[0]):
        for g in range(groupdq.shape[1]):
            for y in range(y0, y1):
                for x in range(groupdq.shape[3]):
                    groupdq[i, g, y, x] |= flags[y, x]


@dataclass(frozen=True, kw_only=True)
class DqInit(Operator):
    """Start the DQ planes from the bad-pixel mask.

    ``pixeldq |= mask``; of the mask's bits only DO_NOT_USE enters the groups.

    Parameters
    ----------
    user_supplied_dq
        FITS file with flags of this subarray, which are added to those of the mask reference.
    """

    name: ClassVar[str] = "dq_init"
    references: ClassVar[tuple[str, ...]] = ("mask",)

    user_supplied_dq: str | None = None

    def bind(self, binding: Binding) -> BoundRampStep:
        """Cut the mask and merge it into the static plane."""
        mask = reference_array(binding.references["mask"], "DQ", binding.info.frame_shape, self.name)
        flags = (mask & np.uint32(dq.DO_NOT_USE)).astype(np.uint8)

        one = RowPass(partial(_flag, flags=flags), part=Part("flags", {"flags": flags}))
        return BoundRampStep(self.name, binding.dq_plane | mask, (one,))


def _flag(tile: Tile, y0: int, y1: int, *, flags: np.ndarray) -> None:
    flag_masked(tile.groupdq, flags, y0, y1)

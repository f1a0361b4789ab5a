"""rscd: the first groups after a reset decay; leave them out (MIRI; spec stage 1, section 12)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Numbered
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["Rscd", "groups_to_skip", "skip_groups"]

SAT = np.uint8(dq.SATURATED)
DNU = np.uint8(dq.DO_NOT_USE)


@kernel
def skip_groups(groupdq, first, skip_first, skip_later, lowered, y0, y1):
    """Set DO_NOT_USE in the first groups, fewer where the pixel would be left without two good ones.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    first : int
        Number in the exposure (1-based) of the first integration.
    skip_first, skip_later : int
        Groups to leave out of the exposure's first integration, and of all others.
    lowered : uint8 [integration, y, x]
        1 where fewer groups were left out because of saturation, written.
    y0, y1 : int
        Rows.
    """
    for i in range(groupdq.shape[0]):
        skip = skip_first if first + i == 1 else skip_later
        for y in range(y0, y1):
            for x in range(groupdq.shape[3]):
                count = skip
                if groupdq[i, skip + 1, y, x] & SAT and not groupdq[i, 0, y, x] & SAT:
                    last = skip + 1
                    while last > 0 and groupdq[i, last, y, x] & SAT:
                        last -= 1
                    # groups last - 1 and last are kept
                    count = max(0, last - 1)
                lowered[i, y, x] = count < skip
                for g in range(count):
                    groupdq[i, g, y, x] |= DNU


def _text(value: Any) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()


def groups_to_skip(reference: Reference, info: ExposureInfo) -> tuple[int, int] | None:
    """Look the exposure up in the reference: groups to skip in its first integration, and in the others.

    Returns
    -------
    (first, later) or None
        None when the reference has no row for the subarray and read pattern.
    """
    table = reference.tables["RSCD_GROUP_SKIP"]
    name = {column.lower(): column for column in table.dtype.names or ()}
    subarray = "SLITLESSPRISM" if info.subarray.upper() == "SUBPRISM" else info.subarray
    for row in table:
        if (_text(row[name["subarray"]]), _text(row[name["readpatt"]])) == (subarray, info.readpatt):
            break
    else:
        return None
    first, later = int(row[name["group_skip1"]]), int(row[name["group_skip"]])
    first = 1 if first < 0 else first
    if info.ngroups <= 5:
        first = later = 1
    most = max(0, info.ngroups - 3)
    return min(first, most), min(later, most)


@dataclass(frozen=True, kw_only=True)
class Rscd(Operator):
    """Leave the first groups of MIRI ramps out, as many as the reference says.

    The first integration of the exposure has its own number. Where saturation would leave fewer than two good
    groups, fewer are left out, and the pixel is marked in the scratch plane ``rscd.lowered``; the official
    step sets FLUX_ESTIMATED there in every integration of the file.
    """

    name: ClassVar[str] = "rscd"
    optional_references: ClassVar[tuple[str, ...]] = ("rscd",)

    @property
    def coupling(self) -> Coupling:
        """The exposure's first integration is special."""
        return Numbered()

    def bind(self, binding: Binding) -> BoundRampStep:
        """Look up the numbers."""
        info, plane = binding.info, binding.dq_plane
        if not info.is_miri:
            return BoundRampStep(self.name, plane, skipped="only MIRI has the effect")
        reference = binding.references.get("rscd")
        if reference is None:
            return BoundRampStep(self.name, plane, skipped="no rscd reference")
        counts = groups_to_skip(reference, info)
        if counts is None:
            reason = f"the rscd reference has no row for {info.subarray} and {info.readpatt}"
            return BoundRampStep(self.name, plane, skipped=reason)
        if info.ngroups < 3:
            return BoundRampStep(self.name, plane, skipped="fewer than three groups")

        run = partial(_skip, skip_first=counts[0], skip_later=counts[1])
        return BoundRampStep(
            self.name, plane, (RowPass(run),), {"rscd.lowered": (info.frame_shape, np.uint8)}
        )


def _skip(tile: Tile, y0: int, y1: int, *, skip_first: int, skip_later: int) -> None:
    skip_groups(tile.groupdq, tile.first, skip_first, skip_later, tile.scratch["rscd.lowered"], y0, y1)

"""saturation: flag samples at or above full well, below zero, and their neighbours (spec stage 1, section 6).

"Once saturated, always saturated" makes the flags of a pixel one number: the first saturated group. Growing the flags
to neighbours is then a minimum over the neighbourhood, for all groups at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile
from tsostream.operators.zeroframe import clear_saturated, mark_saturated, zero_scratch

__all__ = [
    "Saturation",
    "find_first_saturated",
    "find_spilled",
    "flag_second_group",
    "flag_spilled",
    "grow_saturated",
]

SAT = np.uint8(dq.SATURATED)
DNU = np.uint8(dq.DO_NOT_USE)
FLOOR = np.uint8(dq.AD_FLOOR | dq.DO_NOT_USE)


@kernel
def find_first_saturated(data, groupdq, threshold, first, y0, y1):
    """Find the first group at or above the threshold, and flag samples at the A/D floor.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Raw samples [DN].
    groupdq : uint8 [integration, group, y, x]
        AD_FLOOR and DO_NOT_USE are set where ``data <= 0``.
    threshold : float32 [y, x]
        Saturation level [DN]; 65536 where not to be checked.
    first : int16 [integration, y, x]
        Index of the first saturated group, NGROUPS if none; written.
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
                    value = data[i, g, y, x]
                    # walking backwards, the last one written is the earliest
                    if value >= threshold[y, x]:
                        first[i, y, x] = g
                    if value <= 0.0:
                        groupdq[i, g, y, x] |= FLOOR


@kernel
def grow_saturated(groupdq, first, grown, reach, y0, y1):
    """Set SATURATED from the first saturated group of the neighbourhood on.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    first : int16 [integration, y, x]
        First saturated group of each pixel itself.
    grown : int16 [integration, y, x]
        First saturated group including neighbours; written.
    reach : int
        n_pix_grow_sat.
    y0, y1 : int
        Rows.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            lowest = ngroups
            for x in range(nx):
                grown[i, y, x] = first[i, y, x]
            for dy in range(-reach, reach + 1):
                if y + dy < 0 or y + dy >= ny:
                    continue
                nearest = ngroups
                for x in range(nx):
                    nearest = min(nearest, first[i, y + dy, x])
                if nearest == ngroups:
                    continue  # most rows have no saturated pixel
                for x in range(nx):
                    if first[i, y + dy, x] < ngroups:
                        value = first[i, y + dy, x]
                        lowest = min(lowest, value)
                        for k in range(max(0, x - reach), min(nx, x + reach + 1)):
                            grown[i, y, k] = min(grown[i, y, k], value)
            for g in range(lowest, ngroups):
                for x in range(nx):
                    if grown[i, y, x] <= g:
                        groupdq[i, g, y, x] |= SAT


@kernel
def find_spilled(data, groupdq, grown, threshold, check, nframes, spilled, y0, y1):
    """Find the group before the first saturated one whose last frames must have saturated already (NFRAMES > 1).

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Raw samples [DN].
    groupdq : uint8 [integration, group, y, x]
        Read.
    grown : int16 [integration, y, x]
        First saturated group including neighbours.
    threshold : float32 [y, x]
        Saturation level [DN].
    check : bool [y, x]
        False where the reference says NO_SAT_CHECK.
    nframes : int
        Frames per group.
    spilled : int16 [integration, y, x]
        Index of the group to flag, -1 if none; written.
    y0, y1 : int
        Rows.
    """
    for i in range(data.shape[0]):
        for y in range(y0, y1):
            for x in range(data.shape[3]):
                g = grown[i, y, x] - 1
                spilled[i, y, x] = -1
                if g < 0 or g >= data.shape[1] - 1 or groupdq[i, g, y, x] & (SAT | DNU):
                    continue
                dilution = (g * nframes + (nframes + 1) / 2.0) / ((g + 1.0) * nframes) if check[y, x] else 1.0
                if data[i, g, y, x] >= threshold[y, x] * dilution:
                    spilled[i, y, x] = g


@kernel
def flag_spilled(groupdq, spilled, reach, y0, y1):
    """Set DO_NOT_USE in the spilled group of each pixel and in the same group of its neighbours.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    spilled : int16 [integration, y, x]
        Group index or -1.
    reach : int
        n_pix_grow_sat.
    y0, y1 : int
        Rows.
    """
    n, _, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            for near in range(max(0, y - reach), min(ny, y + reach + 1)):
                for x in range(nx):
                    g = spilled[i, near, x]
                    if g >= 0:
                        for k in range(max(0, x - reach), min(nx, x + reach + 1)):
                            groupdq[i, g, y, k] |= DNU


@kernel
def flag_second_group(data, groupdq, grown, threshold, bias, nframes, y0, y1):
    """Set DO_NOT_USE in the second group of a pixel that was hit while the group was averaged.

    That is a pixel whose third group saturates although its first group, extrapolated, would not have reached the
    threshold. Comes after the search for spilled groups, which looks at the flags without this one.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Raw samples [DN]; at least three groups.
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    grown : int16 [integration, y, x]
        First saturated group including neighbours.
    threshold, bias : float32 [y, x]
        Saturation level and superbias [DN].
    nframes : int
        Frames per group.
    y0, y1 : int
        Rows.
    """
    mean_first = (nframes + 1) / 2.0
    last_third = 3.0 * nframes
    for i in range(data.shape[0]):
        for y in range(y0, y1):
            for x in range(data.shape[3]):
                if grown[i, y, x] != 2:
                    continue
                start = np.float64(data[i, 0, y, x])
                level = np.float64(threshold[y, x])
                b = np.float64(bias[y, x])
                if (start - b) / mean_first * last_third + b < level and (
                    np.float64(data[i, 1, y, x] - data[i, 0, y, x]) > (level - start) / nframes
                ):
                    groupdq[i, 1, y, x] |= DNU


@dataclass(frozen=True, kw_only=True)
class Saturation(Operator):
    """Flag saturated samples and those at the A/D floor.

    Parameters
    ----------
    n_pix_grow_sat
        Also flag neighbours within this many pixels (charge spilling).
    use_readpatt
        With several frames per group, also flag the group in whose last frames the pixel saturated.
    """

    name: ClassVar[str] = "saturation"
    references: ClassVar[tuple[str, ...]] = ("saturation",)
    optional_references: ClassVar[tuple[str, ...]] = ("superbias",)

    n_pix_grow_sat: Annotated[int, msgspec.Meta(ge=0, le=50)] = 1
    use_readpatt: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Prepare thresholds: NaN or NO_SAT_CHECK never saturates."""
        info = binding.info
        reference = binding.references["saturation"]
        level = reference_array(reference, "SCI", info.frame_shape, self.name)
        bits = reference_array(reference, "DQ", info.frame_shape, self.name).copy()
        unchecked = ((bits & dq.NO_SAT_CHECK) != 0) | np.isnan(level)
        bits[np.isnan(level)] |= dq.NO_SAT_CHECK
        threshold = np.where(unchecked, np.float32(65536), level).astype(np.float32)
        check = ~unchecked
        bias = np.zeros(info.frame_shape, np.float32)
        if "superbias" in binding.references:
            bias = reference_array(binding.references["superbias"], "SCI", info.frame_shape, self.name)
        reach, nframes = self.n_pix_grow_sat, info.nframes
        plane = (info.frame_shape, np.int16)
        passes = [
            RowPass(partial(_find, threshold=threshold), part=Part("saturation", {"threshold": threshold})),
            RowPass(partial(_grow, reach=reach), halo=reach, part=Part("grow", {"reach": reach})),
        ]
        scratch: dict[str, tuple[tuple[int, ...], type]] = {
            "saturation.first": plane,
            "saturation.grown": plane,
            "saturation.notes": ((info.ny, 2), np.int16),
        }
        if self.use_readpatt and nframes > 1:
            search = partial(_find_spilled, threshold=threshold, check=check, nframes=nframes)
            passes += [RowPass(search), RowPass(partial(_flag_spilled, reach=reach), halo=reach)]
            scratch["saturation.spilled"] = plane
        if self.use_readpatt and info.ngroups > 2:
            arrays: dict[str, Any] = {"threshold": threshold, "bias": bias, "nframes": nframes}
            passes.append(RowPass(partial(_second_group, **arrays), part=Part("second", arrays)))
        if info.zeroframe:
            passes += [
                RowPass(partial(_mark_zero, threshold=threshold)),
                RowPass(partial(_clear_zero, reach=reach), halo=reach),
            ]
            scratch |= {**zero_scratch(info), "saturation.zero": (info.frame_shape, np.uint8)}
        return BoundRampStep(self.name, binding.dq_plane | bits, tuple(passes), scratch)


def _find(tile: Tile, y0: int, y1: int, *, threshold: np.ndarray) -> None:
    find_first_saturated(tile.data, tile.groupdq, threshold, tile.scratch["saturation.first"], y0, y1)


def _grow(tile: Tile, y0: int, y1: int, *, reach: int) -> None:
    scratch = tile.scratch
    grow_saturated(tile.groupdq, scratch["saturation.first"], scratch["saturation.grown"], reach, y0, y1)


def _find_spilled(
    tile: Tile, y0: int, y1: int, *, threshold: np.ndarray, check: np.ndarray, nframes: int
) -> None:
    grown, spilled = tile.scratch["saturation.grown"], tile.scratch["saturation.spilled"]
    find_spilled(tile.data, tile.groupdq, grown, threshold, check, nframes, spilled, y0, y1)


def _flag_spilled(tile: Tile, y0: int, y1: int, *, reach: int) -> None:
    flag_spilled(tile.groupdq, tile.scratch["saturation.spilled"], reach, y0, y1)


def _second_group(
    tile: Tile, y0: int, y1: int, *, threshold: np.ndarray, bias: np.ndarray, nframes: int
) -> None:
    flag_second_group(
        tile.data, tile.groupdq, tile.scratch["saturation.grown"], threshold, bias, nframes, y0, y1
    )


def _mark_zero(tile: Tile, y0: int, y1: int, *, threshold: np.ndarray) -> None:
    mark_saturated(tile.scratch["zeroframe"], threshold, tile.scratch["saturation.zero"], y0, y1)


def _clear_zero(tile: Tile, y0: int, y1: int, *, reach: int) -> None:
    clear_saturated(tile.scratch["zeroframe"], tile.scratch["saturation.zero"], reach, y0, y1)

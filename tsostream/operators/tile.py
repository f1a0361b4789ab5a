"""Walking several steps over a band of rows while it is in cache.

A tile is a few integrations and the scratch of one worker. The steps' row passes advance as a wave: the first pass is
ahead, a pass with a halo of *h* rows follows *h* rows behind, a frame pass waits until all rows are there. So each
step finds the previous one's result in the level-2 cache, and neighbours are always complete when they are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Ramp, Rate, Times
from tsostream.operators.base import BoundRampStep, RowPass
from tsostream.operators.memory import replace_by_earlier

__all__ = ["Tile", "TilePlan", "empty_rate", "plan_tile", "run_alone", "run_passes"]

#: what a band of all groups (4 bytes of signal, 1 of flags a sample) should stay below to remain in cache: half as
#: much costs more, since every call of a kernel takes a few microseconds and the interpreter's lock [bytes]
BAND_BYTES = 512 * 1024
#: what the integrations of a tile should stay below together: of small frames it takes several, for calls cost more
#: than the next level of the cache [bytes]
TILE_BYTES = 2 * 1024 * 1024


@dataclass
class Tile:
    """A few integrations on their way through the ramp steps.

    Parameters
    ----------
    first
        Number in the exposure of the tile's first integration.
    raw : uint16 [integration, group, y, x]
        Words of the file, still big-endian; None when the ramps are already decoded.
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Flags of each sample.
    rate
        Where the ramp fit writes; views of the block's arrays.
    scratch
        Name -> array [integration, ...]; ``zeroframe`` float32 [integration, y, x], where a step declares it, is what
        the steps make of the zero frames.
    zero_raw : uint16 [integration, y, x]
        Zero frames as they stand in the file; None where there are none or they are decoded already.
    band
        Memory for samples and flags of a band (see `tsostream.operators.banded`), when it was needed.
    """

    first: int
    raw: np.ndarray | None
    data: np.ndarray
    groupdq: np.ndarray
    rate: Rate | None
    scratch: dict[str, np.ndarray] = field(default_factory=dict)
    zero_raw: np.ndarray | None = None
    band: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def count(self) -> int:
        """Integrations in the tile."""
        return self.data.shape[0]


@dataclass(frozen=True)
class TilePlan:
    """How many integrations and rows a tile takes, and the bytes one worker holds for it."""

    integrations: int
    rows: int
    bytes: int


def plan_tile(info: ExposureInfo, steps: Sequence[BoundRampStep]) -> TilePlan:
    """Choose integrations and rows per tile so that a band of all groups stays in cache.

    Small subarrays take several integrations at once, which spreads the cost of a kernel call; large ones take one
    integration and a few rows. Results do not depend on the choice.
    """
    row = info.ngroups * info.nx * 5
    frame = row * info.ny
    integrations = max(1, min(64, TILE_BYTES // frame))
    rows = info.ny if integrations > 1 else max(1, min(info.ny, BAND_BYTES // row))
    arrays = {name: spec for step in steps for name, spec in step.scratch.items()}
    scratch = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
    # a band has arrays of its own, see `tsostream.operators.banded`
    band = row * rows if rows < info.ny else 0
    return TilePlan(integrations, rows, integrations * (frame + scratch + band))


def run_passes(
    tile: Tile, passes: Sequence[RowPass], ny: int, rows: int, seconds: list[float] | None = None
) -> None:
    """Send a tile through all passes as a wave of bands.

    Parameters
    ----------
    tile
        Integrations and scratch.
    passes
        All passes of all steps, in order.
    ny
        Rows of the subarray.
    rows
        Rows per band.
    seconds
        Time spent in each pass is added here [s].
    """
    clock = time.thread_time  # what the machine does for others meanwhile is not the step's
    lags, lag = [], 0
    for one in passes:
        lag += ny if one.frame else one.halo
        lags.append(lag)
    done = [0] * len(passes)
    front, began = 0, clock()
    while passes and done[-1] < ny:
        front += rows
        for index, one in enumerate(passes):
            reach = min(ny, front - lags[index])
            if one.frame:
                # all earlier passes are complete as soon as this one would touch its first row
                if reach <= 0 or done[index] > 0:
                    continue
                low, reach = 0, ny
            else:
                low = done[index]
                if reach <= low:
                    continue
            one.run(tile, low, reach)
            done[index] = reach
            if seconds is not None:
                ended = clock()
                seconds[index] += ended - began
                began = ended


def empty_rate(shape: tuple[int, int, int], first: int, times: Times) -> Rate:
    """Make the arrays a ramp fit writes into, ``shape`` being [integration, y, x]."""
    return Rate(
        first=first,
        data=np.empty(shape, np.float32),
        err=np.empty(shape, np.float32),
        var_poisson=np.empty(shape, np.float32),
        var_rnoise=np.empty(shape, np.float32),
        dq=np.empty(shape, np.uint32),
        times=times,
    )


def make_scratch(steps: Sequence[BoundRampStep], integrations: int) -> dict[str, np.ndarray]:
    """Allocate the working arrays of all steps for one worker."""
    return {
        name: np.empty((integrations, *shape), dtype)
        for step in steps
        for name, (shape, dtype) in step.scratch.items()
    }


def run_alone(step: BoundRampStep, block: Ramp | Rate) -> list[Ramp] | list[Rate]:
    """Run one bound step on a block, in place where it does not change the kind of payload (tests, notebooks)."""
    ny, nx = block.data.shape[-2:]
    scratch = make_scratch([step], block.count)
    if isinstance(block, Rate):
        tile = Tile(
            block.first,
            None,
            block.data[:, None],
            np.zeros((block.count, 1, ny, nx), np.uint8),
            block,
            scratch,
        )
        run_passes(tile, step.passes, ny, ny)
        return [block]
    if "zeroframe" in scratch:
        scratch["zeroframe"][...] = 0.0 if block.zeroframe is None else block.zeroframe
    rate = empty_rate((block.count, ny, nx), block.first, block.times)
    tile = Tile(block.first, None, block.data, block.groupdq, rate, scratch)
    if step.memory is not None:
        # the block is all there is: nothing came before its first integration
        step.memory.trace(replace(tile, groupdq=block.groupdq.copy()), scratch[step.memory.plane])
        replace_by_earlier(step.memory, np.zeros((ny, nx), step.memory.dtype), scratch[step.memory.plane])
    run_passes(tile, step.passes, ny, ny)
    if step.produces == "rate":
        return [rate]
    zero = scratch.get("zeroframe", block.zeroframe)
    return [Ramp(block.first, block.data, block.groupdq, step.pixeldq, block.times, zero)]

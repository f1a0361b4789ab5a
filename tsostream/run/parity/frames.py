"""What needs whole frames of a segment, found integration by integration and kept: a few numbers per group."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tsostream.operators.decode import decode_pass
from tsostream.operators.emi_segment import Corrections, SegmentInterference
from tsostream.operators.fused import fuse_levels
from tsostream.operators.tile import BAND_BYTES, Tile, make_scratch, run_passes
from tsostream.run.parity.reading import Jobs, SegmentReader
from tsostream.run.parity.spool import make_room
from tsostream.run.parity.steps import TABLES, ParitySteps

__all__ = ["SAMPLE", "find_interference", "find_tables"]

#: bytes of a sample: signal and flags
SAMPLE = 5


def find_tables(reader: SegmentReader, steps: ParitySteps, jobs: Jobs) -> dict[str, np.ndarray]:
    """Find what refpix subtracts from every group of every integration.

    Returns
    -------
    dict
        Scratch plane of refpix -> float32 [integration, …].
    """
    info, n = steps.info, reader.count
    passes = fuse_levels([decode_pass, *steps.frame_passes()])
    own = steps.frame_steps()
    frame = info.ngroups * info.ny * info.nx * SAMPLE
    length = max(1, min(64, BAND_BYTES // frame))
    first = {name: spec for step in own for name, spec in step.scratch.items()}
    tables = {name: np.empty((n, *first[name][0]), first[name][1]) for name in TABLES if name in first}

    def work(start: int) -> None:
        count = min(length, n - start)
        words = reader.words(start, count, 0, info.ny)
        shape = (count, info.ngroups, info.ny, info.nx)
        scratch = make_scratch(own, count)
        scratch |= {name: table[start : start + count] for name, table in tables.items()}
        tile = Tile(
            reader.first + start, words, np.empty(shape, np.float32), np.empty(shape, np.uint8), None, scratch,
            reader.zero_frames(start, count, 0, info.ny),
        )  # fmt: skip
        rows = info.ny if count > 1 else max(1, BAND_BYTES // (frame // info.ny))
        run_passes(tile, passes, info.ny, rows)

    jobs.each(work, range(0, n, length))
    return tables


def find_interference(
    step: SegmentInterference, reader: SegmentReader, steps: ParitySteps, jobs: Jobs, scratch: Path | None
) -> Corrections:
    """Find emicorr's waves in the integrations as the steps before leave them."""
    info = steps.info
    before = steps.before_interference()
    passes = [decode_pass, *(one for own in before for one in own.passes)]
    rows = max(1, BAND_BYTES // (info.ngroups * info.nx * SAMPLE))

    def scan(visit: Callable[[int, np.ndarray], None], count: int) -> None:
        def work(index: int) -> None:
            words = reader.words(index, 1, 0, info.ny)
            shape = (1, info.ngroups, *info.frame_shape)
            tile = Tile(
                reader.first + index, words, np.empty(shape, np.float32), np.empty(shape, np.uint8), None,
                make_scratch(before, 1),
            )  # fmt: skip
            run_passes(tile, passes, info.ny, rows)
            visit(index, tile.data[0])

        jobs.each(work, range(count))

    return step.find(scan, reader.count, reader.first, partial(make_room, folder=scratch))

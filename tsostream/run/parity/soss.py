"""Statistics of SOSS files for the official extraction, which looks at all integrations of a file at once.

The slopes go through all steps once and onto disk; statistics are taken from there, some rows at a time.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsostream.files import block_length, read_blocks
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.soss.geometry import trace_reference
from tsostream.operators.soss.official import segment_statistics
from tsostream.operators.soss.official_block import SossSegment
from tsostream.run.chain import Chain
from tsostream.run.flow import Flow
from tsostream.run.parity.scratch import map_scratch
from tsostream.run.prepared import Prepared
from tsostream.run.ramps import RateChain
from tsostream.run.slopes import SlopeSteps

__all__ = ["soss_segments"]


@dataclass(frozen=True)
class Spool:
    """Takes slopes to disk as if it measured them.

    Parameters
    ----------
    first
        First integration.
    data, err, dq
        Files as arrays [integration, y, x].
    """

    first: int
    data: np.ndarray
    err: np.ndarray
    dq: np.ndarray
    name: str = "extract_1d"
    skipped: str = ""

    @property
    def pixeldq(self) -> np.ndarray:
        """Nothing is known of pixels here."""
        return np.zeros(self.data.shape[1:], np.uint32)

    def push(self, block: Rate) -> Iterable[Measurement]:
        """Write a block."""
        low = block.first - self.first
        part = slice(low, low + block.count)
        self.data[part], self.err[part], self.dq[part] = block.data, block.err, block.dq
        return [Measurement(block.first, block.times, ((1, 0),), {}, {}, np.ones(block.count, bool))]

    def flush(self) -> Iterable[Measurement]:
        """Nothing is held back."""
        return []


def soss_segments(
    prepared: Prepared, rates: RateChain, slopes: SlopeSteps, pool: ThreadPoolExecutor
) -> list[SossSegment] | None:
    """Take the slopes of every file to disk, and its statistics.

    Parameters
    ----------
    prepared
        The run.
    rates, slopes
        Its bound steps.
    pool
        Workers.

    Returns
    -------
    list or None
        One entry per file; None where the official extraction of SOSS does not apply.
    """
    exposure = prepared.exposure
    if exposure.info.exp_type != "NIS_SOSS" or trace_reference(prepared.references) is None:
        return None
    info = slopes.info
    shape = (exposure.last - exposure.first + 1, *info.frame_shape)
    folder = prepared.request.scratch or (
        prepared.out.parent if prepared.out is not None else Path(tempfile.gettempdir())
    )
    data, err, filled, bits = map_scratch(folder, [*[(shape, np.float32)] * 3, (shape, np.uint32)])
    data[...] = np.nan
    err[...] = np.nan
    chain = Chain(rates, slopes, (Spool(exposure.first, data, err, bits),), ((1, 0),))
    asyncio.run(_drain(prepared, chain, pool))
    result = []
    for segment in exposure.segments:
        part = slice(segment.first - exposure.first, segment.last - exposure.first + 1)
        statistics = segment_statistics(data[part], err[part], bits[part], filled[part])
        result.append(SossSegment(segment.first, segment.last, statistics, filled[part]))
    return result


async def _drain(prepared: Prepared, chain: Chain, pool: ThreadPoolExecutor) -> None:
    exposure, plan = prepared.exposure, prepared.plan
    size = prepared.request.block_bytes or plan.block_bytes
    blocks = read_blocks(exposure, block_bytes=size, read_ahead=plan.read_ahead)
    length = min(block_length(exposure, block_bytes=size), exposure.count)
    async for _ in Flow(chain, pool, plan.workers, length).measure(blocks):
        pass

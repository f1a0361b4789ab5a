"""Blocks of integrations, read by position into pooled buffers, a bounded number ahead of the consumer.

A block is a run of whole integrations of one segment. The words are handed out as they stand in the file (big
endian, not scaled) behind views of native dtype; decoding is the first thing a kernel does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

import aiofiles.os

from tsostream.files.blocks import Job, OnError, OpenFiles, Pool, layout, read_block
from tsostream.files.exposure import Exposure
from tsostream.files.segment import SegmentFile
from tsostream.integration.payload import Raw

__all__ = ["BLOCK_BYTES", "OnError", "block_length", "buffer_bytes", "read_blocks", "read_sync"]

#: bytes a block is filled to; smaller reads pay for the call, larger ones fall out of the cache
BLOCK_BYTES: Final = 4 << 20
READ_AHEAD: Final = 2

Ranges = Iterable[tuple[int, int]]


def block_length(
    exposure: Exposure,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    names: tuple[str, ...] | None = None,
) -> int:
    """Integrations per block: what fits into ``block_bytes``, at least one, at most ``max_ints``."""
    each = exposure.segments[0].bytes_per_integration(names)
    length = max(1, block_bytes // each)
    return length if max_ints is None else max(1, min(length, max_ints))


def buffer_bytes(
    exposure: Exposure,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    read_ahead: int = READ_AHEAD,
    in_use: int = 1,
    names: tuple[str, ...] | None = None,
) -> int:
    """Bytes of all buffers the reader will ever hold, for the memory plan.

    Parameters
    ----------
    exposure, block_bytes, max_ints, read_ahead, names
        As for `read_blocks`.
    in_use
        Blocks the consumer holds at the same time, taken but not yet released.
    """
    length = block_length(exposure, block_bytes=block_bytes, max_ints=max_ints, names=names)
    longest = max(segment.count for segment in exposure.segments)
    segment = exposure.segments[0]
    size = layout(segment, names or segment.planes, min(length, longest))[1]
    return size * (max(1, read_ahead) + in_use)


async def read_blocks(
    exposure: Exposure,
    *,
    ranges: Ranges | None = None,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    read_ahead: int = READ_AHEAD,
    names: tuple[str, ...] | None = None,
    on_error: OnError = "stop",
) -> AsyncIterator[Raw]:
    """Read integrations in order.

    Parameters
    ----------
    exposure
        What to read.
    ranges
        ``(first, count)`` each, in exposure numbers, ascending and apart from each other; default everything.
    block_bytes, max_ints
        A block holds as many integrations as fit into ``block_bytes``, at least one, at most ``max_ints``;
        it never crosses the end of a segment.
    read_ahead
        Blocks read before the consumer asks. Buffers alive are at most ``max(1, read_ahead)`` plus those the
        consumer has not released.
    names
        Extensions to read; default the planes of an integration (`SegmentFile.planes`).
    on_error
        ``flag`` hands integrations that cannot be read (an error of the disk, a file that became shorter) out as
        ``failed``, each for itself.

    Yields
    ------
    Raw
        Call ``release()`` once its arrays are decoded, from any thread; the views are void afterwards.
        Integrations of a gap, and failed ones, come with ``present=False``, no arrays, and times from the header.

    Raises
    ------
    ReadError
        When a file changed, is gone, or, without ``flag``, became shorter or cannot be read.
    ValueError
        When ``ranges`` do not ascend or leave the exposure.
    """
    plan = _plan(
        exposure, ranges, block_length(exposure, block_bytes=block_bytes, max_ints=max_ints, names=names)
    )
    pool = Pool()
    files = OpenFiles(names, on_error)
    waiting: deque[asyncio.Task[list[Raw]]] = deque()
    read = aiofiles.os.wrap(read_block)

    def top_up(target: int) -> None:
        while len(waiting) < target and (job := next(plan, None)) is not None:
            waiting.append(asyncio.ensure_future(read(exposure, job, files, pool)))

    try:
        while True:
            top_up(max(1, read_ahead))
            if not waiting:
                return
            # shielded: a cancelled consumer must not abandon a thread that is still writing into a buffer
            parts = await asyncio.shield(waiting[0])
            waiting.popleft()
            if any(raw.arrays for raw in parts):
                files.close_before(parts[0].first)
            top_up(read_ahead)
            for raw in parts:
                yield raw
    finally:
        # descriptors close when the last thread using them is done, whatever interrupts us here
        files.close()
        for task in waiting:
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[list[Raw]]) -> None:
    """Take the outcome of a read nobody waits for, so that asyncio does not complain about it."""
    if not task.cancelled() and task.exception() is None:
        for raw in task.result():
            raw.release()


def read_sync(
    exposure: Exposure,
    ranges: Ranges | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    names: tuple[str, ...] | None = None,
    on_error: OnError = "stop",
) -> Iterator[Raw]:
    """`read_blocks` without asyncio and read-ahead, for tools and tests."""
    plan = _plan(
        exposure, ranges, block_length(exposure, block_bytes=block_bytes, max_ints=max_ints, names=names)
    )
    pool, files = Pool(), OpenFiles(names, on_error)
    try:
        for job in plan:
            parts = read_block(exposure, job, files, pool)
            files.close_before(job.first)
            yield from parts
    finally:
        files.close()


def _plan(exposure: Exposure, ranges: Ranges | None, length: int) -> Iterator[Job]:
    """Cut the ranges at segment ends, gaps and block lengths."""
    wanted = [(exposure.first, exposure.last - exposure.first + 1)] if ranges is None else ranges
    parts: list[tuple[int, int, SegmentFile | None]] = [(a, b, None) for a, b in exposure.gaps]
    parts += [(segment.first, segment.last, segment) for segment in exposure.segments]
    parts.sort(key=lambda part: part[0])

    def jobs() -> Iterator[Job]:
        done = exposure.first - 1
        for first, count in wanted:
            if count < 1 or first <= done or first + count - 1 > exposure.last:
                raise ValueError(
                    f"range ({first}, {count}) must lie within {done + 1}-{exposure.last}: ranges ascend"
                )
            done = first + count - 1
            for low, high, segment in parts:
                start = max(low, first)
                while start <= min(high, done):
                    size = min(length, min(high, done) - start + 1)
                    yield Job(segment, start, size)
                    start += size

    return jobs()

"""Blocks of integrations, read by position into pooled buffers, a bounded number ahead of the consumer.

A block is a run of whole integrations of one segment. The words are handed out as they stand in the file (big
endian, not scaled) behind views of native dtype; decoding is the first thing a kernel does.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import aiofiles.os
import numpy as np
import numpy.typing as npt

from tsostream.errors import ReadError
from tsostream.files.exposure import Exposure
from tsostream.files.segment import Extension, SegmentFile
from tsostream.files.times import SegmentTimes, header_times
from tsostream.integration.payload import Raw

__all__ = ["BLOCK_BYTES", "block_length", "buffer_bytes", "read_blocks", "read_sync"]

#: bytes a block is filled to; smaller reads pay for the call, larger ones fall out of the cache
BLOCK_BYTES: Final = 4 << 20
READ_AHEAD: Final = 2
#: each array of a block begins at a multiple of this many bytes
_ALIGN: Final = 64
#: one read call moves at most this much (Linux stops at 2 GiB)
_MAX_READ: Final = 1 << 30
_WORDS: Final = {8: np.uint8, 16: np.uint16, 32: np.uint32, -32: np.uint32, 64: np.uint64, -64: np.uint64}

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
    size = _layout(segment, names or segment.planes, min(length, longest))[1]
    return size * (max(1, read_ahead) + in_use)


async def read_blocks(
    exposure: Exposure,
    *,
    ranges: Ranges | None = None,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    read_ahead: int = READ_AHEAD,
    names: tuple[str, ...] | None = None,
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

    Yields
    ------
    Raw
        Call ``release()`` once its arrays are decoded, from any thread; the views are void afterwards.
        Integrations of a gap come with ``present=False``, no arrays, and times from the header.

    Raises
    ------
    ReadError
        When a file changed, became shorter, or cannot be read.
    ValueError
        When ``ranges`` do not ascend or leave the exposure.
    """
    plan = _plan(
        exposure, ranges, block_length(exposure, block_bytes=block_bytes, max_ints=max_ints, names=names)
    )
    pool = _Pool()
    files = _Files(names)
    waiting: deque[asyncio.Task[Raw]] = deque()
    read = aiofiles.os.wrap(_read_block)

    def top_up(target: int) -> None:
        while len(waiting) < target and (job := next(plan, None)) is not None:
            waiting.append(asyncio.ensure_future(read(exposure, job, files, pool)))

    try:
        while True:
            top_up(max(1, read_ahead))
            if not waiting:
                return
            # shielded: a cancelled consumer must not abandon a thread that is still writing into a buffer
            raw = await asyncio.shield(waiting[0])
            waiting.popleft()
            if raw.arrays:
                files.close_before(raw.first)
            top_up(read_ahead)
            yield raw
    finally:
        # descriptors close when the last thread using them is done, whatever interrupts us here
        files.close()
        for task in waiting:
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Raw]) -> None:
    """Take the outcome of a read nobody waits for, so that asyncio does not complain about it."""
    if not task.cancelled() and task.exception() is None:
        task.result().release()


def read_sync(
    exposure: Exposure,
    ranges: Ranges | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_ints: int | None = None,
    names: tuple[str, ...] | None = None,
) -> Iterator[Raw]:
    """`read_blocks` without asyncio and read-ahead, for tools and tests."""
    plan = _plan(
        exposure, ranges, block_length(exposure, block_bytes=block_bytes, max_ints=max_ints, names=names)
    )
    pool, files = _Pool(), _Files(names)
    try:
        for job in plan:
            raw = _read_block(exposure, job, files, pool)
            files.close_before(raw.first)
            yield raw
    finally:
        files.close()


@dataclass(frozen=True, slots=True)
class _Job:
    """One block to come; ``segment`` is None inside a gap."""

    segment: SegmentFile | None
    first: int
    count: int


def _plan(exposure: Exposure, ranges: Ranges | None, length: int) -> Iterator[_Job]:
    """Cut the ranges at segment ends, gaps and block lengths."""
    wanted = [(exposure.first, exposure.last - exposure.first + 1)] if ranges is None else ranges
    parts: list[tuple[int, int, SegmentFile | None]] = [(a, b, None) for a, b in exposure.gaps]
    parts += [(segment.first, segment.last, segment) for segment in exposure.segments]
    parts.sort(key=lambda part: part[0])

    def jobs() -> Iterator[_Job]:
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
                    yield _Job(segment, start, size)
                    start += size

    return jobs()


class _Pool:
    """Buffers that were given back, for the next blocks. Thread-safe."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self.allocated = 0

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Take a buffer of at least ``size`` bytes."""
        with self._lock:
            for index, buffer in enumerate(self._free):
                if buffer.nbytes >= size:
                    return self._free.pop(index)
            # none is large enough: one too small gives way, so their number does not grow
            if self._free:
                self._free.pop()
            else:
                self.allocated += 1
        return np.empty(size, dtype=np.uint8)

    def giver(self, buffer: npt.NDArray[np.uint8]) -> Callable[[], None]:
        """Make a function that gives the buffer back, once, however often it is called."""
        pending = [buffer]

        def give_back() -> None:
            with self._lock:
                if pending:
                    self._free.append(pending.pop())

        return give_back


class _OpenFile:
    """A descriptor that closes when nobody reads from it any more."""

    def __init__(self, segment: SegmentFile, names: tuple[str, ...] | None):
        self.segment = segment
        self.names = names or segment.planes
        self._users, self._closing = 0, False
        self._lock = threading.Lock()
        where = segment.source_path
        try:
            self.descriptor = os.open(segment.path, os.O_RDONLY)
        except OSError as error:
            raise ReadError(
                f"{where}: cannot be opened any more ({error.strerror or error}); "
                "restore it and go on with --resume"
            ) from error
        try:
            size = os.fstat(self.descriptor).st_size
            if size != segment.data_size:
                raise ReadError(
                    f"{where}: the file changed since it was inspected ({segment.data_size} bytes then, "
                    f"{size} now); start again when nothing writes to it"
                )
            self.times = SegmentTimes(segment)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> _OpenFile:
        with self._lock:
            if self._closing:
                raise ReadError(f"{self.segment.source_path}: reading was stopped")
            self._users += 1
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            self._finish()

    def close(self) -> None:
        """Close as soon as the last reader is done."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._finish()

    def _finish(self) -> None:
        if self._closing and not self._users and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Files:
    """Segments that are being read, each opened once."""

    def __init__(self, names: tuple[str, ...] | None):
        self._names = names
        self._open: dict[int, _OpenFile] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get(self, segment: SegmentFile) -> _OpenFile:
        """Open a segment, or find it open."""
        with self._lock:
            if self._closed:
                raise ReadError(f"{segment.source_path}: reading was stopped")
            if segment.first not in self._open:
                self._open[segment.first] = _OpenFile(segment, self._names)
            return self._open[segment.first]

    def close_before(self, number: int) -> None:
        """Close the segments that end before an integration: blocks come in order."""
        with self._lock:
            for key in [key for key, file in self._open.items() if file.segment.last < number]:
                self._open.pop(key).close()

    def close(self) -> None:
        """Close everything, now and for those that still ask."""
        with self._lock:
            self._closed = True
            for file in self._open.values():
                file.close()
            self._open.clear()


def _layout(
    segment: SegmentFile, names: tuple[str, ...], count: int
) -> tuple[list[tuple[Extension, int, int]], int]:
    """Extension, position in the buffer and bytes of each array of a block, and the bytes of the buffer."""
    parts, position = [], 0
    for name in names:
        extension = segment.extensions[name]
        size = extension.bytes_per_integration * count
        parts.append((extension, position, size))
        position += -(-size // _ALIGN) * _ALIGN
    return parts, position


def _read_block(exposure: Exposure, job: _Job, files: _Files, pool: _Pool) -> Raw:
    """Read one block; runs in a thread."""
    segment = job.segment
    if segment is None:
        numbers = np.arange(job.first, job.first + job.count)
        return Raw(job.first, job.count, {}, header_times(exposure.info, numbers), present=False)
    with files.get(segment) as file:
        parts, total = _layout(segment, file.names, job.count)
        buffer = pool.take(total)
        release = pool.giver(buffer)
        try:
            arrays = {}
            for extension, position, size in parts:
                into = buffer[position : position + size]
                skip = (job.first - segment.first) * extension.bytes_per_integration
                _fill(file, extension, into, extension.offset + skip, job)
                shape = (job.count, *extension.shape[1:])
                arrays[extension.name] = into.view(_WORDS[extension.bitpix]).reshape(shape)
            times = file.times.rows(job.first, job.count)
        except BaseException:
            release()
            raise
    return Raw(job.first, job.count, arrays, times, release=release)


def _fill(file: _OpenFile, extension: Extension, into: npt.NDArray[np.uint8], offset: int, job: _Job) -> None:
    """Read until ``into`` is full."""
    done, size = 0, into.nbytes
    while done < size:
        try:
            got = os.preadv(file.descriptor, [into[done : done + _MAX_READ].data], offset + done)
        except OSError as error:
            raise _read_error(
                file, extension, done, job, f"cannot be read ({error.strerror or error})"
            ) from error
        if not got:
            raise _read_error(file, extension, done, job, "is not there any more: the file became shorter")
        done += got


def _read_error(file: _OpenFile, extension: Extension, done: int, job: _Job, what: str) -> ReadError:
    number = job.first + done // math.prod((extension.itemsize, *extension.shape[1:]))
    return ReadError(
        f"{file.segment.source_path}, extension {extension.name}: integration {number} {what}; "
        "restore the file and go on with --resume"
    )

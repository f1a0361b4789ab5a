"""One block of integrations: read by position into a buffer, cut where integrations cannot be read.

What stands in the file stays as it is: words are handed out behind views of native dtype.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, ReadError
from tsostream.files.exposure import Exposure
from tsostream.files.segment import Extension, SegmentFile, open_segment
from tsostream.files.times import SegmentTimes, header_times
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Raw, Times

__all__ = ["Job", "OnError", "OpenFiles", "Pool", "layout", "read_block"]

logger = logging.getLogger("tsostream")

#: what bytes that cannot be read mean: the end of the run, or integrations that are not present
OnError = Literal["stop", "flag"]
#: each array of a block begins at a multiple of this many bytes
_ALIGN: Final = 64
#: one read call moves at most this much (Linux stops at 2 GiB)
_MAX_READ: Final = 1 << 30
_WORDS: Final = {8: np.uint8, 16: np.uint16, 32: np.uint32, -32: np.uint32, 64: np.uint64, -64: np.uint64}


@dataclass(frozen=True, slots=True)
class Job:
    """One block to come; ``segment`` is None inside a gap."""

    segment: SegmentFile | None
    first: int
    count: int


class Pool:
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

    def __init__(self, segment: SegmentFile, names: tuple[str, ...] | None, on_error: OnError):
        self.segment, self.on_error = segment, on_error
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
            stat = os.fstat(self.descriptor)
            size, self._mtime_ns = stat.st_size, stat.st_mtime_ns
            shorter = size < segment.data_size and on_error == "flag"
            if size != segment.data_size and not shorter:
                raise ReadError(
                    f"{where}: the file changed since it was inspected ({segment.data_size} bytes then, "
                    f"{size} now); start again when nothing writes to it"
                )
            if not shorter and segment.path == segment.source_path and self._mtime_ns != segment.mtime_ns:
                self._refuse_another()
            self.times = self._read_times()
        except BaseException:
            os.close(self.descriptor)
            raise

    def check(self) -> None:
        """Look whether another program writes to the file while it is read.

        Raises
        ------
        ReadError
            When its headers are not those that were inspected.
        """
        stat = os.fstat(self.descriptor)
        # one that became shorter is told by the integration that is not there any more
        if stat.st_mtime_ns == self._mtime_ns or stat.st_size < self.segment.data_size:
            return
        if self.segment.path == self.segment.source_path:
            self._refuse_another()
        self._mtime_ns = stat.st_mtime_ns

    def _refuse_another(self) -> None:
        """Raise when the file, whose time has changed, has another content, too."""
        try:
            now = open_segment(self.segment.path).header_sha256
        except InputError:
            now = ""
        if now != self.segment.header_sha256:
            raise ReadError(
                f"{self.segment.source_path}: the file was replaced or changed since it was inspected; versions are "
                "not mixed: put it back and go on with --resume, or start again with --overwrite"
            )

    def _read_times(self) -> SegmentTimes | None:
        try:
            return SegmentTimes(self.segment)
        except ReadError:
            if self.on_error == "stop":
                raise
            return None

    def rows(self, info: ExposureInfo, first: int, count: int) -> Times:
        """Give times of some integrations; from the header where the table is lost."""
        if self.times is not None:
            try:
                return self.times.rows(first, count)
            except ReadError:
                if self.on_error == "stop":
                    raise
        return header_times(info, np.arange(first, first + count))

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


class OpenFiles:
    """Segments that are being read, each opened once."""

    def __init__(self, names: tuple[str, ...] | None, on_error: OnError):
        self._names, self._on_error = names, on_error
        self._open: dict[int, _OpenFile] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get(self, segment: SegmentFile) -> _OpenFile:
        """Open a segment, or find it open."""
        with self._lock:
            if self._closed:
                raise ReadError(f"{segment.source_path}: reading was stopped")
            if segment.first not in self._open:
                self._open[segment.first] = _OpenFile(segment, self._names, self._on_error)
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


def layout(
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


def read_block(exposure: Exposure, job: Job, files: OpenFiles, pool: Pool) -> list[Raw]:
    """Read one block; runs in a thread. More than one part only where integrations could not be read."""
    segment = job.segment
    if segment is None:
        numbers = np.arange(job.first, job.first + job.count)
        return [Raw(job.first, job.count, {}, header_times(exposure.info, numbers), present=False)]
    with files.get(segment) as file:
        parts, total = layout(segment, file.names, job.count)
        buffer = pool.take(total)
        release = pool.giver(buffer)
        try:
            times = file.rows(exposure.info, job.first, job.count)
            failed = np.zeros(job.count, bool)
            try:
                _read_integrations(file, parts, buffer, job, 0, job.count)
            except ReadError:
                failed = _salvage(file, parts, buffer, job)
            file.check()
            return _hand_out(job, parts, buffer, times, failed, release)
        except BaseException:
            release()
            raise


_Parts = list[tuple[Extension, int, int]]


def _read_integrations(
    file: _OpenFile, parts: _Parts, buffer: npt.NDArray[np.uint8], job: Job, start: int, stop: int
) -> None:
    """Read integrations ``start:stop`` of a block to their places in its buffer."""
    for extension, position, _ in parts:
        step = extension.bytes_per_integration
        into = buffer[position + start * step : position + stop * step]
        skip = (job.first + start - file.segment.first) * step
        _fill(file, extension, into, extension.offset + skip, replace(job, first=job.first + start))


def _salvage(
    file: _OpenFile, parts: _Parts, buffer: npt.NDArray[np.uint8], job: Job
) -> npt.NDArray[np.bool_]:
    """Read a block integration by integration; tell which cannot be read, or raise at the first."""
    failed = np.zeros(job.count, bool)
    for index in range(job.count):
        try:
            _read_integrations(file, parts, buffer, job, index, index + 1)
        except ReadError as error:
            if file.on_error == "stop":
                raise
            logger.warning("%s", str(error).partition(";")[0])
            failed[index] = True
    return failed


def _hand_out(
    job: Job,
    parts: _Parts,
    buffer: npt.NDArray[np.uint8],
    times: Times,
    failed: npt.NDArray[np.bool_],
    release: Callable[[], None],
) -> list[Raw]:
    """Cut a block where integrations failed; the buffer is given back when all parts are released."""
    edges = [0, *(np.flatnonzero(np.diff(failed)) + 1).tolist(), job.count]
    share = _shared(release, sum(not failed[start] for start in edges[:-1]))
    blocks = []
    for start, stop in pairwise(edges):
        first, count, part = job.first + start, stop - start, slice(start, stop)
        if failed[start]:
            blocks.append(Raw(first, count, {}, times[part], present=False, failed=True))
            continue
        arrays = {}
        for extension, position, _ in parts:
            step = extension.bytes_per_integration
            words = buffer[position + start * step : position + stop * step].view(_WORDS[extension.bitpix])
            arrays[extension.name] = words.reshape((count, *extension.shape[1:]))
        blocks.append(Raw(first, count, arrays, times[part], release=share()))
    if failed.all():
        release()
    return blocks


def _shared(release: Callable[[], None], users: int) -> Callable[[], Callable[[], None]]:
    """Make functions of which the last one to be called releases; each counts once, however often it is called."""
    if users == 1:
        return lambda: release
    lock, left = threading.Lock(), [users]

    def share() -> Callable[[], None]:
        pending = [True]

        def give_back() -> None:
            with lock:
                if not pending:
                    return
                pending.pop()
                left[0] -= 1
                last = left[0] == 0
            if last:
                release()

        return give_back

    return share


def _fill(file: _OpenFile, extension: Extension, into: npt.NDArray[np.uint8], offset: int, job: Job) -> None:
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


def _read_error(file: _OpenFile, extension: Extension, done: int, job: Job, what: str) -> ReadError:
    number = job.first + done // math.prod((extension.itemsize, *extension.shape[1:]))
    return ReadError(
        f"{file.segment.source_path}, extension {extension.name}: integration {number} {what}; "
        "restore the file and go on with --resume"
    )

"""Raw samples of a segment file, any rows of any integrations, and work on them shared among workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tsostream.errors import ReadError
from tsostream.files import SegmentFile
from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["Jobs", "SegmentReader", "open_segment"]


@dataclass(frozen=True)
class Jobs:
    """Shares jobs among workers.

    Parameters
    ----------
    pool, workers
        Where the work is done, and how many jobs at a time.
    """

    pool: Executor
    workers: int = 1

    def each(self, work: Callable[[int], None], jobs: range) -> None:
        """Work on jobs side by side; the first failure is raised."""
        if self.workers < 2 or len(jobs) < 2:
            for job in jobs:
                work(job)
            return
        share = threading.Lock()
        waiting = iter(jobs)

        def take() -> None:
            while True:
                with share:
                    job = next(waiting, None)
                if job is None:
                    return
                work(job)

        running = [self.pool.submit(take) for _ in range(self.workers)]
        for one in running:
            one.result()


@dataclass(frozen=True)
class SegmentReader:
    """Reads an open segment file.

    Parameters
    ----------
    segment
        The file.
    info
        The exposure.
    descriptor
        Of the open file.
    """

    segment: SegmentFile
    info: ExposureInfo
    descriptor: int

    @property
    def first(self) -> int:
        """Number in the exposure of the first integration."""
        return self.segment.first

    @property
    def count(self) -> int:
        """Integrations of the segment."""
        return self.segment.count

    def zero_frames(self, start: int, count: int, top: int, bottom: int) -> np.ndarray | None:
        """Read rows of zero frames; uint16 [integration, row, x], or None where the fit makes nothing of them."""
        if not self.info.zeroframe:
            return None
        return self.words(start, count, top, bottom, "ZEROFRAME")[:, 0]

    def words(self, start: int, count: int, top: int, bottom: int, name: str = "SCI") -> np.ndarray:
        """Read rows of some integrations; uint16 [integration, group, row, x], big-endian words.

        Raises
        ------
        ReadError
            The file ends before.
        """
        info, extension = self.info, self.segment.extensions[name]
        ngroups = info.ngroups if name == "SCI" else 1
        words = np.empty((count, ngroups, bottom - top, info.nx), np.uint16)
        offset = extension.offset + start * extension.bytes_per_integration
        if bottom - top == info.ny:
            self._fill(words.reshape(-1), offset)
            return words
        plane = info.ny * info.nx * 2
        for number, part in enumerate(words.reshape(count * ngroups, -1)):
            self._fill(part, offset + number * plane + top * info.nx * 2)
        return words

    def _fill(self, words: np.ndarray, offset: int) -> None:
        into = words.view(np.uint8)
        done = 0
        while done < into.nbytes:
            got = os.preadv(self.descriptor, [into[done:].data], offset + done)
            if not got:
                raise ReadError(f"{self.segment.source_path}: the file became shorter while it was read")
            done += got


@contextmanager
def open_segment(segment: SegmentFile, info: ExposureInfo) -> Iterator[SegmentReader]:
    """Open a segment for reading."""
    descriptor = os.open(segment.path, os.O_RDONLY)
    try:
        yield SegmentReader(segment, info, descriptor)
    finally:
        os.close(descriptor)

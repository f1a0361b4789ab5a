"""Slopes of a segment: written window by window with all integrations, read integration by integration.

Each plane of each window lies in one piece, integrations one behind the other: a window is written once and in order,
and a block of integrations is read as one run of every window. Small stores are memory, others an unnamed file that is
written and read, not mapped: mapped pages would be found again for every window.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tsostream.errors import SinkError
from tsostream.integration.payload import Rate, Times
from tsostream.operators.rate_planes import RatePlanes
from tsostream.run.parity.scratch import scratch_file
from tsostream.run.parity.spool import RampSpool
from tsostream.run.parity.windows import RATE_BYTES, Window

__all__ = ["STORE_BYTES", "SegmentSlopes", "SlopeStore"]

#: slopes of a segment up to this size stay in memory
STORE_BYTES = 48 << 20
#: what is copied at once, so that it stays in cache
PIECE_BYTES = 1 << 18
#: types of the planes, as `RatePlanes` has them
KINDS = (np.float32, np.float32, np.float32, np.float32, np.uint32)


class SlopeStore:
    """Keeps the slopes of a segment.

    Parameters
    ----------
    count
        Integrations.
    shape
        (y, x) of the frame.
    windows
        All windows of the frame.
    folder
        Where the file goes, if one is needed; default the system's place for temporary files.

    Raises
    ------
    SinkError
        There is no room for the file.
    """

    def __init__(
        self, count: int, shape: tuple[int, int], windows: Sequence[Window], folder: Path | None = None
    ):
        self.count, self._shape = count, shape
        self._windows = tuple(windows)
        sizes = [_pixels(one) * count * RATE_BYTES for one in windows]
        starts = np.cumsum([0, *sizes]).tolist()
        self._starts = dict(zip(self._windows, starts, strict=False))
        self._memory: np.ndarray | None = None
        self._descriptor = -1
        if starts[-1] <= STORE_BYTES:
            self._memory = np.empty(starts[-1], np.uint8)
            return
        with scratch_file(folder, starts[-1]) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def keep(self, window: Window, planes: RatePlanes, start: int, stop: int) -> None:
        """Take a window's own pixels of the integrations ``start <= i < stop``.

        Parameters
        ----------
        window
            One of those given at the beginning.
        planes
            All pixels of the window [integration, y, x].
        start, stop
            Which integrations.
        """
        y0, y1, x0, x1 = window.core
        step = max(1, PIECE_BYTES // (4 * _pixels(window)))
        for number, plane in enumerate(planes.arrays()):
            for i in range(start, stop, step):
                part = np.ascontiguousarray(plane[i : min(i + step, stop), y0:y1, x0:x1])
                self._write(self._place(window, number, i), part)

    def take(self, start: int, stop: int) -> RatePlanes:
        """Give whole frames of the integrations ``start <= i < stop``, in arrays of their own."""
        frames = [np.empty((stop - start, *self._shape), kind) for kind in KINDS]
        for number, frame in enumerate(frames):
            self._fill(frame, number, start)
        return RatePlanes(*frames)

    def signal(self, i: int) -> np.ndarray:
        """Give the slopes of one integration; float32 [y, x]."""
        frame = np.empty((1, *self._shape), np.float32)
        self._fill(frame, 0, i)
        return frame[0]

    def _fill(self, frame: np.ndarray, number: int, start: int) -> None:
        for window in self._windows:
            rows, columns = window.slices
            part = np.empty((len(frame), window.y1 - window.y0, window.x1 - window.x0), frame.dtype)
            self._read(self._place(window, number, start), part)
            frame[:, rows, columns] = part

    def _place(self, window: Window, number: int, i: int) -> int:
        return int(self._starts[window] + (number * self.count + i) * _pixels(window) * 4)

    def _write(self, offset: int, array: np.ndarray) -> None:
        raw = array.reshape(-1).view(np.uint8)
        if self._memory is not None:
            self._memory[offset : offset + raw.size] = raw
            return
        done = 0
        try:
            while done < raw.size:
                done += os.pwrite(self._descriptor, raw[done:].data, offset + done)
        except OSError as error:
            raise SinkError(
                f"scratch: slopes cannot be kept ({error.strerror}); give --scratch DIR"
            ) from error

    def _read(self, offset: int, array: np.ndarray) -> None:
        raw = array.reshape(-1).view(np.uint8)
        if self._memory is not None:
            raw[...] = self._memory[offset : offset + raw.size]
            return
        done = 0
        while done < raw.size:
            try:
                got = os.preadv(self._descriptor, [raw[done:].data], offset + done)
            except OSError as error:
                raise SinkError(
                    f"scratch: slopes cannot be read back ({error.strerror}); give --scratch DIR"
                ) from error
            if not got:
                raise SinkError("scratch: the slopes kept there became shorter")
            done += got


def _pixels(window: Window) -> int:
    return (window.y1 - window.y0) * (window.x1 - window.x0)


@dataclass
class SegmentSlopes:
    """What the official pipeline calls rateints and rate of a segment.

    Parameters
    ----------
    first
        Number in the exposure of the first integration.
    store
        Slope, error, variances, DQ of the integrations.
    mean
        The product over all integrations [y, x].
    times
        One row per integration.
    method
        How jumps were found.
    ramps
        Step -> ramps it left, as far as they were to be kept.
    """

    first: int
    store: SlopeStore
    mean: RatePlanes
    times: Times
    method: str
    ramps: Mapping[str, RampSpool] = field(default_factory=dict)

    @property
    def planes(self) -> RatePlanes:
        """All integrations at once, in arrays of their own [integration, y, x]."""
        return self.store.take(0, self.store.count)

    def rate(self, first: int, times: Times) -> Rate:
        """Hand out integrations ``first`` (number in the exposure) and those after it, one for each row of times."""
        start = first - self.first
        return self.store.take(start, start + len(times)).rate(first, times)

    def blocks(self, length: int) -> Iterator[Rate]:
        """Hand the slopes out in order, ``length`` integrations at a time."""
        for start in range(0, len(self.times), length):
            yield self.rate(self.first + start, self.times[start : start + length])

"""Photometry of the parity scope: images of a file are kept until its last one is there.

The official step takes medians over all integrations of a file before it can place its aperture. The workers bring the
images to their unit and find the source a first time; here they are put on a shelf, in order, in memory as long as they
are few, else on disk; when the file is complete the other passes walk over the shelf and the rows come out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsostream.errors import SinkError
from tsostream.integration.payload import Measurement, Rate, Times
from tsostream.operators.photometry.images import BoundOfficialPhotometry, Images, slice_images

__all__ = [
    "SHELF_BYTES",
    "FirstPass",
    "SegmentPhotometry",
    "keep_segments",
    "segment_start",
    "shelf_bytes",
    "shelf_note",
]

#: images of a file that are kept in memory [bytes]; more goes to disk
SHELF_BYTES: Final = 32 << 20
#: images that are taken from the shelf at once [bytes]
_PIECE_BYTES: Final = 8 << 20


def shelf_bytes(frame: int) -> int:
    """Memory for images of so many pixels, whatever their number [bytes]."""
    return SHELF_BYTES + 3 * max(_PIECE_BYTES, 9 * frame)


@dataclass(frozen=True)
class FirstPass:
    """The part of the photometry that needs one block only, as a step of the chain."""

    photometry: BoundOfficialPhotometry

    @property
    def name(self) -> str:
        """Step name."""
        return self.photometry.name

    @property
    def pixeldq(self) -> np.ndarray:
        """The static DQ plane, uint32 [y, x]."""
        return self.photometry.pixeldq

    @property
    def skipped(self) -> str:
        """Empty: it always works."""
        return ""

    def push(self, block: Rate) -> list[Images]:
        """Find the source in a block."""
        return [self.photometry.first_pass(block)]

    def flush(self) -> list[Images]:
        """Nothing is held back."""
        return []


class _Shelf:
    """Planes of the integrations of one file, by number."""

    def __init__(self, first: int, count: int, shape: tuple[int, int], scratch: Path | None):
        self.first, self.count, self._shape = first, count, shape
        self._frame = shape[0] * shape[1]
        self.times = Times(np.full((count, 6), np.nan), np.zeros(count, np.uint32))
        self.centroid = np.full((count, 2), np.nan)
        self.present = np.zeros(count, bool)
        self.filled = 0
        size = count * self._frame * 9
        self._file = tempfile.TemporaryFile(dir=scratch) if size > SHELF_BYTES else None  # noqa: SIM115
        self._memory = np.zeros(size if self._file is None else 0, np.uint8)

    def put(self, images: Images) -> None:
        """Keep some integrations."""
        start, n = images.first - self.first, images.count
        part = slice(start, start + n)
        self.times.values[part], self.times.flag[part] = images.times.values, images.times.flag
        self.centroid[part], self.present[part] = images.centroid, images.present
        self._write(start * self._frame * 4, images.data)
        self._write((self.count + start) * self._frame * 4, images.error)
        self._write(self.count * self._frame * 8 + start * self._frame, images.bits)
        self.filled += n

    def skip(self, absent: Measurement) -> None:
        """Note integrations that are not there."""
        start = absent.first - self.first
        part = slice(start, start + absent.count)
        self.times.values[part], self.times.flag[part] = absent.times.values, absent.times.flag
        empty = np.full((1, *self._shape), np.nan, np.float32)
        for k in range(start, start + absent.count):
            self._write(k * self._frame * 4, empty)
            self._write((self.count + k) * self._frame * 4, empty)
        self.filled += absent.count

    def pieces(self) -> Iterator[Images]:
        """Hand the integrations out again, some at a time."""
        step = max(1, _PIECE_BYTES // (9 * self._frame))
        for start in range(0, self.count, step):
            n = min(step, self.count - start)
            shape, part = (n, *self._shape), slice(start, start + n)
            yield Images(
                self.first + start,
                self.times[part],
                self._read(start * self._frame * 4, shape, np.float32),
                self._read((self.count + start) * self._frame * 4, shape, np.float32),
                self._read(self.count * self._frame * 8 + start * self._frame, shape, np.uint8),
                self.centroid[part],
                self.present[part],
            )

    def _write(self, offset: int, array: np.ndarray) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if self._file is None:
            self._memory[offset : offset + raw.size] = raw
            return
        try:
            view = memoryview(raw.data)
            while len(view):
                done = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise SinkError(
                f"the images of integrations {self.first}-{self.first + self.count - 1} cannot be kept on disk "
                f"({error.strerror}); give --scratch DIR with more room"
            ) from error

    def _read(self, offset: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        out: np.ndarray = np.empty(shape, dtype)
        raw = out.reshape(-1).view(np.uint8)
        if self._file is None:
            raw[...] = self._memory[offset : offset + raw.size]
        else:
            os.preadv(self._file.fileno(), [memoryview(raw.data)], offset)
        return out

    def close(self) -> None:
        """Give memory and disk back."""
        if self._file is not None:
            self._file.close()


class SegmentPhotometry:
    """Keeps the images of a file and measures them when it is complete.

    Parameters
    ----------
    photometry
        Bound step, with the segments of the exposure.
    shape
        (y, x).
    scratch
        Where images go that are too many for memory; None for the system's temporary folder.
    """

    def __init__(
        self, photometry: BoundOfficialPhotometry, shape: tuple[int, int], scratch: Path | None = None
    ):
        self._photometry, self._shape, self._scratch = photometry, shape, scratch
        self._shelf: _Shelf | None = None

    def push(self, block: Images | Measurement) -> Iterator[Measurement]:
        """Take the next integrations, in order.

        Parameters
        ----------
        block
            From the first pass, or integrations that are not there.

        Yields
        ------
        Measurement
            Those of a file, when its last integration has come.
        """
        start = 0
        while start < block.count:
            number = block.first + start
            segment = next((one for one in self._photometry.segments if one[0] <= number <= one[1]), None)
            if segment is None:
                # a gap between files
                yield from self._outside(block, start, number)
                return
            stop = min(block.count, segment[1] - block.first + 1)
            shelf = self._shelf
            if shelf is None:
                # a run that was taken up again begins within a file only where it was read from its beginning
                shelf = self._shelf = _Shelf(number, segment[1] - number + 1, self._shape, self._scratch)
            if isinstance(block, Images):
                shelf.put(slice_images(block, start, stop))
            else:
                shelf.skip(_cut(block, start, stop))
            if shelf.filled == shelf.count:
                yield from self._measure(shelf)
                self.close()
            start = stop

    def _outside(self, block: Images | Measurement, start: int, number: int) -> Iterator[Measurement]:
        if not isinstance(block, Measurement):
            raise ValueError(f"integration {number} belongs to no segment")
        following = [first for first, _ in self._photometry.segments if first > number]
        stop = min([block.count, *(first - block.first for first in following)])
        yield _cut(block, start, stop)
        if stop < block.count:
            yield from self.push(_cut(block, stop, block.count))

    def _measure(self, shelf: _Shelf) -> Iterator[Measurement]:
        step = self._photometry
        guess = step.guess(shelf.centroid)
        found = [step.second_pass(images, guess) for images in shelf.pieces()]
        places = step.places(*(np.concatenate([one[k] for one in found]) for k in (0, 1)))
        for images in shelf.pieces():
            start = images.first - shelf.first
            part = slice(start, start + images.count)
            here = type(places)(places.centroid[part], places.fit[part], places.aperture[part])
            yield step.third_pass(images, here)

    def close(self) -> None:
        """Give memory and disk back."""
        if self._shelf is not None:
            self._shelf.close()
            self._shelf = None


def _cut(absent: Measurement, start: int, stop: int) -> Measurement:
    part = slice(start, stop)
    return Measurement(absent.first + start, absent.times[part], absent.keys, {}, {}, absent.present[part])


def shelf_note(step: Any, scratch: Path | None) -> str:
    """Say how much disk the images of the largest file take; empty when they stay in memory."""
    if not isinstance(step, FirstPass):
        return ""
    frame = step.photometry.scale.size
    size = max((last - first + 1 for first, last in step.photometry.segments), default=0) * frame * 9
    if size <= SHELF_BYTES:
        return ""
    where = scratch or "the system's temporary folder"
    return f"parity: the images of a file take {size / 1e6:.0f} MB in {where} until its last one is there"


def segment_start(step: Any, following: int | None) -> int | None:
    """First integration to read again so that the rows can go on with ``following``: the first of its file."""
    if following is None or not isinstance(step, FirstPass):
        return None
    spans = step.photometry.segments
    return next((first for first, last in spans if first < following <= last), None)


async def keep_segments(
    rows: AsyncIterator[Any], photometry: BoundOfficialPhotometry, scratch: Path | None
) -> AsyncIterator[Measurement]:
    """Turn what the first pass left into rows, file by file.

    Parameters
    ----------
    rows
        Images of consecutive integrations, or integrations that are not there; closed at the end.
    photometry
        The step.
    scratch
        Where images go that are too many for memory.

    Yields
    ------
    Measurement
        Integrations follow each other without gap.
    """
    segments = SegmentPhotometry(photometry, photometry.scale.shape, scratch)
    try:
        async with aclosing(rows):  # type: ignore[type-var]
            async for block in rows:
                for measurement in segments.push(block):
                    yield measurement
    finally:
        segments.close()

"""A FITS product that is written slab by slab, at its place, by whoever has one.

The file carries the suffix ``.part`` until every integration is in it and `ProductFile.publish` gives it its name.
Writing a slab twice is the same as writing it once.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import OutputExistsError, Problem, SinkError
from tsostream.integration.payload import Times
from tsostream.sinks.arrow_file import flush_data, sink_error
from tsostream.sinks.products.layout import Layout

__all__ = ["CHUNK_BYTES", "Kept", "ProductFile", "part_path"]

Array = npt.NDArray

#: bytes turned into the order of the file at once; stays in the level-2 cache
CHUNK_BYTES: Final = 1 << 20
#: rows of INT_TIMES written at once
_ROWS: Final = 4096
#: the sign bit of a big-endian word, seen by a little-endian machine (or the other way round)
_SIGN: Final = np.array([1 << 31], ">u4").view(np.uint32)[0]

_TIMES: Final = np.dtype([("number", ">i4"), ("times", ">f8", (6,))])

_own = threading.local()


@dataclass(frozen=True)
class Kept:
    """What an earlier session of the same run has left of a product.

    Parameters
    ----------
    count
        How many of its first integrations are in the ``.part`` file.
    named
        Whether that session may have given complete products their names.
    """

    count: int = 0
    named: bool = False


def part_path(path: Path) -> Path:
    """``x_rateints.fits`` -> ``x_rateints.fits.part``."""
    return path.with_name(path.name + ".part")


def _big_endian(values: Array, kind: str) -> memoryview:
    """Bytes as FITS has them, in a buffer of this thread that the next call overwrites."""
    if kind in ("", "u1"):
        return values.data.cast("B")
    buffer = getattr(_own, "buffer", None)
    if buffer is None:
        buffer = _own.buffer = np.empty(CHUNK_BYTES // 4, np.uint32)
    words = buffer[: values.size]
    np.copyto(words.view(">f4" if kind == "f4" else ">u4"), values)
    if kind == "u4":
        np.bitwise_xor(words, _SIGN, out=words)
    return words.data.cast("B")


class ProductFile:
    """One product of one segment.

    Parameters
    ----------
    path
        Its name once it is complete.
    layout
        Function that makes the layout; called when the first slab comes.
    first, count
        Integrations the file is for: number in the exposure of the first, and how many.
    static
        Extension name -> array without integration axis, written with the headers.
    times
        ``times(first, count)`` gives the rows of INT_TIMES, where the layout has that table.
    overwrite
        Replace an existing product, and an unfinished one.
    kept
        What an earlier session has left; None for a run that begins. Without integrations in it, an unfinished
        file is made anew.
    """

    def __init__(
        self,
        path: Path,
        layout: Callable[[], Layout],
        first: int,
        count: int,
        *,
        static: Mapping[str, Array] | None = None,
        times: Callable[[int, int], Times] | None = None,
        overwrite: bool = False,
        kept: Kept | None = None,
    ):
        self.path, self.part = path, part_path(path)
        self.first, self.count = first, count
        self._make_layout, self._static, self._times = layout, dict(static or {}), times
        self._overwrite = overwrite
        self._layout: Layout | None = None
        self._fd = -1
        self._kept = kept
        self._written: list[tuple[int, int]] = []
        if kept is not None and kept.count:
            self._written = [(first, first + kept.count)]
        self._published = False
        self._lock = threading.Lock()

    @property
    def complete(self) -> bool:
        """Whether every integration was written."""
        return self._written == [(self.first, self.first + self.count)]

    @property
    def lost(self) -> bool:
        """Whether an earlier session has written integrations, and the file is not there any more."""
        if self._kept is None or not self._kept.count or self.part.exists():
            return False
        return not (self._kept.named and self.complete and self.path.exists())

    def write(self, first: int, planes: Mapping[str, Array]) -> None:
        """Write some integrations at their place.

        Parameters
        ----------
        first
            Number in the exposure of the first integration.
        planes
            Extension name -> array [integration, ...], the same integrations of each.

        Raises
        ------
        SinkError
            When the system does not take them.
        OutputExistsError
            When somebody else has made this product in the meantime.
        """
        fd, layout = self._open()
        count = 0
        for name, array in planes.items():
            count = len(array)
            place = layout.places[name]
            where = f"integrations {first}-{first + count - 1} of {name} cannot be written"
            index = first - self.first - place.first
            self._put(fd, array, place.kind, place.offset + index * place.step, where)
        self._count(first, count)

    def write_whole(self, planes: Mapping[str, Array]) -> None:
        """Write a product without integration axis.

        Raises
        ------
        SinkError, OutputExistsError
            As for `write`.
        """
        fd, layout = self._open()
        for name, array in planes.items():
            place = layout.places[name]
            self._put(fd, array, place.kind, place.offset, f"{name} cannot be written")
        self._count(self.first, self.count)

    def _count(self, first: int, count: int) -> None:
        """Note what is there; what is complete goes to the medium and is closed."""
        with self._lock:
            runs = sorted([*self._written, (first, first + count)])
            merged = runs[:1]
            for low, high in runs[1:]:
                if low <= merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
                else:
                    merged.append((low, high))
            self._written = merged
            if not self.complete or self._fd < 0:
                return
            fd, self._fd = self._fd, -1
        # nobody writes any more: others finished before they were counted
        try:
            flush_data(fd)
        except OSError as error:
            raise sink_error(self.part, "cannot be flushed to the disk", error) from error
        finally:
            os.close(fd)

    def _put(self, fd: int, array: Array, kind: str, offset: int, where: str) -> None:
        flat = np.ascontiguousarray(array).reshape(-1)
        if not kind:
            flat = flat.view(np.uint8)
        step = CHUNK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            self._write_at(fd, _big_endian(piece, kind), offset + start * flat.itemsize, where)

    def _write_at(self, fd: int, data: memoryview | bytes, offset: int, where: str) -> None:
        view = memoryview(data)
        try:
            while len(view):
                done = os.pwrite(fd, view, offset)
                if done == 0:
                    raise OSError(errno.EIO, f"{len(view)} bytes were not taken")
                view, offset = view[done:], offset + done
        except OSError as error:
            raise sink_error(self.part, where, error) from error

    def _open(self) -> tuple[int, Layout]:
        """Make the file with its headers, its table and what is the same for all integrations."""
        with self._lock:
            if self._fd >= 0 and self._layout is not None:
                return self._fd, self._layout
            if self._layout is not None:
                self._fd = self._reopen()
                return self._fd, self._layout
            layout = self._make_layout()
            again = bool(self._kept and self._kept.count)
            fd = self._continue(layout) if again else self._create()
            try:
                try:
                    os.ftruncate(fd, layout.size)
                except OSError as error:
                    raise sink_error(self.part, "cannot be given its size", error) from error
                # written again over those of an earlier session: all at the same places
                for offset, raw in layout.headers:
                    self._write_at(fd, raw, offset, "its headers cannot be written")
                for name, array in self._static.items():
                    place = layout.places[name]
                    self._put(fd, array, place.kind, place.offset, f"{name} cannot be written")
                if self._times is not None:
                    offset = layout.places["INT_TIMES"].offset
                    for raw in self._table(self._times):
                        self._write_at(fd, raw, offset, "INT_TIMES cannot be written")
                        offset += len(raw)
            except BaseException:
                # nothing is in it yet: the next worker meets the same failure, not this file
                os.close(fd)
                if not again:
                    self.part.unlink(missing_ok=True)
                raise
            self._fd, self._layout = fd, layout
            return fd, layout

    def _create(self) -> int:
        """Make an empty file; one of an older run is unlinked, so that its writer does not write into ours."""
        self._refuse(self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            if self._overwrite or self._kept is not None:
                self.part.unlink(missing_ok=True)
            return os.open(self.part, flags, 0o666)
        except FileExistsError:
            raise _exists(self.part) from None
        except OSError as error:
            raise sink_error(self.part, "cannot be created", error) from error

    def _continue(self, layout: Layout) -> int:
        """Open what an earlier session has left."""
        fd = self._reopen()
        size = os.fstat(fd).st_size
        if size != layout.size:
            os.close(fd)
            raise SinkError(
                f"{self.part}: has {size} bytes, but this product takes {layout.size}: something has changed it; "
                "start again with --overwrite"
            )
        return fd

    def _reopen(self) -> int:
        try:
            return os.open(self.part, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise sink_error(self.part, "cannot be opened again", error) from error

    def sync(self) -> None:
        """Wait until what was written is on the medium; complete products are there already.

        Raises
        ------
        SinkError
            When the system reports a failed write.
        """
        with self._lock:
            fd = os.dup(self._fd) if self._fd >= 0 else -1
        if fd < 0:
            return
        try:
            flush_data(fd)
        except OSError as error:
            raise sink_error(self.part, "cannot be flushed to the disk", error) from error
        finally:
            os.close(fd)

    def _table(self, times: Callable[[int, int], Times]) -> Iterator[bytes]:
        for start in range(self.first, self.first + self.count, _ROWS):
            rows = min(_ROWS, self.first + self.count - start)
            table = np.empty(rows, _TIMES)
            table["number"] = np.arange(start, start + rows)
            table["times"] = times(start, rows).values
            yield table.tobytes()

    def _refuse(self, path: Path) -> None:
        if not self._overwrite and path.exists():
            raise _exists(path)

    def publish(self) -> None:
        """Give a complete product its name.

        Raises
        ------
        SinkError, OutputExistsError
            When it is not complete, the system refuses, or another file has got the name since; the ``.part`` stays.
        """
        if self._published:
            return
        self.check_complete()
        if self.named_already():
            self._published = True
            return
        self._refuse(self.path)
        try:
            self.part.replace(self.path)
        except OSError as error:
            raise sink_error(self.path, "cannot be given its name", error) from error
        self._published = True

    def check_complete(self) -> None:
        """Refuse to go on while integrations are missing.

        Raises
        ------
        SinkError
            Says how many are there.
        """
        if not self.complete:
            there = sum(high - low for low, high in self._written)
            raise SinkError(
                f"{self.part}: holds {there} of {self.count} integrations, so it keeps this name; "
                "go on with --resume, or start again with --overwrite"
            )

    def named_already(self) -> bool:
        """Whether an earlier session has given it its name."""
        return bool(self._kept and self._kept.named) and self.path.exists() and not self.part.exists()

    def close(self) -> None:
        """Let go of the file as it is."""
        with self._lock:
            if self._fd >= 0:
                with suppress(OSError):
                    os.close(self._fd)
                self._fd = -1


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        Problem(
            "the product is already there",
            str(path),
            "give another --products-dir, or --overwrite to replace it",
            "exists",
        )
    )

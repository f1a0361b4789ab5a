"""A growing output is followed: each row is seen once, in order, never in part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pyarrow as pa

from tsostream.errors import InputError, Problem
from tsostream.records.values import column_values, plain_array
from tsostream.sinks.messages import MAGIC, DamagedError, FrameKind, read_batch, read_frame, read_header

__all__ = ["Tail"]

#: polls that may find the same bytes unreadable
_PATIENCE: Final = 5

#: bytes of a message that are compared: its lengths and the first of its buffers
_BEGINNING: Final = 512


class Tail:
    """Incremental reader of a light curve or of spectra.

    Remembers file, offset and last integration. When the file is another one, has become shorter, or no
    message begins at the offset (a run was resumed), it is read again from its beginning and rows seen before
    are left out. When a new run has taken the name (another header), its rows are all new and `runs` grows.

    Parameters
    ----------
    path
        The file; it need not be there yet.
    after_integration
        Rows up to this integration are left out.

    Attributes
    ----------
    finished
        Whether the file had its end mark at the last `poll`; it can become False again, when an interrupted
        run is resumed. The file of a killed run never has one.
    last_integration
        Number of the last integration seen.
    runs
        How many runs have been seen under this name.
    schema
        Schema of the file; None before its header is there.

    Examples
    --------
    ::

        tail = Tail("lc.arrow")
        while not tail.finished:
            for batch in tail.poll():
                ...
            time.sleep(0.2)
    """

    def __init__(self, path: str | os.PathLike[str], *, after_integration: int = 0):
        self.path = Path(path)
        self.finished = False
        self.last_integration = after_integration
        self.runs = 0
        self.schema: pa.Schema | None = None
        self._inode: tuple[int, int] | None = None
        self._header = b""
        self._offset = 0
        self._size = 0
        self._damaged_polls = 0
        self._last_message = (0, b"")  # where it stands, and how it begins

    def poll(self, max_batches: int | None = None) -> list[pa.RecordBatch]:
        """Rows that have come since the last call; empty when there are none.

        Parameters
        ----------
        max_batches
            Return after this many, to bound the memory on a long file; call again for the rest.

        Raises
        ------
        InputError
            When the file cannot be read or is not an Arrow file.
        """
        self.finished = False
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(
                Problem(f"cannot be read: {reason}", str(self.path), code="unreadable")
            ) from error
        try:
            return self._poll(fd, max_batches)
        except IsADirectoryError as error:
            raise InputError(Problem("is a directory", str(self.path), code="not_a_file")) from error
        finally:
            os.close(fd)

    def _poll(self, fd: int, max_batches: int | None) -> list[pa.RecordBatch]:
        facts = os.fstat(fd)
        inode = (facts.st_dev, facts.st_ino)
        moved = inode != self._inode or facts.st_size < self._size or self._was_cut(fd)
        if moved or read_frame(fd, self._offset, facts.st_size).kind is FrameKind.DAMAGED:
            if not self._rewind(fd, facts.st_size):
                return []
            self._inode = inode
        self._size = facts.st_size
        found: list[pa.RecordBatch] = []
        while max_batches is None or len(found) < max_batches:
            frame = read_frame(fd, self._offset, facts.st_size)
            self.finished = frame.kind is FrameKind.END
            if frame.kind is FrameKind.DAMAGED:
                self._damaged("no message begins there")
            if frame.kind is not FrameKind.MESSAGE:
                break
            try:
                batch = self._unseen(read_batch(fd, self._offset, frame.length, self.schema))
            except DamagedError as error:
                self._damaged(str(error))
                break
            self._last_message = (self._offset, os.pread(fd, min(frame.length, _BEGINNING), self._offset))
            self._offset += frame.length
            if batch.num_rows:
                self._damaged_polls = 0
                found.append(batch)
        return found

    def _was_cut(self, fd: int) -> bool:
        """Whether a resumed run has cut away the last message seen and already grown past our offset.

        If the message there has the same length and number of rows, going on at the offset is right.
        """
        offset, beginning = self._last_message
        return os.pread(fd, len(beginning), offset) != beginning

    def _damaged(self, what: str) -> None:
        # A write may be visible in part for a moment, or a resumed run cut the file under our eyes.
        self._damaged_polls += 1
        if self._damaged_polls > _PATIENCE:
            todo = "open what is readable with tsostream.open()"
            what = f"is damaged at byte {self._offset}: {what}"
            raise InputError(Problem(what, str(self.path), todo, "damaged"))

    def _rewind(self, fd: int, size: int) -> bool:
        """Go to the first batch; False when the header is not there yet."""
        begin = os.pread(fd, len(MAGIC), 0)
        if begin != MAGIC[: len(begin)] and any(begin):
            raise InputError(Problem("is not an Arrow file", str(self.path), code="not_arrow"))
        try:
            schema, start = read_header(fd, size)
        except DamagedError:
            return False
        header = os.pread(fd, start, 0)
        if header != self._header:
            if self.runs:  # another run has replaced the one we have read
                self.last_integration = 0
            self.runs += 1
        if "integration" not in schema.names:
            what = "is an Arrow file, but tsostream did not write it"
            raise InputError(Problem(what, str(self.path), code="not_tsostream"))
        self.schema, self._header, self._offset = schema, header, start
        self._last_message = (0, header)
        return True

    def _unseen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = column_values(batch, "integration")
        fresh = numbers > self.last_integration
        if not fresh.any():
            return batch.slice(0, 0)
        self.last_integration = int(numbers[-1])
        return batch if fresh.all() else batch.filter(plain_array(fresh, pa.bool_()))

"""An Arrow file that is valid to read while it grows, after a kill, and once it is finished.

No pyarrow writer is open while the file grows: each batch is one positional write of a whole message, after
the last good end. These are the bytes `pyarrow.ipc.new_file` would write, so at the end only the end mark and
the footer are missing. They are made by a pyarrow writer that is fed the file's own messages and whose output
is thrown away up to the byte where the file ends.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa

from tsostream.errors import InputError, OperatorError, OutputExistsError, Problem, SinkError
from tsostream.sinks.messages import (
    MAGIC,
    DamagedError,
    Extent,
    crc_of,
    join_crcs,
    read_header,
    scan_batches,
)

__all__ = [
    "Extent",
    "GrowingFile",
    "flush_data",
    "flush_directory",
    "refuse_existing",
    "sink_error",
    "write_at",
]

_BUFFER: Final = 1 << 20

#: macOS has no fdatasync
flush_data = getattr(os, "fdatasync", os.fsync)


def flush_directory(directory: Path) -> None:
    """Bring names (new, changed, removed) of a directory to the medium, where the system can."""
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_TODO: Final = {
    errno.ENOSPC: "free some space, then go on with --resume",
    errno.EDQUOT: "your quota is used up: free some space, then go on with --resume",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or write to another file system",
    errno.EACCES: "check the permissions of the file and its directory",
    errno.EPERM: "check the permissions of the file and its directory",
    errno.EROFS: "the file system is read-only: write somewhere else",
    errno.EIO: "the disk reports an error: check it, then go on with --resume",
}


def sink_error(path: Path, what: str, error: OSError) -> SinkError:
    """Say which file, what was tried, what the system answered, and what to do."""
    reason = error.strerror or str(error)
    todo = _TODO.get(error.errno or 0, "what was written before stays readable; go on with --resume")
    raised = SinkError(f"{path}: {what}: {reason}; {todo}")
    raised.errno = error.errno  # not strerror and filename: with them, OSError no longer shows the message
    return raised


def refuse_existing(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise when ``path`` must not be written.

    Raises
    ------
    OutputExistsError
        When it is one of the inputs (also with ``overwrite``), or is there and ``overwrite`` is not set.
    InputError
        When its directory is not there or it is a directory itself.
    """
    if path.is_dir():
        raise InputError(
            Problem("is a directory, expected a file name", str(path), "add a name, such as lc.arrow")
        )
    if not path.parent.is_dir():
        raise InputError(Problem("the directory of the output is not there", str(path), "make it first"))
    if not path.exists():
        return
    for source in inputs:
        if _same_file(path, source):
            raise OutputExistsError(
                Problem("the output is one of the inputs", str(path), "give another --out", "output_is_input")
            )
    if not overwrite:
        todo = "choose another --out, or give --overwrite to replace it"
        raise OutputExistsError(Problem("the output is already there", str(path), todo, "output_exists"))


def write_at(fd: int, data: bytes | memoryview | pa.Buffer, offset: int, path: Path, what: str) -> None:
    """Write all of ``data`` at ``offset`` in one call; on failure cut the file back to ``offset``.

    Raises
    ------
    SinkError
        When the system does not take all of it.
    """
    view = memoryview(data)
    try:
        written = os.pwrite(fd, view, offset)
        while written < len(view):
            # A short write: the disk is nearly full (the next call says so), or a call takes 2 GiB at most.
            more = os.pwrite(fd, view[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, f"only {written} of {len(view)} bytes were taken")
            written += more
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            os.ftruncate(fd, offset)
        raise sink_error(path, what, error) from error


class GrowingFile:
    """One Arrow file that grows by whole batches.

    Made by `create` or `resume`. Between two calls the file ends with a whole message.

    Attributes
    ----------
    path, schema
        Where it is, and the schema written in it.
    start, end
        Offsets of the first batch and of the byte after the last one.
    """

    def __init__(self, path: Path, schema: pa.Schema, fd: int, start: int, end: int, crc: int):
        self.path = path
        self.schema = schema
        self.start = start
        self.end = end
        self._crc = crc  # of all bytes up to `end`: finish() proves with it what it is about to extend
        self._fd = fd
        self._unpublished: Path | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        schema: pa.Schema,
        *,
        overwrite: bool = False,
        inputs: Iterable[Path] = (),
        publish: bool = True,
    ) -> GrowingFile:
        """Start a file.

        The file is begun under a temporary name (``<name>.new``) and gets its own when the header is
        complete. With ``overwrite`` it takes the old one's place then, in one step: until then, and whenever
        that fails, the old file stays as it was.

        Parameters
        ----------
        path
            The file.
        schema
            Of every batch.
        overwrite
            Replace what is there.
        inputs
            Files that are read by the same run and never replaced.
        publish
            False leaves the file under the temporary name until `publish` is called.

        Raises
        ------
        OutputExistsError
            When the file is there and ``overwrite`` is not set, or it is one of ``inputs``.
        SinkError
            When it cannot be written.
        """
        path = Path(path)
        refuse_existing(path, overwrite=overwrite, inputs=inputs)
        temporary = path.with_name(path.name + ".new")
        header = MAGIC + schema.serialize().to_pybytes()
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise sink_error(path, "cannot be created", error) from error
        file = cls(path, schema, fd, len(header), len(header), zlib.crc32(header))
        file._unpublished = temporary
        try:
            write_at(fd, header, 0, path, "the header cannot be written")
            if publish:
                file.publish(overwrite=overwrite)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], schema: pa.Schema, extents: Iterable[Extent]
    ) -> GrowingFile:
        """Open a file again and cut it behind the given batches; this removes an old footer, too.

        Parameters
        ----------
        path
            The file.
        schema
            Of the batches to come; its columns must be those of the file. The metadata of the file stay.
        extents
            The valid batches, without gaps, from the journal.

        Raises
        ------
        InputError
            When the file has other columns or is not an Arrow file.
        SinkError
            When it cannot be written.
        """
        path = Path(path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise sink_error(path, "cannot be opened for writing", error) from error
        try:
            try:
                written, start = read_header(fd, os.fstat(fd).st_size)
            except DamagedError as error:
                raise InputError(
                    Problem(f"cannot be continued: {error}", str(path), "start again with --overwrite")
                ) from error
            if not _same_columns(written, schema):
                raise InputError(
                    Problem(
                        "has other columns than this run writes", str(path), "start again with --overwrite"
                    )
                )
            end = max((extent.end for extent in extents), default=start)
            crc = crc_of(fd, 0, end)
            if crc is None:
                raise InputError(Problem(f"is shorter than the {end} bytes its journal lists", str(path)))
            try:
                os.ftruncate(fd, end)
            except OSError as error:
                raise sink_error(path, "cannot be cut to its last valid batch", error) from error
        except BaseException:
            os.close(fd)
            raise
        return cls(path, written, fd, start, end, crc)

    def publish(self, *, overwrite: bool = False) -> None:
        """Give the file its name.

        Raises
        ------
        OutputExistsError
            When another file has got the name since, and ``overwrite`` is not set.
        SinkError
            When the system refuses.
        """
        if self._unpublished is None:
            return
        refuse_existing(self.path, overwrite=overwrite)
        try:
            # Replacing the name is one step: whoever has the old file open keeps reading the old file.
            self._unpublished.replace(self.path)
        except OSError as error:
            raise sink_error(self.path, "cannot be created", error) from error
        self._unpublished = None

    def append(self, batch: pa.RecordBatch) -> Extent:
        """Add a batch: one write; readers see all of it or nothing.

        Raises
        ------
        SinkError
            When it cannot be written; the file then ends where it ended before.
        """
        if not batch.schema.equals(self.schema, check_metadata=False):
            raise OperatorError(f"{self.path}: a batch has other columns than the file: {batch.schema}")
        # A slice would carry the text of the rows it leaves out, so equal rows would give other bytes.
        whole = batch.nbytes == batch.get_total_buffer_size()
        data = (batch if whole else pa.concat_batches([batch])).serialize()
        write_at(self._fd, data, self.end, self.path, "a batch cannot be written")
        extent = Extent(self.end, data.size, zlib.crc32(data))
        self._crc = join_crcs(self._crc, extent.crc32, data.size)
        self.end += data.size
        return extent

    def mark(self) -> tuple[int, int]:
        """Return where the file ends now, for `rollback`."""
        return self.end, self._crc

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forget the batches behind a `mark`, because what belongs to them could not be written elsewhere."""
        if mark[0] == self.end:
            return
        try:
            os.ftruncate(self._fd, mark[0])
        except OSError as error:
            raise sink_error(self.path, "cannot be cut back", error) from error
        self.end, self._crc = mark

    def sync(self) -> None:
        """Wait until everything written is on the medium.

        Raises
        ------
        SinkError
            When the system reports a failed write.
        """
        try:
            flush_data(self._fd)
        except OSError as error:
            raise sink_error(self.path, "cannot be flushed to the disk", error) from error

    def finish(self, metadata: Mapping[str, str] | None = None) -> None:
        """Make it a complete Arrow file: write end mark and footer.

        The file can be read before, during and after this. Takes constant memory.

        Parameters
        ----------
        metadata
            Goes to the footer.

        Raises
        ------
        SinkError
            When the footer cannot be written, or the file does not hold what was written to it.
        """
        tail = _Tail(self.end)
        # The writer makes dozens of small writes per batch; the buffer spares as many calls into Python.
        stream = pa.BufferedOutputStream(pa.PythonFile(tail, mode="w"), _BUFFER)
        try:
            with pa.ipc.new_file(stream, self.schema, metadata=dict(metadata or {})) as writer:
                for _, batch in scan_batches(self._fd, self.schema, self.start, self.end):
                    writer.write_batch(batch)
            stream.flush()
        except DamagedError as error:
            raise SinkError(
                f"{self.path}: no footer written: {error}; another program has changed the file"
            ) from error
        if tail.position < self.end or tail.crc != self._crc:
            raise SinkError(
                f"{self.path}: no footer written: the file differs from what pyarrow {pa.__version__} writes "
                "for the same rows (changed by another program, or begun with another version of pyarrow); "
                "all rows stay readable with tsostream.open()"
            )
        write_at(self._fd, b"".join(tail.kept), self.end, self.path, "the footer cannot be written")

    def close(self) -> None:
        """Close without a footer; a file that was never published disappears."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._unpublished is not None:
            self._unpublished.unlink(missing_ok=True)
            self._unpublished = None

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Tail:
    """File-like object that throws away what a file already holds and keeps what comes after it."""

    def __init__(self, skip: int):
        self.closed = False
        self.position = 0
        self.crc = 0
        self.kept: list[bytes] = []
        self._skip = skip

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        known = max(0, min(len(view), self._skip - self.position))
        self.crc = zlib.crc32(view[:known], self.crc)
        if known < len(view):
            self.kept.append(bytes(view[known:]))
        self.position += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        self.closed = True


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    # Units belong to a column; the metadata of the schema (dates, host) may differ between sessions.
    return one.remove_metadata().equals(other.remove_metadata(), check_metadata=True)

"""The journal beside a growing output: which batches are whole, and who is writing.

One line per record, ``<crc32 of the JSON, 8 hex digits> <JSON>``: first a header with the fingerprint of the
run, then one line per commit, written after the batches it names. Other lines say up to which commit everything
is on the medium, where a later session went on, which inputs came while the run went on, and that the products
are about to get their names. A line that is torn or does not match its crc is ignored. The file is locked
(``flock``) as long as its writer lives, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tsostream.errors import InputError, OutputExistsError, Problem
from tsostream.sinks.arrow_file import flush_data, sink_error, write_at
from tsostream.sinks.messages import Extent, crc_of

__all__ = [
    "Entry",
    "Journal",
    "is_being_written",
    "last_valid",
    "machine_stopped",
    "read_journal",
    "valid_entries",
]

_FORMAT: Final = 1

#: who only looks whether the journal is locked holds it for microseconds; a writer tries again so often, so long [s]
_TRIES: Final = 5
_PAUSE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit: everything up to ``last_integration`` is in the files.

    Parameters
    ----------
    last_integration
        Number in the exposure.
    files
        Role (``light_curve``, ``spectra``) -> where the batch of this commit stands.
    """

    last_integration: int
    files: Mapping[str, Extent] = field(default_factory=dict)


class Journal:
    """The writer's side of a journal. Made by `acquire`, which takes the lock."""

    def __init__(self, path: Path, fd: int, *, is_new: bool):
        self.path = path
        self.is_new = is_new
        self._fd = fd
        self._end = os.fstat(fd).st_size

    @classmethod
    def acquire(cls, path: str | os.PathLike[str]) -> Journal:
        """Open and lock a journal; what it holds is left as it is.

        Raises
        ------
        OutputExistsError
            When another process holds it; names the process.
        SinkError
            When it cannot be opened.
        """
        path = Path(path)
        while True:
            is_new = True
            try:
                try:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                except FileExistsError:
                    is_new = False
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise sink_error(path, "cannot be opened for writing", error) from error
            try:
                _lock(fd)
            except BlockingIOError as error:
                holder = _holder(fd)
                os.close(fd)
                todo = "wait until it ends, stop it, or give another --out"
                problem = Problem(f"{holder} is writing this output", str(path), todo, "locked")
                raise OutputExistsError(problem) from error
            except OSError as error:
                os.close(fd)
                raise sink_error(path, "cannot be locked", error) from error
            # The holder before us may have removed the file between our open and our lock.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(fd)):
                    return cls(path, fd, is_new=is_new)
            os.close(fd)

    def begin(self, fingerprint: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Empty the journal and write the header of a new run, which may replace older products or not."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise sink_error(self.path, "cannot be emptied", error) from error
        self._end = 0
        header = {"tsostream_journal": _FORMAT, "fingerprint": dict(fingerprint), "overwrite": overwrite}
        self._write({**header, "owner": _owner()})

    def own(self) -> None:
        """Note that this process is the writer now.

        The name of the process is for the message to a second one; the lock alone decides.
        """
        self._end_line()
        self._write({"owner": _owner()})

    def claim(self) -> None:
        """Note which process prepares to write; the last writer stays on record, for `machine_stopped`."""
        self._end_line()
        self._write({"claim": _owner()})

    def cut(self, last_integration: int) -> None:
        """Note that a session goes on behind an integration: commits behind it count no more."""
        self._end_line()
        self._write({"cut": last_integration, "owner": _owner()})

    def synced(self, last_integration: int) -> None:
        """Note that everything up to an integration, products too, is on the medium."""
        self._write({"synced": last_integration})

    def publishing(self) -> None:
        """Note that from now on products may have their final names."""
        self._write({"publishing": True})

    def add_input(self, name: str, identity: Any) -> None:
        """Note an input that came while the run went on; it counts as part of the fingerprint."""
        self._write({"input": [name, identity]})

    def _end_line(self) -> None:
        last = os.pread(self._fd, 1, self._end - 1) if self._end else b"\n"
        if last != b"\n":  # end a torn line, so that ours begins a new one
            write_at(self._fd, b"\n", self._end, self.path, "a line cannot be written")
            self._end += 1

    def commit(self, entry: Entry) -> None:
        """Add the line of a commit, after its batches are written.

        Raises
        ------
        SinkError
            When it cannot be written; the journal is as before then.
        """
        files = {role: list(extent) for role, extent in entry.files.items()}
        self._write({"last": entry.last_integration, "files": files})

    def sync(self) -> None:
        """Wait until the journal is on the medium."""
        try:
            flush_data(self._fd)
        except OSError as error:
            raise sink_error(self.path, "cannot be flushed to the disk", error) from error

    def close(self, *, remove: bool = False) -> None:
        """Let go of the lock; ``remove`` deletes the file first, so that nobody finds it unlocked."""
        if self._fd < 0:
            return
        if remove:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _write(self, record: Mapping[str, Any]) -> None:
        line = _encode(record)
        write_at(self._fd, line, self._end, self.path, "a line cannot be written")
        self._end += len(line)


def is_being_written(path: str | os.PathLike[str]) -> bool:
    """Whether a living process holds this journal; False also when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nobody can tell
        return True
    finally:
        os.close(fd)
    return False


def read_journal(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, list[Entry]]:
    """Header and commits of a journal, also while it is being written.

    Returns
    -------
    header
        ``fingerprint`` (of the run), ``owner`` (pid, host, boot and start of its latest writer), ``synced`` (last
        integration known to be on the medium, or None), ``publishing``, ``overwrite``, ``sessions`` (integration
        behind which each later session went on); None when the journal has no header yet.
    entries
        Its whole commits, in order, without those that a later session has cut away.

    Raises
    ------
    InputError
        When the file is not there or cannot be read.
    """
    header: dict[str, Any] | None = None
    entries: list[Entry] = []
    try:
        with Path(path).open("rb") as file:
            for record in _records(file):
                if "tsostream_journal" in record:
                    header, entries = {"synced": None, "publishing": False, "sessions": [], **record}, []
                elif "last" in record:
                    files = {role: Extent(*extent) for role, extent in record["files"].items()}
                    entries.append(Entry(record["last"], files))
                elif header is not None:
                    _take_note(header, record)
                    if "cut" in record:
                        entries = [one for one in entries if one.last_integration <= record["cut"]]
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            Problem(f"the journal cannot be read: {reason}", str(path), code="journal")
        ) from error
    return header, entries


def _take_note(header: dict[str, Any], record: Mapping[str, Any]) -> None:
    header |= {key: record[key] for key in ("owner", "synced", "publishing") if key in record}
    if "cut" in record:
        header["sessions"].append(record["cut"])
        if header["synced"] is not None:
            header["synced"] = min(header["synced"], record["cut"])
    if "input" in record:
        name, identity = record["input"]
        header["fingerprint"].setdefault("inputs", {})[name] = identity


def boot_id() -> str:
    """Name this start of the machine; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def machine_stopped(header: Mapping[str, Any]) -> bool:
    """Whether the machine may have lost power since the journal's last writer: what was not synced is in doubt."""
    owner = header.get("owner", {})
    return not boot_id() or owner.get("boot") != boot_id()


def valid_entries(entries: Iterable[Entry], files: Mapping[str, Path]) -> list[Entry]:
    """Return the commits up to the first whose bytes are not all there.

    Each commit's crc is computed from the files, in constant memory. The check begins with the first commit,
    not with the last: after a power failure, pages in the middle can be missing while later ones arrived.

    Parameters
    ----------
    entries
        From `read_journal`.
    files
        Role -> file; a commit must name exactly these roles.
    """
    valid: list[Entry] = []
    descriptors: dict[str, int] = {}
    try:
        for role, path in files.items():
            try:
                descriptors[role] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        ends: dict[str, int] = {}
        for entry in entries:
            if set(entry.files) != set(files):
                break
            whole = all(
                extent.offset == ends.get(role, extent.offset)
                and crc_of(descriptors[role], extent.offset, extent.length) == extent.crc32
                for role, extent in entry.files.items()
            )
            if not whole or (valid and entry.last_integration <= valid[-1].last_integration):
                break
            ends = {role: extent.end for role, extent in entry.files.items()}
            valid.append(entry)
    finally:
        for fd in descriptors.values():
            os.close(fd)
    return valid


def last_valid(journal: str | os.PathLike[str], files: Mapping[str, Path]) -> Entry | None:
    """Return the last commit up to which all bytes are in all files; None when there is none."""
    valid = valid_entries(read_journal(journal)[1], files)
    return valid[-1] if valid else None


def _lock(fd: int) -> None:
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _encode(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        crc, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
            continue
        with suppress(ValueError):
            record = json.loads(text)
            if isinstance(record, dict):
                yield record


def _owner() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot_id(), "since": now}


def _holder(fd: int) -> str:
    owner: dict[str, Any] = {}
    with suppress(OSError), os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        for record in _records(file):
            owner = record.get("claim", record.get("owner", owner))
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"

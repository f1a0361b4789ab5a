"""``.fits.gz`` is unpacked once, in constant memory, into a scratch directory."""

from __future__ import annotations

import atexit
import contextlib
import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path

from tsostream.errors import InputError, Problem

__all__ = ["default_scratch", "is_gzip", "unpack"]

_CHUNK = 1 << 20


@cache
def default_scratch() -> Path:
    """Make a temporary directory of this process, removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="tsostream-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_gzip(path: Path) -> bool:
    """Whether the file begins like a gzip file, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpack(path: Path, scratch: Path | None = None) -> Path:
    """Unpack a gzip file, or find the copy an earlier call made.

    Parameters
    ----------
    path
        The packed file.
    scratch
        Where the copy goes; default `default_scratch`.

    Returns
    -------
    Path
        The copy. Its name carries a key of the original's path, size and time, so a changed original is
        unpacked anew.

    Raises
    ------
    InputError
        ``truncated`` or ``corrupt_gzip`` for a damaged file, ``scratch`` when the copy cannot be written.
    """
    folder = default_scratch() if scratch is None else scratch
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    stem = path.name.removesuffix(".gz")
    target = folder / f"{Path(stem).stem}.{key}.fits"
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return target
        with part.open("wb") as out:
            _copy(path, out)
        part.replace(target)
    except OSError as error:
        what = f"could not be unpacked into {folder}: {error.strerror or error}"
        todo = "free some space there, or choose another directory with --scratch DIR"
        raise InputError(Problem(what, where=str(path), todo=todo, code="scratch")) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return target


def _copy(path: Path, out: object) -> None:
    """Decompress ``path`` into ``out`` chunk by chunk."""
    done = 0
    try:
        with gzip.open(path, "rb") as packed:
            while chunk := packed.read(_CHUNK):
                out.write(chunk)  # type: ignore[attr-defined]
                done += len(chunk)
    except EOFError as error:
        what = f"the packed file ends too early: only {done} bytes could be unpacked"
        raise InputError(
            Problem(what, where=str(path), todo="fetch the file again", code="truncated")
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        what = f"the packed file is damaged after {done} unpacked bytes ({error})"
        raise InputError(
            Problem(what, where=str(path), todo="fetch the file again", code="corrupt_gzip")
        ) from error

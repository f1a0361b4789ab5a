"""Reads arrays and tables of a FITS reference in bounded memory.

Only the rows that are wanted are read, one plane at a time, so that cutting a subarray out of a 4-D dark of
the whole detector costs the cut plus a band of rows. A compressed file is first unpacked, as a stream, to a
temporary file.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.references.dq_def import to_uint32

__all__ = ["describe_extensions", "extension_keys", "is_image", "open_reference", "read_image", "read_table"]

_GZIP_MAGIC = b"\x1f\x8b"
_COPY_BYTES = 1024**2
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def open_reference(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS or FITS.gz reference without reading any pixel.

    Raises
    ------
    ReferenceMismatchError
        When the file is absent, no FITS file, or shorter than its headers say; whatever a corrupt file makes
        astropy raise in the body of the ``with`` statement becomes this, too.
    """
    where = str(path)
    try:
        with path.open("rb") as raw, _plain(raw) as stream:
            head = stream.read(80)
            stream.seek(0)
            if not head.startswith(b"SIMPLE  ="):
                raise ReferenceMismatchError(_not_fits(where, head))
            # memmap off: a mapping would count whole pages of the file into our memory
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                with fits.open(stream, memmap=False, mode="readonly") as hdus:
                    _check_complete(hdus, os.fstat(stream.fileno()).st_size, where)
                    yield hdus
    except ReferenceMismatchError:
        raise
    except FileNotFoundError as exc:
        problem = Problem(
            "the reference file does not exist",
            where,
            "correct the path or download the file",
            "missing_file",
        )
        raise ReferenceMismatchError(problem) from exc
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        problem = Problem(
            f"the compressed file is truncated or damaged ({exc}), expected a complete gzip stream",
            where,
            "download it again",
            "truncated",
        )
        raise ReferenceMismatchError(problem) from exc
    except MemoryError:
        raise
    except OSError as exc:
        if exc.errno not in _DISK_FULL:
            raise ReferenceMismatchError(_unreadable(where, exc)) from exc
        scratch = tempfile.gettempdir()
        what = f"there is no room in {scratch} to unpack the compressed reference ({exc.strerror})"
        problem = Problem(
            what, where, "set TMPDIR to a larger directory, or unpack the file yourself", "disk_full"
        )
        raise ReferenceMismatchError(problem) from exc
    except Exception as exc:  # astropy raises almost anything on a corrupt header
        raise ReferenceMismatchError(_unreadable(where, exc)) from exc


def _unreadable(where: str, exc: Exception) -> Problem:
    """Say that reading failed, with the reason the system or astropy gave."""
    what = f"the reference file cannot be read ({type(exc).__name__}: {exc}), expected a FITS file"
    return Problem(what, where, "check its permissions or download it again", "unreadable")


@contextmanager
def _plain(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give the stream itself, or its contents unpacked to a temporary file that vanishes at the end."""
    magic = raw.read(2)
    raw.seek(0)
    if magic != _GZIP_MAGIC:
        yield raw
        return
    # TMPDIR decides where; reading the gzip stream to its end also checks its own checksum
    with tempfile.TemporaryFile(prefix="tsostream-ref-") as scratch:
        with gzip.open(raw) as packed:
            shutil.copyfileobj(cast("IO[bytes]", packed), scratch, _COPY_BYTES)
        scratch.flush()
        # astropy takes a handle only in the mode it was opened with, so it gets one that is read-only
        with open(scratch.fileno(), "rb", closefd=False) as stream:
            stream.seek(0)
            yield stream


def _not_fits(where: str, head: bytes) -> Problem:
    """Say what the file seems to be instead."""
    kinds = {
        b"#ASDF": "an ASDF file",
        b"{": "a JSON file",
        b"<": "a web page or XML",
        b"version https": "a Git LFS pointer",
    }
    found = next((text for magic, text in kinds.items() if head.lstrip().startswith(magic)), "")
    if not found:
        found = f"first bytes {head[:12]!r}" if head else "an empty file"
    return Problem(
        f"this is no FITS file ({found}), expected SIMPLE = T at its beginning",
        where,
        "give the FITS or FITS.gz file itself",
        "not_fits",
    )


def _check_complete(hdus: fits.HDUList, size: int, where: str) -> None:
    """Refuse a file that ends before its last array does, before anything of it is allocated."""
    for number, hdu in enumerate(hdus):
        place = hdu.fileinfo()
        # datSpan counts the padding, which old files may lack; .size is not that of compressed images
        end = place["datLoc"] + min(hdu.size, place["datSpan"])
        if end > size:
            name = hdu.name or "PRIMARY"
            raise ReferenceMismatchError(
                Problem(
                    f"the file is truncated: its headers promise {end} bytes, found {size}",
                    f"{where}[{number}, {name}]",
                    "download it again",
                    "truncated",
                )
            )


def extension_keys(hdus: fits.HDUList) -> dict[str, int]:
    """Give name -> index of the extensions; of those with the same name ``NAME``, ``NAME,2`` and so on."""
    keys: dict[str, int] = {}
    count: dict[str, int] = {}
    for number, hdu in enumerate(hdus):
        if number == 0:
            continue
        name = str(hdu.name).strip().upper() or f"HDU{number}"
        count[name] = count.get(name, 0) + 1
        keys[name if count[name] == 1 else f"{name},{count[name]}"] = number
    return keys


def is_image(hdu: Any) -> bool:
    """Whether an extension holds an image (also a tile-compressed one) with two or more axes."""
    return bool(getattr(hdu, "is_image", False)) and len(hdu.shape) >= 2


def describe_extensions(hdus: fits.HDUList) -> str:
    """List the extensions for a message."""
    found = [
        f"{key} {'×'.join(map(str, hdus[number].shape))}" if is_image(hdus[number]) else key
        for key, number in extension_keys(hdus).items()
    ]
    return ", ".join(found) or "no extension"


def read_image(hdu: Any, cut: tuple[slice, slice] | None, *, bits: bool) -> npt.NDArray:
    """Read an image, cut in its last two axes.

    Parameters
    ----------
    hdu
        Image extension, ``[..., y, x]``, any number type; BSCALE and BZERO are applied.
    cut
        ``[y, x]`` to keep; None keeps the whole plane.
    bits
        True gives uint32, False float32.

    Returns
    -------
    ndarray
        ``[..., y, x]``, native byte order, C-contiguous, read-only. Memory in use: the result and a band of
        rows.

    Raises
    ------
    ValueError
        When `bits` is asked of numbers that are none.
    """
    *planes, ny, nx = hdu.shape
    rows, columns = cut or (slice(0, ny), slice(0, nx))
    shape = (*planes, rows.stop - rows.start, columns.stop - columns.start)
    out = np.empty(shape, dtype=np.uint32 if bits else np.float32)
    for index in np.ndindex(*planes):
        band = np.asarray(hdu.section[(*index, rows)])[:, columns]
        # a signalling NaN or a float64 beyond float32 becomes NaN or inf, which the steps know how to flag
        with np.errstate(all="ignore"):
            out[index] = to_uint32(band) if bits else band
    out.flags.writeable = False
    return out


def read_table(hdu: Any) -> npt.NDArray:
    """Read a table.

    Returns
    -------
    ndarray
        Structured ``[row]``, native byte order, read-only; column names in lower case, text without padding.
    """
    data = hdu.data
    columns: dict[str, npt.NDArray] = {}
    if data is not None:
        for name in data.names:
            values = np.asarray(data[name])
            if values.dtype.kind in "SU":
                values = np.char.strip(values.astype(str))
            columns[name.strip().lower()] = values
    layout = [(name, v.dtype.newbyteorder("="), v.shape[1:]) for name, v in columns.items()]
    table = np.empty(len(data) if data is not None else 0, dtype=layout)
    for name, values in columns.items():
        table[name] = values
    table.flags.writeable = False
    return table

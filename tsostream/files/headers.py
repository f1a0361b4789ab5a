"""FITS headers without the data: which extensions a file holds, at which byte, of which shape.

The walk reads header blocks only, by position, and hops over the data by the sizes the headers state. Header
cards are parsed by astropy; everything astropy may raise or warn about ends here as an `InputError`, so that
callers meet either facts or one readable message, whatever bytes the file holds.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from astropy.io import fits

from tsostream.errors import InputError, Problem

__all__ = ["BLOCK", "Hdu", "Scan", "TableColumn", "scan_hdus", "table_columns"]

#: FITS files come in blocks of this many bytes
BLOCK: Final = 2880
#: no real header comes near this; a header whose END card is lost must not swallow gigabytes of data
MAX_HEADER_BYTES: Final = 8 << 20
#: more HDUs than any product has, so a corrupt chain ends
MAX_HDUS: Final = 1000
#: bytes of a header that may be something else than printable ASCII before we call it corrupt
MAX_STRANGE_PER_BLOCK: Final = 144

_TEXT: Final = bytes(range(32, 127))
_FETCH_AGAIN: Final = "fetch the file again"


@dataclass(frozen=True, slots=True)
class Hdu:
    """One header-data unit.

    Parameters
    ----------
    name, ver
        EXTNAME (upper case; ``PRIMARY`` for the first) and EXTVER.
    kind
        ``IMAGE`` or ``BINTABLE`` (or what XTENSION says).
    header
        Keyword -> value; cards that cannot be parsed are left out and counted in ``bad_cards``.
    start, offset, size
        First byte of the header, first byte of the data, bytes of data without padding.
    shape
        numpy order; for tables (rows, bytes per row).
    """

    name: str
    ver: int
    kind: str
    header: dict[str, Any]
    start: int
    offset: int
    size: int
    shape: tuple[int, ...]
    bitpix: int
    bad_cards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """All HDUs of a file.

    Parameters
    ----------
    hdus
        In file order. The data of the last one may end behind the end of the file (`truncated`).
    size
        Bytes of the file.
    header_sha256
        Over the raw header bytes of all HDUs, in file order.
    notes
        Harmless oddities, one sentence each.
    """

    hdus: tuple[Hdu, ...]
    size: int
    header_sha256: str
    notes: tuple[str, ...] = field(default=())

    @property
    def truncated(self) -> Hdu | None:
        """The extension whose data end behind the end of the file."""
        last = self.hdus[-1]
        return last if last.offset + last.size > self.size else None

    def named(self, name: str) -> list[Hdu]:
        """All HDUs of that EXTNAME, in file order."""
        return [hdu for hdu in self.hdus if hdu.name == name]


def scan_hdus(file: BinaryIO, size: int, where: str, *, first_only: bool = False) -> Scan:
    """Read every header of an open FITS file.

    Parameters
    ----------
    file
        Opened for binary reading, positioned anywhere, seekable (a `gzip.GzipFile` will do).
    size
        Bytes of the file.
    where
        How messages call the file.
    first_only
        Stop after the primary header.

    Raises
    ------
    InputError
        ``empty``, ``not_fits``, ``truncated`` (inside a header) or ``corrupt_header``.
    """
    if size == 0:
        raise _problem("empty", where, "the file is empty", _FETCH_AGAIN)
    digest = hashlib.sha256()
    hdus: list[Hdu] = []
    notes: list[str] = []
    start = 0
    while start < size and len(hdus) < MAX_HDUS:
        file.seek(start)
        head = file.read(8)
        if not hdus and head != b"SIMPLE  ":
            raise _problem(
                "not_fits",
                where,
                f"this is not a FITS file (it begins with {head[:8]!r}, expected b'SIMPLE  ')",
                "give uncal, rateints, calints or crfints FITS files, a directory, or an association",
            )
        if hdus and head != b"XTENSION":
            # the standard allows "special records" behind the last extension; astropy ignores them, too
            notes.append(
                f"{size - start} bytes behind {hdus[-1].name} are no FITS extension and were ignored"
            )
            break
        raw = _raw_header(file, start, size, where, hdus)
        digest.update(raw)
        hdu = _parse(raw, start, len(hdus), where)
        hdus.append(hdu)
        if first_only:
            break
        start = hdu.offset + -(-hdu.size // BLOCK) * BLOCK
    return Scan(tuple(hdus), size, digest.hexdigest(), tuple(notes))


def _problem(code: str, where: str, what: str, todo: str) -> InputError:
    return InputError(Problem(what, where=where, todo=todo, code=code))


def _raw_header(file: BinaryIO, start: int, size: int, where: str, before: list[Hdu]) -> bytes:
    """Read the blocks from ``start`` up to the one with the END card."""
    place = f"the header behind extension {before[-1].name}" if before else "the primary header"
    blocks: list[bytes] = []
    file.seek(start)
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise _problem(
                "truncated",
                where,
                f"the file ends after {size} bytes, inside {place}; no integration behind it is readable",
                _FETCH_AGAIN,
            )
        if (
            len(block.translate(None, _TEXT)) > MAX_STRANGE_PER_BLOCK
            or len(blocks) * BLOCK > MAX_HEADER_BYTES
        ):
            raise _problem(
                "corrupt_header",
                where,
                f"{place} (byte {start}) is corrupt: no END card before byte {start + len(blocks) * BLOCK}",
                _FETCH_AGAIN,
            )
        blocks.append(block)
        if any(block[card : card + 8] == b"END     " for card in range(0, BLOCK, 80)):
            return b"".join(blocks)


def _parse(raw: bytes, start: int, index: int, where: str) -> Hdu:
    """Turn the blocks of one header into facts."""
    header, bad = _cards(raw)
    kind = "IMAGE" if index == 0 else str(header.get("XTENSION", "")).strip().upper()
    name = "PRIMARY" if index == 0 else str(header.get("EXTNAME", "")).strip().upper()
    ver = header.get("EXTVER", 1)

    def corrupt(what: str) -> InputError:
        label = name or f"number {index}"
        return _problem(
            "corrupt_header", where, f"the header of extension {label} is corrupt: {what}", _FETCH_AGAIN
        )

    def number(key: str, low: int, high: int, default: int | None = None) -> int:
        value = header.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise corrupt(f"{key} is {value!r}, expected an integer from {low} to {high}")
        return value

    bitpix = header.get("BITPIX")
    if bitpix not in (8, 16, 32, 64, -32, -64) or isinstance(bitpix, bool):
        raise corrupt(f"BITPIX is {bitpix!r}, expected 8, 16, 32, 64, -32 or -64")
    naxis = number("NAXIS", 0, 999)
    # 2^48 bytes are 140,000 times the largest segment; the product below stays an exact Python integer anyway
    shape = tuple(number(f"NAXIS{axis}", 0, 1 << 48) for axis in range(naxis, 0, -1))
    elements = math.prod(shape) if shape else 0
    extra, groups = number("PCOUNT", 0, 1 << 48, 0), number("GCOUNT", 0, 1 << 32, 1)
    size = abs(bitpix) // 8 * groups * (extra + elements) if shape else 0
    return Hdu(
        name=name,
        ver=ver if isinstance(ver, int) else 1,
        kind=kind,
        header=header,
        start=start,
        offset=start + len(raw),
        size=size,
        shape=shape,
        bitpix=bitpix,
        bad_cards=tuple(bad),
    )


def _cards(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    """Keyword -> value of one raw header, and the keywords whose cards cannot be parsed."""
    values: dict[str, Any] = {}
    bad: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cards = list(fits.Header.fromstring(raw).cards)
        except Exception:  # whatever astropy raises on hostile bytes: the caller reports the missing keywords
            return values, ["(the whole header)"]
        for card in cards:
            try:
                key, value = card.keyword, card.value
            except (
                Exception
            ):  # astropy raises VerifyError, ValueError, IndexError, ... depending on the bytes
                bad.append(str(getattr(card, "_image", ""))[:8].strip())
                continue
            if key in ("", "COMMENT", "HISTORY") or isinstance(value, fits.card.Undefined):
                continue
            if isinstance(value, str):
                value = value.rstrip()
            values.setdefault(key, value)
    return values, bad


@dataclass(frozen=True, slots=True)
class TableColumn:
    """Where a column sits in a row of a binary table.

    Parameters
    ----------
    offset
        Bytes from the start of the row.
    dtype
        Big-endian numpy dtype string, such as ``>f8``.
    scale, zero
        TSCAL and TZERO.
    """

    offset: int
    dtype: str
    scale: float = 1.0
    zero: float = 0.0


_WIDTHS: Final = {
    "L": 1,
    "X": 0,
    "B": 1,
    "I": 2,
    "J": 4,
    "K": 8,
    "A": 1,
    "E": 4,
    "D": 8,
    "C": 8,
    "M": 16,
    "P": 8,
    "Q": 16,
}
_DTYPES: Final = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


def table_columns(hdu: Hdu) -> dict[str, TableColumn]:
    """Scalar numeric columns of a binary table by lower-case name; empty when the layout makes no sense."""
    columns: dict[str, TableColumn] = {}
    fields = hdu.header.get("TFIELDS", 0)
    if hdu.kind != "BINTABLE" or len(hdu.shape) != 2 or not isinstance(fields, int):
        return columns
    offset = 0
    for number in range(1, min(fields, 999) + 1):
        match = re.fullmatch(r"(\d*)([LXBIJKAEDCMPQ]).*", str(hdu.header.get(f"TFORM{number}", "")).strip())
        if match is None:
            return {}
        repeat = int(match[1] or 1) if len(match[1]) < 10 else 0
        letter = match[2]
        width = -(-repeat // 8) if letter == "X" else repeat * _WIDTHS[letter]
        if letter in _DTYPES and repeat == 1:
            scale, zero = hdu.header.get(f"TSCAL{number}", 1.0), hdu.header.get(f"TZERO{number}", 0.0)
            if isinstance(scale, int | float) and isinstance(zero, int | float):
                name = str(hdu.header.get(f"TTYPE{number}", "")).strip().lower()
                columns[name] = TableColumn(offset, _DTYPES[letter], float(scale), float(zero))
        offset += width
    return columns if offset == hdu.shape[1] else {}

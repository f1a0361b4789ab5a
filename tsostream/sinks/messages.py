"""Arrow IPC messages in a file that may be growing, torn or damaged.

An Arrow file is eight bytes of magic, then messages (the schema, then one per record batch), an end mark, and
a footer that repeats the schema and lists where the messages are. A message is::

    ff ff ff ff   length of the metadata (int32)   metadata (a flatbuffer)   body

pyarrow's own readers cannot tell "not there yet" from "closed" and take eight zero bytes for an end mark, so
the frame of a message is read here and only whole messages are given to pyarrow. Positional reads, no memory
map: a file that another process truncates would kill the reader with SIGBUS.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

import pyarrow as pa

__all__ = [
    "MAGIC",
    "DamagedError",
    "Extent",
    "Frame",
    "FrameKind",
    "crc_of",
    "join_crcs",
    "pread_exactly",
    "read_batch",
    "read_frame",
    "read_header",
    "scan_batches",
]

#: an Arrow file begins with this, its footer ends with the first six bytes of it
MAGIC: Final = b"ARROW1\0\0"

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_PREFIX: Final = 8
_CHUNK: Final = 1 << 20
#: polynomial of the crc32, lowest power in the highest bit
_POLYNOMIAL: Final = 0xEDB88320
_ONE: Final = 1 << 31

#: what pyarrow raises over bytes that are not what they should be
ARROW_ERRORS: Final = (
    pa.ArrowException,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
)


class DamagedError(Exception):
    """Raised inside this package for bytes that no writer of ours has written; callers say where."""


class Extent(NamedTuple):
    """Where a batch stands in a file, and the crc32 of its bytes."""

    offset: int
    length: int
    crc32: int

    @property
    def end(self) -> int:
        """Offset of the byte after it."""
        return self.offset + self.length


class FrameKind(Enum):
    """What begins at an offset of a file."""

    MESSAGE = "a whole message"
    END = "the end mark"
    PARTIAL = "nothing, or the beginning of a message"
    DAMAGED = "something else"


@dataclass(frozen=True, slots=True)
class Frame:
    """What begins at an offset, and how many bytes it takes (messages and end mark only)."""

    kind: FrameKind
    length: int = 0


def pread_exactly(fd: int, length: int, offset: int) -> bytes:
    """Read ``length`` bytes, or fewer at the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def crc_of(fd: int, offset: int, length: int, crc: int = 0) -> int | None:
    """crc32 of a part of a file in constant memory, continuing ``crc``; None when the file is shorter."""
    end = offset + length
    while offset < end:
        data = os.pread(fd, min(_CHUNK, end - offset), offset)
        if not data:
            return None
        crc = zlib.crc32(data, crc)
        offset += len(data)
    return crc


def join_crcs(crc: int, added: int, length: int) -> int:
    """Find the crc32 of bytes followed by ``length`` others, from the crc32 of either part.

    Looking at a long part twice costs more. A crc32 is a polynomial's remainder: what follows the first part multiplies
    its share by a power of x.
    """
    return _multiply(_power(8 * length), crc) ^ added


def _multiply(one: int, other: int) -> int:
    """Product of two polynomials modulo that of the crc32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = (other >> 1) ^ _POLYNOMIAL if other & 1 else other >> 1
    return product


@lru_cache(maxsize=256)
def _power(exponent: int) -> int:
    """Power of x, modulo the polynomial of the crc32; batches have few different lengths."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        exponent >>= 1
    return result


def read_frame(fd: int, offset: int, size: int) -> Frame:
    """Say what begins at ``offset`` of a file of ``size`` bytes."""
    prefix = pread_exactly(fd, min(_PREFIX, max(0, size - offset)), offset)
    if prefix[:4] != _CONTINUATION[: len(prefix)]:
        # a hole of zeros is what some file systems show of a write that has not arrived yet
        return Frame(FrameKind.DAMAGED if any(prefix) else FrameKind.PARTIAL)
    if len(prefix) < _PREFIX:
        return Frame(FrameKind.PARTIAL)
    metadata_length = struct.unpack_from("<i", prefix, 4)[0]
    if metadata_length == 0:
        return Frame(FrameKind.END, _PREFIX)
    if metadata_length < 0 or metadata_length % 8:
        return Frame(FrameKind.DAMAGED)
    if offset + _PREFIX + metadata_length > size:
        return Frame(FrameKind.PARTIAL)
    try:
        body_length = _body_length(pread_exactly(fd, metadata_length, offset + _PREFIX))
    except struct.error:
        return Frame(FrameKind.DAMAGED)
    if body_length < 0:
        return Frame(FrameKind.DAMAGED)
    length = _PREFIX + metadata_length + body_length
    return Frame(FrameKind.MESSAGE if offset + length <= size else FrameKind.PARTIAL, length)


def _body_length(metadata: bytes) -> int:
    # A Message in Arrow's flatbuffer schema: version, header_type, header, bodyLength (field 3, int64, or 0)
    table = _unpack("<I", metadata, 0)
    vtable = table - _unpack("<i", metadata, table)
    if _unpack("<H", metadata, vtable) <= 4 + 2 * 3:
        return 0
    field = _unpack("<H", metadata, vtable + 4 + 2 * 3)
    return _unpack("<q", metadata, table + field) if field else 0


def _unpack(form: str, data: bytes, offset: int) -> int:
    if offset < 0:  # a negative offset would count from the end
        raise struct.error("offset before the beginning")
    return struct.unpack_from(form, data, offset)[0]


def read_header(fd: int, size: int) -> tuple[pa.Schema, int]:
    """Read the schema of a file; return it and the offset of the first batch.

    Raises
    ------
    DamagedError
        When there is no whole Arrow file header.
    """
    if pread_exactly(fd, len(MAGIC), 0) != MAGIC:
        raise DamagedError("it does not begin like an Arrow file")
    frame = read_frame(fd, len(MAGIC), size)
    if frame.kind is not FrameKind.MESSAGE:
        raise DamagedError("its schema is not complete")
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(pread_exactly(fd, frame.length, len(MAGIC))))
        for field in schema:  # damaged names are not text, which shows only when they are asked for
            _check_names(field)
    except ARROW_ERRORS as error:
        raise DamagedError(f"its schema cannot be read ({error})") from error
    return schema, len(MAGIC) + frame.length


def _check_names(field: pa.Field) -> None:
    field.name.encode()
    for index in range(field.type.num_fields):
        _check_names(field.type.field(index))


def read_batch(fd: int, offset: int, length: int, schema: pa.Schema) -> pa.RecordBatch:
    """Read the record batch of the message that fills a part of the file.

    Raises
    ------
    DamagedError
        When pyarrow cannot make a valid batch of these bytes.
    """
    data = pread_exactly(fd, length, offset)
    try:
        message = pa.ipc.read_message(pa.py_buffer(data))
        if message.type != "record batch":
            raise DamagedError(f"a {message.type} message stands where a record batch is expected")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except ARROW_ERRORS as error:
        raise DamagedError(f"the record batch at byte {offset} cannot be read ({error})") from error
    return batch


def scan_batches(fd: int, schema: pa.Schema, offset: int, end: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Iterate over the record batches between two offsets, one in memory at a time, with the end of each.

    Stops at an end mark and at the first message that is not whole.

    Raises
    ------
    DamagedError
        When a message is there but cannot be read.
    """
    while (frame := read_frame(fd, offset, end)).kind is FrameKind.MESSAGE:
        batch = read_batch(fd, offset, frame.length, schema)
        offset += frame.length
        yield offset, batch
    if frame.kind is FrameKind.DAMAGED:
        raise DamagedError(f"there is no message at byte {offset}")

"""Arrow columns without nulls <-> arrays, by their bytes.

``pyarrow.array`` and ``to_numpy`` import pandas when it is there, to see whether it has a say: half a second and 40 MB
that a run can do without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["column_values", "plain_array", "repeated_text", "take_over"]

Array = npt.NDArray[Any]


def plain_array(values: Array, kind: pa.DataType) -> pa.Array:
    """Make an Arrow array of numbers or booleans; the values are copied.

    Parameters
    ----------
    values
        Of any shape; flattened.
    kind
        Type of the elements.
    """
    return take_over(np.array(values, dtype=kind.to_pandas_dtype(), order="C", copy=True), kind)


def take_over(values: Array, kind: pa.DataType) -> pa.Array:
    """Make an Arrow array of the memory of an array that nobody writes to any more; booleans are packed.

    Parameters
    ----------
    values
        Of any shape, contiguous, of the type's own dtype; flattened.
    kind
        Type of the elements.
    """
    flat = values.reshape(-1)
    if pa.types.is_boolean(kind):
        flat = np.packbits(flat, bitorder="little")
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(flat)], 0)


def repeated_text(text: str, count: int) -> pa.Array:
    """Make an Arrow array of ``count`` times the same text."""
    data = text.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(data))
    return pa.Array.from_buffers(
        pa.utf8(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data * count)], 0
    )


def column_values(batch: pa.RecordBatch, name: str) -> Array:
    """Give a column of numbers (a view) or booleans (a copy) as an array.

    Raises
    ------
    ValueError
        When the column has nulls.
    """
    column = batch.column(name)
    if column.null_count:
        raise ValueError(f"column {name!r} holds nulls")
    count, offset, buffer = len(column), column.offset, column.buffers()[1]
    if pa.types.is_boolean(column.type):
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little") if buffer else np.empty(0)
        return bits[offset : offset + count].astype(bool)
    dtype = np.dtype(column.type.to_pandas_dtype())
    if not count:
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, count, offset * dtype.itemsize)

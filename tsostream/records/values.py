"""Arrow columns without nulls <-> arrays, by their bytes.

``pyarrow.array`` and ``to_numpy`` import pandas when it is there, to see whether it has a say: half a second and 40 MB
that a run can do without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["column_values", "plain_array"]

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
    if pa.types.is_boolean(kind):
        bits = np.packbits(values.reshape(-1), bitorder="little")
        return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(bits)], 0)
    copied = np.array(values, dtype=kind.to_pandas_dtype(), order="C", copy=True).reshape(-1)
    return pa.Array.from_buffers(kind, copied.size, [None, pa.py_buffer(copied)], 0)


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

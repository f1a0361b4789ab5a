"""Rows on their way into a record batch: every value is written once, into memory that Arrow takes over as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.records.values import repeated_text, take_over

__all__ = ["Table"]

Array = npt.NDArray[Any]


def _width(kind: pa.DataType) -> tuple[int, ...]:
    return (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()


class Table:
    """Room for the rows of one batch.

    Parameters
    ----------
    schema
        Columns of numbers, booleans, lists of numbers of one length, and text.
    texts
        The text columns: one value for all rows.
    capacity
        Rows there is room for.
    """

    def __init__(self, schema: pa.Schema, texts: Mapping[str, str], capacity: int):
        self.schema = schema
        self._texts = texts
        self._columns: dict[str, Array] = {}
        for field in schema:
            if field.name not in texts:
                width = _width(field.type)
                kind = field.type.value_type if width else field.type
                self._columns[field.name] = np.empty((capacity, *width), kind.to_pandas_dtype())

    def rows(self, start: int, shape: tuple[int, int]) -> dict[str, Array]:
        """Give the places of some rows, by column: views [integration, key] or [integration, key, element].

        Parameters
        ----------
        start
            First row.
        shape
            ``(integration, key)``.
        """
        stop = start + shape[0] * shape[1]
        return {
            name: values[start:stop].reshape(*shape, *values.shape[1:])
            for name, values in self._columns.items()
        }

    def batch(self, count: int) -> pa.RecordBatch:
        """Make the batch of the first ``count`` rows; the table must not be written to any more."""
        arrays = []
        for field in self.schema:
            if field.name in self._texts:
                arrays.append(repeated_text(self._texts[field.name], count))
            elif pa.types.is_fixed_size_list(field.type):
                flat = take_over(self._columns[field.name][:count], field.type.value_type)
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
            else:
                arrays.append(take_over(self._columns[field.name][:count], field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

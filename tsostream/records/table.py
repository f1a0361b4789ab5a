"""Rows on their way into a record batch: every value is written once, into memory that Arrow takes over as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.records.values import repeated_text, take_over

__all__ = ["Layout", "Table"]

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """A column of numbers as memory is made for it, and as Arrow takes it over."""

    name: str
    dtype: npt.DTypeLike
    width: tuple[int, ...]
    element: pa.DataType
    whole: pa.DataType


class Layout:
    """What is the same in all batches of a table: asking Arrow for it costs as much as writing the rows.

    Parameters
    ----------
    schema
        Columns of numbers, booleans, lists of numbers of one length, and text.
    texts
        The text columns: one value for all rows.
    """

    def __init__(self, schema: pa.Schema, texts: Mapping[str, str]):
        self.schema = schema
        self.columns: list[Column | None] = []
        self._texts = [texts[field.name] for field in schema if field.name in texts]
        self._repeated: tuple[int, list[pa.Array]] = (-1, [])
        for field in schema:
            kind = field.type
            width = (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()
            element = kind.value_type if width else kind
            column = None
            if field.name not in texts:
                column = Column(field.name, element.to_pandas_dtype(), width, element, kind)
            self.columns.append(column)

    def repeated(self, count: int) -> list[pa.Array]:
        """Give the text columns in their order; most batches have one length."""
        if self._repeated[0] != count:
            self._repeated = count, [repeated_text(text, count) for text in self._texts]
        return self._repeated[1]


class Table:
    """Room for the rows of one batch.

    Parameters
    ----------
    layout
        Of the table.
    capacity
        Rows there is room for.
    """

    def __init__(self, layout: Layout, capacity: int):
        self._layout = layout
        self._columns: dict[str, Array] = {
            one.name: np.empty((capacity, *one.width), one.dtype) for one in layout.columns if one is not None
        }

    @property
    def schema(self) -> pa.Schema:
        """Of the batch."""
        return self._layout.schema

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
        if shape[1] == 1:
            return {name: values[start:stop, None] for name, values in self._columns.items()}
        return {
            name: values[start:stop].reshape(*shape, *values.shape[1:])
            for name, values in self._columns.items()
        }

    def batch(self, count: int) -> pa.RecordBatch:
        """Make the batch of the first ``count`` rows; the table must not be written to any more."""
        arrays = []
        texts = iter(self._layout.repeated(count))
        for one in self._layout.columns:
            if one is None:
                arrays.append(next(texts))
                continue
            flat = take_over(self._columns[one.name][:count], one.element)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=one.whole) if one.width else flat)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

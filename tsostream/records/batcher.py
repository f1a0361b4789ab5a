"""Rows are collected into batches: large enough to be cheap, soon enough to be seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from tsostream.errors import OperatorError
from tsostream.integration.payload import Measurement
from tsostream.records.rows import RowSchemas, Tables, slice_measurement
from tsostream.records.values import column_values, plain_array

__all__ = ["Batcher", "RowPair"]


class RowPair(NamedTuple):
    """Batches of the output's tables, for the same integrations; None for a table the run does not have."""

    light_curve: pa.RecordBatch
    spectra: pa.RecordBatch | None
    bins: pa.RecordBatch | None = None

    @property
    def main(self) -> pa.RecordBatch:
        """Rows of the first series, one per integration: the default aperture, of the first order."""
        batch = self.light_curve
        order, aperture = (column_values(batch, name) for name in ("order", "aperture"))
        first = (order == order[0]) & (aperture == aperture[0])
        return batch if first.all() else batch.filter(plain_array(first, pa.bool_()))

    @property
    def last_integration(self) -> int:
        """Number of the last integration in the batch."""
        return int(self.light_curve.column("integration")[-1].as_py())


class Batcher:
    """Collects rows; a batch closes at ``max_rows`` rows or ``max_seconds`` after the one before.

    Batches hold whole integrations, so the journal can name the last one; an integration with more than
    ``max_rows`` keys is a batch of its own. Never holds more than ``max_rows`` rows.

    Parameters
    ----------
    schemas
        The tables.
    max_rows
        Rows of a full batch.
    max_seconds
        How soon a batch may follow the one before; rows that come later than that after it go at once. Nothing happens
        by itself: sleep `due` seconds at most, then call `flush`.
    clock
        Seconds, monotonic.

    Examples
    --------
    ::

        for pair in batcher.push(measurement):
            output.commit(*pair)
        ...
        if batcher.due() == 0:
            for pair in batcher.flush():
                output.commit(*pair)
    """

    def __init__(
        self,
        schemas: RowSchemas,
        *,
        max_rows: int = 64,
        max_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ):
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}, expected at least 1")
        self._schemas = schemas
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._clock = clock
        self._pending: Tables | None = None
        self._closed = -math.inf
        self._last: int | None = None

    @property
    def pending_rows(self) -> int:
        """Rows that wait for their batch to close."""
        return self._pending.count if self._pending is not None else 0

    def push(self, measurement: Measurement) -> list[RowPair]:
        """Take the next integrations; return the batches that are now complete.

        Raises
        ------
        OperatorError
            When the integrations do not follow the last ones, or do not fit the schemas.
        """
        if self._last is not None and measurement.first != self._last + 1:
            raise OperatorError(
                f"integration {measurement.first} came after {self._last}, expected {self._last + 1}; "
                "rows must come in order, each once"
            )
        ready: list[RowPair] = []
        n_keys = len(measurement.keys)
        start = 0
        while start < measurement.count:
            room = (self._max_rows - self.pending_rows) // max(n_keys, 1)
            if room == 0 and self.pending_rows:
                ready += self.flush()
                continue
            stop = min(start + max(room, 1), measurement.count)
            self._take(slice_measurement(measurement, start, stop))
            start = stop
            if self.pending_rows + n_keys > self._max_rows:
                ready += self.flush()
        if self.due() == 0:
            ready += self.flush()
        return ready

    def flush(self) -> list[RowPair]:
        """Close the batch now: a list with one pair, or empty when nothing waits."""
        if self._pending is None:
            return []
        pair = RowPair(*self._pending.batches())
        self._pending = None
        self._closed = self._clock()
        return [pair]

    def due(self) -> float | None:
        """Seconds until the waiting rows must go out; 0 when they must go now, None when none wait."""
        if self._pending is None:
            return None
        return max(0.0, self._closed + self._max_seconds - self._clock())

    def _take(self, measurement: Measurement) -> None:
        # what does not fit the schemas leaves no batch without rows behind
        tables = self._pending or Tables(self._schemas, max(self._max_rows, len(measurement.keys)))
        tables.add(measurement)
        self._pending = tables
        self._last = measurement.first + measurement.count - 1

"""Rows are collected into batches: large enough to be cheap, soon enough to be seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from tsostream.errors import OperatorError
from tsostream.integration.payload import Measurement
from tsostream.records.rows import bins_batch, slice_measurement, to_batches
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
    exposure_id, detector, lc_schema, spectra_schema, bins_schema
        As in `to_batches` and `bins_batch`; without a schema there are no such batches.
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
        *,
        exposure_id: str,
        detector: str,
        lc_schema: pa.Schema,
        spectra_schema: pa.Schema | None = None,
        bins_schema: pa.Schema | None = None,
        max_rows: int = 64,
        max_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ):
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}, expected at least 1")
        self._exposure_id = exposure_id
        self._detector = detector
        self._lc_schema = lc_schema
        self._spectra_schema = spectra_schema
        self._bins_schema = bins_schema
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._clock = clock
        self._pending: list[RowPair] = []
        self._pending_rows = 0
        self._closed = -math.inf
        self._last: int | None = None

    @property
    def pending_rows(self) -> int:
        """Rows that wait for their batch to close."""
        return self._pending_rows

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
            room = (self._max_rows - self._pending_rows) // max(n_keys, 1)
            if room == 0 and self._pending:
                ready += self.flush()
                continue
            stop = min(start + max(room, 1), measurement.count)
            self._take(slice_measurement(measurement, start, stop))
            start = stop
            if self._pending_rows + n_keys > self._max_rows:
                ready += self.flush()
        if self.due() == 0:
            ready += self.flush()
        return ready

    def flush(self) -> list[RowPair]:
        """Close the batch now: a list with one pair, or empty when nothing waits."""
        if not self._pending:
            return []
        parts = zip(*self._pending, strict=True)
        self._pending, self._pending_rows = [], 0
        self._closed = self._clock()
        # a table is there in all rows or in none
        return [RowPair(*(None if one[0] is None else _join(list(one)) for one in parts))]

    def due(self) -> float | None:
        """Seconds until the waiting rows must go out; 0 when they must go now, None when none wait."""
        if not self._pending:
            return None
        return max(0.0, self._closed + self._max_seconds - self._clock())

    def _take(self, measurement: Measurement) -> None:
        pair = RowPair(
            *to_batches(
                measurement,
                exposure_id=self._exposure_id,
                detector=self._detector,
                lc_schema=self._lc_schema,
                spectra_schema=self._spectra_schema,
            )
        )
        if self._bins_schema is not None:
            bins = bins_batch(
                measurement,
                exposure_id=self._exposure_id,
                detector=self._detector,
                bins_schema=self._bins_schema,
            )
            pair = pair._replace(bins=bins)
        self._pending.append(pair)
        self._pending_rows += pair.light_curve.num_rows
        self._last = measurement.first + measurement.count - 1


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)

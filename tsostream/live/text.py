"""Rows as text: JSON lines, CSV, or a few columns for people."""

from __future__ import annotations

import csv
import json
import math
import sys
from typing import Any, Final, TextIO

import pyarrow as pa

from tsostream.records.quality import describe_bits

__all__ = ["Writer", "make_writer"]

#: columns of the lines for people: name, width, format
_PLAIN: Final = (
    ("integration", 7, "d"),
    ("time", 15, ".7f"),
    ("flux", 13, ".7g"),
    ("flux_err", 10, ".4g"),
    ("x", 9, ".4f"),
    ("y", 9, ".4f"),
    ("n_jump", 6, "d"),
    ("n_bad", 6, "d"),
)


class Writer:
    """Writes batches to a stream, and flushes it: whoever reads shall have the rows now.

    Parameters
    ----------
    stream
        Where to; default stdout.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stdout if stream is None else stream

    def write(self, batches: list[pa.RecordBatch]) -> None:
        """Write rows."""
        for batch in batches:
            self._batch(batch)
        self.stream.flush()

    def _batch(self, batch: pa.RecordBatch) -> None:
        raise NotImplementedError


class _Json(Writer):
    def _batch(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            plain = {name: _finite(value) for name, value in row.items()}
            self.stream.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    # NaN is no JSON
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Csv(Writer):
    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        self._csv = csv.writer(self.stream, lineterminator="\n")
        self._names: list[str] = []

    def _batch(self, batch: pa.RecordBatch) -> None:
        if self._names != batch.schema.names:
            self._names = batch.schema.names
            self._csv.writerow(self._names)
        self._csv.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


class _Plain(Writer):
    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        self._began = False

    def _batch(self, batch: pa.RecordBatch) -> None:
        names = batch.schema.names
        several = len(set(zip(batch["order"].to_pylist(), batch["aperture"].to_pylist(), strict=True))) > 1
        if not self._began:
            self._began = True
            head = [f"{name:>{width}}" for name, width, _ in _PLAIN]
            self.stream.write(" ".join(["order ap", *head] if several else head) + "  quality\n")
        for row in batch.to_pylist():
            time = row["time_bmjd_tdb_mid"]
            row["time"] = time if math.isfinite(time) else row["time_mjd_utc_mid"]
            cells = [
                f"{row[name]:>{width}{form}}" for name, width, form in _PLAIN if name in (*names, "time")
            ]
            if several:
                cells.insert(0, f"{row['order']:>5} {row['aperture']:>2}")
            self.stream.write(
                "  ".join([" ".join(cells), " ".join(describe_bits(row["quality"]))]).rstrip() + "\n"
            )


def make_writer(style: str, stream: TextIO | None = None) -> Writer:
    """Choose by name: ``json``, ``csv``, ``plain``."""
    return {"json": _Json, "csv": _Csv, "plain": _Plain}[style](stream)

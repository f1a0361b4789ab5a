"""What was injected, as an Arrow file: one row per integration, spectra and noise levels in the metadata.

Columns: ``integration`` (1-based) · ``time_mjd_utc_mid`` [d] · ``flux_model`` (white flux between first and
last read, relative to out of transit) · ``transit`` (covered fraction of the depth at mid-integration) ·
``dx, dy`` [pixel, displacement of the source from its nominal position] · ``dwidth`` [pixel, growth of the
point spread function's sigma] · ``pedestal`` [DN] · ``n_cosmic``, ``cosmic_electrons`` · ``tilt_event``
(first integration after the event).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsostream.simulate.integrate import TruthRow

__all__ = ["METADATA_KEY", "TruthWriter", "read_truth"]

#: schema metadata key under which the JSON document stands
METADATA_KEY = b"tsostream.simulate"

_TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_ROWS_PER_BATCH = 256


def read_truth(path: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read the columns and the metadata of a truth file."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        columns = {name: np.array(table.column(name)) for name in table.column_names}
    return columns, json.loads(table.schema.metadata[METADATA_KEY])


class TruthWriter:
    """Writes truth rows in batches; memory does not grow with their number.

    Parameters
    ----------
    metadata
        Anything JSON can hold.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]):
        columns = [pa.field("integration", pa.int64()), pa.field("time_mjd_utc_mid", pa.float64())]
        columns += [
            pa.field(f.name, _TYPES[str(f.type)])
            for f in dataclasses.fields(TruthRow)
            if f.name != "integration"
        ]
        self._schema = pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata).encode()})
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._rows: list[dict[str, Any]] = []

    def append(self, row: TruthRow, time_mjd_utc_mid: float) -> None:
        """Add one row."""
        self._rows.append({**dataclasses.asdict(row), "time_mjd_utc_mid": time_mjd_utc_mid})
        if len(self._rows) >= _ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()

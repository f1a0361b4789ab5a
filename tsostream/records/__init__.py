"""Finished integrations become Arrow rows: schemas, quality bits, batches. The home of the row layout."""

from __future__ import annotations

from tsostream.records.batcher import Batcher, RowPair
from tsostream.records.metadata import METADATA_KEY, decode_metadata, encode_metadata
from tsostream.records.quality import QUALITY_BITS, Quality
from tsostream.records.rows import RowSchemas, slice_measurement, to_batches, warm_up
from tsostream.records.schema import bins_schema, light_curve_schema, spectra_schema
from tsostream.records.values import column_values

__all__ = [
    "METADATA_KEY",
    "QUALITY_BITS",
    "Batcher",
    "Quality",
    "RowPair",
    "RowSchemas",
    "bins_schema",
    "column_values",
    "decode_metadata",
    "encode_metadata",
    "light_curve_schema",
    "slice_measurement",
    "spectra_schema",
    "to_batches",
    "warm_up",
]

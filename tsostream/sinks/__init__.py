"""Record batches go to files that other processes read while they grow and that survive a kill."""

from __future__ import annotations

from tsostream.sinks.arrow_file import Extent, GrowingFile
from tsostream.sinks.journal import Entry, Journal, is_being_written, last_valid, read_journal
from tsostream.sinks.output import TABLES, Output, bins_path, journal_path, spectra_path, table_path
from tsostream.sinks.reading import Bins, LightCurve, Spectra, missing_output, open_output
from tsostream.sinks.sameness import compare_run, run_differences
from tsostream.sinks.tail import Tail

__all__ = [
    "TABLES",
    "Bins",
    "Entry",
    "Extent",
    "GrowingFile",
    "Journal",
    "LightCurve",
    "Output",
    "Spectra",
    "Tail",
    "bins_path",
    "compare_run",
    "is_being_written",
    "journal_path",
    "last_valid",
    "missing_output",
    "open_output",
    "read_journal",
    "run_differences",
    "spectra_path",
    "table_path",
]

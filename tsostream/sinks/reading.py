"""Outputs are read back, whether finished, growing, or left behind by a killed run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.errors import InputError, Problem
from tsostream.records.metadata import decode_metadata, merge_metadata
from tsostream.records.schema import KEY_COLUMNS
from tsostream.records.values import column_values
from tsostream.sinks.export import Exports
from tsostream.sinks.journal import is_being_written, read_journal
from tsostream.sinks.messages import (
    ARROW_ERRORS,
    MAGIC,
    DamagedError,
    FrameKind,
    crc_of,
    read_batch,
    read_frame,
    read_header,
)
from tsostream.sinks.output import BINS, LIGHT_CURVE, SPECTRA, TABLES, journal_path, table_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Bins", "LightCurve", "OutputFile", "ReadStatus", "Spectra", "missing_output", "open_output"]

ReadStatus = Literal["complete", "interrupted", "failed", "growing"]

_STATUSES: Final = ("complete", "interrupted", "failed")
_NOT_OURS: Final = "give the light curve (--out) of a tsostream run"


class OutputFile:
    """One Arrow file of a run, as it was when it was opened; open it again to see what has come since.

    While a run goes on, the light curve may be one batch ahead of the spectra.

    Attributes
    ----------
    path
        The file.
    schema
        Its columns with units and descriptions in the field metadata.
    metadata : dict
        Everything the file says about the run: what was known at the start, merged with what the end added.
    status
        ``complete``, ``interrupted``, ``failed``; without a footer (being written, or killed) ``growing``.
    """

    _role = ""

    def __init__(self, path: str | os.PathLike[str], journal: Path | None = None):
        self.path = Path(path)
        self._journal = journal
        with _Opened(self.path) as (fd, size):
            self._size = size
            self._inode = os.fstat(fd).st_ino
            try:
                self.schema, self._start = read_header(fd, size)
                start = decode_metadata(self.schema.metadata)
            except (DamagedError, ValueError) as error:
                raise InputError(Problem(_cannot(error), str(self.path), _NOT_OURS, "not_arrow")) from error
            self._check_table(start)
            footer, self._n_batches = _read_footer(fd, size)
        self.status: ReadStatus = footer.get("status", "growing")
        self.metadata: dict[str, Any] = merge_metadata(start, footer)
        self.metadata["status"] = self.status

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Iterate over the whole batches, one in memory at a time.

        Raises
        ------
        InputError
            When a finished file is damaged. In an unfinished one, the first bytes that are not a valid batch
            are where it ends.
        """
        known = self._journalled()
        count = 0
        last = 0
        offset = self._start
        with _Opened(self.path) as (fd, size):
            if os.fstat(fd).st_ino != self._inode:
                raise InputError(
                    Problem("another run has replaced it", str(self.path), "open it again", "replaced")
                )
            while (frame := read_frame(fd, offset, min(size, self._size))).kind is FrameKind.MESSAGE:
                try:
                    if offset in known and crc_of(fd, offset, frame.length) != known[offset]:
                        raise DamagedError(f"the batch at byte {offset} is not the one in the journal")
                    batch = read_batch(fd, offset, frame.length, self.schema)
                    last = _check_order(batch, last)
                except DamagedError as error:
                    self._damaged(str(error))
                    return
                offset += frame.length
                count += 1
                yield batch
        if self._n_batches is not None and count != self._n_batches:
            self._damaged(f"{count} of {self._n_batches} batches can be read")

    @cached_property
    def table(self) -> pa.Table:
        """All whole batches; read when first asked for."""
        return pa.Table.from_batches(list(self.batches()), schema=self.schema)

    def to_pandas(self, **options: Any) -> pd.DataFrame:
        """Return the table as a pandas DataFrame; options as in `pyarrow.Table.to_pandas`.

        Raises
        ------
        InputError
            When pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise InputError(
                Problem(
                    "pandas is not installed",
                    todo="install it (pip install pandas), or use .table",
                    code="pandas",
                )
            )
        return self.table.to_pandas(**options)

    def units(self) -> dict[str, str]:
        """Return the unit of each column, empty for plain numbers and names."""
        return {
            field.name: (field.metadata or {}).get(b"unit", b"").decode(errors="replace")
            for field in self.schema
        }

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, status={self.status!r})"

    def _check_table(self, metadata: dict[str, Any]) -> None:
        table = metadata.get("table")
        keyed = all(self.schema.names.count(name) == 1 for name in KEY_COLUMNS)
        if table not in TABLES or not keyed or not pa.types.is_int64(self.schema.field("integration").type):
            what = "is an Arrow file, but tsostream did not write it"
            raise InputError(Problem(what, str(self.path), _NOT_OURS, "not_tsostream"))
        if table != self._role:
            what = f"holds {table.replace('_', ' ')}, expected {self._role.replace('_', ' ')}"
            todo = _NOT_OURS if table == LIGHT_CURVE else f"open the light curve and ask it for .{table}"
            raise InputError(Problem(what, str(self.path), todo, "wrong_table"))

    def _journalled(self) -> dict[int, int]:
        # A scan alone would take a batch whose pages never reached the disk for one full of zeros.
        if self._n_batches is not None or self._journal is None or not self._journal.exists():
            return {}
        try:
            entries = read_journal(self._journal)[1]
        except InputError:
            return {}
        extents = (entry.files.get(self._role) for entry in entries)
        return {extent.offset: extent.crc32 for extent in extents if extent is not None}

    def _damaged(self, what: str) -> None:
        if self._n_batches is not None:
            todo = "restore it, or make it again"
            raise InputError(Problem(f"the file is damaged: {what}", str(self.path), todo, "damaged"))


class ListTable(OutputFile):
    """A table whose columns are lists, one value per wavelength or bin."""

    def array(self, column: str) -> npt.NDArray[Any]:
        """Return a list column as an array [row, element]."""
        size = self.schema.field(column).type.list_size
        chunks = [
            chunk.flatten().to_numpy(zero_copy_only=False) for chunk in self.table.column(column).chunks
        ]
        return np.concatenate(chunks).reshape(-1, size) if chunks else np.empty((0, size))

    def _per_element(self, name: str, order: int | None) -> npt.NDArray[np.float64]:
        values = self.metadata.get(name)
        if isinstance(values, dict):
            if order is None and len(values) > 1:
                raise ValueError(f"{name} differs between the orders {', '.join(values)}: say which one")
            values = values.get(str(order)) if order is not None else next(iter(values.values()), None)
        if values is None:
            return np.full(self.schema.field("flux").type.list_size, np.nan)
        return np.array(_numbers(values), dtype=np.float64)


def _numbers(values: Any) -> Any:
    """Plain JSON lists with NaN for what is not known."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return np.nan if values is None else values


class Spectra(ListTable):
    """The spectra of a run; columns are lists, one value per wavelength."""

    _role = SPECTRA

    def wavelength(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """Wavelengths of the bins [µm], NaN where not known; numbers of pixels where none is known.

        ``metadata["wavelength_unit"]`` tells: ``um`` or ``pixel``.

        Parameters
        ----------
        order
            Spectral order; needed only where the orders differ.
        """
        return self._per_element("wavelength", order)

    def dt_eff(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """Effective time of each bin relative to the mid time of its row [s]."""
        return self._per_element("dt_eff_s", order)


class Bins(ListTable):
    """Binned spectroscopic light curves of a run; columns are lists, one value per bin.

    Examples
    --------
    ::

        bins = tsostream.open("lc.arrow").bins
        bins.edges(), bins.array("flux"), bins.array("flux_err")
    """

    _role = BINS

    def edges(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """First and last wavelength of each bin [bin, 2] [µm, or pixels where no wavelength is known]."""
        return self._per_element("bin_edges", order).reshape(-1, 2)

    def wavelength(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """Middle of each bin."""
        return self.edges(order).mean(axis=1)

    def dt_eff(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """Effective time of each bin relative to the mid time of its row [s]."""
        return self._per_element("bin_dt_eff_s", order)


class LightCurve(OutputFile, Exports):
    """The light curve of a run, and through it the spectra.

    Examples
    --------
    ::

        lc = open_output("lc.arrow")
        lc.status, lc.metadata["..."]
        frame = lc.to_pandas()
        lc.spectra.wavelength(), lc.spectra.array("flux")
        lc.to_whtlt(), lc.to_timeseries()  # and other formats: `Exports`
    """

    _role = LIGHT_CURVE

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__(path, journal_path(path))

    @cached_property
    def spectra(self) -> Spectra | None:
        """The spectra beside the light curve; None when the run has none."""
        path = table_path(self.path, SPECTRA)
        return Spectra(path, self._journal) if path.exists() else None

    @cached_property
    def bins(self) -> Bins | None:
        """The binned light curves beside it (``--bins``); None when the run has none."""
        path = table_path(self.path, BINS)
        return Bins(path, self._journal) if path.exists() else None

    def wavelength(self, order: int | None = None) -> npt.NDArray[np.float64]:
        """Wavelengths of the spectra, as `Spectra.wavelength` [µm, or pixels]; empty for images."""
        return np.empty(0) if self.spectra is None else self.spectra.wavelength(order)


def open_output(path: str | os.PathLike[str]) -> LightCurve:
    """Open the light curve of a run, finished or not.

    Raises
    ------
    InputError
        When there is no such file, it is empty, or tsostream did not write it.
    """
    return LightCurve(path)


def missing_output(path: str | os.PathLike[str]) -> Problem:
    """Say why an output is not there: no run has that name, or its run has made no row yet."""
    journal = journal_path(path)
    if is_being_written(journal):
        what, todo = (
            "no rows yet: the run has started, its scout is measured",
            "wait for the first row (tail --wait)",
        )
    elif journal.exists():
        what, todo = "no rows: the run ended before the first one", "begin it again"
    else:
        return Problem("is not there", str(path), "check the name", "missing")
    return Problem(what, str(path), todo, "no_rows")


class _Opened:
    """A file for reading, with its size; every way of failing is an `InputError` that says which."""

    def __init__(self, path: Path):
        self._path = path
        self._fd = -1

    def __enter__(self) -> tuple[int, int]:
        if self._path.is_dir():
            raise InputError(Problem("is a directory", str(self._path), _NOT_OURS, "not_a_file"))
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise InputError(missing_output(self._path)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                Problem(f"cannot be read: {reason}", str(self._path), code="unreadable")
            ) from error
        size = os.fstat(self._fd).st_size
        if size == 0:
            self.__exit__()
            raise InputError(Problem("is empty", str(self._path), _NOT_OURS, "empty"))
        return self._fd, size

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def _cannot(error: Exception) -> str:
    return f"cannot be read: {error}"


def _read_footer(fd: int, size: int) -> tuple[dict[str, Any], int | None]:
    """Footer metadata and number of batches; empty and None when there is no whole footer."""
    if size < 2 * len(MAGIC) or os.pread(fd, 6, size - 6) != MAGIC[:6]:
        return {}, None
    try:
        with os.fdopen(os.dup(fd), "rb") as file, pa.ipc.open_file(file) as reader:
            facts = decode_metadata(reader.metadata)
            if facts.get("status") in _STATUSES:
                return facts, reader.num_record_batches
    except ARROW_ERRORS:
        pass  # chance bytes, or a footer torn by a kill: the batches before it are what counts
    return {}, None


def _check_order(batch: pa.RecordBatch, last: int) -> int:
    """Return the last integration of a batch, all of which must come after ``last``.

    Rows whose pages never reached the disk are zeros; integration numbers begin with 1 and grow.
    """
    try:
        numbers = column_values(batch, "integration")
    except ValueError as error:
        raise DamagedError(str(error)) from error
    if len(numbers) and (numbers[0] <= last or bool(np.any(np.diff(numbers) < 0))):
        raise DamagedError(f"integration {numbers[0]} follows {last}")
    return int(numbers[-1]) if len(numbers) else last

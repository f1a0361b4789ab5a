"""Text tables of an exposure (``whtlt``, ``phot``), exactly as astropy writes them, in constant memory.

The header of an ECSV file comes from astropy itself; rows follow as it would write them. Rows of text have no known
size, so while a run goes on they are kept as numbers, each at its place, in the ``.part`` file; the text is made when
all are there.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem, SinkError
from tsostream.sinks.arrow_file import flush_data, sink_error
from tsostream.sinks.products.layout import Layout, Place
from tsostream.sinks.products.slabs import Kept, ProductFile, part_path

__all__ = ["Column", "EcsvProduct", "ecsv_header", "ecsv_rows", "read_table", "write_ecsv"]

Array = npt.NDArray[Any]

#: rows turned into text at once
_ROWS: Final = 2048
#: first bytes of the file of numbers
_MAGIC: Final = b"tsostream rows of a table that is not complete yet\n".ljust(64, b" ")


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Parameters
    ----------
    name
        Its name.
    unit
        Its unit; empty for a plain column (the times, which are Julian dates).
    integer
        Whether it holds whole numbers.
    """

    name: str
    unit: str = ""
    integer: bool = False

    @property
    def dtype(self) -> str:
        """Type of an element."""
        return "i8" if self.integer else "f8"


def row_dtype(columns: Sequence[Column]) -> np.dtype[Any]:
    """Row of a table of such columns."""
    return np.dtype([(column.name, column.dtype) for column in columns])


def ecsv_header(columns: Sequence[Column], meta: Mapping[str, Any]) -> str:
    """Everything before the first row, as astropy writes it for a ``QTable``.

    Parameters
    ----------
    columns
        Those with a unit are quantities.
    meta
        Plain values, in order.
    """
    from collections import OrderedDict

    from astropy import units as u
    from astropy.table import QTable

    table = QTable(meta=OrderedDict(meta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for column in columns:
            values = np.zeros(1, column.dtype)
            if column.unit:
                table[column.name] = values << u.Unit(column.unit, parse_strict="silent")
            else:
                table[column.name] = values
        text = io.StringIO()
        table.write(text, format="ascii.ecsv")
    lines = text.getvalue().splitlines()
    return "\n".join(lines[:-1]) + "\n"


def ecsv_rows(rows: Array) -> str:
    """Text of some rows (a structured array): shortest decimal numbers that come back bit for bit."""
    return "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist())


def write_ecsv(
    path: Path, columns: Sequence[Column], meta: Mapping[str, Any], pieces: Iterable[Array]
) -> None:
    """Write a table piece by piece; it gets its name when it is complete.

    Parameters
    ----------
    path
        Where.
    columns, meta
        As for `ecsv_header`.
    pieces
        Structured arrays of `row_dtype`.

    Raises
    ------
    SinkError
        When the system does not take it; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(ecsv_header(columns, meta))
            for rows in pieces:
                file.write(ecsv_rows(rows))
            file.flush()
            flush_data(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise sink_error(path, "cannot be written", error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class EcsvProduct(ProductFile):
    """A text table with a row per integration, written in any order.

    Parameters
    ----------
    path
        Its name once it is complete.
    columns, meta
        As for `ecsv_header`.
    first, count
        Integrations: number in the exposure of the first, and how many.
    distinct
        Leave out rows whose value in this column is not known or that of the row before, as the official white light
        does with times.
    overwrite
        Replace an existing product, and an unfinished one.
    kept
        What an earlier session has left.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[Column],
        meta: Mapping[str, Any],
        first: int,
        count: int,
        *,
        distinct: str = "",
        overwrite: bool = False,
        kept: Kept | None = None,
    ):
        self.columns, self.meta = tuple(columns), dict(meta)
        self._dtype, self._distinct = row_dtype(columns), distinct
        size = count * self._dtype.itemsize
        place = Place(len(_MAGIC), size, self._dtype.itemsize, "")
        layout = Layout(((0, _MAGIC),), {"ROWS": place}, len(_MAGIC) + size)
        super().__init__(path, lambda: layout, first, count, overwrite=overwrite, kept=kept)

    def add(self, first: int, values: Mapping[str, Array]) -> None:
        """Put rows at their place.

        Parameters
        ----------
        first
            Number in the exposure of the first one.
        values
            Column -> array [integration]; columns that are not there are NaN, or 0.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        count = len(next(iter(values.values())))
        rows = np.zeros(count, self._dtype)
        for column in self.columns:
            given = values.get(column.name)
            rows[column.name] = given if given is not None else (0 if column.integer else np.nan)
        self.write(first, {"ROWS": rows})

    def publish(self) -> None:
        """Turn the numbers into text, under the product's name.

        Raises
        ------
        SinkError, OutputExistsError
            When it is not complete, the system refuses, or another file has got the name since.
        """
        if self._published:
            return
        self.check_complete()
        if self.named_already():
            self._published = True
            return
        self._refuse(self.path)
        write_ecsv(self.path, self.columns, self.meta, self._pieces())
        self._published = True
        part_path(self.path).unlink(missing_ok=True)

    def _pieces(self) -> Iterator[Array]:
        last = np.nan
        try:
            with self.part.open("rb") as file:
                file.seek(len(_MAGIC))
                while raw := file.read(_ROWS * self._dtype.itemsize):
                    rows = np.frombuffer(raw, self._dtype)
                    if self._distinct:
                        values = rows[self._distinct]
                        before = np.concatenate([[last], values[:-1]])
                        last = values[-1]
                        rows = rows[np.isfinite(values) & (values != before)]
                    yield rows
        except (OSError, ValueError) as error:
            raise SinkError(
                f"{self.part}: cannot be read again ({error}); start again with --overwrite"
            ) from error


def read_table(path: str | os.PathLike[str]) -> Any:
    """Read a ``whtlt``, ``wtlt`` or ``phot`` table of any pipeline.

    Releases of the official pipeline call the white light curve ``…_whtlt.ecsv`` or ``…_wtlt.ecsv``; either name finds
    the file that is there.

    Parameters
    ----------
    path
        The table.

    Returns
    -------
    astropy.table.QTable

    Raises
    ------
    InputError
        When there is no such file, or it is no such table.
    """
    from astropy.table import QTable

    path = Path(path)
    if not path.exists():
        for ours, theirs in (("_whtlt.", "_wtlt."), ("_wtlt.", "_whtlt.")):
            other = path.with_name(path.name.replace(ours, theirs))
            if ours in path.name and other.exists():
                path = other
                break
    if not path.exists():
        raise InputError(Problem("is not there", str(path), "check the name", "missing"))
    try:
        table = QTable.read(path, format="ascii.ecsv")
    except Exception as error:  # astropy raises whatever comes to it on broken tables
        what = f"is no ECSV table ({type(error).__name__}: {error})"
        raise InputError(Problem(what, str(path), "give a whtlt.ecsv or phot.ecsv", "unreadable")) from error
    if not any(name.startswith(("MJD", "BJD_TDB")) for name in table.colnames):
        raise InputError(
            Problem("has no time column", str(path), "give a whtlt.ecsv or phot.ecsv", "unreadable")
        )
    return table

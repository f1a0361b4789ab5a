"""Baseline rows: what is kept of a run, small enough for a repository, and on what machine it was made."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from tsostream.errors import InputError, Problem
from tsostream.sinks import open_output

__all__ = ["Rows", "machine", "read_baseline", "rows_of_run", "write_baseline"]

#: key of a row
KEY: Final = ("order", "aperture", "integration")
#: columns of the spectra that are kept
_SPECTRA: Final = ("flux", "flux_err", "background", "dq", "npixels")
_MACHINE: Final = b"machine"

#: name -> values [row] or [row, wave]; columns of the spectra are called ``spectra.…``
Rows = dict[str, np.ndarray]


@functools.cache
def machine() -> str:
    """Say what decides about the last bit: type of processor, and versions of what computes."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        )
        model = next(lines, model)
    return ", ".join([model, *(f"{name} {version(name)}" for name in ("numpy", "numba", "scipy"))])


def rows_of_run(path: Path) -> Rows:
    """Rows of a light curve and of its spectra."""
    lc = open_output(path)
    rows = {name: _values(lc.table.column(name)) for name in lc.table.column_names}
    if lc.spectra is not None:
        table = lc.spectra.table
        rows |= {
            f"spectra.{name}": _values(table.column(name)) for name in _SPECTRA if name in table.column_names
        }
    return rows


def _values(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def write_baseline(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Write rows as a packed Feather file, the same bytes for the same rows."""
    arrays = {}
    for name, values in rows.items():
        if values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        else:
            arrays[name] = pa.array(values)
    table = pa.table(arrays).replace_schema_metadata({_MACHINE: machine().encode()})
    feather.write_feather(table, path, compression="zstd", compression_level=19)


def read_baseline(path: Path) -> tuple[Rows, str]:
    """Read rows, and on which machine they were made.

    Raises
    ------
    InputError
        It is not there, or cannot be read.
    """
    try:
        table = feather.read_table(path)
    except FileNotFoundError:
        todo = "make it with --update"
        raise InputError(Problem("there is no baseline yet", str(path), todo, "no_baseline")) from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(Problem(f"cannot be read: {error}", str(path), "restore it", "baseline")) from None
    made_on = (table.schema.metadata or {}).get(_MACHINE, b"").decode(errors="replace")
    return {name: _values(table.column(name)) for name in table.column_names}, made_on

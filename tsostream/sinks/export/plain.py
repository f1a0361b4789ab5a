"""From the rows to tables for other programs: CSV, Parquet, an astropy time series, a light curve for lightkurve."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.errors import InputError, Problem, SinkError
from tsostream.sinks.arrow_file import flush_data, sink_error
from tsostream.sinks.export.rows import Source, plain_column
from tsostream.sinks.products.ecsv import ecsv_rows
from tsostream.sinks.products.layout import Records, make_layout, primary_header
from tsostream.sinks.products.slabs import ProductFile

__all__ = [
    "lightkurve_columns",
    "timeseries_columns",
    "write_csv",
    "write_lightkurve",
    "write_parquet",
    "write_timeseries",
]

Array = npt.NDArray[Any]

#: columns of a time series that are no numbers, or repeat the time
_LEFT_OUT: Final = ("exposure_id", "detector", "order", "aperture", "present", "time_bmjd_tdb_mid")
#: column of the rows -> name that lightkurve knows
_LIGHTKURVE: Final = {
    "flux": "FLUX", "flux_err": "FLUX_ERR", "background": "SAP_BKG", "background_err": "SAP_BKG_ERR",
    "x": "CENTROID_COL", "y": "CENTROID_ROW", "integration": "CADENCENO", "quality": "QUALITY",
}  # fmt: skip


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes the file's name when the block ends well.

    Raises
    ------
    SinkError
        When the system refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            flush_data(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise sink_error(path, "cannot be written", error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _table(source: Source, name: str) -> Any:
    lc = source.light_curve
    table = {"light_curve": lc, "spectra": lc.spectra, "bins": lc.bins}[name]
    if table is None:
        todo = (
            "the run made none: --bins"
            if name == "bins"
            else "the run made none, or it is not beside the light curve"
        )
        raise InputError(Problem(f"has no {name}", str(lc.path), todo, "missing"))
    return table


def _rows(
    source: Source, table: str, order: int | None, aperture: int | None
) -> tuple[Any, Iterator[pa.RecordBatch]]:
    """Give a table and its batches, of an order and aperture only where they are told.

    Raises
    ------
    InputError
        There is no such table, order or aperture.
    """
    rows = _table(source, table)
    wanted = {"order": order, "aperture": aperture}
    if not any(
        all(given in (None, own) for given, own in zip(wanted.values(), key, strict=True))
        for key in source.keys
    ):
        source.check(order, aperture or 0)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows.batches():
            mask = np.ones(batch.num_rows, dtype=bool)
            for name, value in wanted.items():
                if value is not None:
                    mask &= batch.column(name).to_numpy() == value
            yield batch if mask.all() else batch.filter(pa.array(mask))

    return rows, batches()


def write_csv(
    source: Source,
    path: Path,
    table: str = "light_curve",
    *,
    order: int | None = None,
    aperture: int | None = None,
) -> None:
    """Write the rows as comma-separated text; lists become one column per element (``flux_0, flux_1, …``).

    Parameters
    ----------
    source
        The output.
    path
        Where.
    table
        ``light_curve``, ``spectra`` or ``bins``.
    order, aperture
        Only the rows of these.

    Raises
    ------
    InputError, SinkError
        There is no such table, order or aperture; it cannot be written.
    """
    from pyarrow import csv

    rows, batches = _rows(source, table, order, aperture)
    with beside(path) as temporary:
        schema = _flat(pa.RecordBatch.from_pylist([], schema=rows.schema)).schema
        with csv.CSVWriter(temporary, schema) as writer:
            for batch in batches:
                writer.write_batch(_flat(batch))


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    names: list[str] = []
    arrays: list[pa.Array] = []
    for name in batch.schema.names:
        column = batch.column(name)
        if not pa.types.is_fixed_size_list(column.type):
            names.append(name)
            arrays.append(column)
            continue
        for place, values in enumerate(plain_column(column).T):
            names.append(f"{name}_{place}")
            arrays.append(pa.array(np.ascontiguousarray(values)))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def write_parquet(
    source: Source,
    path: Path,
    table: str = "light_curve",
    *,
    order: int | None = None,
    aperture: int | None = None,
) -> None:
    """Write the rows as Parquet; units, descriptions and metadata of the output go with them.

    Parameters
    ----------
    source, path, table, order, aperture
        As for `write_csv`.

    Raises
    ------
    InputError, SinkError
        There is no such table, order or aperture; it cannot be written.
    """
    from pyarrow import parquet

    rows, batches = _rows(source, table, order, aperture)
    text = json.dumps(rows.metadata, default=str)
    schema = rows.schema.with_metadata({**(rows.schema.metadata or {}), b"tsostream_export": text.encode()})
    with beside(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def timeseries_columns(source: Source) -> dict[str, str]:
    """Columns of the time series beside ``time``, with their units."""
    units = source.light_curve.units()
    return {name: unit for name, unit in units.items() if name not in _LEFT_OUT}


def write_timeseries(source: Source, path: Path, key: tuple[int, int]) -> None:
    """Write a series as an ECSV that ``astropy.timeseries.TimeSeries.read`` opens, piece by piece.

    Parameters
    ----------
    source
        The output.
    path
        Where.
    key
        Order and aperture.

    Raises
    ------
    SinkError
        It cannot be written.
    """
    columns = timeseries_columns(source)
    with beside(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, piece in enumerate(source.pieces(key)):
            if number == 0:
                file.write(_timeseries_header(source, piece, columns, key))
            names = ["time_bmjd_tdb_mid", *columns]
            rows = np.zeros(len(piece["flux"]), [(name, piece[name].dtype) for name in names])
            for name in names:
                rows[name] = piece[name]
            file.write(ecsv_rows(rows))


def describe(source: Source, key: tuple[int, int]) -> dict[str, Any]:
    """Say in a few plain values what a series is."""
    metadata = source.metadata
    exposure = metadata["exposure"]
    return {
        "exposure": exposure["exposure_id"],
        "instrument": exposure["instrument"],
        "detector": exposure["detector"],
        "exp_type": exposure["exp_type"],
        "target": metadata.get("target") or "",
        "order": key[0],
        "aperture": key[1],
        "status": source.light_curve.status,
        "origin": f"tsostream {metadata.get('versions', {}).get('tsostream', '')}".strip(),
    }


def make_timeseries(
    source: Source, piece: dict[str, Array], columns: dict[str, str], key: tuple[int, int]
) -> Any:
    """Build an astropy TimeSeries of some rows; time is BMJD in TDB."""
    from astropy import units as u
    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series = TimeSeries(time=Time(piece["time_bmjd_tdb_mid"], format="mjd", scale="tdb"))
        for name, unit in columns.items():
            if unit:
                series[name] = piece[name] << u.Unit(
                    unit.replace("(", "").replace(")", ""), parse_strict="silent"
                )
            else:
                series[name] = piece[name]
        series.meta.update(describe(source, key))
    return series


def _timeseries_header(
    source: Source, piece: dict[str, Array], columns: dict[str, str], key: tuple[int, int]
) -> str:
    first = {name: values[:1] for name, values in piece.items()}
    first["time_bmjd_tdb_mid"] = np.nan_to_num(first["time_bmjd_tdb_mid"])
    text = io.StringIO()
    make_timeseries(source, first, columns, key).write(text, format="ascii.ecsv")
    return "\n".join(text.getvalue().splitlines()[:-1]) + "\n"


def lightkurve_columns(source: Source) -> dict[str, str]:
    """FITS columns of a light curve and their units; ``TIME`` first."""
    units = source.light_curve.units()
    return {"TIME": "d", **{official: units[name] for name, official in _LIGHTKURVE.items()}}


def write_lightkurve(source: Source, path: Path, key: tuple[int, int], *, overwrite: bool = False) -> None:
    """Write a series as a FITS light curve: ``TIME`` (BJD in TDB less BJDREFI), ``FLUX``, ``FLUX_ERR``, ``QUALITY``, ….

    lightkurve opens it with ``lightkurve.io.generic.read_generic_lightcurve(path, flux_column="flux",
    time_format="mjd")``.

    Parameters
    ----------
    source
        The output.
    path
        Where.
    key
        Order and aperture.
    overwrite
        Replace what is there.

    Raises
    ------
    SinkError, OutputExistsError
        It cannot be written.
    """
    from astropy.io import fits

    integers = ("CADENCENO", "QUALITY")
    columns = lightkurve_columns(source)
    dtype = np.dtype([(name, ">i4" if name in integers else ">f8") for name in columns])
    facts = describe(source, key)
    cards = [
        fits.Card("TELESCOP", "JWST"), fits.Card("INSTRUME", facts["instrument"]), fits.Card("OBJECT", facts["target"]),
        fits.Card("BJDREFI", 2400000, "integer part of the time's reference"),
        fits.Card("BJDREFF", 0.5, "fraction of it: TIME is BMJD"), fits.Card("TIMEUNIT", "d"),
        fits.Card("TIMESYS", "TDB"), fits.Card("STATUS", facts["status"], "of the run when this was made"),
    ]  # fmt: skip
    units = {name: unit for name, unit in columns.items() if unit}
    table = Records("LIGHTCURVE", dtype, source.count, units=units, cards=cards)
    values = {
        "TELESCOP": "JWST",
        "ORIGIN": facts["origin"],
        "OBJECT": facts["target"],
        "EXPOSURE": facts["exposure"],
    }
    layout = make_layout(primary_header([], values, {}), [table])
    file = ProductFile(path, lambda: layout, source.first, source.count, overwrite=overwrite)
    try:
        for piece in source.pieces(key):
            rows = np.zeros(len(piece["integration"]), dtype)
            rows["TIME"] = piece["time_bmjd_tdb_mid"]
            for name, official in _LIGHTKURVE.items():
                rows[official] = piece[name]
            if rows.size:
                file.write(int(piece["integration"][0]), {"LIGHTCURVE,1": rows})
        file.publish()
    except SinkError:
        with suppress(OSError):
            file.part.unlink(missing_ok=True)
        raise
    finally:
        file.close()

"""Measurements become record batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.errors import OperatorError
from tsostream.integration import dq
from tsostream.integration.payload import TIME_COLUMNS, Measurement
from tsostream.records.quality import derive_quality
from tsostream.records.schema import KEY_COLUMNS
from tsostream.records.values import plain_array

__all__ = ["bins_batch", "slice_measurement", "to_batches", "warm_up"]

Array = npt.NDArray[Any]

#: columns made here, which a measurement must not bring itself
_OWN_COLUMNS = (*KEY_COLUMNS, "present", *TIME_COLUMNS, "time_flag")


def to_batches(
    measurement: Measurement,
    *,
    exposure_id: str,
    detector: str,
    lc_schema: pa.Schema,
    spectra_schema: pa.Schema | None = None,
) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """Rows of a measurement, sorted by integration, then order, then aperture.

    Everything is copied, so operators may use their buffers again. Columns the measurement does not have
    become NaN or 0. In rows with ``present`` false only key, times and quality mean something: the numbers
    are NaN, the counts 0, spectra carry DO_NOT_USE.

    Parameters
    ----------
    measurement
        Finished integrations. Light-curve columns are ``[integration, key]`` or ``[integration]`` (the same
        for all keys), spectra ``[integration, key, wave]``. ``quality`` bits it brings are kept.
    exposure_id, detector
        Constant part of the key.
    lc_schema, spectra_schema
        From `light_curve_schema` and `spectra_schema`; without the latter there is no second batch.

    Returns
    -------
    light curve, spectra
        Batches with the same keys row by row; spectra None without a schema.

    Raises
    ------
    OperatorError
        When names or shapes do not fit the schemas.
    """
    _check_names(measurement, lc_schema)
    ranking = sorted(range(len(measurement.keys)), key=lambda index: measurement.keys[index])
    shape = (measurement.count, len(ranking))
    absent = np.broadcast_to(~np.asarray(measurement.present, dtype=bool)[:, None], shape)

    columns = _key_columns(measurement, ranking, shape)
    columns["present"] = ~absent
    for name, values in zip(TIME_COLUMNS, measurement.times.values.T, strict=True):
        columns[name] = np.broadcast_to(values[:, None], shape)
    columns["time_flag"] = np.broadcast_to(measurement.times.flag[:, None], shape)
    for field in lc_schema:
        if field.name not in columns and field.name not in KEY_COLUMNS:
            columns[field.name] = _light_curve_column(measurement, field, ranking, shape, absent)
    columns["quality"] |= derive_quality(columns)

    constants = {"exposure_id": exposure_id, "detector": detector}
    light_curve = _batch(lc_schema, columns, constants, shape[0] * shape[1])
    if spectra_schema is None:
        return light_curve, None
    for field in spectra_schema:
        if field.name not in KEY_COLUMNS:
            columns[field.name] = _list_column(measurement.spectra, measurement, field, ranking, absent)
    return light_curve, _batch(spectra_schema, columns, constants, shape[0] * shape[1])


def bins_batch(
    measurement: Measurement, *, exposure_id: str, detector: str, bins_schema: pa.Schema
) -> pa.RecordBatch:
    """Rows of the binned light curves, with the keys of `to_batches` row by row.

    Raises
    ------
    OperatorError
        When names or shapes do not fit the schema.
    """
    unknown = sorted({*measurement.bins} - ({*bins_schema.names} - {*KEY_COLUMNS}))
    if unknown:
        where = f"measurement of integrations from {measurement.first}"
        raise OperatorError(f"{where}: {', '.join(unknown)} are not columns of the bins")
    ranking = sorted(range(len(measurement.keys)), key=lambda index: measurement.keys[index])
    shape = (measurement.count, len(ranking))
    absent = np.broadcast_to(~np.asarray(measurement.present, dtype=bool)[:, None], shape)
    columns = _key_columns(measurement, ranking, shape)
    for field in bins_schema:
        if field.name not in KEY_COLUMNS:
            columns[field.name] = _list_column(measurement.bins, measurement, field, ranking, absent)
    constants = {"exposure_id": exposure_id, "detector": detector}
    return _batch(bins_schema, columns, constants, shape[0] * shape[1])


def warm_up() -> None:
    """Let Arrow make its first array, so that the first row does not wait for what that loads."""
    plain_array(np.zeros(1), pa.float64())


def slice_measurement(measurement: Measurement, start: int, stop: int) -> Measurement:
    """Cut the integrations ``start:stop`` (positions, not numbers) out of a measurement, without copying."""
    part = slice(start, stop)
    return Measurement(
        first=measurement.first + start,
        times=measurement.times[part],
        keys=measurement.keys,
        columns={name: values[part] for name, values in measurement.columns.items()},
        spectra={name: values[part] for name, values in measurement.spectra.items()},
        present=measurement.present[part],
        bins={name: values[part] for name, values in measurement.bins.items()},
        extras={name: values[part] for name, values in measurement.extras.items()},
    )


def _key_columns(measurement: Measurement, ranking: list[int], shape: tuple[int, int]) -> dict[str, Array]:
    keys = np.array([measurement.keys[index] for index in ranking], dtype=np.int64).reshape(-1, 2)
    numbers = np.arange(measurement.first, measurement.first + measurement.count, dtype=np.int64)
    return {
        "order": np.broadcast_to(keys[:, 0], shape),
        "aperture": np.broadcast_to(keys[:, 1], shape),
        "integration": np.broadcast_to(numbers[:, None], shape),
    }


def _light_curve_column(
    measurement: Measurement, field: pa.Field, ranking: list[int], shape: tuple[int, int], absent: Array
) -> Array:
    dtype = np.dtype(field.type.to_pandas_dtype())
    floating = np.issubdtype(dtype, np.floating)
    empty = dtype.type(np.nan if floating else 0)
    given = measurement.columns.get(field.name)
    if given is None:
        return np.full(shape, empty, dtype=dtype)
    given = np.asarray(given)
    if given.shape == shape[:1]:
        given = np.broadcast_to(given[:, None], shape)
    _check_shape(field.name, given, shape, measurement)
    values = _cast(field.name, given[:, ranking], dtype, measurement)
    if field.name != "quality":  # a row of a missing integration still says why it is missing
        values[absent] = empty
    return values


def _list_column(
    source: Mapping[str, Array], measurement: Measurement, field: pa.Field, ranking: list[int], absent: Array
) -> Array:
    dtype = np.dtype(field.type.value_type.to_pandas_dtype())
    shape_3d = (*absent.shape, field.type.list_size)
    floating = np.issubdtype(dtype, np.floating)
    given = source.get(field.name)
    if given is None:
        values = np.full(shape_3d, np.nan if floating else 0, dtype=dtype)
    else:
        _check_shape(field.name, given, shape_3d, measurement)
        values = _cast(field.name, given[:, ranking], dtype, measurement)
    # "good" would be the wrong thing to say about a spectrum that does not exist
    values[absent] = np.nan if floating else dq.DO_NOT_USE
    return values


def _cast(name: str, values: Array, dtype: np.dtype[Any], measurement: Measurement) -> Array:
    if np.issubdtype(dtype, np.integer) and np.issubdtype(values.dtype, np.floating):
        raise OperatorError(
            f"column {name!r} of integrations from {measurement.first} is {values.dtype}, expected whole "
            "numbers; this is a mistake in the operator that measured it"
        )
    # float64 beyond the range of float32 becomes infinite, which the reader of the row can see
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype, order="C", copy=True)


def _batch(
    schema: pa.Schema, columns: dict[str, Array], constants: dict[str, str], n_rows: int
) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        if field.name in constants:
            arrays.append(pa.array([constants[field.name]] * n_rows, type=field.type))
        elif pa.types.is_fixed_size_list(field.type):
            flat = plain_array(columns[field.name], field.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            arrays.append(plain_array(columns[field.name], field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _check_names(measurement: Measurement, lc_schema: pa.Schema) -> None:
    where = f"measurement of integrations from {measurement.first}"
    if not measurement.keys or len(set(measurement.keys)) != len(measurement.keys):
        raise OperatorError(
            f"{where}: keys (order, aperture) must be given, each once, found {measurement.keys}"
        )
    if len(measurement.times) != measurement.count:
        raise OperatorError(f"{where}: {len(measurement.times)} times for {measurement.count} integrations")
    known = set(lc_schema.names) - set(_OWN_COLUMNS)
    unknown = sorted(set(measurement.columns) - known)
    if unknown:
        raise OperatorError(f"{where}: {', '.join(unknown)} are not columns of this light curve")


def _check_shape(name: str, values: Array, shape: tuple[int, ...], measurement: Measurement) -> None:
    if values.shape != shape:
        raise OperatorError(
            f"column {name!r} of integrations from {measurement.first} has shape {values.shape}, "
            f"expected {shape}"
        )

"""Measurements become rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.errors import OperatorError
from tsostream.integration import dq
from tsostream.integration.payload import TIME_COLUMNS, Measurement
from tsostream.records.quality import derive_quality
from tsostream.records.schema import KEY_COLUMNS
from tsostream.records.table import Layout, Table
from tsostream.records.values import plain_array

__all__ = ["RowSchemas", "Tables", "slice_measurement", "to_batches", "warm_up"]

Array = npt.NDArray[Any]

#: columns made here, which a measurement must not bring itself
_OWN_COLUMNS = (*KEY_COLUMNS, "present", *TIME_COLUMNS, "time_flag")


@dataclass(frozen=True)
class RowSchemas:
    """What the tables of a run look like.

    Parameters
    ----------
    exposure_id, detector
        Constant part of the key.
    light_curve, spectra, bins
        From `light_curve_schema`, `spectra_schema` and `bins_schema`; None for a table the run does not have.
    """

    exposure_id: str
    detector: str
    light_curve: pa.Schema
    spectra: pa.Schema | None = None
    bins: pa.Schema | None = None

    @cached_property
    def layouts(self) -> tuple[Layout, Layout | None, Layout | None]:
        """Of the tables."""
        texts = {"exposure_id": self.exposure_id, "detector": self.detector}
        spectra, bins = (
            None if schema is None else Layout(schema, texts) for schema in (self.spectra, self.bins)
        )
        return Layout(self.light_curve, texts), spectra, bins


class Tables:
    """Room for the rows of one batch of every table.

    Parameters
    ----------
    schemas
        The tables.
    capacity
        Rows there is room for.
    """

    def __init__(self, schemas: RowSchemas, capacity: int):
        #: rows written so far
        self.count = 0
        first, *others = schemas.layouts
        self._light_curve = Table(first, capacity)
        self._lists = [None if layout is None else Table(layout, capacity) for layout in others]

    def add(self, measurement: Measurement) -> None:
        """Write the rows of a measurement, sorted by integration, then order, then aperture.

        Everything is copied, so operators may use their buffers again. Columns the measurement does not have become
        NaN or 0. In rows with ``present`` false only key, times and quality mean something: the numbers are NaN, the
        counts 0, spectra carry DO_NOT_USE.

        Parameters
        ----------
        measurement
            Finished integrations. Light-curve columns are ``[integration, key]`` or ``[integration]`` (the same for
            all keys), spectra and bins ``[integration, key, element]``. ``quality`` bits it brings are kept.

        Raises
        ------
        OperatorError
            When names or shapes do not fit the schemas.
        """
        _check_names(measurement, self._light_curve.schema)
        ranking = sorted(range(len(measurement.keys)), key=lambda index: measurement.keys[index])
        order: Any = slice(None) if ranking == list(range(len(ranking))) else ranking
        shape = (measurement.count, len(ranking))
        missing = ~np.asarray(measurement.present, dtype=bool)
        absent = np.broadcast_to(missing[:, None], shape) if missing.any() else None
        own = _own_columns(measurement, ranking)

        # float64 beyond the range of float32 becomes infinite, which the reader of the row can see
        with np.errstate(over="ignore"):
            self._write_light_curve(measurement, own, order, absent)
            self._write_lists(measurement, own, order, absent)
        self.count += shape[0] * shape[1]

    def _write_light_curve(
        self, measurement: Measurement, own: dict[str, Array], order: Any, absent: Array | None
    ) -> None:
        shape = (measurement.count, len(measurement.keys))
        columns = self._light_curve.rows(self.count, shape)
        for name, target in columns.items():
            if name in own:
                target[...] = own[name]
                continue
            given = measurement.columns.get(name)
            if given is not None:
                given = np.asarray(given)
                if given.shape == shape[:1]:
                    given = np.broadcast_to(given[:, None], shape)
            # a row of a missing integration still says why it is missing
            gone = None if name == "quality" else absent
            _write(target, name, given, order, gone, measurement)
        columns["quality"] |= derive_quality(columns)

    def _write_lists(
        self, measurement: Measurement, own: dict[str, Array], order: Any, absent: Array | None
    ) -> None:
        shape = (measurement.count, len(measurement.keys))
        for table, source, what in zip(
            self._lists, (measurement.spectra, measurement.bins), ("", "the bins"), strict=True
        ):
            if table is None:
                continue
            if what:
                _check_known(source, table.schema, measurement, what)
            for name, target in table.rows(self.count, shape).items():
                if name in own:
                    target[...] = own[name]
                else:
                    # "good" would be the wrong thing to say about a spectrum that does not exist
                    _write(target, name, source.get(name), order, absent, measurement, dq.DO_NOT_USE)

    def batches(self) -> tuple[pa.RecordBatch, pa.RecordBatch | None, pa.RecordBatch | None]:
        """Make the batches; nothing can be added any more."""
        spectra, bins = (None if table is None else table.batch(self.count) for table in self._lists)
        return self._light_curve.batch(self.count), spectra, bins


def to_batches(
    measurement: Measurement, schemas: RowSchemas
) -> tuple[pa.RecordBatch, pa.RecordBatch | None, pa.RecordBatch | None]:
    """Rows of one measurement as batches of the light curve, the spectra and the bins; see `Tables.add`.

    Raises
    ------
    OperatorError
        When names or shapes do not fit the schemas.
    """
    tables = Tables(schemas, measurement.count * len(measurement.keys))
    tables.add(measurement)
    return tables.batches()


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


def _own_columns(measurement: Measurement, ranking: list[int]) -> dict[str, Array]:
    """Columns that are not measured: key, presence and times, to be spread over [integration, key]."""
    keys = np.array([measurement.keys[index] for index in ranking], dtype=np.int64).reshape(-1, 2)
    numbers = np.arange(measurement.first, measurement.first + measurement.count, dtype=np.int64)
    return {
        "order": keys[:, 0],
        "aperture": keys[:, 1],
        "integration": numbers[:, None],
        "present": np.asarray(measurement.present, dtype=bool)[:, None],
        **{
            name: values[:, None]
            for name, values in zip(TIME_COLUMNS, measurement.times.values.T, strict=True)
        },
        "time_flag": measurement.times.flag[:, None],
    }


def _write(
    target: Array, name: str, given: Array | None, order: Any, absent: Array | None, measurement: Measurement,
    lost: int = 0,
) -> None:  # fmt: skip
    """Write a measured column; NaN, or ``lost``, where integrations are absent, and NaN or 0 where it is not given."""
    # comparing letters: asking NumPy which types are floating costs as much as writing the numbers
    floating = target.dtype.kind == "f"
    if given is None:
        target[...] = np.nan if floating else 0
    else:
        _check(name, given, target, measurement)
        np.copyto(target, given[:, order], casting="unsafe")
    if absent is not None:
        target[absent] = np.nan if floating else lost


def _check(name: str, given: Array, target: Array, measurement: Measurement) -> None:
    fraction = target.dtype.kind in "iu" and given.dtype.kind == "f"
    if given.shape == target.shape and not fraction:
        return
    where = f"column {name!r} of integrations from {measurement.first}"
    if not fraction:
        raise OperatorError(f"{where} has shape {given.shape}, expected {target.shape}")
    raise OperatorError(
        f"{where} is {given.dtype}, expected whole numbers; this is a mistake in the operator that measured it"
    )


def _check_names(measurement: Measurement, lc_schema: pa.Schema) -> None:
    where = f"measurement of integrations from {measurement.first}"
    if not measurement.keys or len(set(measurement.keys)) != len(measurement.keys):
        raise OperatorError(
            f"{where}: keys (order, aperture) must be given, each once, found {measurement.keys}"
        )
    if len(measurement.times) != measurement.count:
        raise OperatorError(f"{where}: {len(measurement.times)} times for {measurement.count} integrations")
    _check_known(measurement.columns, lc_schema, measurement, "this light curve")


def _check_known(given: Mapping[str, Array], schema: pa.Schema, measurement: Measurement, what: str) -> None:
    unknown = sorted(set(given) - (set(schema.names) - set(_OWN_COLUMNS)))
    if unknown:
        where = f"measurement of integrations from {measurement.first}"
        raise OperatorError(f"{where}: {', '.join(unknown)} are not columns of {what}")

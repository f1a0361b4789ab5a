"""One series of an output, piece by piece: the rows of an order and an aperture, with their spectra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.errors import InputError, Problem
from tsostream.integration.payload import TIME_COLUMNS, Measurement, Times
from tsostream.records.schema import KEY_COLUMNS

if TYPE_CHECKING:
    from tsostream.sinks.reading import LightCurve, OutputFile

__all__ = ["Source", "plain_column"]

Array = npt.NDArray[Any]


def plain_column(column: pa.Array) -> Array:
    """Values of a column; lists become [row, element]."""
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return column.to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class Source:
    """An output that is exported, as far as it has come.

    Parameters
    ----------
    light_curve
        The opened output.
    """

    light_curve: LightCurve

    @property
    def metadata(self) -> dict[str, Any]:
        """What the output says of itself."""
        return self.light_curve.metadata

    @property
    def is_image(self) -> bool:
        """Whether it is photometry."""
        return "psf_flux" in self.light_curve.schema.names

    @cached_property
    def _seen(self) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """First integration, their number, and the series; one walk over the keys."""
        first, last = 0, -1
        keys: tuple[tuple[int, int], ...] = ()
        for batch, _ in self._pairs():
            numbers = batch.column("integration")
            if not batch.num_rows:
                continue
            if last < 0:
                first = numbers[0].as_py()
                chosen = np.asarray(numbers) == first
                orders, apertures = (np.asarray(batch.column(name))[chosen] for name in ("order", "aperture"))
                keys = tuple(zip(orders.tolist(), apertures.tolist(), strict=True))
            last = numbers[batch.num_rows - 1].as_py()
        return first, last - first + 1 if last >= 0 else 0, keys

    @property
    def first(self) -> int:
        """First integration."""
        return self._seen[0]

    @property
    def count(self) -> int:
        """Integrations that are whole in all files.

        Raises
        ------
        InputError
            When there is none yet.
        """
        if not self._seen[1]:
            what = f"holds no integration yet ({self.light_curve.status})"
            raise InputError(Problem(what, str(self.light_curve.path), "wait for the first rows", "empty"))
        return self._seen[1]

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """``(order, aperture)`` of each series."""
        return self._seen[2]

    @property
    def orders(self) -> list[int]:
        """Spectral orders."""
        return sorted({order for order, _ in self.keys})

    def check(self, order: int | None, aperture: int) -> tuple[int, int]:
        """Key of a series; the first order by default.

        Raises
        ------
        InputError
            When the output does not have it.
        """
        key = (self.orders[0] if self.count and order is None else order, aperture)
        if key not in self.keys:
            there = ", ".join(f"order {a} aperture {b}" for a, b in self.keys)
            what = f"has no order {key[0]} with aperture {key[1]}"
            raise InputError(Problem(what, str(self.light_curve.path), f"it has {there}", "no_series"))
        return key

    def _pairs(self) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch | None]]:
        """Batches of light curve and spectra; a light curve that is ahead of its spectra ends with them."""
        spectra: OutputFile | None = self.light_curve.spectra
        if spectra is None:
            for batch in self.light_curve.batches():
                yield batch, None
        else:
            yield from zip(self.light_curve.batches(), spectra.batches(), strict=False)

    def pieces(self, key: tuple[int, int], *, spectra: bool = False) -> Iterator[dict[str, Array]]:
        """Columns of a series, one batch at a time.

        Parameters
        ----------
        key
            Order and aperture.
        spectra
            Add the columns of the spectra, under ``spectra.NAME``.
        """
        for batch, lists in self._pairs():
            chosen = (np.asarray(batch.column("order")) == key[0]) & (
                np.asarray(batch.column("aperture")) == key[1]
            )
            piece = {name: plain_column(batch.column(name))[chosen] for name in batch.schema.names}
            if spectra and lists is not None:
                for name in lists.schema.names:
                    if name not in KEY_COLUMNS:
                        piece[f"spectra.{name}"] = plain_column(lists.column(name))[chosen]
            yield piece

    def measurements(self, aperture: int = 0) -> Iterator[Measurement]:
        """Make the rows what was measured again, for the writers of products: one aperture, as aperture 0."""
        keys = tuple((order, 0) for order in self.orders)
        for batch, lists in self._pairs():
            chosen = np.asarray(batch.column("aperture")) == aperture
            columns = {name: plain_column(batch.column(name))[chosen] for name in batch.schema.names}
            n = len(columns["integration"]) // len(keys)
            if not n:
                continue
            shape = (n, len(keys))
            tables = {
                name: values.reshape(shape) for name, values in columns.items() if values.dtype.kind != "O"
            }
            spectra = {}
            if lists is not None:
                for name in lists.schema.names:
                    if name not in KEY_COLUMNS:
                        spectra[name] = plain_column(lists.column(name))[chosen].reshape(*shape, -1)
            times = Times(
                np.stack([tables[name][:, 0] for name in TIME_COLUMNS], axis=1), tables["time_flag"][:, 0]
            )
            present = tables["present"][:, 0]
            yield Measurement(int(tables["integration"][0, 0]), times, keys, tables, spectra, present)

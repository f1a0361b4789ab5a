"""Spectra as a picture, time across and wavelength upwards."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.live.columns import bin_bounds
from tsostream.live.overview import Overview
from tsostream.sinks.messages import DamagedError, FrameKind, read_batch, read_frame, read_header

__all__ = ["Picture", "read_rows"]

Floats = npt.NDArray[np.float64]
#: groups of wavelengths, at most
GROUPS: Final = 128
#: rows that are read from the file again for a picture of a part of the run, at most
FINE: Final = 16384
#: columns that are enough for a picture: with so many the file is not read again
ENOUGH: Final = 400
#: how much a run may have grown [part] before the level of each wavelength is found anew
_GROWTH: Final = 0.05
#: level of a cell nothing is known about
BLANK: Final = 255


class Picture:
    """What is kept of the spectra of one order and aperture: an overview in constant memory.

    Wavelengths are put together in groups of about the same light, so that all of them show a transit equally well. The
    value of a group is its light divided by the light of the same pixels in the first rows, so that a lost pixel does
    not show.

    Parameters
    ----------
    path
        The spectra, which are read again where the overview is too coarse.
    key
        Order and aperture.
    edges
        Of the wavelength bins, as in the metadata [wave + 1].
    use
        Bins that are shown.
    """

    def __init__(self, path: Path, key: tuple[int, int], edges: Floats, use: npt.NDArray[np.bool_]):
        self.path = path
        self.key = key
        self._edges = edges
        self._columns = np.flatnonzero(use)
        self._bounds = np.empty(0, dtype=np.intp)
        self._reference: Floats = np.empty(0)
        self._overview = Overview(0)
        self._level: tuple[int, Floats] = (0, np.empty(0))
        self._part: tuple[tuple[int, int], tuple[Floats, Floats]] | None = None

    def _begin(self, used: Floats) -> None:
        """Make the groups, from the first rows."""
        reference = _median(used)
        lit = np.isfinite(reference) & (reference > 0)
        self._reference = np.where(lit, reference, np.nan)
        self._bounds = _equal_light(np.where(lit, reference, 0.0), GROUPS)
        self._overview = Overview(len(self._bounds) - 1)

    @property
    def edges(self) -> Floats:
        """Wavelengths between which the groups are [group + 1]."""
        ends = np.append(self._columns[self._bounds[:-1]], self._columns[-1] + 1)
        return self._edges[ends]

    @property
    def rows(self) -> int:
        """Rows seen."""
        return self._overview.rows

    def add(self, numbers: Floats, flux: npt.NDArray[np.floating]) -> None:
        """Add rows: integration numbers [row], flux [row, wave]."""
        if not len(numbers):
            return
        used: Floats = flux[:, self._columns].astype(np.float64)
        if not len(self._reference):
            self._begin(used)
        self._overview.add(numbers, self._grouped(used))

    def _grouped(self, flux: Floats) -> Floats:
        good = np.isfinite(flux) & np.isfinite(self._reference)
        light = np.add.reduceat(np.where(good, flux, 0.0), self._bounds[:-1], axis=1)
        wanted = np.add.reduceat(np.where(good, self._reference, 0.0), self._bounds[:-1], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return light / wanted

    def drawn(self, first: int, last: int, columns: int, *, residual: bool) -> dict[str, Any]:
        """Draw the integrations ``first`` to ``last``.

        Parameters
        ----------
        columns
            How many there is room for.
        residual
            Relative to the white light of the same time, too.

        Returns
        -------
        dict
            ``numbers`` (mean integration of each column), ``edges`` of the rows (wavelengths), ``low`` and ``high``
            of the scale [per cent], and ``cells``: base64 of bytes [column, row], 0 to 254 from low to high, 255 for
            nothing.
        """
        overview = self._overview
        if not overview.bins:
            return {"columns": 0}
        numbers, values = overview.x, overview.mean
        level = self._levels(values)
        inside = (numbers >= first - overview.size) & (numbers <= last + overview.size)
        numbers, values = numbers[inside], values[inside]
        if overview.size > 1 and last - first < FINE and len(numbers) < min(columns, ENOUGH):
            numbers, values = self._fine(first, last)
        bounds = bin_bounds(0, len(numbers), columns)
        if len(bounds) < 2:
            return {"columns": 0}
        numbers, values = _average(numbers[:, None], bounds)[:, 0], _average(values, bounds)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = values / level
            if residual:
                relative = relative / _median(relative.T)[:, None]
        return self._encoded(numbers, 100.0 * (relative - 1.0), residual=residual)

    def _encoded(self, numbers: Floats, percent: Floats, *, residual: bool) -> dict[str, Any]:
        known = percent[np.isfinite(percent)]
        low, high = (float(one) for one in np.percentile(known, (1, 99))) if len(known) else (-1.0, 1.0)
        if residual:
            low, high = -max(-low, high), max(-low, high)
        if high - low < 1e-6:
            low, high = low - 1e-3, high + 1e-3
        scaled = np.clip(np.nan_to_num((percent - low) / (high - low)) * 254.0, 0.0, 254.0)
        cells = np.where(np.isfinite(percent), np.rint(scaled), BLANK).astype(np.uint8)
        return {
            "columns": len(numbers),
            "numbers": numbers.tolist(),
            "edges": [float(edge) for edge in self.edges],
            "low": low,
            "high": high,
            "cells": base64.b64encode(cells.tobytes()).decode(),
        }

    def _levels(self, mean: Floats) -> Floats:
        """Median of each group over the run; found anew when the run has grown by a part."""
        rows = self._level[0]
        if not rows or self.rows >= rows * (1 + _GROWTH):
            self._level = self.rows, _median(mean)
        return self._level[1]

    def _fine(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Rows read from the file again; a part that is complete is read once, however often it is drawn."""
        if self._part is not None and self._part[0] == (first, last):
            return self._part[1]
        found = self._read_part(first, last)
        if len(found[0]) and found[0][-1] >= last:
            self._part = (first, last), found
        return found

    def _read_part(self, first: int, last: int) -> tuple[Floats, Floats]:
        parts: list[tuple[Floats, Floats]] = []
        for batch in read_rows(self.path, first, last):
            numbers, flux = spectra_of(batch, self.key)
            inside = (numbers >= first) & (numbers <= last)
            parts.append((numbers[inside], self._grouped(flux[inside][:, self._columns].astype(np.float64))))
        if not parts:
            return np.empty(0), np.empty((0, len(self._bounds) - 1))
        return np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])


def spectra_of(batch: pa.RecordBatch, key: tuple[int, int]) -> tuple[Floats, npt.NDArray[np.floating]]:
    """Integration numbers and flux [row, wave] of one order and aperture."""
    main = (batch.column("order").to_numpy() == key[0]) & (batch.column("aperture").to_numpy() == key[1])
    column = batch.column("flux")
    flux = column.flatten().to_numpy(zero_copy_only=False).reshape(len(main), column.type.list_size)
    return batch.column("integration").to_numpy()[main].astype(np.float64), flux[main]


def read_rows(path: Path, first: int, last: int) -> list[pa.RecordBatch]:
    """Read the batches of a growing file that hold integrations ``first`` to ``last``.

    Only the lengths of the messages are read on the way; where the range begins is found by bisection.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        size = os.fstat(fd).st_size
        schema, offset = read_header(fd, size)
        places: list[tuple[int, int]] = []
        while (frame := read_frame(fd, offset, size)).kind is FrameKind.MESSAGE:
            places.append((offset, frame.length))
            offset += frame.length

        def ends(place: int) -> int:
            return int(read_batch(fd, *places[place], schema).column("integration")[-1].as_py())

        low, high = 0, len(places)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if ends(middle) < first else (low, middle)
        found = []
        for place in places[low:]:
            batch = read_batch(fd, *place, schema)
            if batch.column("integration")[0].as_py() > last:
                break
            found.append(batch)
        return found
    except DamagedError:  # it is being replaced; the next picture will be right
        return []
    finally:
        os.close(fd)


def _equal_light(spectrum: Floats, groups: int) -> npt.NDArray[np.intp]:
    """Bounds of groups of consecutive bins that hold about the same light, at most so many."""
    count = len(spectrum)
    light = np.cumsum(spectrum)
    if count <= groups or light[-1] <= 0:
        return bin_bounds(0, count, groups)
    inner = np.searchsorted(light, light[-1] * np.arange(1, groups) / groups) + 1
    return np.unique(np.concatenate(([0], np.minimum(inner, count), [count]))).astype(np.intp)


def _average(values: Floats, bounds: npt.NDArray[np.intp]) -> Floats:
    """Mean of the finite values in bins of rows."""
    good = np.isfinite(values)
    total = np.add.reduceat(np.where(good, values, 0.0), bounds[:-1], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / np.add.reduceat(good.astype(np.float64), bounds[:-1], axis=0)


def _median(values: Floats) -> Floats:
    """Median over the first axis; NaN where nothing is known, without a warning."""
    known = np.isfinite(values).any(axis=0)
    result = np.full(values.shape[1], np.nan)
    if known.any():
        result[known] = np.nanmedian(values[:, known], axis=0)
    return result

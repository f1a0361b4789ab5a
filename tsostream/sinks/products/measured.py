"""Products of a whole exposure, fed by what is measured: ``x1dints``, ``whtlt``, ``phot``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem
from tsostream.integration.payload import Measurement
from tsostream.sinks.products.ecsv import EcsvProduct
from tsostream.sinks.products.files import Resumed
from tsostream.sinks.products.slabs import Kept, ProductFile
from tsostream.sinks.products.spectra import ExposureHeader, SpectraProduct, SpectrumTable
from tsostream.sinks.products.tables import (
    phot_columns,
    phot_meta,
    phot_values,
    whtlt_columns,
    whtlt_meta,
    whtlt_values,
)

__all__ = ["EXPOSURE_PRODUCTS", "ExposureProductKind", "MeasuredProducts", "MeasuredSpec"]

Array = npt.NDArray[Any]

ExposureProductKind = Literal["x1dints", "whtlt", "phot"]

#: products with one file per exposure
EXPOSURE_PRODUCTS: Final[tuple[str, ...]] = get_args(ExposureProductKind)


@dataclass(frozen=True)
class MeasuredSpec:
    """What is measured, as far as its products need it.

    Parameters
    ----------
    paths
        Kind -> final name.
    metadata
        Of the light curve, as known at the start.
    first, count
        Integrations of the exposure.
    orders
        Spectral orders, in order; none for images.
    segments
        First integration and number (EXSEGNUM) of each segment file.
    header
        What the header of x1dints is made from.
    cards
        Order -> keyword -> value of its EXTRACT1D tables.
    parity
        Whether x1dints has a table per segment, and white light no errors, as the official products.
    background_unit
        Unit of the background in x1dints.
    """

    paths: Mapping[str, Path]
    metadata: Mapping[str, Any]
    first: int
    count: int
    orders: Sequence[int]
    segments: Sequence[tuple[int, int]]
    header: ExposureHeader
    cards: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    parity: bool = False
    background_unit: str = ""

    def wavelength(self, order: int) -> Array:
        """Wavelengths of an order [µm]; NaN where not known."""
        given = self.metadata["wavelength"]
        values = given[str(order)] if isinstance(given, Mapping) and str(order) in given else given
        if isinstance(values, Mapping):
            values = values[order]
        wave = np.array([np.nan if value is None else value for value in np.asarray(values).tolist()], float)
        return np.full(wave.size, np.nan) if self.metadata.get("wavelength_unit") == "pixel" else wave

    def tables(self) -> list[SpectrumTable]:
        """EXTRACT1D tables of the x1dints: one per order, in parity one per segment and order."""
        spans = [(self.first, self.count)]
        if self.parity:
            starts = [max(first, self.first) for first, _ in self.segments] + [self.first + self.count]
            spans = [(a, b - a) for a, b in itertools.pairwise(starts)]
        soss = self.parity and self.metadata["exposure"].get("exp_type") == "NIS_SOSS"
        missing = 0.0 if soss else np.nan
        return [
            SpectrumTable(order, self.wavelength(order), first, count, self.cards.get(order, {}), missing)
            for first, count in spans
            for order in self.orders
        ]


class MeasuredProducts:
    """Writes the products of an exposure while it is measured.

    Parameters
    ----------
    spec
        What they are.
    overwrite
        Replace existing products.
    resume
        What an earlier session has left; None for a run that begins.
    """

    def __init__(self, spec: MeasuredSpec, *, overwrite: bool = False, resume: Resumed | None = None):
        self._spec = spec
        kept = None
        if resume is not None:
            kept = Kept(min(max(resume.following - spec.first, 0), spec.count), resume.named)
        self._spectra: SpectraProduct | None = None
        self._white: EcsvProduct | None = None
        self._phot: EcsvProduct | None = None
        meta, first, count = spec.metadata, spec.first, spec.count
        for kind, path in spec.paths.items():
            if kind == "x1dints":
                units = (meta["flux_unit"], spec.background_unit or meta["flux_unit"])
                self._spectra = SpectraProduct(
                    path, spec.tables(), spec.header, units, overwrite=overwrite, kept=kept
                )
            elif kind == "whtlt":
                columns = whtlt_columns(meta, spec.orders, errors=not spec.parity)
                # the official white light has each time once; here no integration is left out by default
                distinct = columns[0].name if spec.parity else ""
                self._white = EcsvProduct(
                    path,
                    columns,
                    whtlt_meta(meta, count),
                    first,
                    count,
                    distinct=distinct,
                    overwrite=overwrite,
                    kept=kept,
                )
            else:
                self._phot = EcsvProduct(
                    path,
                    phot_columns(meta),
                    phot_meta(meta, count),
                    first,
                    count,
                    overwrite=overwrite,
                    kept=kept,
                )

    @property
    def files(self) -> list[ProductFile]:
        """The files being written."""
        spectra = self._spectra.file if self._spectra is not None else None
        return [file for file in (spectra, self._white, self._phot) if file is not None]

    @property
    def paths(self) -> list[Path]:
        """Final names."""
        return [file.path for file in self.files]

    def add(self, measurement: Measurement) -> None:
        """Write measured integrations where they belong; the default aperture of each order.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        times, first = measurement.times.values, measurement.first
        keys = {order: place for place, (order, aperture) in enumerate(measurement.keys) if aperture == 0}
        if self._spectra is not None:
            # integrations that are not there have no spectra at all
            spectra = {
                order: {
                    name: _absent(values[:, place], measurement.present, name)
                    for name, values in measurement.spectra.items()
                }
                for order, place in keys.items()
            }
            self._spectra.add(first, measurement.times, self._segments(measurement), spectra)
        if self._white is not None:
            series = {
                order: (column(measurement, "flux", place), column(measurement, "flux_err", place))
                for order, place in keys.items()
            }
            self._white.add(first, whtlt_values(self._spec.metadata, self._spec.orders, times, series))
        if self._phot is not None:
            names = (*_NEEDED, *measurement.columns, *measurement.extras)
            values = {name: column(measurement, name, keys[0]) for name in names}
            self._phot.add(first, phot_values(self._spec.metadata, times, values))

    def _segments(self, measurement: Measurement) -> Array:
        numbers = np.arange(measurement.first, measurement.first + measurement.count)
        starts = [start for start, _ in self._spec.segments]
        labels = np.array([label for _, label in self._spec.segments])
        return labels[np.clip(np.searchsorted(starts, numbers, side="right") - 1, 0, None)]

    def know_segment(self, first: int, number: int) -> None:
        """Label the integrations of a segment that came while the run goes on."""
        number = number or len(self._spec.segments) + 1
        self._spec = replace(self._spec, segments=sorted({*self._spec.segments, (first, number)}))

    def check_kept(self) -> None:
        """Look whether what earlier sessions made is still there.

        Raises
        ------
        InputError
            Names the files that are not.
        """
        gone = [file.part for file in self.files if file.lost]
        if gone:
            todo = "put it back, or start again with --overwrite"
            what = "the product is not there any more, but a part of it was made"
            raise InputError([Problem(what, str(path), todo, "product_gone") for path in gone])

    def sync(self) -> None:
        """Wait until everything written so far is on the medium; see `ProductFile.sync`."""
        for file in self.files:
            file.sync()

    def publish(self) -> None:
        """Give all products their names; see `ProductFile.publish`."""
        for file in self.files:
            file.publish()

    def close(self) -> None:
        """Let go of all files; those without their names stay as ``.part``."""
        for file in self.files:
            file.close()


#: columns of the light curve that `phot_values` reads
_NEEDED: Final = (
    "flux", "flux_err", "background", "background_err", "annulus_mean", "x", "y", "width_x", "width_y", "psf_flux",
    "ra", "dec",
)  # fmt: skip


def column(measurement: Measurement, name: str, place: int) -> Array:
    """One series of a column, NaN where there is nothing."""
    given = measurement.extras.get(name, measurement.columns.get(name))
    if given is None:
        return np.full(measurement.count, np.nan)
    values = np.asarray(given)
    values = (values if values.ndim == 1 else values[:, place]).astype(float)
    return np.where(measurement.present, values, np.nan)


def _absent(values: Array, present: Array, name: str) -> Array:
    if present.all():
        return values
    fill = {"dq": 1, "npixels": 0}.get(name, np.nan)
    return np.where(present[:, None], values, np.asarray(fill, values.dtype))

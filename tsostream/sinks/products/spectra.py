"""``x1dints``: the spectra of an exposure as a FITS table, in the layout of the official ``TSOMultiSpecModel``.

One row per integration with a list per column (spec stages 2-3, D.5). By default one table per spectral order holds the
whole exposure; in parity there is one per segment file and order, as the official pipeline makes them. A row has a
known size, so rows are written where they belong, whatever comes first, and the number of integrations costs no memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.integration.payload import Times
from tsostream.sinks.products.layout import (
    AnyExtension,
    Layout,
    Records,
    Table,
    Tree,
    carry,
    make_layout,
    primary_header,
    read_headers,
)
from tsostream.sinks.products.slabs import Kept, ProductFile

__all__ = [
    "ExposureHeader",
    "SpectraProduct",
    "SpectrumTable",
    "spectra_bytes",
    "spectrum_dtype",
    "spectrum_records",
]

Array = npt.NDArray[Any]

#: FITS column -> name among a measurement's spectra, [integration, wave]
_LISTS: Final = {
    "FLUX": "flux",
    "FLUX_ERROR": "flux_err",
    "FLUX_VAR_POISSON": "flux_var_poisson",
    "FLUX_VAR_RNOISE": "flux_var_rnoise",
    "FLUX_VAR_FLAT": "flux_var_flat",
    "SURF_BRIGHT": "surf_bright",
    "SB_ERROR": "sb_error",
    "SB_VAR_POISSON": "sb_var_poisson",
    "SB_VAR_RNOISE": "sb_var_rnoise",
    "SB_VAR_FLAT": "sb_var_flat",
    "DQ": "dq",
    "BACKGROUND": "background",
    "BKGD_ERROR": "background_err",
    "BKGD_VAR_POISSON": "background_var_poisson",
    "BKGD_VAR_RNOISE": "background_var_rnoise",
    "BKGD_VAR_FLAT": "background_var_flat",
    "NPIXELS": "npixels",
}
_CLOCKS: Final = ("MJD-BEG", "MJD-AVG", "MJD-END", "TDB-BEG", "TDB-MID", "TDB-END")
_INT_TIMES: Final = np.dtype([("number", ">i4"), ("times", ">f8", (6,))])
_SIGN: Final = np.uint32(1 << 31)


def spectrum_dtype(n_wave: int) -> np.dtype[Any]:
    """Row of an EXTRACT1D table with so many wavelengths, as it lies in the file."""
    lists = [(name, ">i4" if name == "DQ" else ">f8", (n_wave,)) for name in ("WAVELENGTH", *_LISTS)]
    scalars = [("N_ALONGDISP", ">i4"), ("SEGMENT", ">i4"), *((name, ">f8") for name in _CLOCKS)]
    return np.dtype([("INT_NUM", ">i4"), *lists, *scalars])


def _squared(unit: str) -> str:
    """``DN/s`` -> ``DN^2 / s^2``, as the official tables write it."""
    parts = [part.strip() for part in unit.split("/")]
    return " / ".join(f"{part}^2" for part in parts if part)


def spectrum_units(flux: str, background: str) -> dict[str, str]:
    """Column -> TUNIT, for these units of FLUX, and of SURF_BRIGHT and BACKGROUND."""
    units = {"WAVELENGTH": "um", "FLUX": flux, "FLUX_ERROR": flux}
    for name in ("SURF_BRIGHT", "SB_ERROR", "BACKGROUND", "BKGD_ERROR"):
        units[name] = background
    for kind in ("POISSON", "RNOISE", "FLAT"):
        units[f"FLUX_VAR_{kind}"] = _squared(flux)
        units[f"SB_VAR_{kind}"] = units[f"BKGD_VAR_{kind}"] = _squared(background)
    return units | dict.fromkeys(_CLOCKS, "d")


@dataclass(frozen=True)
class SpectrumTable:
    """One EXTRACT1D table to be.

    Parameters
    ----------
    order
        Spectral order.
    wavelength : float64 [wave]
        Wavelengths [µm], the same for all integrations.
    first, count
        Integrations.
    cards
        Keyword -> value (``SPORDER``, ``SRCTYPE``, …).
    missing
        What stands in columns that nothing was measured for; the official SOSS tables have 0.
    """

    order: int
    wavelength: Array
    first: int
    count: int
    cards: Mapping[str, Any] = field(default_factory=dict)
    missing: float = np.nan


@dataclass(frozen=True)
class ExposureHeader:
    """What the headers of a product of a whole exposure are made from.

    Parameters
    ----------
    source
        A segment whose header is carried over; None (or a file that is gone): only ``keywords``.
    keywords
        Primary keywords that are not the input's.
    sections
        Title -> keyword -> value: references, steps.
    tree
        Content of the ASDF extension, by which some readers tell an official spectrum.
    """

    source: Path | None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tree: bytes = b""

    def primary(self, path: Path, model: str, first: int, last: int) -> Any:
        """PRIMARY header of a product.

        Raises
        ------
        ReadError
            When the segment's headers cannot be read.
        """
        carried = carry(read_headers(self.source)[0], primary=True) if self.source is not None else []
        # what describes one of the segments, not the exposure
        carried = [card for card in carried if card.keyword not in ("EXSEGNUM", "EXSEGTOT")]
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        values = {
            "DATE": now,
            "FILENAME": path.name,
            **self.keywords,
            "DATAMODL": model,
            "INTSTART": first,
            "INTEND": last,
        }
        return primary_header(carried, values, self.sections)


def spectra_bytes(n_wave: int, count: int, tables: int = 1) -> int:
    """Size of an x1dints, headers roughly [bytes]."""
    return count * (spectrum_dtype(n_wave).itemsize * tables + 52) + 2880 * (8 + 5 * tables)


def spectrum_records(
    table: SpectrumTable,
    numbers: Array,
    times: Array,
    segments: Array,
    spectra: Mapping[str, Array],
) -> Array:
    """Rows of an EXTRACT1D table.

    Parameters
    ----------
    table
        Where they go.
    numbers : int64 [integration]
        Numbers in the exposure.
    times : float64 [integration, 6]
        In the order of INT_TIMES [d].
    segments : int64 [integration]
        Segment files (EXSEGNUM) they came from.
    spectra
        Name -> [integration, wave]; what is not there is ``missing`` (0 pixels, DO_NOT_USE).

    Returns
    -------
    ndarray of `spectrum_dtype`
    """
    wave = np.asarray(table.wavelength, float)
    out = np.empty(len(numbers), spectrum_dtype(wave.size))
    out["INT_NUM"], out["SEGMENT"] = numbers, segments
    out["WAVELENGTH"] = wave
    for column, name in _LISTS.items():
        given = spectra.get(name)
        if column == "DQ":
            bits = np.ones((len(numbers), wave.size), np.uint32) if given is None else given.astype(np.uint32)
            out[column] = (bits ^ _SIGN).view(np.int32)
        else:
            out[column] = given if given is not None else (0.0 if column == "NPIXELS" else table.missing)
    # unsigned in the file as well
    out["N_ALONGDISP"] = np.int64(np.count_nonzero(np.isfinite(wave))) - (1 << 31)
    for place, name in enumerate(_CLOCKS):
        out[name] = times[:, place]
    return out


class SpectraProduct:
    """The x1dints of an exposure.

    Parameters
    ----------
    path
        Its name once it is complete.
    tables
        EXTRACT1D tables, in order; the same integrations for each order.
    header
        What the headers are made from.
    units
        Units of FLUX, and of SURF_BRIGHT and BACKGROUND.
    overwrite
        Replace an existing product.
    kept
        What an earlier session has left.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[SpectrumTable],
        header: ExposureHeader,
        units: tuple[str, str],
        *,
        overwrite: bool = False,
        kept: Kept | None = None,
    ):
        self.tables = tuple(tables)
        self.first = min(one.first for one in self.tables)
        self.count = max(one.first + one.count for one in self.tables) - self.first
        self._header, self._units = header, spectrum_units(*units)
        static = {"ASDF": np.frombuffer(header.tree, np.uint8)} if header.tree else {}
        self.file = ProductFile(
            path, self._layout, self.first, self.count, static=static, overwrite=overwrite, kept=kept
        )

    @property
    def path(self) -> Path:
        """Its name once it is complete."""
        return self.file.path

    def _layout(self) -> Layout:
        primary = self._header.primary(
            self.path, "TSOMultiSpecModel", self.first, self.first + self.count - 1
        )
        extensions: list[AnyExtension] = [Table(self.count)]
        for version, one in enumerate(self.tables, 1):
            extensions.append(
                Records(
                    "EXTRACT1D",
                    spectrum_dtype(len(one.wavelength)),
                    one.count,
                    version,
                    one.first - self.first,
                    self._units,
                    frozenset({"DQ", "N_ALONGDISP"}),
                    [fits.Card(key, value) for key, value in one.cards.items()],
                )
            )
        if self._header.tree:
            extensions.append(Tree(self._header.tree))
        return make_layout(primary, extensions)

    def add(
        self, first: int, times: Times, segments: Array, spectra: Mapping[int, Mapping[str, Array]]
    ) -> None:
        """Write some integrations where they belong; blocks may come in any order.

        Parameters
        ----------
        first
            Number in the exposure of the first one.
        times
            One row per integration.
        segments : int64 [integration]
            Segment files they came from.
        spectra
            Order -> name -> [integration, wave]; an order that is not there is written as NaN.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        count = len(times)
        # in parity a block may touch two tables of the same order: it is cut where they meet
        edges = {first, first + count}
        for one in self.tables:
            edges |= {edge for edge in (one.first, one.first + one.count) if first < edge < first + count}
        cuts = sorted(edges)
        for low, high in itertools.pairwise(cuts):
            part = slice(low - first, high - first)
            numbers = np.arange(low, high)
            rows = np.empty(high - low, _INT_TIMES)
            rows["number"], rows["times"] = numbers, times.values[part]
            planes: dict[str, Array] = {"INT_TIMES": rows}
            for version, one in enumerate(self.tables, 1):
                if one.first <= low and high <= one.first + one.count:
                    given = {name: values[part] for name, values in spectra.get(one.order, {}).items()}
                    planes[f"EXTRACT1D,{version}"] = spectrum_records(
                        one, numbers, times.values[part], segments[part], given
                    )
            self.file.write(low, planes)

    def publish(self) -> None:
        """Give it its name; see `ProductFile.publish`."""
        self.file.publish()

    def close(self) -> None:
        """Let go of the file as it is."""
        self.file.close()

"""Columns, types, units and descriptions of the two outputs.

Every field carries ``unit`` and ``description`` in its metadata and is declared not nullable: an unknown
number is NaN, an unknown count 0. Strings are plain utf8, no dictionaries: a dictionary would put messages
between the batches of a growing file. Light-curve scalars are float64; the spectra, which make the size of an
output, are float32: a rounding of 6e-8 is three orders below the noise of a bin of the brightest stars.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from tsostream.integration.payload import TIME_COLUMNS
from tsostream.records.metadata import METADATA_KEY, encode_metadata
from tsostream.records.quality import QUALITY_BITS

__all__ = [
    "KEY_COLUMNS",
    "SCHEMA_VERSION",
    "TableKind",
    "bins_schema",
    "light_curve_schema",
    "spectra_schema",
]

TableKind = Literal["light_curve", "spectra", "bins"]

#: grows when a column changes its name, type or meaning
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: pa.DataType
    unit: str
    description: str

    def field(self, flux_unit: str, type_: pa.DataType | None = None) -> pa.Field:
        metadata = {"unit": self.unit.replace("{flux}", flux_unit), "description": self.description}
        return pa.field(self.name, type_ or self.type, nullable=False, metadata=metadata)


_KEY = (
    _Column("exposure_id", pa.utf8(), "", "exposure, from the keywords of its files"),
    _Column("detector", pa.utf8(), "", "detector"),
    _Column("order", pa.int16(), "", "spectral order; 0 for images"),
    _Column("aperture", pa.int32(), "", "aperture, 0 is the default one"),
    _Column("integration", pa.int64(), "", "number of the integration in the exposure, 1-based"),
)

#: the key of a row, each combination once
KEY_COLUMNS: Final = tuple(column.name for column in _KEY)

_PART = {"start": "start", "mid": "middle", "end": "end"}
_CLOCK = {
    "mjd_utc": "MJD (UTC)",
    "bmjd_tdb": "BJD - 2400000.5 (TDB) at the solar-system barycentre",
}


def _time_column(name: str) -> _Column:
    clock, _, part = name.removeprefix("time_").rpartition("_")
    return _Column(name, pa.float64(), "d", f"{_PART[part]} of the integration, {_CLOCK[clock]}")


_X = {
    "imaging": "centroid along x, 0-based subarray pixels",
    "spectroscopy": "x in subarray pixels: shift against the scout where x is the dispersion, else centroid",
}
_Y = {
    "imaging": "centroid along y, 0-based subarray pixels",
    "spectroscopy": "y in subarray pixels: shift against the scout where y is the dispersion, else centroid",
}


def _light_curve_columns(kind: str) -> tuple[_Column, ...]:
    f8, i4, u4 = pa.float64(), pa.int32(), pa.uint32()
    return (
        *_KEY,
        _Column("present", pa.bool_(), "", "false when no input file holds the integration"),
        *(_time_column(name) for name in TIME_COLUMNS),
        _Column("time_flag", u4, "", "how the times were found, bits; 0: straight from INT_TIMES"),
        _Column("flux", f8, "{flux}", "flux of the source, background subtracted"),
        _Column("flux_err", f8, "{flux}", "1-sigma error of flux, shared terms included"),
        _Column("background", f8, "{flux} / pix", "background per pixel"),
        _Column("background_err", f8, "{flux} / pix", "1-sigma error of background"),
        _Column("x", f8, "pix", _X[kind]),
        _Column("y", f8, "pix", _Y[kind]),
        _Column("x_err", f8, "pix", "1-sigma error of x"),
        _Column("y_err", f8, "pix", "1-sigma error of y"),
        _Column("width_x", f8, "pix", "width of the source along x"),
        _Column("width_y", f8, "pix", "width of the source along y"),
        _Column("n_jump", i4, "pix", "pixels of the source aperture hit by a cosmic ray"),
        _Column("n_saturated", i4, "pix", "saturated pixels of the source aperture"),
        _Column("n_outlier", i4, "pix", "pixels of the source aperture that are outliers in time"),
        _Column("n_bad", i4, "pix", "pixels of the source aperture not used, for any reason"),
        _Column("frac_filled", f8, "1", "part of the source profile that was lost and replaced"),
        _Column("quality", u4, "", "quality bits, listed in the metadata; 0: no remarks"),
    )


_IMAGING = (
    _Column("annulus_mean", pa.float64(), "{flux} / pix", "mean of the background annulus, unclipped"),
    _Column("psf_flux", pa.float64(), "{flux}", "flux from the PSF fit"),
    _Column(
        "ra",
        pa.float64(),
        "deg",
        "right ascension of the aperture (ICRS); NaN: no coordinate system in the file",
    ),
    _Column(
        "dec",
        pa.float64(),
        "deg",
        "declination of the aperture (ICRS); NaN: no coordinate system in the file",
    ),
)

_SPECTRA = (
    _Column("flux", pa.float32(), "{flux}", "flux in each wavelength bin, background subtracted"),
    _Column("flux_err", pa.float32(), "{flux}", "1-sigma error of flux"),
    _Column("flux_var_poisson", pa.float32(), "({flux})^2", "variance of flux from photon noise"),
    _Column("flux_var_rnoise", pa.float32(), "({flux})^2", "variance of flux from read noise"),
    _Column("flux_var_flat", pa.float32(), "({flux})^2", "variance of flux from the flat field"),
    _Column("background", pa.float32(), "{flux} / pix", "background per pixel"),
    _Column("background_err", pa.float32(), "{flux} / pix", "1-sigma error of background"),
    _Column("dq", pa.uint32(), "", "JWST data-quality bits of the bin"),
    _Column("npixels", pa.float32(), "pix", "pixels summed"),
)

_BINS = (
    _Column("flux", pa.float64(), "{flux}", "flux in each bin, background subtracted"),
    _Column("flux_err", pa.float64(), "{flux}", "1-sigma error of flux, what the columns share included"),
    _Column("flux_var_poisson", pa.float64(), "({flux})^2", "variance of flux from photon noise"),
    _Column("flux_var_rnoise", pa.float64(), "({flux})^2", "variance of flux from read noise"),
    _Column("background", pa.float64(), "{flux} / pix", "mean background per pixel"),
    _Column("background_err", pa.float64(), "{flux} / pix", "1-sigma error of background"),
    _Column("frac_filled", pa.float64(), "1", "part of the bin's light that was lost and replaced"),
    _Column("dq", pa.uint32(), "", "JWST data-quality bits of the bin"),
)


def light_curve_schema(
    *, kind: Literal["spectroscopy", "imaging"], flux_unit: str, metadata: Mapping[str, str] | None = None
) -> pa.Schema:
    """Build the schema of a light curve.

    Parameters
    ----------
    kind
        ``imaging`` adds ``annulus_mean, psf_flux, ra, dec``.
    flux_unit
        Unit of ``flux``; the other columns' units follow.
    metadata
        From `encode_metadata`; table kind, schema version and quality bits are added to it.
    """
    if kind not in ("spectroscopy", "imaging"):
        raise ValueError(f"kind is {kind!r}, expected 'spectroscopy' or 'imaging'")
    columns = _light_curve_columns(kind) + (_IMAGING if kind == "imaging" else ())
    extra = {"table": "light_curve", "kind": kind, "flux_unit": flux_unit, "quality_bits": QUALITY_BITS}
    return pa.schema([column.field(flux_unit) for column in columns], metadata=_metadata(metadata, extra))


def spectra_schema(*, n_wave: int, flux_unit: str, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """Build the schema of the spectra.

    Parameters
    ----------
    n_wave
        Wavelength bins, the length of every list.
    flux_unit
        Unit of ``flux``; the other columns' units follow.
    metadata
        From `encode_metadata`. Belongs there: ``wavelength`` (µm), ``wavelength_edges`` and ``dt_eff_s``
        (effective time of each bin relative to the row's mid time), each a list, or a mapping from order to
        list where an exposure has several.
    """
    if n_wave < 1:
        raise ValueError(f"n_wave is {n_wave}, expected at least 1")
    extra = {"table": "spectra", "kind": "spectroscopy", "flux_unit": flux_unit, "n_wave": n_wave}
    return _lists_schema(_SPECTRA, n_wave, flux_unit, _metadata(metadata, extra))


def bins_schema(*, n_bins: int, flux_unit: str, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """Build the schema of the binned light curves.

    Parameters
    ----------
    n_bins
        Bins, the length of every list.
    flux_unit
        Unit of ``flux``; the other columns' units follow.
    metadata
        From `encode_metadata`. Belongs there: ``bin_edges`` and ``bin_dt_eff_s``.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, expected at least 1")
    extra = {"table": "bins", "kind": "spectroscopy", "flux_unit": flux_unit, "n_bins": n_bins}
    return _lists_schema(_BINS, n_bins, flux_unit, _metadata(metadata, extra))


def _lists_schema(
    columns: tuple[_Column, ...], length: int, flux_unit: str, metadata: dict[str, str]
) -> pa.Schema:
    """Key columns, then lists of one length."""
    fields = [column.field(flux_unit) for column in _KEY]
    for column in columns:
        item = pa.field("item", column.type, nullable=False)
        fields.append(column.field(flux_unit, pa.list_(item, length)))
    return pa.schema(fields, metadata=metadata)


def _metadata(given: Mapping[str, str] | None, extra: Mapping[str, Any]) -> dict[str, str]:
    given = dict(given or {})
    own = json.loads(given.pop(METADATA_KEY, "{}"))
    return {**given, **encode_metadata({**own, **extra, "schema_version": SCHEMA_VERSION})}

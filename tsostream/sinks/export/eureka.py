"""The HDF5 that stage 4 of Eureka! reads (an xarray dataset as Astraeus writes it), in constant memory."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsostream.errors import InputError, Problem
from tsostream.integration import dq
from tsostream.sinks.export.plain import beside, describe
from tsostream.sinks.export.rows import Source

__all__ = ["write_eureka"]

#: what stage 4 calls the time: BJD - 2400000.5 in TDB
_TIME_UNITS: Final = "BMJD_TDB"
#: spectra: variable -> our column; the standard spectrum is the one we have, too
_SPECTRA: Final = {"optspec": "flux", "opterr": "flux_err", "stdspec": "flux", "stdvar": "flux_err"}
#: variable -> column of the rows
_ROWS: Final = {
    "centroid_x": "x", "centroid_y": "y", "centroid_sx": "width_x", "centroid_sy": "width_y", "skylev": "background",
    "skyerr": "background_err",
}  # fmt: skip
_PHOTOMETRY: Final = {"aplev": "flux", "aperr": "flux_err"}


def write_eureka(source: Source, path: Path, key: tuple[int, int]) -> None:
    """Write a series: spectra as ``optspec, opterr, optmask, stdspec, stdvar``, photometry as ``aplev, aperr``.

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
    InputError
        When h5netcdf or h5py is not installed.
    SinkError
        It cannot be written.
    """
    if find_spec("h5netcdf") is None or find_spec("h5py") is None:
        what = "the HDF5 that Eureka! reads needs h5netcdf and h5py"
        raise InputError(Problem(what, todo="pip install 'tsostream[export]'", code="missing_package"))
    import h5netcdf

    spectra = source.light_curve.spectra
    with beside(path) as temporary, h5netcdf.File(temporary, "w") as file:
        file.dimensions = {"time": source.count}
        for name, value in describe(source, key).items():
            file.attrs[name] = value
        _make_variables(file, source, key)
        at = 0
        for piece in source.pieces(key, spectra=spectra is not None):
            part = slice(at, at + len(piece["integration"]))
            at = part.stop
            if part.start == part.stop:
                continue
            file["time"][part] = piece["time_bmjd_tdb_mid"]
            for variable, column in _scalars(source).items():
                file[variable][part] = piece[column]
            if spectra is not None:
                _write_spectra(file, part, piece)


def _scalars(source: Source) -> dict[str, str]:
    return {**_ROWS, **(_PHOTOMETRY if source.is_image else {})}


def _make_variables(file: Any, source: Source, key: tuple[int, int]) -> None:
    flux_units = "electrons" if source.metadata["flux_unit"] == "electron" else source.metadata["flux_unit"]
    common = {"flux_units": flux_units, "time_units": _TIME_UNITS}

    def variable(name: str, dims: tuple[str, ...], dtype: Any, attrs: dict[str, Any]) -> Any:
        made = file.create_variable(name, dims, dtype, fillvalue=np.nan if dtype == "f8" else None)
        made.attrs.update(attrs)
        return made

    variable("time", ("time",), "f8", {"time_units": _TIME_UNITS})
    for name in _scalars(source):
        pixels = name.startswith("centroid")
        attrs = {"units": "pixels", "time_units": _TIME_UNITS} if pixels else common
        variable(name, ("time",), "f8", attrs)
    spectra = source.light_curve.spectra
    if spectra is None:
        return
    wave = spectra.wavelength(key[0])
    unit = "microns" if source.metadata.get("wavelength_unit", "um") == "um" else "pixels"
    file.dimensions["x"] = wave.size
    variable("x", ("x",), "i8", {})[...] = np.arange(wave.size)
    variable("wave_1d", ("x",), "f8", {"wave_units": unit})[...] = wave
    for name in _SPECTRA:
        variable(name, ("time", "x"), "f8", {**common, "wave_units": unit})
    # booleans as xarray stores them
    variable("optmask", ("time", "x"), "i1", {**common, "dtype": "bool", "flux_units": "None"})


def _write_spectra(file: Any, part: slice, piece: dict[str, Any]) -> None:
    bad = (piece["spectra.dq"] & np.uint32(dq.DO_NOT_USE)) != 0
    for name in ("flux", "flux_err"):
        bad |= ~np.isfinite(piece[f"spectra.{name}"])
    for variable, column in _SPECTRA.items():
        values = piece[f"spectra.{column}"].astype(np.float64)
        file[variable][part] = values**2 if variable == "stdvar" else values
    file["optmask"][part] = bad.astype(np.int8)

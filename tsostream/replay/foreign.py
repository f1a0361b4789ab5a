"""Products of other pipelines, read far enough to be laid beside our rows.

What is read: ``x1dints`` FITS (one EXTRACT1D table per order or segment, integrations as rows; also the older form with
one table per integration), ``whtlt.ecsv`` and ``phot.ecsv`` of the official pipeline, and the HDF5 files of Eureka!'s
stages 3 and 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem

__all__ = ["Foreign", "read_foreign"]

Floats = npt.NDArray[np.float64]

_TODO: Final = "give an x1dints.fits, whtlt.ecsv or phot.ecsv of jwst, or an HDF5 of Eureka!"
#: names of the white light, in the order of preference
_FLUX: Final = ("whitelight_flux", "net_aperture_sum", "aperture_sum")
#: names in the files of Eureka!: flux, its error, wavelength
_EUREKA: Final = (
    ("optspec", "opterr", "wave_1d"),
    ("stdspec", "stdvar", "wave_1d"),
    ("data", "err", "wave_mid"),
)
#: what has to be added to a time column for MJD
_JD: Final = 2400000.5


@dataclass(frozen=True)
class Foreign:
    """A light curve, and spectra where there are any, of another pipeline.

    Parameters
    ----------
    kind
        What it is, for people.
    flux
        White light [integration].
    integration
        Numbers in the exposure; None where the file has none.
    mjd, bmjd
        Mid times, UTC and TDB [d]; None where the file has none.
    spectra
        Flux [integration, wave]; None without.
    wavelength
        Of the bins [µm].
    """

    kind: str
    flux: Floats
    integration: npt.NDArray[np.int64] | None = None
    mjd: Floats | None = None
    bmjd: Floats | None = None
    spectra: Floats | None = None
    wavelength: Floats | None = None


def read_foreign(path: Path) -> Foreign:
    """Read a product of another pipeline.

    Raises
    ------
    InputError
        It is not there, or nothing that is known here.
    """
    if not path.exists():
        raise InputError(Problem("is not there", str(path), "check the name", "missing"))
    name = path.name.lower()
    try:
        if name.endswith(".ecsv"):
            return _read_ecsv(path)
        if name.endswith((".fits", ".fits.gz")):
            return _read_x1dints(path)
        if name.endswith((".h5", ".hdf5", ".nc")):
            return _read_eureka(path)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise InputError(Problem(f"cannot be read: {reason}", str(path), _TODO, "foreign")) from error
    raise InputError(Problem("is no product that is known here", str(path), _TODO, "foreign"))


def _read_ecsv(path: Path) -> Foreign:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")

    def first(*beginnings: str) -> Floats | None:
        for beginning in beginnings:
            for name in table.colnames:
                if re.fullmatch(rf"{beginning}(_order_1)?(_[A-Z0-9]+)?", name, re.IGNORECASE):
                    return np.array(table[name], dtype=np.float64)
        return None

    flux = first(*_FLUX)
    if flux is None:
        what = f"has none of the columns {', '.join(_FLUX)}"
        raise InputError(Problem(what, str(path), _TODO, "foreign"))
    return Foreign(
        path.name, flux, mjd=first("MJD_UTC", "MJD", "int_mid_MJD_UTC"), bmjd=_modified(first("BJD_TDB"))
    )


def _modified(days: Floats | None) -> Floats | None:
    """Turn Julian dates into modified ones, where they are not yet."""
    if days is None or not np.isfinite(days).any():
        return None
    return days - _JD if float(np.nanmax(days)) > _JD else days


def _read_x1dints(path: Path) -> Foreign:
    from astropy.io import fits

    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if hdu.name == "EXTRACT1D"]
        if not tables:
            raise InputError(Problem("has no EXTRACT1D extension", str(path), _TODO, "foreign"))
        order = tables[0].header.get("SPORDER")
        same = [hdu for hdu in tables if hdu.header.get("SPORDER") == order]
        if "INT_NUM" in tables[0].columns.names:
            numbers = np.concatenate([np.array(hdu.data["INT_NUM"], np.int64) for hdu in same])
            spectra = np.concatenate([np.array(hdu.data["FLUX"], np.float64) for hdu in same])
            wave = np.array(same[0].data["WAVELENGTH"], np.float64)
            wavelength = wave[0] if wave.ndim == 2 else wave
            mids = ("MJD-AVG", "TDB-MID")
            names = same[0].columns.names
            times = [
                np.concatenate([hdu.data[n] for hdu in same]).astype(float) if n in names else None
                for n in mids
            ]
        else:  # the form before 1.18: one table per integration
            numbers = np.array(
                [hdu.header.get("INT_NUM", place) for place, hdu in enumerate(same, 1)], np.int64
            )
            spectra = np.stack([np.array(hdu.data["FLUX"], np.float64) for hdu in same])
            wavelength = np.array(same[0].data["WAVELENGTH"], np.float64)
            times = [
                np.array([hdu.header.get(name, np.nan) for hdu in same], float)
                for name in ("MJD-AVG", "TDB-MID")
            ]
    rising = np.argsort(numbers, kind="stable")
    mjd, bmjd = (None if one is None else one[rising] for one in times)
    flux = np.nansum(spectra, axis=1)[rising]
    return Foreign(path.name, flux, numbers[rising], mjd, _modified(bmjd), spectra[rising], wavelength)


def _read_eureka(path: Path) -> Foreign:
    if find_spec("h5py") is None:
        raise InputError(
            Problem(
                "is HDF5, and h5py is not installed", str(path), "pip install 'tsostream[export]'", "h5py"
            )
        )
    import h5py

    with h5py.File(path) as file:
        names = next((one for one in _EUREKA if one[0] in file), None)
        if names is None or "time" not in file:
            what = f"has none of the variables {', '.join(one[0] for one in _EUREKA)}, or no time"
            raise InputError(Problem(what, str(path), _TODO, "foreign"))
        flux, time = np.array(file[names[0]], np.float64), np.array(file["time"], np.float64)
        wavelength = np.array(file[names[2]], np.float64) if names[2] in file else None
        unit = _text(file["time"].attrs.get("time_units", file["time"].attrs.get("units", "")))
        white = np.array(file["flux_white"], np.float64) if "flux_white" in file else None
    if flux.ndim == 1:
        flux = flux[None, :]
    if flux.shape[0] != len(time) and flux.shape[1] == len(time):  # [wave, time] in stage 4
        flux = flux.T
    if wavelength is not None and wavelength.ndim == 2:
        wavelength = wavelength[0]
    if wavelength is not None and len(wavelength) != flux.shape[1]:
        wavelength = None
    light = np.nansum(flux, axis=1) if white is None else white
    spectra = flux if flux.shape[1] > 1 else None
    if "BJD" in unit.upper() or "BMJD" in unit.upper():
        return Foreign(path.name, light, bmjd=_modified(time), spectra=spectra, wavelength=wavelength)
    # Eureka! gives BMJD_TDB unless it says otherwise; which one it is shows when the times are laid side by side
    return Foreign(
        path.name, light, mjd=_modified(time), bmjd=_modified(time), spectra=spectra, wavelength=wavelength
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

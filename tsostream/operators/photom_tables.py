"""What a PHOTOM reference says about an exposure: its row, the loss of throughput since, the pixel area (spec B.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = [
    "ARCSEC2",
    "PhotomRow",
    "loss_correction",
    "photom_row",
    "pixel_area",
    "response_at",
    "soss_factor",
]

#: one square arc second [sr]
ARCSEC2 = (np.pi / 648000.0) ** 2
#: the slit of bright-object time series
SLIT = "S1600A1"
#: the longest wavelength of a table in metres is below this
_METRES = 1e-4


@dataclass(frozen=True)
class PhotomRow:
    """Conversion of one spectrum or image.

    Parameters
    ----------
    conversion
        PHOTMJSR [MJy/sr per DN/s] or PHOTMJ [MJy per DN/s], after the time correction.
    per_area
        Whether the conversion gives a surface brightness; else a flux density.
    wave, response : float64 [element] or None
        Relative response against ascending wavelength [µm]; None for images.
    correction
        Fraction of light recorded at the time of the exposure.
    """

    conversion: float
    per_area: bool
    wave: np.ndarray | None
    response: np.ndarray | None
    correction: float = 1.0


def photom_row(
    reference: Reference, info: ExposureInfo, *, order: int = 1, correct_time: bool = True
) -> PhotomRow | None:
    """Find the row for an exposure.

    Parameters
    ----------
    reference
        Table PHOTOM, and TIMECOEFF_LINEAR, TIMECOEFF_EXPONENTIAL, TIMECOEFF_POWERLAW with a row for each of its rows.
    info
        The exposure.
    order
        Spectral order, where the table has one.
    correct_time
        Whether to correct for the loss of throughput until the middle of the exposure.

    Returns
    -------
    PhotomRow or None
        None when the table does not know this setting.

    Raises
    ------
    ReferenceMismatchError
        Several rows for it, or missing columns.
    """
    table = reference.tables["PHOTOM"]
    names = table.dtype.names or ()
    rows: np.ndarray = np.zeros(0, np.int64)
    for wanted in _selectors(info, names, order):
        lacking = [name for name in wanted if name not in names]
        if lacking:
            raise _fail(reference, f"the table PHOTOM has no column {', '.join(lacking)}")
        match = np.ones(len(table), bool)
        for name, value in wanted.items():
            match &= np.array([_same(one, value) for one in table[name]], bool)
        rows = np.flatnonzero(match)
        if len(rows):
            break
    if not len(rows):
        return None
    if len(rows) > 1:
        setting = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise _fail(reference, f"the table PHOTOM has {len(rows)} rows for {setting}, expected one")
    index = int(rows[0])
    correction = loss_correction(reference, info, index, len(table)) if correct_time else 1.0
    column = "photmjsr" if "photmjsr" in names else "photmj"
    if column not in names:
        raise _fail(reference, "the table PHOTOM has neither PHOTMJSR nor PHOTMJ")
    conversion = float(table[column][index]) / correction
    if "wavelength" not in names:
        return PhotomRow(conversion, column == "photmjsr", None, None, correction)
    wave, response = _response(table, index, names)
    return PhotomRow(conversion, column == "photmjsr", wave, response, correction)


def _fail(reference: Reference, what: str) -> Exception:
    todo = "give the PHOTOM reference of this mode"
    return ReferenceMismatchError(Problem(what, reference.path or reference.name, todo, "photom"))


def _selectors(info: ExposureInfo, names: tuple[str, ...], order: int) -> list[dict[str, Any]]:
    """Columns that must agree; where the first set finds nothing, the next one."""
    if info.instrument == "NIRSPEC":
        return [{"filter": info.filter, "grating": info.grating, "slit": SLIT}]
    if info.instrument == "MIRI":
        return [{"subarray": name, "filter": info.filter} for name in (info.subarray, "GENERIC")]
    wanted: dict[str, Any] = {"filter": info.filter, "pupil": info.pupil}
    if info.is_spectroscopy:
        wanted["order"] = order
    elif "subarray" in names:
        wanted["subarray"] = info.subarray
    return [wanted]


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return str(found).strip().upper() == wanted.strip().upper()
    return bool(found == wanted)


def _response(table: np.ndarray, index: int, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Relative response of a row, in ascending wavelength [µm]."""
    wave = np.atleast_1d(np.asarray(table["wavelength"][index], np.float64))
    response = np.atleast_1d(np.asarray(table["relresponse"][index], np.float64))
    if "nelem" in names:
        length = int(table["nelem"][index])
        wave, response = wave[:length], response[:length]
    if (np.diff(wave) <= 0).any():
        ascending = np.argsort(wave, kind="stable")
        wave, response = wave[ascending], response[ascending]
    if wave.size and 0 < wave[-1] < _METRES:
        wave = wave * 1e6
    return wave, response


def loss_correction(reference: Reference, info: ExposureInfo, index: int, count: int) -> float:
    """Fraction of light recorded at the middle of the exposure, relative to the reference's day zero.

    Parameters
    ----------
    reference
        PHOTOM reference, with or without tables of time coefficients.
    info
        The exposure; EXPMID of its header [MJD].
    index, count
        Row of the PHOTOM table, and its length.

    Raises
    ------
    ReferenceMismatchError
        Time coefficients for another number of rows, or without EXPMID.
    """
    forms = {
        "TIMECOEFF_LINEAR": _linear,
        "TIMECOEFF_EXPONENTIAL": _exponential,
        "TIMECOEFF_POWERLAW": _powerlaw,
    }
    present = {name: reference.tables[name] for name in forms if len(reference.tables.get(name, ()))}
    if not present:
        return 1.0
    middle = info.header.get("EXPMID")
    if not isinstance(middle, int | float):
        raise _fail(reference, "it corrects for the time of the exposure, whose header has no EXPMID (or set "
                               "photom.apply_time_correction=false)")  # fmt: skip
    correction = 1.0
    for name, table in present.items():
        if len(table) != count:
            raise _fail(reference, f"{name} has {len(table)} rows, the table PHOTOM {count}")
        row = {
            key: float(table[key][index]) for key in table.dtype.names or () if table[key].dtype.kind in "fiu"
        }
        correction *= forms[name](float(middle), row)
    return correction


def _linear(middle: float, row: Mapping[str, float]) -> float:
    return 1.0 - row["lossperyear"] * (middle - row["t0"]) / 365.0


def _exponential(middle: float, row: Mapping[str, float]) -> float:
    return row["amplitude"] * float(np.exp(-(middle - row["t0"]) / row["tau"])) + row["const"]


def _powerlaw(middle: float, row: Mapping[str, float]) -> float:
    elapsed = (middle - row["t0"] + row["tsoft"]) / (365.0 + row["tsoft"])
    return float(np.power(elapsed, row["alpha"])) * row["year1value"]


def pixel_area(
    area: Reference | None, photom: Reference, info: ExposureInfo
) -> tuple[float | None, float | None]:
    """Nominal area of a pixel.

    Parameters
    ----------
    area
        AREA reference; NIRSpec's has a table by slit, the others keywords.
    photom
        PHOTOM reference, whose keywords serve where there is no other.
    info
        The exposure.

    Returns
    -------
    steradian, square_arcsec : float or None
        PIXAR_SR and PIXAR_A2.
    """
    if area is not None and info.instrument == "NIRSPEC":
        table = area.tables.get("AREA")
        if table is not None and {"slit_id", "pixarea"} <= set(table.dtype.names or ()):
            for name, value in zip(table["slit_id"], table["pixarea"], strict=True):
                if str(name).strip().upper() == SLIT:
                    return float(value) * ARCSEC2, float(value)
    for reference in (area, photom):
        if reference is not None:
            steradian, square = (_number(reference.keywords.get(key)) for key in ("PIXAR_SR", "PIXAR_A2"))
            if steradian is not None or square is not None:
                return steradian, square
    return None, None


def _number(value: Any) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )


def response_at(row: PhotomRow, wave: np.ndarray) -> np.ndarray:
    """Conversion at given wavelengths; NaN where the table does not reach.

    Parameters
    ----------
    row
        Of a spectroscopic table.
    wave : float64 [...]
        Wavelength [µm]; NaN where there is none.
    """
    if row.wave is None or row.response is None or not row.wave.size:
        return np.full(np.shape(wave), row.conversion)
    known = np.where(np.isfinite(wave), wave, -1.0)
    return row.conversion * np.interp(known, row.wave, row.response, left=np.nan, right=np.nan)


def soss_factor(reference: Reference, info: ExposureInfo, order: int, wave: np.ndarray) -> np.ndarray | None:
    """Conversion of an extracted SOSS spectrum from DN/s to MJy.

    SOSS is calibrated after the extraction: fluxes, errors and backgrounds are multiplied by this, variances by its
    square. The official step gives 0 where the reference has no response.

    Parameters
    ----------
    reference
        PHOTOM reference.
    info
        The exposure.
    order
        Spectral order.
    wave : float64 [column]
        Wavelength [µm].

    Returns
    -------
    float64 [column] or None
        NaN where the reference has no response; None when it does not know the order.
    """
    row = photom_row(reference, info, order=order)
    return None if row is None else response_at(row, np.asarray(wave, np.float64))

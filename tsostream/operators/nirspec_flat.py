"""The NIRSpec flat: fore optics x spectrograph x detector, each a function of the wavelength (spec B.5).

Every factor may have an image part, slow in wavelength (one plane, or one per wavelength), and a table, fast in
wavelength, which is averaged over the pixel. All of it is made once per exposure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["PARTS", "SLIT", "Flat", "combined_flat", "fast_variation", "plane_at"]

#: fore optics, spectrograph, detector
PARTS = ("fflat", "sflat", "dflat")
#: the slit of bright-object time series
SLIT = "S1600A1"

_LOST = np.uint32(dq.DO_NOT_USE)
_NONE = np.uint32(dq.NO_FLAT_FIELD)
_BAD = np.uint32(dq.DO_NOT_USE | dq.NO_FLAT_FIELD | dq.UNRELIABLE_FLAT)
#: places (pixels from the centre) and weights of Gauss and Legendre's three points over one pixel
_PLACES = np.array([-1.0, 0.0, 1.0]) * np.sqrt(0.6) / 2
_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18
#: a table whose longest wavelength is below this is in metres, not in micrometres
_METRES = 1e-4


@dataclass(frozen=True)
class Flat:
    """A flat, ready to divide by.

    Parameters
    ----------
    value : float [y, x]
        1 where it must not be used.
    error : float [y, x]
        Its uncertainty.
    dq : uint32 [y, x]
        DQ bits that go to the science data.
    """

    value: np.ndarray
    error: np.ndarray
    dq: np.ndarray


@dataclass(frozen=True)
class _Table:
    """Fast variation: flat and its error against wavelength [µm], ascending."""

    wave: np.ndarray
    value: np.ndarray
    error: np.ndarray


def _fail(reference: Reference, what: str, todo: str = "give a reference in CRDS format") -> Exception:
    return ReferenceMismatchError(Problem(what, reference.path or reference.name, todo, "flat"))


def _table(reference: Reference) -> _Table | None:
    """Find the row of the slit in FAST_VARIATION; None when there is no such table."""
    rows = reference.tables.get("FAST_VARIATION")
    if rows is None or not len(rows):
        return None
    names = rows.dtype.names or ()
    if not {"wavelength", "data"} <= set(names):
        raise _fail(
            reference, f"FAST_VARIATION has the columns {', '.join(names)}, expected WAVELENGTH and DATA"
        )
    index = 0
    if "slit_name" in names:
        slits = [str(name).strip().upper() for name in rows["slit_name"]]
        index = next((k for k, name in enumerate(slits) if name in ("ANY", SLIT)), -1)
        if index < 0:
            raise _fail(reference, f"FAST_VARIATION is for {', '.join(slits)}, not for {SLIT} or ANY")
    columns = [
        rows[name] if name in names else np.zeros_like(rows["data"])
        for name in ("wavelength", "data", "error")
    ]
    if columns[0].ndim > 1:
        # one vector per row, of which the first NELEM elements count
        length = int(rows["nelem"][index]) if "nelem" in names else columns[0].shape[1]
        columns = [column[index, :length] for column in columns]
    wave, value, error = (np.asarray(column, np.float64) for column in columns)
    good = (wave > 0) & (value != 0) & ~np.isnan(value)
    if not good.any():
        raise _fail(reference, "FAST_VARIATION has no usable element")
    wave, value, error = wave[good], value[good], error[good]
    if (np.diff(wave) <= 0).any():
        raise _fail(reference, "the wavelengths of FAST_VARIATION do not ascend")
    return _Table(wave * (1e6 if wave[-1] < _METRES else 1.0), value, error)


def _filled(wave: np.ndarray) -> np.ndarray:
    """Fill unknown wavelengths with the mean of their column, and empty columns at the ends with their neighbour."""
    known = wave > 0
    count = known.sum(axis=0)
    there = np.flatnonzero(count)
    if not there.size:
        return np.full_like(wave, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, wave, 0.0).sum(axis=0) / count
    full = np.where(known, wave, mean)
    full[:, : there[0]] = full[:, [there[0]]]
    full[:, there[-1] :] = full[:, [there[-1]]]
    return full


def fast_variation(wave: np.ndarray, table: _Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the table over each pixel.

    Parameters
    ----------
    wave : float64 [y, x]
        Wavelength [µm], dispersed along x; 0 or less where there is none.
    table
        Flat against wavelength.

    Returns
    -------
    value, error : float64 [y, x]
        1 and 0 where the wavelength is not known or outside the table.
    missing : bool [y, x]
        Pixels whose wavelength is known but (in part) outside the table.
    """
    full = _filled(wave)
    step = np.empty_like(full)
    step[:, :-1] = np.diff(full, axis=1)
    step[:, -1] = step[:, -2] if full.shape[1] > 1 else 0.0
    value = np.zeros_like(full)
    for place, weight in zip(_PLACES, _WEIGHTS, strict=True):
        value += weight * np.interp(full + place * step, table.wave, table.value, left=np.nan, right=np.nan)
    error = np.interp(full, table.wave, table.error, left=np.nan, right=np.nan)
    unknown = wave <= 0
    missing = np.isnan(value) & ~unknown
    return np.where(missing | unknown, 1.0, value), np.where(missing | unknown, 0.0, error), missing


def _planes(reference: Reference, name: str) -> np.ndarray:
    """Wavelengths of the planes of the image part [µm]."""
    rows = reference.tables.get("WAVELENGTH")
    if rows is None or "wavelength" not in (rows.dtype.names or ()):
        raise _fail(
            reference, f"a {name} with several planes needs a table WAVELENGTH with the column wavelength"
        )
    wave = np.asarray(rows["wavelength"], np.float64).ravel()
    wave = wave[wave > 0]
    if len(wave) != len(reference.arrays["SCI"]):
        raise _fail(reference, f"SCI has {len(reference.arrays['SCI'])} planes, WAVELENGTH {len(wave)}")
    return wave * (1e6 if wave[-1] < _METRES else 1.0)


def plane_at(
    wave: np.ndarray, planes: np.ndarray, value: np.ndarray, error: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolate between the planes of a flat at each pixel's wavelength.

    Parameters
    ----------
    wave : float64 [y, x]
        Wavelength [µm].
    planes : float64 [plane]
        Wavelength of each plane, ascending [µm].
    value : float32 [plane, y, x]
        The flat.
    error, bits : float32, uint32 [plane, y, x] or [y, x]
        Its error and DQ.

    Returns
    -------
    value, error : float64 [y, x]
        Between planes linear; outside them the value goes on along the last two, and DO_NOT_USE is set.
    bits : uint32 [y, x]
        Of both planes, or of one where the wavelength is exactly its own.
    """
    y, x = np.indices(wave.shape)
    low = np.clip(np.searchsorted(planes, wave, side="right") - 1, 0, len(planes) - 2)
    width = planes[low + 1] - planes[low]
    share = np.where(width > 0, (wave - planes[low]) / np.where(width > 0, width, 1.0), 0.0)

    def between(cube: np.ndarray) -> np.ndarray:
        return (1 - share) * cube[low, y, x] + share * cube[low + 1, y, x]

    if bits.ndim == 3:
        first = bits[low, y, x]
        bits = np.where(share == 0, first, first | bits[low + 1, y, x])
    outside = (wave < planes[0]) | (wave > planes[-1])
    bits = np.where(outside, bits | _LOST, bits)
    return between(value), between(error) if error.ndim == 3 else error.astype(np.float64), bits


def _image(reference: Reference, name: str, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image part of a factor at the pixels' wavelengths; 1 where it must not be used."""
    value = reference.arrays.get("SCI")
    if value is None or name == "fflat":
        zero = np.zeros(wave.shape)
        return np.ones(wave.shape), zero, zero.astype(np.uint32)
    if value.shape[-2:] != wave.shape:
        raise _fail(
            reference,
            f"SCI has the shape {value.shape}, {name} needs (..., {wave.shape[0]}, {wave.shape[1]})",
            "choose a reference for this subarray, or a full-frame one",
        )
    bits = reference.arrays.get("DQ", np.zeros(wave.shape, np.uint32))
    error = reference.arrays.get("ERR", np.zeros(wave.shape, np.float32))
    if value.ndim == 3 and len(value) > 1:
        value, error, bits = plane_at(wave, _planes(reference, name), value, error, bits)
    else:
        value, error, bits = (
            one.reshape(wave.shape) if one.size == wave.size else one for one in (value, error, bits)
        )
    bits = np.where(np.isnan(value) | (value == 0), bits | _LOST | _NONE, bits)
    return np.where((bits & _LOST) != 0, 1.0, value), np.asarray(error, np.float64), bits


def _factor(reference: Reference, name: str, wave: np.ndarray) -> Flat:
    """One factor: image part times table, errors in quadrature."""
    image, image_error, bits = _image(reference, name, wave)
    table = _table(reference)
    if table is None:
        return Flat(image, image_error, bits)
    value, error, missing = fast_variation(wave, table)
    bits = np.where(missing, bits | _LOST | _NONE, bits)
    square = np.nan_to_num((error * image) ** 2) + np.nan_to_num((image_error * value) ** 2)
    return Flat(image * value, np.sqrt(square), bits)


def combined_flat(references: Mapping[str, Reference], info: ExposureInfo, wave: np.ndarray) -> Flat:
    """Multiply the factors that are there.

    Parameters
    ----------
    references
        Some of `PARTS`, cut to the window.
    info
        The exposure.
    wave : float64 [y, x]
        Wavelength of each pixel [µm]; NaN where there is none.

    Returns
    -------
    Flat
        float64; wherever a factor must not be used, the flat is 1 with DO_NOT_USE, NO_FLAT_FIELD and
        UNRELIABLE_FLAT.

    Raises
    ------
    ReferenceMismatchError
        A table without the slit, planes without wavelengths, or an image of another shape.
    """
    wave = np.nan_to_num(wave)
    product, share = np.ones(info.frame_shape), np.zeros(info.frame_shape)
    bits = np.zeros(info.frame_shape, np.uint32)
    for name in PARTS:
        if name not in references:
            continue
        part = _factor(references[name], name, wave)
        bits = bits | part.dq
        if name == "fflat":
            bits = np.where(np.isnan(part.value) | (part.value == 0), bits | _LOST | _NONE, bits)
        product *= part.value
        share += (part.error / np.where(part.value == 0, 1.0, part.value)) ** 2
    bits = np.where((bits & _NONE) != 0, bits | _LOST, bits)
    error = product * np.sqrt(share)
    lost = (bits & _LOST) != 0
    bits = np.where(lost, bits | _BAD, bits)
    product[lost] = 1.0
    negative = product <= 0
    product[negative] = np.nan
    return Flat(product, error, np.where(negative, bits | _BAD, bits).astype(np.uint32))

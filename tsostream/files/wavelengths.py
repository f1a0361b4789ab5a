"""Wavelengths from a file the user gives: an image, a product with one, or a table.

The wavelength of a pixel is needed once per exposure, so everything is read at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import ConfigError, InputError, Problem
from tsostream.files.headers import Scan, scan_hdus
from tsostream.files.segment import os_problem
from tsostream.files.unpack import is_gzip, unpack
from tsostream.integration.exposure_info import ExposureInfo

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["WaveMap", "fit_to_frame", "wavelength_image", "wavelength_maps"]

Array = npt.NDArray[np.float64]

_MICROMETRES: Final = {
    "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometers": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "angstrom": 1e-4, "angstroms": 1e-4, "a": 1e-4, "m": 1e6, "meter": 1e6,
}  # fmt: skip
#: JWST sees 0.6 to 28.5 µm
_RANGE: Final = (0.2, 50.0)
_PIXEL_COLUMNS: Final = ("x", "column", "pixel", "y", "row")
_TODO: Final = "give a WAVELENGTH image, a calints file, or a table with the columns x and wavelength"
#: an image of a whole detector has 4 million pixels
_MAX_PIXELS: Final = 1 << 26


@dataclass(frozen=True)
class WaveMap:
    """Wavelengths, and where on the detector they are.

    Parameters
    ----------
    values : float64 [y, x] or [pixel]
        [µm], NaN where not known.
    corner
        SUBSTRT1, SUBSTRT2 of the array's first pixel (1-based detector pixels); None where the file does not tell.
    window
        SLTSTRT1, SLTSTRT2 of a cutout (1-based subarray pixels); None where it is none.
    corrected
        Whether the place of the source in the slit is allowed for already (S_WAVCOR).
    """

    values: Array
    corner: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    corrected: bool = False


def wavelength_image(path: str | Path, *, scratch: Path | None = None) -> dict[int, Array]:
    """Read the wavelengths of a detector image or of its columns, wherever it lies; see `wavelength_maps`."""
    return {order: one.values for order, one in wavelength_maps(path, scratch=scratch).items()}


def wavelength_maps(path: str | Path, *, scratch: Path | None = None) -> dict[int, WaveMap]:
    """Read the wavelengths of a detector image or of its columns.

    Parameters
    ----------
    path
        A FITS file with WAVELENGTH extensions (such as calints), with one 2-D image, with images named ORDER
        (a wave map), or with a table; or a table as ECSV or CSV. A table has the column ``wavelength`` (any
        case), optionally ``x`` (or ``column``, ``pixel``, ``y``, ``row``: 0-based subarray pixel along the
        dispersion; without it row k is pixel k) and ``order``.
    scratch
        Where a packed file is unpacked.

    Returns
    -------
    dict
        Spectral order -> `WaveMap`: [y, x] from an image (padding is cut off), [pixel] from a table.

    Raises
    ------
    ConfigError
        When the file cannot be read, holds no wavelengths, or their unit is not one of length.
    """
    path = Path(path)
    where = str(path)
    try:
        with path.open("rb") as file:
            is_fits = file.read(6) == b"SIMPLE"
        if not is_fits and is_gzip(path):
            return _from_fits(unpack(path, scratch), where)
        if is_fits:
            return _from_fits(path, where)
    except ConfigError:
        raise
    except InputError as error:
        raise ConfigError(error.problems) from error
    except OSError as error:
        raise ConfigError(os_problem(error, where)) from error
    return _from_text(path, where)


def _fail(where: str, what: str) -> ConfigError:
    return ConfigError(Problem(what, where=where, todo=_TODO, code="wavelengths"))


def fit_to_frame(one: WaveMap, info: ExposureInfo, where: str, *, order: int = 1) -> Array:
    """Cut or place wavelengths so that they cover the exposure's frame.

    Parameters
    ----------
    one
        Wavelengths of the frame itself, of the whole detector, of a subarray around it, of a cutout of it, or (one
        number per pixel along the dispersion) of its columns.
    info
        The exposure.
    where, order
        For messages.

    Returns
    -------
    float64 [y, x] or [pixel]
        NaN outside a cutout.

    Raises
    ------
    ConfigError
        When it cannot be told where the wavelengths belong.
    """
    values, frame = one.values, info.frame_shape
    length, start = (info.nx, info.xstart) if info.dispaxis == 1 else (info.ny, info.ystart)
    if values.shape in (frame, (length,)):
        return values
    detector = (1024, 1032) if info.is_miri else (2048, 2048)
    if values.ndim == 1:
        if len(values) == detector[2 - info.dispaxis] and start - 1 + length <= len(values):
            return values[start - 1 : start - 1 + length]
    elif one.window is not None:
        x, y = one.window[0] - 1, one.window[1] - 1
        if x >= 0 and y >= 0 and y + values.shape[0] <= frame[0] and x + values.shape[1] <= frame[1]:
            placed = np.full(frame, np.nan)
            placed[y : y + values.shape[0], x : x + values.shape[1]] = values
            return placed
    else:
        corner = (1, 1) if values.shape == detector else one.corner
        if corner is not None:
            x, y = info.xstart - corner[0], info.ystart - corner[1]
            if x >= 0 and y >= 0 and y + frame[0] <= values.shape[0] and x + frame[1] <= values.shape[1]:
                return np.ascontiguousarray(values[y : y + frame[0], x : x + frame[1]])
    raise ConfigError(
        Problem(
            f"order {order} has shape {values.shape}, expected {frame} or ({length},)",
            where,
            "give wavelengths of this subarray, or of the whole detector",
            "wavelengths",
        )
    )


def _from_fits(path: Path, where: str) -> dict[int, WaveMap]:
    """Find the wavelengths in a FITS file."""
    with path.open("rb") as file:
        scan = scan_hdus(file, path.stat().st_size, where)
    if scan.truncated is not None:
        raise _fail(where, f"the file breaks off inside extension {scan.truncated.name}")
    result: dict[int, WaveMap] = {}
    numbers = _image_numbers(scan)
    main = {**next((hdu.header for hdu in scan.named("SCI")), {}), **scan.hdus[0].header}
    corner = _pair(main, "SUBSTRT1", "SUBSTRT2")
    for index in numbers:
        hdu = scan.hdus[index]
        if math.prod(hdu.shape) > _MAX_PIXELS:
            raise _fail(where, f"extension {hdu.name} has the shape {hdu.shape}: no wavelength image")
        order = _order(hdu.header, len(result) + 1)
        image = np.asarray(_data(path, index, where), dtype=np.float64)
        padding = hdu.header.get("PADDING", 0)
        if hdu.header.get("OVERSAMP", 1) != 1:
            raise _fail(where, f"extension {hdu.name} is oversampled")
        if isinstance(padding, int) and 0 < 2 * padding < min(image.shape):
            image = image[padding:-padding, padding:-padding]
        window = _pair({**main, **hdu.header}, "SLTSTRT1", "SLTSTRT2")
        corrected = str(main.get("S_WAVCOR", "")).strip().upper() == "COMPLETE"
        values = _in_micrometres(image, hdu.header.get("BUNIT"), where)
        result[order] = WaveMap(values, corner, window, corrected)
    if result:
        return result
    for index, hdu in enumerate(scan.hdus):
        names = [str(hdu.header.get(f"TTYPE{n}", "")).strip().lower() for n in range(1, 100)]
        if hdu.kind == "BINTABLE" and "wavelength" in names:
            data = _data(path, index, where)
            unit = hdu.header.get(f"TUNIT{names.index('wavelength') + 1}")
            return _from_columns({name.lower(): data[name] for name in data.dtype.names}, unit, where)
    found = ", ".join(hdu.name or "(no name)" for hdu in scan.hdus)
    raise _fail(where, f"there are no wavelengths (found: {found})")


def _pair(header: Mapping[str, Any], *names: str) -> tuple[int, int] | None:
    values = [header.get(name) for name in names]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return int(values[0]), int(values[1])  # type: ignore[arg-type]
    return None


def _image_numbers(scan: Scan) -> list[int]:
    """Find the HDUs with wavelength images: WAVELENGTH, else ORDER, else the only 2-D image there is."""
    images = [
        index
        for index, hdu in enumerate(scan.hdus)
        if hdu.kind == "IMAGE" and len(hdu.shape) == 2 and hdu.size and hdu.bitpix < 0
    ]
    for name in ("WAVELENGTH", "ORDER"):
        if named := [index for index in images if scan.hdus[index].name == name]:
            return named
    cubes = any(len(hdu.shape) > 2 for hdu in scan.hdus)
    return images if len(images) == 1 and not cubes else []


def _order(header: Mapping[str, Any], default: int) -> int:
    for key in ("SPORDER", "ORDER"):
        value = header.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return abs(value)
    return default


def _data(path: Path, index: int, where: str) -> Any:
    """Read one small HDU with astropy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                return hdus[index].data
    except Exception as error:  # astropy raises many types on damaged files
        raise _fail(where, f"extension number {index} cannot be read ({error})") from error


def _from_text(path: Path, where: str) -> dict[int, WaveMap]:
    """Read an ECSV or CSV table."""
    try:
        with path.open("rb") as file:
            ecsv = file.read(8) == b"# %ECSV "
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from astropy.table import Table  # a quarter of a second that few runs need

            table = Table.read(path, format="ascii.ecsv" if ecsv else "ascii.csv")
    except Exception as error:  # astropy raises many types on text that is no table
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _fail(where, f"this is neither FITS nor a table ({reason})") from error
    columns = {name.lower(): np.ma.filled(table[name].astype(float), np.nan) for name in _numeric(table)}
    names = {name.lower(): name for name in table.colnames}
    unit = table[names["wavelength"]].unit if "wavelength" in names else None
    return _from_columns(columns, None if unit is None else str(unit), where)


def _numeric(table: Table) -> list[str]:
    return [name for name in table.colnames if getattr(table[name].dtype, "kind", "O") in "iuf"]


def _from_columns(columns: Mapping[str, Any], unit: Any, where: str) -> dict[int, WaveMap]:
    """Turn table columns into one array per order, indexed by pixel."""
    if "wavelength" not in columns:
        raise _fail(
            where, f"there is no column of numbers called wavelength (found: {', '.join(columns) or 'none'})"
        )
    values = np.asarray(columns["wavelength"], dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise _fail(
            where, f"the column wavelength has the shape {values.shape}, expected one number per pixel"
        )
    wave = _in_micrometres(values, unit, where)
    orders = np.asarray(columns["order"], dtype=np.float64) if "order" in columns else np.ones(len(wave))
    key = next((name for name in _PIXEL_COLUMNS if name in columns), None)
    result: dict[int, WaveMap] = {}
    for order in np.unique(orders[np.isfinite(orders)]):
        mine = orders == order
        pixel = np.arange(mine.sum()) if key is None else np.asarray(columns[key], dtype=np.float64)[mine]
        bad = ~((pixel >= 0) & (pixel < 1 << 16) & (pixel == np.floor(pixel)))
        if bad.any():
            raise _fail(where, f"{key} is {pixel[bad][0]:g} in one row, expected whole pixels from 0")
        index = pixel.astype(np.int64)
        if len(np.unique(index)) != len(index):
            raise _fail(where, f"a pixel has several rows in order {order:g}")
        values_of = np.full(int(index.max()) + 1, np.nan)
        values_of[index] = wave[mine]
        result[int(order)] = WaveMap(values_of)
    return result


def _in_micrometres(values: Array, unit: Any, where: str) -> Array:
    """Convert to µm; values without a unit are taken for µm if they look like it."""
    text = str(unit or "").strip().lower()
    if text and text not in _MICROMETRES:
        raise _fail(where, f"the wavelengths are in {text!r}, expected um, nm, Angstrom or m")
    # 0 marks pixels outside the spectrum in some products
    result = np.where(np.isfinite(values) & (values > 0), values * _MICROMETRES.get(text, 1.0), np.nan)
    known = result[np.isfinite(result)]
    if not len(known):
        raise _fail(where, "all wavelengths are NaN or zero")
    middle = float(np.median(known))
    if not _RANGE[0] < middle < _RANGE[1]:
        raise _fail(
            where,
            f"the median wavelength is {middle:g} µm, expected {_RANGE[0]} to {_RANGE[1]}; check the unit",
        )
    return result

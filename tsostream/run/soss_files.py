"""Files beside the extraction of SOSS orders: the wavelength grid, read or written, and an estimated spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tsostream.errors import ConfigError, Problem, SinkError
from tsostream.operators.extract_1d import Extract1d
from tsostream.run.config import Config
from tsostream.run.prepared import Prepared
from tsostream.run.request import Request

__all__ = ["grid_problems", "soss_templates", "write_grid"]

#: extension of a wavelength grid, in the layout of the official SossWaveGridModel
GRID = "WAVEGRID"


def soss_templates(config: Config) -> dict[str, Any]:
    """Read what ``extract_1d.soss_wave_grid_in`` and ``soss_estimate`` name.

    Returns
    -------
    dict
        ``soss_grid``: float64 [point], µm, rising; ``soss_estimate``: wavelengths and flux, float64 [2, point].

    Raises
    ------
    ConfigError
        With every file that cannot be used.
    """
    step = config.operator("extract_1d")
    if not isinstance(step, Extract1d):
        return {}
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for parameter, name, read in (
        ("soss_wave_grid_in", "soss_grid", _grid),
        ("soss_estimate", "soss_estimate", _estimate),
    ):
        given = getattr(step, parameter)
        if given is None:
            continue
        try:
            found[name] = read(Path(given).expanduser())
        except (OSError, KeyError, ValueError, TypeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(
                Problem(f"extract_1d.{parameter} cannot be read: {why}", given, "check the file", "parameter")
            )
    if problems:
        raise ConfigError(problems)
    return found


def _grid(path: Path) -> np.ndarray:
    """Take the wavelengths of a grid, rising."""
    with fits.open(path, memmap=False) as hdus:
        if GRID not in hdus:
            raise ValueError(f"it has no extension {GRID}")
        grid = np.unique(np.asarray(hdus[GRID].data, np.float64).ravel())
    if grid.size < 4 or not np.isfinite(grid).all() or grid[0] <= 0:
        raise ValueError("its grid is not one of four or more wavelengths in µm")
    return grid


def _estimate(path: Path) -> np.ndarray:
    """Take wavelength and flux of a spectrum, where the flux is finite."""
    with fits.open(path, memmap=False) as hdus:
        if "EXTRACT1D" not in hdus:
            raise ValueError("it has no extension EXTRACT1D")
        table = hdus["EXTRACT1D"].data
        wave, flux = (np.asarray(table[name], np.float64) for name in ("WAVELENGTH", "FLUX"))
    if wave.ndim != 1:
        raise ValueError(
            "it has several spectra in a table: an estimate is one spectrum, a row for each point"
        )
    keep = np.isfinite(flux) & np.isfinite(wave)
    order = np.argsort(wave[keep], kind="stable")
    pair = np.stack([wave[keep][order], flux[keep][order]])
    if pair.shape[1] < 4 or (np.diff(pair[0]) <= 0).any():
        raise ValueError("it has less than four points, or wavelengths twice")
    return pair


def grid_problems(request: Request, config: Config) -> list[Problem]:
    """Refuse to write the wavelength grid where there is a file."""
    step = config.operator("extract_1d")
    given = getattr(step, "soss_wave_grid_out", None)
    if given is None or request.overwrite or request.resume:
        return []
    path = Path(given).expanduser()
    if path.exists():
        todo = "give another name, or --overwrite"
        return [Problem("the file exists", f"extract_1d.soss_wave_grid_out {path}", todo, "output_exists")]
    if not path.parent.is_dir():
        return [
            Problem(
                "the folder does not exist", f"extract_1d.soss_wave_grid_out {path}", "make it", "parameter"
            )
        ]
    return []


def write_grid(prepared: Prepared, measuring: Any) -> str:
    """Write the wavelength grid of the overlap, if wanted; a note where there is none.

    As officially it is that of the last file where every file has its own.
    """
    step = prepared.config.operator("extract_1d")
    given = getattr(step, "soss_wave_grid_out", None)
    if given is None:
        return ""
    grid = getattr(measuring, "wave_grid", None)
    if grid is None:
        return "extract_1d.soss_wave_grid_out is not written: the overlap of orders is not modelled"
    path = Path(given).expanduser()
    part = path.with_name(path.name + ".part")
    primary = fits.PrimaryHDU()
    primary.header["DATAMODL"], primary.header["TELESCOP"] = "SossWaveGridModel", "JWST"
    image = fits.ImageHDU(np.asarray(grid, np.float64), name=GRID)
    try:
        fits.HDUList([primary, image]).writeto(part, overwrite=True)
        part.replace(path)
    except OSError as error:
        raise SinkError(
            f"{path}: the wavelength grid cannot be written ({error.strerror or error}); "
            "give another extract_1d.soss_wave_grid_out"
        ) from error
    return ""

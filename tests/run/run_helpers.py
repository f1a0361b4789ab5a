"""What the tests of whole runs share: tiny exposures, ways to run them, and comparison bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

import tsostream
from tsostream.files import open_segment
from tsostream.simulate import SimulatedExposure

#: tiny version of each mode: arguments of `simulate`
SMALL: dict[str, dict[str, Any]] = {
    "NRS_BRIGHTOBJ": {"nx": 160, "ny": 16, "groups": 5},
    "NRC_TSGRISM": {"nx": 160, "ny": 32, "groups": 5},
    "NIS_SOSS": {"subarray": "SUBSTRIP96", "nx": 160, "groups": 4},
    "MIR_LRS-SLITLESS": {"ny": 160, "groups": 8},
    "NRC_TSIMAGE": {"nx": 40, "ny": 40, "groups": 5},
    "MIR_IMAGE": {"groups": 6},
}

#: planes of a rateints
PLANES = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")

Simulated = Callable[..., SimulatedExposure]


def reduce(
    exposure: SimulatedExposure, out: Path, inputs: Sequence[Path] | None = None, **options: Any
) -> Path:
    """Process an exposure, or some of its files, with its own references and wavelengths."""
    if "wavelength" in exposure.references:
        options.setdefault("wavelengths", exposure.references["wavelength"])
    given = exposure.segments if inputs is None else inputs
    (path,) = tsostream.process(given, out, refs_dir=exposure.directory, **options)
    assert path == out
    return out


def light_curve(path: Path) -> dict[str, np.ndarray]:
    """Columns of a light curve."""
    table = tsostream.open(path).table
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def plain(column: pa.ChunkedArray) -> np.ndarray:
    """Values of a column, lists flattened; strings as objects."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def table_differences(a: pa.Table, b: pa.Table) -> list[str]:
    """Names of the columns that are not equal bit for bit."""
    if a.column_names != b.column_names or a.num_rows != b.num_rows:
        return [f"{a.num_rows} rows against {b.num_rows}", *sorted({*a.column_names} ^ {*b.column_names})]
    different = []
    for name in a.column_names:
        one, other = plain(a.column(name)), plain(b.column(name))
        same = list(one) == list(other) if one.dtype == object else one.tobytes() == other.tobytes()
        if not same or one.dtype != other.dtype:
            different.append(name)
    return different


def differences(a: Path, b: Path) -> list[str]:
    """Columns of two outputs, light curve and spectra, that are not equal bit for bit."""
    one, other = tsostream.open(a), tsostream.open(b)
    found = table_differences(one.table, other.table)
    if (one.spectra is None) != (other.spectra is None):
        return [*found, "spectra there and not there"]
    if one.spectra is not None and other.spectra is not None:
        found += [f"spectra.{name}" for name in table_differences(one.spectra.table, other.spectra.table)]
    return found


def bytes_per_integration(path: Path) -> int:
    """Bytes the reader moves for one integration."""
    return open_segment(path).bytes_per_integration()


def edited(exposure: SimulatedExposure, directory: Path, change: Callable[[np.ndarray], None]) -> list[Path]:
    """Copy the segments; ``change`` gets the whole exposure's ramps [integration, group, y, x], uint16."""
    directory.mkdir()
    paths = [Path(shutil.copy(path, directory)) for path in exposure.segments]
    cubes = [fits.getdata(path, "SCI") for path in paths]
    whole = np.concatenate(cubes)
    change(whole)
    start = 0
    for path, cube in zip(paths, cubes, strict=True):
        with fits.open(path, mode="update") as hdus:
            hdus["SCI"].data = whole[start : start + len(cube)]
        start += len(cube)
    return paths


def make_rateints(
    exposure: SimulatedExposure,
    directory: Path,
    *,
    bounds: Sequence[int],
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> list[Path]:
    """Turn an exposure of one uncal file into rateints files that end at the given integrations.

    The slopes are first-to-last differences in DN/s without any calibration: real noise, right sizes, honest variances.
    ``change`` may edit the planes, each [integration, y, x].
    """
    (source,) = exposure.segments
    directory.mkdir()
    with fits.open(source) as hdus:
        primary, times = hdus[0].header.copy(), hdus["INT_TIMES"].copy()
        ramps = hdus["SCI"].data.astype(np.float32)
        sci_header = hdus["SCI"].header
        keep = {
            key: sci_header[key]
            for key in ("DISPAXIS", "SRCTYPE", "XREF_SCI", "YREF_SCI")
            if key in sci_header
        }
    gain = float(np.nanmedian(fits.getdata(exposure.references["gain"])))
    noise = float(np.nanmedian(fits.getdata(exposure.references["readnoise"])))
    seconds = primary["TGROUP"] * (ramps.shape[1] - 1)
    slope = (ramps[:, -1] - ramps[:, 0]) / seconds
    poisson = (np.clip(np.median(slope, axis=0), 0, None) / (gain * seconds)).astype(np.float32)
    planes = {
        "SCI": slope.astype(np.float32),
        "VAR_POISSON": np.broadcast_to(poisson, slope.shape).copy(),
        "VAR_RNOISE": np.full(slope.shape, (noise / seconds) ** 2, np.float32),
        "DQ": np.zeros(slope.shape, np.uint32),
    }
    # pixels that do not fit a smooth scene: hot, dead, saturated
    planes["DQ"][:, _odd(np.median(slope, axis=0))] = 1
    if change is not None:
        change(planes)
    planes["ERR"] = np.sqrt(planes["VAR_POISSON"] + planes["VAR_RNOISE"])
    primary["DATAMODL"] = "CubeModel"
    paths, before = [], 0
    for number, last in enumerate(bounds, 1):
        path = directory / source.name.replace("-seg001", f"-seg{number:03d}").replace("uncal", "rateints")
        primary.update(
            INTSTART=before + 1, INTEND=last, EXSEGNUM=number, EXSEGTOT=len(bounds), FILENAME=path.name
        )
        hdus = [fits.PrimaryHDU(header=primary)]
        hdus += [fits.ImageHDU(planes[name][before:last], name=name) for name in PLANES]
        hdus[1].header.update({"BUNIT": "DN/s", **keep})
        hdus.append(fits.BinTableHDU(times.data[before:last], name="INT_TIMES"))
        fits.HDUList(hdus).writeto(path)
        paths.append(path)
        before = last
    return paths


def _odd(image: np.ndarray) -> np.ndarray:
    from scipy.ndimage import median_filter

    smooth = median_filter(image, 5)
    return np.abs(image - smooth) > 0.5 * np.abs(smooth) + 10 * np.median(np.abs(image - smooth))

"""Tiny segment files in the archive's format, written with astropy.

The data of an integration depend on its number in the exposure only, so an exposure can be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tsostream.errors import InputError

NY, NX, GROUPS = 6, 8, 4
TFRAME = 0.9
EXPSTART = 59770.411
BJD_SHIFT = 0.0021
CADENCE = (GROUPS + 1) * TFRAME / 86400
DURATION = GROUPS * TFRAME / 86400
TIME_NAMES = tuple(
    f"int_{part}_{scale}" for scale in ("MJD_UTC", "BJD_TDB") for part in ("start", "mid", "end")
)


def primary_keywords(level: str, first: int, count: int, nints: int) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "TELESCOP": "JWST",
        "DATAMODL": "Level1bModel" if level == "uncal" else "CubeModel",
        "INSTRUME": "NIRSPEC",
        "DETECTOR": "NRS1",
        "EXP_TYPE": "NRS_BRIGHTOBJ",
        "TSOVISIT": True,
        "VISIT_ID": "01366003001",
        "PROGRAM": "01366",
        "OBSERVTN": "003",
        "VISIT": "001",
        "VISITGRP": "04",
        "SEQ_ID": "1",
        "ACT_ID": "01",
        "EXPOSURE": "00001",
        "SUBARRAY": "SUB512",
        "SUBSTRT1": 523,
        "SUBSTRT2": 993,
        "SUBSIZE1": NX,
        "SUBSIZE2": NY,
        "FASTAXIS": 2,
        "SLOWAXIS": 1,
        "READPATT": "NRSRAPID",
        "FILTER": "CLEAR",
        "GRATING": "PRISM",
        "NINTS": nints,
        "NGROUPS": GROUPS,
        "NFRAMES": 1,
        "GROUPGAP": 0,
        "NRESETS": 1,
        "TFRAME": TFRAME,
        "TGROUP": TFRAME,
        "EFFINTTM": GROUPS * TFRAME,
        "EXPSTART": EXPSTART,
        "EXSEGNUM": 1,
        "EXSEGTOT": 1,
        "INTSTART": first,
        "INTEND": first + count - 1,
    }
    if level in ("calints", "crfints"):
        keys |= {"S_WCS": "COMPLETE", "S_FLAT": "SKIPPED"}
    if level == "crfints":
        keys["S_OUTLIR"] = "COMPLETE"
    return keys


def time_values(numbers: np.ndarray) -> np.ndarray:
    """float64 [row, 6] as the header predicts them, BJD shifted."""
    start = EXPSTART + (np.asarray(numbers, float) - 1) * CADENCE
    mjd = np.stack([start, start + DURATION / 2, start + DURATION], axis=1)
    return np.concatenate([mjd, mjd + BJD_SHIFT], axis=1)


def time_table(
    numbers: np.ndarray, values: np.ndarray | None = None, number_format: str = "J"
) -> fits.BinTableHDU:
    values = time_values(numbers) if values is None else values
    columns = [fits.Column("integration_number", number_format, array=np.asarray(numbers))]
    columns += [fits.Column(name, "D", array=values[:, k]) for k, name in enumerate(TIME_NAMES)]
    return fits.BinTableHDU.from_columns(columns, name="INT_TIMES")


def ramps(first: int, count: int) -> np.ndarray:
    """uint16 [integration, group, y, x]."""
    return np.stack(
        [
            np.random.default_rng(number).integers(0, 65536, (GROUPS, NY, NX), dtype=np.uint16)
            for number in range(first, first + count)
        ]
    )


def planes(first: int, count: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """float32 (DQ uint32) [integration, y, x] each."""
    result = {}
    for k, name in enumerate(names):
        each = [np.random.default_rng((number, k)) for number in range(first, first + count)]
        if name == "DQ":
            result[name] = np.stack([rng.integers(0, 1 << 32, (NY, NX), dtype=np.uint32) for rng in each])
        else:
            result[name] = np.stack([rng.normal(size=(NY, NX)).astype(np.float32) for rng in each])
    return result


def make_segment(
    path: Path,
    *,
    level: str = "uncal",
    first: int = 1,
    count: int = 3,
    nints: int = 6,
    primary: Mapping[str, Any] | None = None,
    times: fits.BinTableHDU | str | None = "good",
    extra: tuple[Any, ...] = (),
    drop: tuple[str, ...] = (),
) -> Path:
    """Write a segment. ``primary`` overrides keywords, None deletes one; ``drop`` leaves extensions out."""
    header = fits.Header()
    for key, value in {**primary_keywords(level, first, count, nints), **(primary or {})}.items():
        if value is not None:
            header[key] = value
    hdus: list[Any] = [fits.PrimaryHDU(header=header)]
    if level == "uncal":
        hdus.append(fits.ImageHDU(ramps(first, count), name="SCI"))
    else:
        names = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")
        if level != "rateints":
            names = (*names, "VAR_FLAT")
        hdus += [fits.ImageHDU(data, name=name) for name, data in planes(first, count, names).items()]
        hdus[1].header["BUNIT"] = "DN/s"
        if level != "rateints":
            wave = np.broadcast_to(np.linspace(1, 5, NX, dtype=np.float32), (NY, NX)).copy()
            hdus.append(fits.ImageHDU(wave, name="WAVELENGTH"))
    if isinstance(times, str):
        times = time_table(np.arange(first, first + count))
    if times is not None:
        hdus.append(times)
    hdus += extra
    hdus = [hdu for hdu in hdus if hdu.name not in drop]
    fits.HDUList(hdus).writeto(path, overwrite=True, checksum=False)
    return path


def codes(error: InputError) -> list[str]:
    return [problem.code for problem in error.problems]

"""Reference files of the steps on slopes, in the archive's format, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo

BASE = {
    "TELESCOP": "JWST",
    "PEDIGREE": "DUMMY",
    "DESCRIP": "test",
    "AUTHOR": "test",
    "USEAFTER": "2020-01-01T00:00:00",
}
WAVE = np.linspace(0.5, 15.0, 120)


def primary(
    info: ExposureInfo, reftype: str, model: str, *, image: bool = True, **more: Any
) -> fits.PrimaryHDU:
    cards = {
        **BASE,
        "REFTYPE": reftype.upper(),
        "DATAMODL": model,
        "INSTRUME": info.instrument,
        "DETECTOR": info.detector,
    }
    if image:
        cards |= {"SUBARRAY": info.subarray, "SUBSTRT1": info.xstart, "SUBSTRT2": info.ystart, "SUBSIZE1": info.nx,
                  "SUBSIZE2": info.ny, "FASTAXIS": info.fastaxis, "SLOWAXIS": info.slowaxis}  # fmt: skip
    hdu = fits.PrimaryHDU()
    hdu.header.update({**cards, **more})
    return hdu


def dq_def() -> fits.BinTableHDU:
    rows = [(value.bit_length() - 1, value, name, "") for name, value in dq.BITS.items()]
    kind = [("BIT", "<u4"), ("VALUE", "<u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")]
    return fits.BinTableHDU(np.array(rows, kind), name="DQ_DEF")


def images(**planes: np.ndarray) -> list[fits.ImageHDU]:
    return [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]


def spoilt(rng: np.random.Generator, shape: tuple[int, ...], level: float = 1.0) -> tuple[np.ndarray, ...]:
    """A flat, its error and DQ, with every pathology."""
    value = rng.normal(level, 0.05, shape).astype("f4")
    value[rng.random(shape) < 0.02] = np.nan
    value[rng.random(shape) < 0.02] = 0
    bits = np.zeros(shape, "u4")
    for flag in (dq.DO_NOT_USE, dq.NO_FLAT_FIELD, dq.UNRELIABLE_FLAT, dq.LOW_QE):
        bits[rng.random(shape) < 0.02] |= np.uint32(flag)
    return value, rng.uniform(0.001, 0.01, shape).astype("f4"), bits


def write_flat(path: Path, info: ExposureInfo, rng: np.random.Generator) -> Path:
    value, error, bits = spoilt(rng, info.frame_shape)
    hdus = [primary(info, "FLAT", "FlatModel"), *images(SCI=value, ERR=error, DQ=bits), dq_def()]
    fits.HDUList(hdus).writeto(path)
    return path


def fast_table(rng: np.random.Generator, slits: tuple[str, ...], low: float, high: float) -> fits.BinTableHDU:
    n, used = 60, 57
    kind = [
        ("slit_name", "S15"),
        ("nelem", "<i4"),
        ("wavelength", "<f4", (n,)),
        ("data", "<f4", (n,)),
        ("error", "<f4", (n,)),
    ]
    rows = np.zeros(len(slits), kind)
    for row, slit in zip(rows, slits, strict=True):
        row["slit_name"], row["nelem"] = slit, used
        row["wavelength"][:used] = np.linspace(low, high, used)
        row["data"][:used] = 1 + 0.1 * np.sin(5 * row["wavelength"][:used]) + rng.normal(0, 0.01, used)
        row["error"][:used] = rng.uniform(0.001, 0.01, used)
        row["data"][[7, 20]] = np.nan, 0.0
    return fits.BinTableHDU(rows, name="FAST_VARIATION")


def write_nirspec(
    folder: Path, info: ExposureInfo, rng: np.random.Generator, *, slow: str = "cube"
) -> dict[str, Path]:
    """F, S and D flats; ``slow`` is ``image`` or ``cube`` for the spectrograph."""
    paths = {name: folder / f"{name}.fits" for name in ("fflat", "sflat", "dflat")}
    head = primary(info, "FFLAT", "NirspecFlatModel", image=False, EXP_TYPE=info.exp_type)
    fits.HDUList([head, fast_table(rng, ("S200A1", "S1600A1"), 0.55, 5.2)]).writeto(paths["fflat"])
    for name, planes in (("sflat", 4 if slow == "cube" else 0), ("dflat", 5)):
        shape = (planes, *info.frame_shape) if planes else info.frame_shape
        value, error, bits = spoilt(rng, shape)
        hdus = [primary(info, name, "NirspecFlatModel"), *images(SCI=value, ERR=error, DQ=bits), dq_def()]
        if planes:
            wave = np.zeros(planes, [("wavelength", "<f4")])
            wave["wavelength"] = np.linspace(0.8, 4.8, planes)
            hdus.append(fits.BinTableHDU(wave, name="WAVELENGTH"))
        hdus.append(fast_table(rng, ("ANY",), 0.6, 5.0))
        fits.HDUList(hdus).writeto(paths[name])
    return paths


#: EXP_TYPE -> data model, selecting columns, and whether there is a response curve
PHOTOM = {
    "NRS_BRIGHTOBJ": ("NrsFsPhotomModel", ("filter", "grating", "slit"), "photmj", True),
    "NRC_TSGRISM": ("NrcWfssPhotomModel", ("filter", "pupil", "order"), "photmjsr", True),
    "NIS_SOSS": ("NisSossPhotomModel", ("filter", "pupil", "order"), "photmj", True),
    "MIR_LRS-SLITLESS": ("MirLrsPhotomModel", ("filter", "subarray"), "photmjsr", True),
    "NRC_TSIMAGE": ("NrcImgPhotomModel", ("filter", "pupil"), "photmjsr", False),
    "MIR_IMAGE": ("MirImgPhotomModel", ("filter", "subarray"), "photmjsr", False),
}  # fmt: skip


def write_photom(
    path: Path,
    info: ExposureInfo,
    *,
    metres: bool = False,
    falling: bool = False,
    times: bool = False,
    rows: Any = None,
) -> Path:
    """A table with one row that fits and two that do not."""
    model, selectors, column, curve = PHOTOM[info.exp_type]
    n = len(WAVE)
    wave = WAVE[::-1] if falling else WAVE
    kinds: dict[str, Any] = {"order": "<i2"}
    kind: list[tuple[Any, ...]] = [(name, kinds.get(name, "S17")) for name in selectors]
    kind += [(column, "<f4"), ("uncertainty", "<f4")]
    if curve:
        kind += [
            ("nelem", "<i2"),
            *((name, "<f4", (n,)) for name in ("wavelength", "relresponse", "reluncertainty")),
        ]
    own = {"filter": info.filter, "grating": info.grating, "pupil": info.pupil, "slit": "S1600A1", "order": 1,
           "subarray": info.subarray}  # fmt: skip
    settings = (
        rows
        if rows is not None
        else [{"filter": "OTHER"}, {}, {selectors[1]: "OTHER" if selectors[1] != "order" else 2}]
    )
    table = np.zeros(len(settings), kind)
    for k, change in enumerate(settings):
        for name in selectors:
            table[name][k] = {**own, **change}[name]
        table[column][k] = 1.7e-3 * (k + 1)
        if curve:
            table["nelem"][k] = n - 5
            table["wavelength"][k] = wave * (1e-6 if metres else 1)
            table["relresponse"][k] = 1 + 0.3 * np.sin(wave)
    hdus = [
        primary(info, "PHOTOM", model, image=False, PIXAR_SR=2.3e-13, PIXAR_A2=0.0098),
        fits.BinTableHDU(table, name="PHOTOM"),
    ]
    if times:
        hdus += time_tables(table, selectors)
    fits.HDUList(hdus).writeto(path)
    return path


def time_tables(rows: np.ndarray, selectors: tuple[str, ...]) -> list[fits.BinTableHDU]:
    found = []
    for name, columns in {
        "TIMECOEFF_LINEAR": {"t0": 59500.0, "lossperyear": 0.02},
        "TIMECOEFF_EXPONENTIAL": {"t0": 59600.0, "amplitude": 0.1, "tau": 200.0, "const": 0.9},
        "TIMECOEFF_POWERLAW": {"t0": 59550.0, "year1value": 0.97, "tsoft": 50.0, "alpha": -0.03},
    }.items():
        kind = [(key, rows.dtype[key]) for key in selectors] + [(key, "<f4") for key in columns]
        table = np.zeros(len(rows), kind)
        for key in selectors:
            table[key] = rows[key]
        for key, value in columns.items():
            table[key] = value
        found.append(fits.BinTableHDU(table, name=name))
    return found


def write_area(path: Path, info: ExposureInfo, rng: np.random.Generator, **more: Any) -> Path:
    if info.instrument == "NIRSPEC":
        table = np.zeros(2, [("slit_id", "S15"), ("pixarea", "<f4")])
        table["slit_id"], table["pixarea"] = ["S200A1", "S1600A1"], [0.02, 0.01]
        hdus = [
            primary(info, "AREA", "NirspecSlitAreaModel", image=False),
            fits.BinTableHDU(table, name="AREA"),
        ]
    else:
        full = info
        hdus = [primary(full, "AREA", "PixelAreaModel", **{"PIXAR_SR": 4.1e-13, "PIXAR_A2": 0.0175, **more}),
                *images(SCI=rng.normal(1, 0.01, info.frame_shape).astype("f4"))]  # fmt: skip
    fits.HDUList(hdus).writeto(path)
    return path

"""References that are not images on detector pixels; `tsostream.testing.builders` hands them out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = [
    "RECIPES",
    "emi_tree",
    "make_cube_flat",
    "make_emicorr",
    "make_fflat",
    "make_ipc",
    "make_photom",
    "make_rscd",
]


def make_ipc(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a deconvolution kernel of 3 x 3 pixels."""
    weights = rng.normal(-0.005, 0.001, (3, 3)).astype(np.float32)
    weights[1, 1] = np.float32(1) - (weights.sum() - weights[1, 1])
    weights.flags.writeable = False
    return Reference("ipc", "test_ipc.fits", {"SCI": weights})


def make_rscd(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a table that tells the first integration from the others."""
    kind = [("subarray", "U20"), ("readpatt", "U10"), ("group_skip1", "i4"), ("group_skip", "i4")]
    rows = [("FULL", info.readpatt, 1, 1), (info.subarray, info.readpatt, 5, 2)]
    table = np.array(rows, kind)
    table.flags.writeable = False
    return Reference("rscd", "test_rscd.fits", {}, tables={"RSCD_GROUP_SKIP": table})


def emi_tree(info: ExposureInfo) -> dict[str, Any]:
    """Two waves of interference, as the tree of an emicorr reference."""
    t = 2 * np.pi * (np.arange(64) + 0.5) / 64
    fast = (np.sin(t) + 0.3 * np.cos(3 * t)).tolist()
    names = ["Hz390", "Hz10"]
    case = {
        "rowclocks": 28,
        "frameclocks": 15904,
        "freqs": {"FAST": names, "SLOW": {info.detector: names[:1]}},
    }
    return {
        "frequencies": {
            "Hz390": {"frequency": 390.625, "phase_amplitudes": fast},
            "Hz10": {"frequency": 10.039, "phase_amplitudes": np.cos(t[:50]).tolist()},
        },
        "subarray_cases": {info.subarray: case},
    }


def make_emicorr(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a reference with two waves."""
    return Reference("emicorr", "test_emicorr.asdf", {}, emi_tree(info))


def _fast(info: ExposureInfo, rng: np.random.Generator) -> np.ndarray:
    """Make the fast variation of a NIRSpec flat."""
    columns = [(name, "f4", (50,)) for name in ("wavelength", "data", "error")]
    table = np.zeros(1, [("slit_name", "U15"), ("nelem", "i4"), *columns])
    table["slit_name"], table["nelem"] = "ANY", 50
    table["wavelength"] = np.linspace(0.5, 5.5, 50)
    table["data"], table["error"] = rng.normal(1, 0.01, 50), 0.001
    table.flags.writeable = False
    return table


def make_fflat(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make the flat of the fore optics."""
    return Reference("fflat", "test_fflat.fits", {}, tables={"FAST_VARIATION": _fast(info, rng)})


def make_cube_flat(info: ExposureInfo, rng: np.random.Generator, name: str) -> Reference:
    """Make a flat with a plane per wavelength, some of its pixels bad."""
    shape = (3, *info.frame_shape)
    value, bits = rng.normal(1, 0.02, shape).astype(np.float32), np.zeros(shape, np.uint32)
    value[rng.random(shape) < 0.01], bits[rng.random(shape) < 0.01] = np.nan, dq.NO_FLAT_FIELD
    planes = np.zeros(3, [("wavelength", "f4")])
    planes["wavelength"] = [0.5, 3.0, 5.5]
    arrays = {"SCI": value, "ERR": np.full(shape, 0.002, np.float32), "DQ": bits}
    for array in (*arrays.values(), planes):
        array.flags.writeable = False
    tables = {"WAVELENGTH": planes, "FAST_VARIATION": _fast(info, rng)}
    return Reference(name, f"test_{name}.fits", arrays, tables=tables)


def make_photom(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a table with a row for the exposure."""
    text = ("filter", "pupil", "grating", "slit", "subarray")
    kind: list[Any] = [
        *((name, "U20") for name in text),
        ("order", "i2"),
        ("photmjsr", "f4"),
        ("uncertainty", "f4"),
    ]
    if info.is_spectroscopy:
        kind += [("nelem", "i2"), ("wavelength", "f4", (20,)), ("relresponse", "f4", (20,))]
    table = np.zeros(1, kind)
    for name, value in zip(
        text, (info.filter, info.pupil, info.grating, "S1600A1", info.subarray), strict=True
    ):
        table[name] = value
    table["order"], table["photmjsr"] = 1, 0.5
    if not info.is_spectroscopy:
        table = table[[name for name in table.dtype.names or () if name != "subarray" or info.is_miri]]
    else:
        table["nelem"], table["wavelength"] = 20, np.linspace(0.5, 5.5, 20)
        table["relresponse"] = rng.uniform(0.5, 1.5, 20)
    keywords = {"PIXAR_SR": 1e-13, "PIXAR_A2": 4e-3}
    return Reference("photom", "test_photom.fits", {}, keywords, {"PHOTOM": table})


def make_extract1d(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make an aperture about the middle, with background regions that are not whole pixels."""
    along_y = info.dispaxis == 2
    cross, disp = ("x", "y") if along_y else ("y", "x")
    width, length = (info.nx, info.ny) if along_y else (info.ny, info.nx)
    middle = (width - 1) / 2
    entry = {
        "id": {"NRS_BRIGHTOBJ": "S1600A1"}.get(info.exp_type, info.exp_type),
        "spectral_order": 1,
        f"{cross}start": middle - 4.3,
        f"{cross}stop": middle + 4.6,
        f"{disp}start": 1,
        f"{disp}stop": length - 2,
        "bkg_coeff": [[0.4], [2.7, 0.002], [width - 4.2], [width - 1.0]],
        "use_source_posn": False,
    }
    return Reference("extract1d", "test_extract1d.json", {}, {"APERTURES": (entry,)})


def make_apcorr(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make an aperture correction that falls with the size and grows with the wavelength."""
    wave = np.linspace(0.4, 6.0, 7).astype(np.float32)
    size = np.array([3, 6, 9, 12], np.uint8)
    if info.is_miri:
        wave = np.linspace(4.0, 14.0, 7).astype(np.float32)
        values = 1 + 0.3 / size[None, :] + 0.01 * wave[:, None]
        table = np.zeros(
            1,
            [("subarray", "U17"), ("wavelength", "f4", (7,)), ("nelem_wl", "i2"), ("size", "u1", (4,)),
             ("nelem_size", "i2"), ("apcorr", "f4", (7, 4))],
        )  # fmt: skip
        table["subarray"] = info.subarray
        table["size"] = size
    else:
        phase = np.linspace(0.0, 1.0, 3).astype(np.float32)
        sizes = size[:, None] * (1 + 0.02 * wave[None, :])
        values = (1 + 0.3 / sizes[..., None] + 0.01 * wave[:, None]) * (1 + 0.002 * phase)
        table = np.zeros(
            1,
            [("filter", "U12"), ("grating", "U15"), ("slit", "U15"), ("wavelength", "f4", (7,)),
             ("nelem_wl", "i2"), ("size", "f4", (4, 7)), ("nelem_size", "i2"), ("pixphase", "f4", (3,)),
             ("apcorr", "f4", (4, 7, 3))],
        )  # fmt: skip
        table["filter"], table["grating"], table["slit"] = info.filter, info.grating, "S1600A1"
        table["size"], table["pixphase"] = sizes, phase
    table["wavelength"], table["nelem_wl"], table["nelem_size"], table["apcorr"] = wave, 7, 4, values
    table.flags.writeable = False
    return Reference("apcorr", "test_apcorr.fits", {}, {"SIZEUNIT": "pixels"}, {"APCORR": table})


def make_wavelengthrange(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make ranges of three orders."""
    rows = tuple(
        (order, info.filter, low, high) for order, low, high in ((1, 0.9, 2.8), (2, 0.6, 1.4), (3, 0.6, 0.9))
    )
    return Reference("wavelengthrange", "test_wavelengthrange.asdf", {}, {"WAVELENGTHRANGE": rows})


def make_bkg(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make two templates of the background."""
    templates = rng.uniform(0.9, 1.1, (2, *info.frame_shape)).astype(np.float32)
    templates.flags.writeable = False
    return Reference("bkg", "test_bkg.fits", {"SCI": templates})


def make_wavecorr(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a table of zero-point offsets."""
    wave, place = np.linspace(0.5, 5.5, 6), np.linspace(-0.5, 0.5, 5)
    offset = 0.4 * place * np.ones((6, 1)) + 0.01 * wave[:, None]
    arrays = {"WAVE,S1600A1": wave, "POSITION,S1600A1": place, "OFFSET,S1600A1": offset}
    for array in arrays.values():
        array.flags.writeable = False
    return Reference("wavecorr", "test_wavecorr.asdf", arrays)


def make_specwcs(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a dispersion that nobody reads: wavelengths come with the templates."""
    return Reference("specwcs", "test_specwcs.fits", {})


#: reference type -> how to make it
RECIPES: dict[str, Callable[[ExposureInfo, np.random.Generator], Reference]] = {
    "apcorr": make_apcorr,
    "emicorr": make_emicorr,
    "bkg": make_bkg,
    "fflat": make_fflat,
    "wavecorr": make_wavecorr,
    "sflat": partial(make_cube_flat, name="sflat"),
    "dflat": partial(make_cube_flat, name="dflat"),
    "photom": make_photom,
    "extract1d": make_extract1d,
    "ipc": make_ipc,
    "rscd": make_rscd,
    "specwcs": make_specwcs,
    "wavelengthrange": make_wavelengthrange,
}

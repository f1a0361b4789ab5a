"""Reference files of the flux calibration that match a simulated exposure: photom, area, and NIRSpec's three flats.

The conversion is made up, of the size of the real ones: a number per mode times a response that falls towards both
ends.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.simulate.detector import Detector
from tsostream.simulate.modes import Mode
from tsostream.simulate.scene import Scene

__all__ = ["calibration_cards", "calibration_content", "calibration_kinds", "model_of"]

#: EXP_TYPE -> data model, selecting columns, conversion [MJy/sr or MJy per DN/s], area of a pixel [arcsec^2]
_PHOTOM: Final[dict[str, tuple[str, tuple[str, ...], float, float]]] = {
    "NRS_BRIGHTOBJ": ("NrsFsPhotomModel", ("filter", "grating", "slit"), 2.5e-13, 0.0102),
    "NRC_TSGRISM": ("NrcWfssPhotomModel", ("filter", "pupil", "order"), 0.9, 0.00396),
    "NIS_SOSS": ("NisSossPhotomModel", ("filter", "pupil", "order"), 3.1e-14, 0.00429),
    "MIR_LRS-SLITLESS": ("MirLrsPhotomModel", ("filter", "subarray"), 23.0, 0.0123),
    "NRC_TSIMAGE": ("NrcImgPhotomModel", ("filter", "pupil"), 1.3, 0.00097),
    "MIR_IMAGE": ("MirImgPhotomModel", ("filter", "subarray"), 0.5, 0.0123),
}
#: reftype -> DATAMODL of the official pipeline; photom's and area's depend on the mode
CALIBRATION_MODELS: Final = {
    "fflat": "NirspecFlatModel",
    "sflat": "NirspecFlatModel",
    "dflat": "NirspecFlatModel",
}
_ELEMENTS: Final = 150
_ARCSEC2: Final = (np.pi / 648000.0) ** 2
_FAST: Final = 500


def calibration_kinds(mode: Mode) -> tuple[str, ...]:
    """Types of calibration references a mode gets beside the flat."""
    flats = ("fflat", "sflat", "dflat") if mode.instrument == "NIRSPEC" else ()
    return (*flats, "photom", "area")


def model_of(kind: str, mode: Mode) -> str:
    """Name the data model of a calibration reference."""
    if kind == "photom":
        return _PHOTOM[mode.exp_type][0]
    if kind == "area":
        return "NirspecSlitAreaModel" if mode.instrument == "NIRSPEC" else "PixelAreaModel"
    return CALIBRATION_MODELS[kind]


def calibration_cards(kind: str, mode: Mode) -> list[tuple[str, Any]]:
    """Keywords of a calibration reference beyond those that all have."""
    cards: list[tuple[str, Any]] = [("EXP_TYPE", mode.exp_type)]
    if kind in ("photom", "area"):
        square = _PHOTOM[mode.exp_type][3]
        cards += [("PIXAR_SR", square * _ARCSEC2), ("PIXAR_A2", square)]
    return cards


def calibration_content(kind: str, detector: Detector, scene: Scene) -> list[Any]:
    """Extensions of a calibration reference."""
    mode = detector.mode
    if kind == "photom":
        return [fits.BinTableHDU(_photom_table(mode, scene), name="PHOTOM")]
    if kind == "area":
        return _area(mode)
    if kind == "fflat":
        return [_fast_variation(scene)]
    flat = detector.flat if kind == "dflat" else np.ones_like(detector.flat)
    error = np.full_like(flat, 1e-3) if kind == "dflat" else np.zeros_like(flat)
    good = np.zeros(flat.shape, np.uint32)
    if kind == "sflat":
        return [*_images(SCI=flat, ERR=error, DQ=good), _fast_variation(scene)]
    low, high = _range(scene)
    planes = np.zeros(2, [("wavelength", "<f4")])
    planes["wavelength"] = low, high
    cube = {"SCI": np.stack([flat, flat]), "ERR": np.stack([error, error]), "DQ": np.stack([good, good])}
    return [*_images(**cube), fits.BinTableHDU(planes, name="WAVELENGTH"), _fast_variation(scene)]


def _images(**planes: NDArray) -> list[fits.ImageHDU]:
    return [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]


def _range(scene: Scene) -> tuple[float, float]:
    """Wavelengths of the scene with some room at both ends [µm]."""
    known = np.concatenate([wave[np.isfinite(wave) & (wave > 0)] for wave in scene.wavelength.values()])
    return 0.98 * float(known.min()), 1.02 * float(known.max())


def _fast_variation(scene: Scene) -> fits.BinTableHDU:
    """Fast variation of a NIRSpec flat that has none."""
    kind = [
        ("slit_name", "S15"),
        ("nelem", "<i4"),
        *((name, "<f4", (_FAST,)) for name in ("wavelength", "data", "error")),
    ]
    row = np.zeros(1, kind)
    row["slit_name"], row["nelem"] = "ANY", _FAST
    row["wavelength"], row["data"] = np.linspace(*_range(scene), _FAST), 1.0
    return fits.BinTableHDU(row, name="FAST_VARIATION")


def _photom_table(mode: Mode, scene: Scene) -> NDArray:
    """Rows of the PHOTOM table: one per order, or one."""
    _, selectors, conversion, _ = _PHOTOM[mode.exp_type]
    spectrum = bool(mode.dispaxis)
    column = "photmj" if mode.exp_type in ("NRS_BRIGHTOBJ", "NIS_SOSS") else "photmjsr"
    widths = {
        "filter": "S12",
        "pupil": "S15",
        "grating": "S15",
        "slit": "S15",
        "subarray": "S15",
        "order": "<i2",
    }
    kind: list[Any] = [(name, widths[name]) for name in selectors]
    kind += [(column, "<f4"), ("uncertainty", "<f4")]
    if spectrum:
        vectors = ((name, "<f4", (_ELEMENTS,)) for name in ("wavelength", "relresponse", "reluncertainty"))
        kind += [("nelem", "<i2"), *vectors]
    orders = sorted(scene.wavelength) if "order" in selectors else [1]
    table = np.zeros(len(orders), kind)
    grating = getattr(mode, "grating", "")
    own = {
        "filter": mode.filter,
        "pupil": mode.pupil,
        "grating": grating,
        "slit": "S1600A1",
        "subarray": mode.subarray,
    }
    for row, order in zip(table, orders, strict=True):
        for name in selectors:
            row[name] = order if name == "order" else own[name]
        row[column], row["uncertainty"] = conversion, 0.02 * conversion
        if spectrum:
            low, high = _range(scene)
            row["nelem"], row["wavelength"] = _ELEMENTS, np.linspace(low, high, _ELEMENTS)
            place = np.linspace(-1, 1, _ELEMENTS)
            # the throughput falls towards both ends, so the conversion rises
            row["relresponse"], row["reluncertainty"] = 1 / (1 - 0.6 * place**2), 0.01
    return table


def _area(mode: Mode) -> list[Any]:
    if mode.instrument != "NIRSPEC":
        return _images(SCI=np.ones((mode.ny, mode.nx), np.float32))
    table = np.zeros(1, [("slit_id", "S15"), ("pixarea", "<f4")])
    table["slit_id"], table["pixarea"] = "S1600A1", _PHOTOM[mode.exp_type][3]
    return [fits.BinTableHDU(table, name="AREA")]

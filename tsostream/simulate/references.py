"""Reference files that match a simulated exposure, in the layout of the observatory's reference archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.integration import dq
from tsostream.simulate.apertures import APERTURE_KINDS, apcorr_table, aperture_kinds, write_extract1d
from tsostream.simulate.calibration import calibration_cards, calibration_content, calibration_kinds, model_of
from tsostream.simulate.detector import Detector
from tsostream.simulate.modes import Mode
from tsostream.simulate.scene import Scene
from tsostream.simulate.soss import SOSS_KINDS, write_soss_reference

__all__ = ["reference_file", "reference_names", "write_references"]

#: reftype -> DATAMODL of the official pipeline
_MODELS = {
    "mask": "MaskModel", "saturation": "SaturationModel", "superbias": "SuperBiasModel", "gain": "GainModel",
    "linearity": "LinearityModel", "dark": "DarkModel", "readnoise": "ReadnoiseModel", "reset": "ResetModel",
    "rscd": "RSCDModel", "flat": "FlatModel", "wavelength": "ImageModel", "pastasoss": "PastasossModel",
    "apcorr": "ApcorrModel", "specprofile": "SpecProfileModel", "speckernel": "SpecKernelModel",
}  # fmt: skip


def reference_names(mode: Mode, *, modelled: bool = True) -> tuple[str, ...]:
    """Types of reference files a mode gets; ``modelled`` unless its source is a given image."""
    kinds = ["mask", "saturation", "linearity", "dark", "gain", "readnoise", "flat"]
    kinds += ["reset", "rscd"] if mode.is_miri else ["superbias"]
    if mode.kind == "soss" and modelled:
        kinds += list(SOSS_KINDS)
    kinds += calibration_kinds(mode)
    if modelled:
        kinds += aperture_kinds(mode)
    return tuple(kinds + (["wavelength"] if mode.dispaxis else []))


def reference_file(prefix: str, kind: str) -> str:
    """Name the file of a reference type."""
    return f"{prefix}_{kind}.{(SOSS_KINDS | APERTURE_KINDS).get(kind, 'fits')}"


def _primary(mode: Mode, kind: str, name: str) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU()
    cards: list[tuple[str, Any]] = [
        ("DATE", "2026-01-01T00:00:00.000"), ("FILENAME", name),
        ("DATAMODL", _model(kind, mode)),
        ("TELESCOP", "JWST"), ("REFTYPE", kind.upper()), ("PEDIGREE", "DUMMY"),
        ("DESCRIP", "simulated by tsostream"), ("AUTHOR", "tsostream simulate"),
        ("USEAFTER", "2021-12-25T00:00:00"), ("INSTRUME", mode.instrument), ("DETECTOR", mode.detector),
    ]  # fmt: skip
    if kind in ("photom", "fflat"):
        cards.append(("SUBARRAY", "GENERIC"))
    elif kind == "specprofile":
        cards.append(("SUBARRAY", mode.subarray))
    elif kind not in ("rscd", "speckernel", "apcorr"):
        cards += [("SUBARRAY", mode.subarray), ("SUBSTRT1", mode.xstart), ("SUBSTRT2", mode.ystart),
                  ("SUBSIZE1", mode.nx), ("SUBSIZE2", mode.ny),
                  ("FASTAXIS", mode.fast), ("SLOWAXIS", mode.slow)]  # fmt: skip
    if kind == "flat":
        cards += [(key, value) for key, value in (("FILTER", mode.filter), ("PUPIL", mode.pupil)) if value]
    if kind in ("flat", "wavelength", "apcorr", *SOSS_KINDS):
        cards.append(("EXP_TYPE", mode.exp_type))
    if kind in calibration_kinds(mode):
        cards += calibration_cards(kind, mode)
    hdu.header.extend(cards, end=True)
    return hdu


def _model(kind: str, mode: Mode) -> str:
    """Name the data model of the official pipeline."""
    if kind in calibration_kinds(mode):
        return model_of(kind, mode)
    return "DarkMIRIModel" if kind == "dark" and mode.is_miri else _MODELS[kind]


def _image(name: str, data: NDArray, version: int = 1, unit: str = "") -> fits.ImageHDU:
    hdu = fits.ImageHDU(data, name=name, ver=version)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _dq_def() -> fits.BinTableHDU:
    """Table that says what the bits of a DQ plane mean: here, the pipeline's own."""
    rows = [(value.bit_length() - 1, value, name, "") for name, value in dq.BITS.items()]
    table = np.array(rows, dtype=[("BIT", "<u4"), ("VALUE", "<u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")])
    return fits.BinTableHDU(table, name="DQ_DEF")


def _linearity(detector: Detector) -> NDArray[np.float32]:
    """Coefficients [power, y, x]: the near infrared corrects above the bias, MIRI with the bias still in."""
    c2, c3, one = detector.c2.astype(np.float64), detector.c3.astype(np.float64), np.ones(detector.c2.shape)
    if detector.mode.is_miri:
        bias = detector.bias.astype(np.float64)
        planes = [c2 * bias**2, one - 2 * c2 * bias, c2]
    else:
        planes = [0 * one, one, c2, c3]
    return np.stack(planes).astype(np.float32)


def _dark(detector: Detector, groups: int) -> list[fits.ImageHDU]:
    """Signal of the dark current at each read, a little longer than the exposure's ramps."""
    elapsed = (np.arange(groups) + 1) * detector.mode.frame_time
    ramp = (elapsed[:, None, None] * detector.dark).astype(np.float32)
    if detector.mode.is_miri:
        plane = np.stack([detector.dark_dq[None]] * 2)
        return [_image("SCI", np.stack([ramp, ramp])), _image("DQ", plane)]
    return [_image("SCI", ramp), _image("DQ", detector.dark_dq)]


def _content(kind: str, detector: Detector, scene: Scene, groups: int) -> list:
    mode = detector.mode
    if kind in calibration_kinds(mode):
        own = calibration_content(kind, detector, scene)
        return [*own, _dq_def()] if kind in ("sflat", "dflat") else own
    if kind == "mask":
        return [_image("DQ", detector.mask), _dq_def()]
    if kind == "saturation":
        return [_image("SCI", detector.saturation), _image("DQ", detector.saturation_dq), _dq_def()]
    if kind == "superbias":
        error = np.zeros_like(detector.bias)
        return [_image("SCI", detector.bias), _image("ERR", error), _image("DQ", detector.bias_dq), _dq_def()]
    if kind == "linearity":
        return [_image("COEFFS", _linearity(detector)), _image("DQ", detector.linearity_dq), _dq_def()]
    if kind == "dark":
        return [*_dark(detector, groups + 2), _dq_def()]
    if kind == "gain":
        return [_image("SCI", detector.gain, unit="ELECTRONS/DN")]
    if kind == "readnoise":
        return [_image("SCI", (detector.readnoise * np.sqrt(2)).astype(np.float32), unit="DN")]
    if kind == "flat":
        error, good = np.full_like(detector.flat, 1e-3), np.zeros(detector.flat.shape, np.uint32)
        return [_image("SCI", detector.flat), _image("ERR", error), _image("DQ", good), _dq_def()]
    if kind == "reset" and detector.reset is not None:
        good = np.zeros((mode.ny, mode.nx), np.uint32)
        error = np.zeros_like(detector.reset)
        return [_image("SCI", detector.reset), _image("ERR", error), _image("DQ", good), _dq_def()]
    if kind == "apcorr":
        return [apcorr_table(mode)]
    if kind == "rscd":
        names = [("subarray", "S15"), ("readpatt", "S10"), ("group_skip1", "<i4"), ("group_skip", "<i4")]
        row = np.array([(mode.subarray, mode.readpatt, 0, 0)], dtype=names)
        return [fits.BinTableHDU(row, name="RSCD_GROUP_SKIP")]
    images = []
    for order, wave in sorted(scene.wavelength.items()):
        hdu = _image("WAVELENGTH", wave, order, "um")
        hdu.header["SPORDER"] = order
        images.append(hdu)
    return images


def write_references(
    directory: Path, prefix: str, detector: Detector, scene: Scene, groups: int, *, modelled: bool = True
) -> dict[str, Path]:
    """Write all reference files of an exposure.

    Parameters
    ----------
    groups
        Groups of the exposure's ramps; the dark is two longer.
    modelled
        Whether the source is the built-in model, which trace references can describe.

    Returns
    -------
    dict
        Reference type -> path.
    """
    paths = {}
    for kind in reference_names(detector.mode, modelled=modelled):
        name = reference_file(prefix, kind)
        if kind == "extract1d":
            paths[kind] = directory / name
            write_extract1d(detector.mode, paths[kind])
            continue
        primary = _primary(detector.mode, kind, name)
        if kind in SOSS_KINDS:
            paths[kind] = directory / name
            write_soss_reference(detector.mode, kind, paths[kind], primary)
            continue
        if kind in ("dark", "reset"):
            primary.header["NFRAMES"] = 1
            primary.header["GROUPGAP"] = 0
            primary.header["NGROUPS"] = groups + 2
            primary.header["READPATT"] = detector.mode.readpatt
        if kind == "reset" and detector.reset is not None:
            primary.header["NINTS"], primary.header["NGROUPS"] = detector.reset.shape[:2]
        hdus = fits.HDUList([primary, *_content(kind, detector, scene, groups)])
        path = directory / name
        part = path.with_name(name + ".part")
        hdus.writeto(part, overwrite=True)
        part.replace(path)
        paths[kind] = path
    return paths

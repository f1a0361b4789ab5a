"""Which wavelength each pixel has, from the first of several sources that knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.files import Exposure, fit_to_frame, gwcs_wavelengths, open_segment, wavelength_maps
from tsostream.files.wavelengths import WaveMap
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.soss.geometry import order_wavelengths, trace_reference
from tsostream.references.specwcs import barycentric_factor, lrs_wavelengths
from tsostream.run.official_wcs import official_is_here, official_wavelengths
from tsostream.run.request import Request

__all__ = ["NO_WAVELENGTHS", "WAVELENGTH_REFERENCES", "Wavelengths", "find_wavelengths"]

#: reference types that tell wavelengths, by EXP_TYPE, the better first
WAVELENGTH_REFERENCES: dict[str, tuple[str, ...]] = {
    "NIS_SOSS": ("pastasoss", "spectrace", "wavemap"),
    "MIR_LRS-SLITLESS": ("specwcs",),
}
NO_WAVELENGTHS = (
    "NO WAVELENGTHS are known for this exposure: spectra are by pixel; give --wavelengths FILE "
    "(a WAVELENGTH image, a calints, or a table)"
)


@dataclass(frozen=True)
class Wavelengths:
    """Wavelengths of an exposure.

    Parameters
    ----------
    by_order
        Order -> float64 [y, x] or [pixel along the dispersion] [µm]; empty when none is known.
    source
        Where they came from, for people and provenance; the file alone where the user gave one.
    facts
        Keywords of the spectrum's window and source position, where the official pipeline told them (SLTSTRT1, …).
    file
        FITS file they were read from, if it is another one than the input: it may hold the coordinate system, too.
    notes
        What is worth telling once.
    """

    by_order: Mapping[int, Any]
    source: str = ""
    facts: Mapping[str, Any] | None = None
    file: Path | None = None
    notes: tuple[str, ...] = ()


def find_wavelengths(
    request: Request, exposure: Exposure, references: Mapping[str, Reference], *, compute: bool = True
) -> Wavelengths:
    """Look for wavelengths in the order of trust.

    What the user gives counts first. Else: the WAVELENGTH image of the input; the coordinate system (gwcs) in it; the
    trace or SPECWCS reference of the mode; the official pipeline's assign_wcs, where it is installed.

    Parameters
    ----------
    request
        ``--wavelengths``, and the reference directory.
    exposure
        The exposure.
    references
        Loaded references.
    compute
        Whether the official pipeline may be run.

    Raises
    ------
    ConfigError, ReferenceMismatchError
        A source that is there cannot be used.
    """
    info = exposure.info
    if not info.is_spectroscopy:
        return Wavelengths({})
    if request.wavelengths is not None:
        given = Path(request.wavelengths)
        return replace(_from_file(given, info, str(request.wavelengths)), file=given)
    first = exposure.segments[0]
    name = Path(first.source_path).name
    extensions = open_segment(first.path).extensions
    if "WAVELENGTH" in extensions:
        return _from_file(first.path, info, f"WAVELENGTH of {name}")
    notes: list[str] = []
    # the coordinate system of SOSS knows the orders, but not where their traces are: jwst does not use it either
    if not info.is_ramp and info.exp_type != "NIS_SOSS":
        try:
            if images := gwcs_wavelengths(first.path):
                return Wavelengths(images, f"gwcs of {name}")
        except ConfigError as error:
            notes += [str(problem) for problem in error.problems]
    found = _from_references(info, references)
    if found is None and compute and info.exp_type != "NIS_SOSS" and official_is_here():
        found = _official(request, exposure, notes)
    if found is None:
        return Wavelengths({}, notes=(*notes, NO_WAVELENGTHS))
    return found


def _from_file(path: str | Path, info: ExposureInfo, source: str) -> Wavelengths:
    maps = wavelength_maps(path)
    found = {order: fit_to_frame(one, info, str(path), order=order) for order, one in maps.items()}
    facts: dict[str, Any] = {}
    for one in maps.values():
        if one.window is not None and one.values.ndim == 2:
            facts |= {"SLTSTRT1": one.window[0], "SLTSTRT2": one.window[1]}
            facts |= {"SLTSIZE2": one.values.shape[0], "SLTSIZE1": one.values.shape[1]}
        if one.corrected:
            facts["S_WAVCOR"] = "COMPLETE"
    return Wavelengths(found, source, facts)


def _from_references(info: ExposureInfo, references: Mapping[str, Reference]) -> Wavelengths | None:
    if info.exp_type == "MIR_LRS-SLITLESS" and "specwcs" in references:
        reference = references["specwcs"]
        factor = barycentric_factor(info)
        moved = f", barycentric factor {factor:.9f}" if factor != 1.0 else ""
        return Wavelengths(
            {1: lrs_wavelengths(reference, info)}, f"SPECWCS reference {reference.name}{moved}"
        )
    if info.exp_type != "NIS_SOSS":
        return None
    if (traces := trace_reference(references)) is not None:
        turned = ""
        if traces.reftype == "pastasoss":
            turned = f", turned by {float(info.header['PWCPOS']) - traces.keywords['PWCPOS_CMD']:+.4f} degree"
        # as in the official pipeline the velocity of the telescope is not taken out of them
        return Wavelengths(
            order_wavelengths(references, info), f"{traces.reftype.upper()} reference {traces.name}{turned}"
        )
    if "wavemap" in references:
        reference = references["wavemap"]
        return Wavelengths(_wave_map(reference, info), f"WAVEMAP reference {reference.name}")
    return None


def _wave_map(reference: Reference, info: ExposureInfo) -> dict[int, np.ndarray]:
    """Cut the padded images of a WAVEMAP reference; the padding goes around the named subarray."""
    images = [name for name in reference.arrays if name.partition(",")[0] == "ORDER"]
    result = {}
    for number, name in enumerate(sorted(images), 1):
        image = np.asarray(reference.arrays[name], np.float64)
        rows = 96 if info.subarray == "SUBSTRIP96" else 256
        pad = [(have - want) // 2 for have, want in zip(image.shape, (rows, 2048), strict=True)]
        if pad[0] != pad[1] or pad[0] < 0:
            raise ConfigError(
                Problem(f"{name} has shape {image.shape}, expected ({rows}, 2048) and equal padding on all sides",
                        reference.path or reference.name, "give a wave map of this subarray", "wavelengths")
            )  # fmt: skip
        inner = image[pad[0] : pad[0] + rows, pad[0] : pad[0] + 2048]
        inner = np.where(inner > 0, inner, np.nan)
        corner = (1, 1803 if rows == 96 else 1793)
        result[number] = fit_to_frame(WaveMap(inner, corner), info, reference.path, order=number)
    return result


def _official(request: Request, exposure: Exposure, notes: list[str]) -> Wavelengths | None:
    """Run the official pipeline's assign_wcs; that it fails is no reason to stop."""
    try:
        images, source, facts, kept = official_wavelengths(exposure, request.refs_dir, request.overrides)
        return Wavelengths(images, source, facts, kept)
    except ConfigError as error:
        notes += [str(problem) for problem in error.problems]
        return None

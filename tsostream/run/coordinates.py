"""Coordinate systems that come with an exposure: the sky, where the source is expected, what products carry on."""

from __future__ import annotations

from pathlib import Path

from tsostream.errors import ConfigError
from tsostream.files import (
    CoordinateSystem,
    SourcePlace,
    open_system,
    portable_tree,
    read_tree,
    shows_pixels_of,
)
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.run.prepared import Prepared

__all__ = ["carried_tree", "source_place", "system_file", "system_of"]


def system_file(prepared: Prepared, info: ExposureInfo) -> Path | None:
    """Find the file whose coordinate system is that of the given images.

    Parameters
    ----------
    prepared
        The run.
    info
        The images: the exposure's own, or the window of its spectrum.

    Returns
    -------
    Path or None
        Where the wavelengths came from, if that is a product of the same observation and the same pixels; else the
        input; None where neither holds a coordinate system of these pixels.
    """
    first = Path(prepared.exposure.segments[0].path)
    for path in (prepared.wavelength_file, first):
        if path is not None and shows_pixels_of(path, info) and b"gwcs" in _tree(path):
            return path
    return None


def system_of(prepared: Prepared, info: ExposureInfo) -> CoordinateSystem | None:
    """Coordinate system of the given images; None where there is none, or it cannot be used here."""
    path = system_file(prepared, info)
    try:
        return None if path is None else open_system(path)
    except ConfigError:
        # the packages are not there, or do not know it: what it would tell stays unknown
        return None


def source_place(prepared: Prepared, info: ExposureInfo) -> SourcePlace | None:
    """Tell where NIRSpec's source is expected, as the official extraction does; None for other modes.

    SRCXPOS and SRCYPOS are those of the header, or of the official pipeline's extract_2d.
    """
    if info.exp_type != "NRS_BRIGHTOBJ":
        return None
    place = [info.header.get(key, prepared.wavelength_facts.get(key)) for key in ("SRCXPOS", "SRCYPOS")]
    system = system_of(prepared, info)
    if system is None or not all(isinstance(one, int | float) for one in place):
        return None
    try:
        return system.source_place(*(float(one) for one in place if one is not None))
    except ConfigError:
        return None


def carried_tree(prepared: Prepared, segment: Path, info: ExposureInfo) -> bytes:
    """Make the ASDF extension of a product of these images: that of its segment, with their coordinate system.

    Parameters
    ----------
    prepared
        The run.
    segment
        File it is made from.
    info
        The images of the product.

    Returns
    -------
    bytes
        Empty where the input has none, and no coordinate system is known.
    """
    own = _tree(segment)
    path = system_file(prepared, info)
    if path is not None and (path == prepared.wavelength_file or not own):
        return portable_tree(_tree(path))
    if not own:
        return b""
    return portable_tree(own, without=() if path is not None else ("wcs",))


def _tree(path: Path) -> bytes:
    try:
        return read_tree(path)
    except (OSError, ValueError, KeyError, TypeError):
        return b""

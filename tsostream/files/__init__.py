"""Bytes on disk -> ordered integrations: segments, exposures, their times, and blocks of raw words."""

from tsostream.files.association import Association, load_association
from tsostream.files.embedded import EMPTY_TREE, portable_tree, read_tree
from tsostream.files.exposure import Exposure, find_exposures
from tsostream.files.modes import SUPPORTED_EXP_TYPES
from tsostream.files.reader import BLOCK_BYTES, OnError, block_length, buffer_bytes, read_blocks, read_sync
from tsostream.files.segment import Extension, SegmentFile, open_segment
from tsostream.files.times import TIME_FLAGS, SegmentTimes, header_disagreement, header_times
from tsostream.files.wavelengths import fit_to_frame, wavelength_image, wavelength_maps
from tsostream.files.wcs import (
    CoordinateSystem,
    SourcePlace,
    gwcs_is_here,
    gwcs_wavelengths,
    open_system,
    shows_pixels_of,
)

__all__ = [
    "BLOCK_BYTES",
    "EMPTY_TREE",
    "SUPPORTED_EXP_TYPES",
    "TIME_FLAGS",
    "Association",
    "CoordinateSystem",
    "Exposure",
    "Extension",
    "OnError",
    "SegmentFile",
    "SegmentTimes",
    "SourcePlace",
    "block_length",
    "buffer_bytes",
    "find_exposures",
    "fit_to_frame",
    "gwcs_is_here",
    "gwcs_wavelengths",
    "header_disagreement",
    "header_times",
    "load_association",
    "open_segment",
    "open_system",
    "portable_tree",
    "read_blocks",
    "read_sync",
    "read_tree",
    "shows_pixels_of",
    "wavelength_image",
    "wavelength_maps",
]

"""Bytes on disk -> ordered integrations: segments, exposures, their times, and blocks of raw words."""

from tsostream.files.association import Association, load_association
from tsostream.files.exposure import Exposure, find_exposures
from tsostream.files.modes import SUPPORTED_EXP_TYPES
from tsostream.files.reader import BLOCK_BYTES, OnError, block_length, buffer_bytes, read_blocks, read_sync
from tsostream.files.segment import Extension, SegmentFile, open_segment
from tsostream.files.times import TIME_FLAGS, SegmentTimes, header_disagreement, header_times
from tsostream.files.wavelengths import fit_to_frame, wavelength_image, wavelength_maps
from tsostream.files.wcs import gwcs_wavelengths, sky_coordinates

__all__ = [
    "BLOCK_BYTES",
    "SUPPORTED_EXP_TYPES",
    "TIME_FLAGS",
    "Association",
    "Exposure",
    "Extension",
    "OnError",
    "SegmentFile",
    "SegmentTimes",
    "block_length",
    "buffer_bytes",
    "find_exposures",
    "fit_to_frame",
    "gwcs_wavelengths",
    "header_disagreement",
    "header_times",
    "load_association",
    "open_segment",
    "read_blocks",
    "read_sync",
    "sky_coordinates",
    "wavelength_image",
    "wavelength_maps",
]

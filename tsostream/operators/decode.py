"""Words of a FITS file -> native float32 samples: the first load of every ramp."""

from __future__ import annotations

import numpy as np

from tsostream.operators.base import Part, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["decode_bits", "decode_floats", "decode_pass", "decode_plane", "decode_samples"]


@kernel
def decode_samples(raw, data, groupdq, y0, y1):
    """Swap the bytes of uint16 samples, undo BZERO = 32768 and clear the flags.

    Parameters
    ----------
    raw : uint16 [integration, group, y, x]
        Big-endian words as they stand in the file (signed, offset by 32768).
    data : float32 [integration, group, y, x]
        Samples [DN], written.
    groupdq : uint8 [integration, group, y, x]
        Set to zero.
    y0, y1 : int
        Rows.
    """
    for i in range(raw.shape[0]):
        for g in range(raw.shape[1]):
            for y in range(y0, y1):
                for x in range(raw.shape[3]):
                    word = raw[i, g, y, x]
                    # adding 32768 to a signed 16-bit word is flipping its top bit, which here is bit 7 of the low byte
                    swapped = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8)))
                    data[i, g, y, x] = np.float32(swapped ^ np.uint16(0x8000))
                    groupdq[i, g, y, x] = 0


@kernel
def decode_plane(raw, out, y0, y1):
    """`decode_samples` for zero frames, which have neither groups nor flags.

    Parameters
    ----------
    raw : uint16 [integration, y, x]
        Big-endian words as they stand in the file.
    out : float32 [integration, y, x]
        Samples [DN], written.
    y0, y1 : int
        Rows.
    """
    for i in range(raw.shape[0]):
        for y in range(y0, y1):
            for x in range(raw.shape[2]):
                word = raw[i, y, x]
                swapped = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8)))
                out[i, y, x] = np.float32(swapped ^ np.uint16(0x8000))


def _run(tile: Tile, y0: int, y1: int) -> None:
    if tile.raw is not None:
        decode_samples(tile.raw, tile.data, tile.groupdq, y0, y1)
    if tile.zero_raw is not None and "zeroframe" in tile.scratch:
        decode_plane(tile.zero_raw, tile.scratch["zeroframe"], y0, y1)


#: the pass that stands before every ramp step
decode_pass = RowPass(_run, part=Part("decode"))


def decode_floats(words: np.ndarray) -> np.ndarray:
    """Big-endian float32 words (as uint32) -> native float32, a new array of the same shape."""
    return words.view(">f4").astype(np.float32)


def decode_bits(words: np.ndarray) -> np.ndarray:
    """Big-endian int32 words with BZERO = 2**31 (as uint32) -> native uint32, a new array of the same shape."""
    return words.view(">u4").astype(np.uint32) ^ np.uint32(0x80000000)

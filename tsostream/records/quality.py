"""Quality bits of a row.

A row is kept whatever happened to its integration; the bits say what did. Most follow from other columns of
the same row and are set here, so that they cannot contradict them; READ_FAILED comes from whoever failed to
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_FRACTION_FILLED", "QUALITY_BITS", "Quality", "derive_quality", "describe_bits"]

#: with more than this part of the source profile lost, the flux is not given
MAX_FRACTION_FILLED: Final = 0.3


class Quality(IntFlag):
    """Bits of the ``quality`` column; 0 is a row without remarks."""

    MISSING = 1
    NO_FLUX = 2
    LOST_PIXELS = 4
    TOO_MUCH_LOST = 8
    SATURATED = 16
    JUMP = 32
    OUTLIER = 64
    TIME_REPAIRED = 128
    NO_POSITION = 256
    READ_FAILED = 512


_MEANING: Final[dict[Quality, str]] = {
    Quality.MISSING: "no input file holds this integration (present is false)",
    Quality.NO_FLUX: "flux is NaN",
    Quality.LOST_PIXELS: "lost pixels of the aperture were replaced from the profile (frac_filled > 0)",
    Quality.TOO_MUCH_LOST: "more than 30 per cent of the source profile was lost (frac_filled > 0.3)",
    Quality.SATURATED: "a pixel of the source aperture is saturated (n_saturated > 0)",
    Quality.JUMP: "a cosmic ray hit a pixel of the source aperture (n_jump > 0)",
    Quality.OUTLIER: "a pixel of the source aperture was an outlier in time (n_outlier > 0)",
    Quality.TIME_REPAIRED: "the times do not come straight from INT_TIMES (time_flag is not 0)",
    Quality.NO_POSITION: "x or y could not be measured (NaN)",
    Quality.READ_FAILED: "a file should hold this integration, but it could not be read",
}

#: name -> {bit, meaning}; stands as JSON in the metadata of every light curve
QUALITY_BITS: Final[dict[str, dict[str, int | str]]] = {
    str(bit.name): {"bit": int(bit), "meaning": meaning} for bit, meaning in _MEANING.items()
}


#: bits that follow from other columns, as numbers: arithmetic with members of an enum takes long
_DERIVED: Final = tuple(
    np.uint32(bit.value)
    for bit in (
        Quality.MISSING, Quality.NO_FLUX, Quality.LOST_PIXELS, Quality.TOO_MUCH_LOST, Quality.SATURATED, Quality.JUMP,
        Quality.OUTLIER, Quality.TIME_REPAIRED, Quality.NO_POSITION,
    )
)  # fmt: skip


def derive_quality(columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint32]:
    """Quality bits that follow from the other columns of a row.

    Parameters
    ----------
    columns
        Light-curve columns by name, all of one shape.

    Returns
    -------
    uint32 array of that shape
    """
    lost = columns["frac_filled"]
    # in the order of `_DERIVED`
    conditions = (
        ~columns["present"],
        np.isnan(columns["flux"]),
        lost > 0,  # NaN (not measured) compares false, as it should
        lost > MAX_FRACTION_FILLED,
        columns["n_saturated"] > 0,
        columns["n_jump"] > 0,
        columns["n_outlier"] > 0,
        columns["time_flag"] != 0,
        np.isnan(columns["x"]) | np.isnan(columns["y"]),
    )
    bits = np.zeros(lost.shape, dtype=np.uint32)
    for bit, condition in zip(_DERIVED, conditions, strict=True):
        bits |= condition * bit
    return bits


def describe_bits(value: int) -> list[str]:
    """Names of the bits set in one ``quality`` value, lowest first."""
    return [str(bit.name) for bit in Quality if value & bit]

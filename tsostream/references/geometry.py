"""Where an array sits on the detector, and how the subarray is cut out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["Box", "box_from_keywords", "full_frame"]

_KEYS = ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of detector pixels, DMS orientation.

    Parameters
    ----------
    xstart, ystart
        First column and row, 1-based, as in SUBSTRT1/2.
    nx, ny
        Size [pixels].
    """

    xstart: int
    ystart: int
    nx: int
    ny: int

    @classmethod
    def of_exposure(cls, info: ExposureInfo) -> Box:
        """Give the subarray of the exposure."""
        return cls(info.xstart, info.ystart, info.nx, info.ny)

    def contains(self, other: Box) -> bool:
        """Whether every pixel of the other one lies inside."""
        return (
            self.xstart <= other.xstart
            and self.ystart <= other.ystart
            and other.xstart + other.nx <= self.xstart + self.nx
            and other.ystart + other.ny <= self.ystart + self.ny
        )

    def slices_of(self, other: Box) -> tuple[slice, slice]:
        """Give the index ``[y, x]`` of the other one (which must lie inside) in an array of this one."""
        y, x = other.ystart - self.ystart, other.xstart - self.xstart
        return slice(y, y + other.ny), slice(x, x + other.nx)

    def __str__(self) -> str:
        last_x, last_y = self.xstart + self.nx - 1, self.ystart + self.ny - 1
        return f"columns {self.xstart}-{last_x}, rows {self.ystart}-{last_y}"


def full_frame(instrument: str) -> Box:
    """Give the whole detector: 1032 × 1024 pixels for MIRI, 2048² for the near infrared."""
    return Box(1, 1, 1032, 1024) if instrument.strip().upper() == "MIRI" else Box(1, 1, 2048, 2048)


def _integer(value: Any) -> int | None:
    """Read a keyword that should be an integer; a broken header gives None, never an exception."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def box_from_keywords(
    keywords: Mapping[str, Any], info: ExposureInfo, shape: tuple[int, int] | None = None
) -> Box | None:
    """Find where a reference sits on the detector.

    The real shape wins over SUBSIZE1/2, as in the official pipeline. Old files have no SUBSTRT1/2: they are
    placed when that is unambiguous, because they have the shape of the whole detector or exactly that of the
    exposure.

    Parameters
    ----------
    keywords
        The reference's keywords.
    info
        The exposure.
    shape
        ``(ny, nx)`` of the array; None when only keywords are at hand (a scan of primary headers).

    Returns
    -------
    Box or None
        None when the place cannot be told.
    """
    xstart, ystart, nx, ny = (_integer(keywords.get(key)) for key in _KEYS)
    whole = full_frame(info.instrument)
    if shape is not None:
        ny, nx = shape
    elif str(keywords.get("SUBARRAY", "")).strip().upper() == "FULL" and xstart is None:
        return whole
    if nx is None or ny is None:
        return None
    if xstart is not None and ystart is not None:
        return Box(xstart, ystart, nx, ny)
    if (nx, ny) == (whole.nx, whole.ny):
        return whole
    if shape is not None and (nx, ny) == (info.nx, info.ny):
        return Box.of_exposure(info)
    return None

"""extract_2d: cut the window of the spectrum out of the subarray (spec stages 2-3, B.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.jit import kernel

__all__ = ["Extract2d", "Window", "box_window", "cut_planes", "grism_window"]

#: 0-based row of the subarray near which the observatory puts grism time-series targets
GRISM_ROW = 34
#: rows the official step cuts out unless told otherwise
GRISM_HEIGHT = 64


@dataclass(frozen=True)
class Window:
    """Pixels that are kept: ``y0 <= y < y1``, ``x0 <= x < x1``, 0-based in the subarray."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y1 - self.y0, self.x1 - self.x0

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Copy the window of the last two axes."""
        return np.ascontiguousarray(array[..., self.y0 : self.y1, self.x0 : self.x1])


@kernel
def cut_planes(plane, y0, x0, out):
    """Move a window of every integration to the front of the memory, in place.

    Parameters
    ----------
    plane : [integration, y, x]
        Read.
    y0, x0 : int
        First row and column of the window.
    out : [integration, row, column]
        Written; may be the front part of the same memory: no value is overwritten before it was read.
    """
    for i in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                out[i, y, x] = plane[i, y0 + y, x0 + x]


def grism_window(info: ExposureInfo, height: int | None = None) -> Window:
    """Window of a NIRCam grism time series: all columns, rows from the bottom of the subarray.

    Parameters
    ----------
    info
        The exposure.
    height
        Rows; the official step takes 64, with the target at row 34.
    """
    height = GRISM_HEIGHT if height is None else height
    # the official rule never reaches below row 0: from half a height of 1 on, it starts there
    last = GRISM_ROW if height // 2 == 0 else height - 1
    return Window(0, min(last + 1, info.ny), 0, info.nx)


def box_window(bounds: tuple[tuple[float, float], tuple[float, float]], info: ExposureInfo) -> Window:
    """Window of a bounding box whose edges lie between pixels.

    Parameters
    ----------
    bounds
        ``((x_low, x_high), (y_low, y_high))`` in 0-based subarray pixels, integers at pixel centres.
    info
        The exposure; the window is cut at its frame.
    """
    (x0, x1), (y0, y1) = ((int(np.floor(low + 0.5)), int(np.floor(high + 0.5))) for low, high in bounds)
    return Window(max(y0, 0), min(y1, info.ny), max(x0, 0), min(x1, info.nx))


def _told_window(told: Mapping[str, Any], info: ExposureInfo) -> Window | None:
    """Window of SLTSTRT1/2 and SLTSIZE1/2, or of ``bounding_box``; None where they are not there."""
    if "bounding_box" in told:
        return box_window(told["bounding_box"], info)
    values = [told.get(key) for key in ("SLTSTRT1", "SLTSTRT2", "SLTSIZE1", "SLTSIZE2")]
    if not all(isinstance(value, int | float) and float(value).is_integer() for value in values):
        return None
    x, y, nx, ny = (int(value or 0) for value in values)
    return Window(y - 1, y - 1 + ny, x - 1, x - 1 + nx)


@dataclass(frozen=True, kw_only=True)
class Extract2d(Operator):
    """Cut out the spectrum: NIRSpec's slit, or the rows of NIRCam's grism around the target.

    Parameters
    ----------
    tsgrism_extract_height
        Rows of a grism spectrum, from the bottom of the subarray; by default 64.
    """

    name: ClassVar[str] = "extract_2d"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"

    tsgrism_extract_height: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def coupling(self) -> Coupling:
        """The window comes with the wavelengths; the scout's image tells whether the source is in it."""
        return Template(("image", "wavelength", "slit"))

    def bind(self, binding: Binding) -> BoundRateStep:
        """Find the window, and cut everything that later steps look at."""
        info = binding.info
        slit = binding.templates.get("slit") or {}
        skip = partial(BoundRateStep, self.name, binding.dq_plane, info, _unchanged)
        if info.exp_type == "NRC_TSGRISM" and not info.pupil.startswith("GDHS"):
            return self._bound(binding, grism_window(info, self.tsgrism_extract_height), slit)
        if info.exp_type != "NRS_BRIGHTOBJ":
            return skip(skipped=f"{info.exp_type} {info.pupil}".strip() + " is not cut", quiet=True)
        window = _told_window(slit, info) or _told_window(info.header, info)
        if window is None:
            why = "the window of the slit is not known (neither a coordinate system nor SLTSTRT1/2)"
            return skip(skipped=f"{why}: the whole subarray is kept")
        _check(window, info)
        return self._bound(binding, window, slit)

    def _bound(self, binding: Binding, window: Window, slit: Mapping[str, Any]) -> BoundRateStep:
        info = binding.info
        name = "S1600A1" if info.exp_type == "NRS_BRIGHTOBJ" else info.exp_type
        ny, nx = window.shape
        facts: dict[str, Any] = {
            "SLTNAME": name, "SLTSTRT1": window.x0 + 1, "SLTSIZE1": nx, "SLTSTRT2": window.y0 + 1, "SLTSIZE2": ny,
        }  # fmt: skip
        facts |= {key: slit[key] for key in ("SRCXPOS", "SRCYPOS") if key in slit}
        cut = replace(
            info, nx=nx, ny=ny, xstart=info.xstart + window.x0, ystart=info.ystart + window.y0,
            header={**info.header, **facts},
        )  # fmt: skip
        templates: dict[str, Any] = {}
        if given := binding.templates.get("wavelength"):
            templates["wavelength"] = {
                order: _cut_waves(image, window, info) for order, image in given.items()
            }
        notes = _brightest_outside(binding, window) if "image" in binding.templates else ()
        return BoundRateStep(
            self.name,
            window.cut(binding.dq_plane),
            cut,
            partial(_cut, window=window),
            templates,
            facts,
            "",
            notes,
        )


def _check(window: Window, info: ExposureInfo) -> None:
    """Refuse a window that is not inside the frame."""
    inside = 0 <= window.y0 < window.y1 <= info.ny and 0 <= window.x0 < window.x1 <= info.nx
    if not inside:
        what = (
            f"the window of the spectrum, columns {window.x0}-{window.x1 - 1} and rows {window.y0}-{window.y1 - 1}, "
            f"is not inside the subarray of {info.nx} x {info.ny} pixels"
        )
        raise ConfigError(Problem(what, todo="give wavelengths of this subarray", code="wavelengths"))


def _cut_waves(image: Any, window: Window, info: ExposureInfo) -> np.ndarray:
    """Cut an image of wavelengths, or a row of them."""
    image = np.asarray(image)
    if image.ndim == 2:
        return window.cut(image)
    return image[window.y0 : window.y1] if info.dispaxis == 2 else image[window.x0 : window.x1]


def _brightest_outside(binding: Binding, window: Window) -> tuple[str, ...]:
    """Tell when the brightest trace of the subarray is not in the window."""
    rows = np.nanmedian(
        np.where(np.isfinite(binding.templates["image"]), binding.templates["image"], 0.0), axis=1
    )
    row = int(np.argmax(rows))
    if window.y0 <= row < window.y1:
        return ()
    what = (
        f"the brightest row of the subarray is {row}, outside the window of rows {window.y0}-{window.y1 - 1}"
    )
    return (
        f"{what}; to measure it, set extract_2d.skip=true or extract_2d.tsgrism_extract_height={row + 30}",
    )


def _unchanged(rate: Rate) -> Rate:
    return rate


def _cut(rate: Rate, *, window: Window) -> Rate:
    if window.shape == rate.data.shape[1:]:
        return rate

    def part(plane: np.ndarray) -> np.ndarray:
        shape = (len(plane), *window.shape)
        front = plane.reshape(-1)[: int(np.prod(shape))].reshape(shape)
        cut_planes(plane, window.y0, window.x0, front)
        return front

    return replace(
        rate, data=part(rate.data), err=part(rate.err), var_poisson=part(rate.var_poisson),
        var_rnoise=part(rate.var_rnoise), dq=part(rate.dq),
        var_flat=None if rate.var_flat is None else part(rate.var_flat),
    )  # fmt: skip

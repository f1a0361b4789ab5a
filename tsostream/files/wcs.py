"""The coordinate system (gwcs) that products carry in their ASDF extension: wavelengths, sky, place of the source."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import ConfigError, Problem
from tsostream.files.embedded import read_tree
from tsostream.integration.exposure_info import ExposureInfo

__all__ = [
    "MISSING_EXTRA",
    "CoordinateSystem",
    "SourcePlace",
    "gwcs_is_here",
    "gwcs_wavelengths",
    "open_system",
    "shows_pixels_of",
]

Array = npt.NDArray[np.float64]
#: where a source is expected: ``pixel`` along the dispersion, ``location`` across at that pixel, ``trace`` [disp]
SourcePlace = dict[str, Any]

#: what makes two files be of one observation
_OBSERVATION: Final = ("PROGRAM", "OBSERVTN", "VISIT")
MISSING_EXTRA: Final = "the packages gwcs and stdatamodels are missing: pip install 'tsostream[wcs]'"


def gwcs_is_here() -> bool:
    """Whether the packages that know coordinate systems are installed."""
    return find_spec("gwcs") is not None and find_spec("stdatamodels") is not None


class CoordinateSystem:
    """The coordinate system of a product, in 0-based pixels of its images; NaN outside its bounding box.

    Parameters
    ----------
    wcs
        The gwcs object.
    where
        The file, for messages.
    shape
        (y, x) of its images.
    """

    def __init__(self, wcs: Any, where: str, shape: tuple[int, int]):
        self._wcs, self._where, self._shape = wcs, where, shape
        self.n_inputs = int(wcs.forward_transform.n_inputs)
        # asked for first: a transform that is its own inverse loses its box when the inverse is asked for
        box = wcs.bounding_box if self.n_inputs == 2 else None
        self._box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
        if box is not None:
            x, y = (tuple(float(edge) for edge in one) for one in box.bounding_box(order="F"))
            self._box = ((x[0], x[1]), (y[0], y[1]))

    def _call(self, transform: Any, *inputs: Any) -> list[Array]:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = transform(*inputs)
        except Exception as error:  # transforms raise many types
            raise _failed(self._where, error) from error
        outputs = list(found) if isinstance(found, tuple | list) else [found]
        return [np.asarray(getattr(one, "value", one), np.float64) for one in outputs]

    def wavelengths(self, order: int = 1) -> Array | None:
        """Wavelength at the centre of each pixel, [y, x] [µm]; None for a system without wavelengths.

        A system that takes the order as its third input (SOSS, grisms) is given it.
        """
        y, x = np.mgrid[: self._shape[0], : self._shape[1]].astype(np.float64)
        found = self._call(self._wcs, x, y, *([] if self.n_inputs < 3 else [np.full_like(x, order)]))
        if len(found) < 3 or found[2].shape != x.shape:
            return None
        values = found[2].copy()
        # 0.2 to 50 µm: a third output that is no wavelength (an imaging system) is none of ours
        if not np.isfinite(values).any() or not 0.2 < np.nanmedian(values) < 50.0:
            return None
        return values

    def sky(self, x: Any, y: Any) -> tuple[Array, Array] | None:
        """Right ascension and declination (ICRS) of pixels [deg], NaN where there are none."""
        if self.n_inputs != 2:
            return None
        found = self._call(self._wcs, np.asarray(x, np.float64), np.asarray(y, np.float64))
        return (found[0], found[1]) if len(found) > 1 else None

    def source_place(self, xpos: float, ypos: float) -> SourcePlace | None:
        """Tell where a source in NIRSpec's slit is expected (spec stages 2-3, B.8).

        Parameters
        ----------
        xpos, ypos
            Place in the slit (SRCXPOS, SRCYPOS).

        Returns
        -------
        dict or None
            ``pixel`` (column in the middle of the bounding box), ``location`` (row there), ``trace`` float64 [x], NaN
            outside the bounding box; None where the system knows no slit, or the source is beside its image.
        """
        frames = {str(one) for one in self._wcs.available_frames}
        if not {"slit_frame", "detector"} <= frames:
            return None
        to_detector = self._wcs.get_transform("slit_frame", "detector")
        (x0, x1), (y0, y1) = self._box
        middle = (x0 + x1) / 2
        rows = np.arange(round(y1), dtype=np.float64)
        across = self._call(self._wcs, np.full(rows.size, middle), rows)[2]
        if not np.isfinite(across).any():
            return None
        # the detector's side of the slit speaks of metres; systems of resampled images do not
        unit = 1e-6 if "gwa" in frames else 1.0
        location = float(self._call(to_detector, xpos, ypos, np.nanmean(across) * unit)[1])
        if not y0 <= location <= y1:
            return None
        return {"pixel": round(middle), "location": location, "trace": self._trace(to_detector, xpos, ypos)}

    def _trace(self, to_detector: Any, xpos: float, ypos: float) -> Array:
        """Row of the source in each column, straight lines between as many wavelengths as there are columns."""
        (x0, x1), (y0, y1) = self._box
        count = int(x1 - x0)
        y, x = np.mgrid[np.ceil(y0) : np.floor(y1) + 1, np.ceil(x0) : np.floor(x1) + 1]
        light = self._call(self._wcs.get_transform("detector", "slit_frame"), x, y)[2]
        light = np.linspace(np.nanmin(light), np.nanmax(light), count)
        at, row = self._call(to_detector, np.full(count, xpos), np.full(count, ypos), light)[:2]
        trace = np.full(self._shape[1], np.nan)
        start = int(np.ceil(x0))
        columns = np.arange(count, dtype=np.float64)
        stop = min(start + count, trace.size)
        trace[start:stop] = _interpolate(columns, at, row)[: stop - start]
        return trace


def _interpolate(at: Array, x: Array, y: Array) -> Array:
    """Piecewise linear, the outer pieces continued."""
    place = np.argsort(x, kind="stable")
    x, y = x[place], y[place]
    k = np.clip(np.searchsorted(x, at) - 1, 0, x.size - 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return y[k] + (y[k + 1] - y[k]) / (x[k + 1] - x[k]) * (at - x[k])


def open_system(path: str | Path) -> CoordinateSystem | None:
    """Read the coordinate system of a product.

    Returns
    -------
    CoordinateSystem or None
        None where the file holds none.

    Raises
    ------
    ConfigError
        The file cannot be read; the packages that know coordinate systems are not installed, or fail on this one.
    """
    where = str(path)
    try:
        content = read_tree(path)
        # without these letters the tree cannot hold one; looked for before libraries that may be missing are needed
        if b"gwcs" not in content:
            return None
        shape = fits.getheader(path, "SCI")
        size = int(shape["NAXIS2"]), int(shape["NAXIS1"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _failed(where, error) from error
    if not gwcs_is_here():
        raise ConfigError(Problem(MISSING_EXTRA, where, "or give --wavelengths FILE", "missing_extra"))
    wcs = _load(content, where)
    return None if wcs is None else CoordinateSystem(wcs, where, size)


def gwcs_wavelengths(path: str | Path, *, orders: tuple[int, ...] = (1,)) -> dict[int, Array]:
    """Evaluate the coordinate system of a product at the centre of each pixel.

    Parameters
    ----------
    path
        Product with SCI and ASDF extensions.
    orders
        Orders to evaluate, where the product is not of one order.

    Returns
    -------
    dict
        Order -> float64 [y, x] [µm]; empty when the file holds no coordinate system with a wavelength.

    Raises
    ------
    ConfigError
        As for `open_system`.
    """
    system = open_system(path)
    if system is None:
        return {}
    told = fits.getheader(path, "SCI").get("SPORDER")
    if isinstance(told, int) and not isinstance(told, bool) and told > 0:
        orders = (told,)
    if system.n_inputs < 3:
        orders = orders[:1]
    found = {order: system.wavelengths(order) for order in orders}
    return {order: values for order, values in found.items() if values is not None}


def _failed(where: str, error: Exception) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        Problem(f"the coordinate system in the ASDF extension cannot be used ({reason})", where,
                "give --wavelengths FILE (a WAVELENGTH image, a calints, or a table)", "wcs")
    )  # fmt: skip


def _load(content: bytes, where: str) -> Any:
    """Find ``meta.wcs``, of the exposure or of its only slit."""
    import asdf

    # their entry points teach asdf the transforms of the observatory
    import gwcs
    import stdatamodels

    del gwcs, stdatamodels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with asdf.open(io.BytesIO(content), lazy_load=False, memmap=False) as file:
                tree = file.tree
                wcs = (tree.get("meta") or {}).get("wcs")
                slits: list[Any] = list(tree.get("slits") or ())
                if wcs is None and len(slits) == 1:
                    wcs = (slits[0].get("meta") or {}).get("wcs")
                return wcs
    except Exception as error:  # asdf and astropy raise many types on trees they do not know
        raise _failed(where, error) from error


def shows_pixels_of(path: Path, info: ExposureInfo) -> bool:
    """Whether a product's images are of these pixels of the same observation."""
    try:
        with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
            if "SCI" not in hdus:
                return False
            header, science = hdus[0].header, hdus["SCI"].header
            shape = hdus["SCI"].shape[-2:]
            corner = [_corner(header, science, axis) for axis in (1, 2)]
            theirs = [header.get(key) for key in _OBSERVATION]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ours = [info.header.get(key) for key in _OBSERVATION]
    same = all(a == b for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None)
    return same and shape == info.frame_shape and corner == [info.xstart, info.ystart]


def _corner(header: Any, science: Any, axis: int) -> int:
    """Detector pixel of the images' first one, 1-based."""
    start, window = header.get(f"SUBSTRT{axis}", 1), science.get(f"SLTSTRT{axis}", 1)
    return int(np.asarray(start, float) + np.asarray(window, float)) - 1

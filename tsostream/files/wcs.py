"""Wavelengths from the coordinate system (gwcs) that products carry in their ASDF extension."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import ConfigError, Problem

__all__ = ["MISSING_EXTRA", "gwcs_wavelengths", "sky_coordinates"]

Array = npt.NDArray[np.float64]

MISSING_EXTRA: Final = "the packages gwcs and stdatamodels are missing: pip install 'tsostream[wcs]'"


def gwcs_wavelengths(path: str | Path, *, orders: tuple[int, ...] = (1,)) -> dict[int, Array]:
    """Evaluate the coordinate system of a product at the centre of each pixel.

    The bounding box is respected: pixels outside it are NaN. A coordinate system that takes the order as its third
    input (SOSS, grisms) is evaluated for each of `orders`.

    Parameters
    ----------
    path
        Product with SCI and ASDF extensions.
    orders
        Orders to evaluate.

    Returns
    -------
    dict
        Order -> float64 [y, x] [µm]; empty when the file holds no coordinate system with a wavelength.

    Raises
    ------
    ConfigError
        The packages that know the coordinate systems are not installed, or fail on this one.
    """
    where = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
                if "ASDF" not in hdus or "SCI" not in hdus:
                    return {}
                tree = hdus["ASDF"].data["ASDF_METADATA"][0].tobytes()
                ny, nx = hdus["SCI"].shape[-2:]
                order = hdus["SCI"].header.get("SPORDER")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _failed(where, error) from error
    if isinstance(order, int) and not isinstance(order, bool) and order > 0:
        orders = (order,)
    wcs = _coordinate_system(tree, where)
    if wcs is None:
        return {}
    y, x = np.mgrid[:ny, :nx].astype(np.float64)
    result = {}
    for one in orders:
        values = _evaluate(wcs, x, y, one, where)
        # 0.2 to 50 µm: a third output that is no wavelength (an imaging system) is none of ours
        if values is not None and np.isfinite(values).any() and 0.2 < np.nanmedian(values) < 50.0:
            result[one] = values
        if wcs.n_inputs_of_ours < 3:
            return dict(zip(orders[:1], result.values(), strict=False))
    return result


def sky_coordinates(path: str | Path) -> Callable[[Array, Array], tuple[Array, Array]] | None:
    """Make a function from pixels to the sky, from the coordinate system of an image.

    Parameters
    ----------
    path
        Product with an ASDF extension.

    Returns
    -------
    callable or None
        ``(x, y) -> (ra, dec)``, 0-based pixels to ICRS [deg], NaN where there is none; None when the file holds no
        coordinate system of the sky, or the packages that know it are not installed.

    Raises
    ------
    ConfigError
        They fail on this one.
    """
    where = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
                if "ASDF" not in hdus:
                    return None
                tree = hdus["ASDF"].data["ASDF_METADATA"][0].tobytes()
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _failed(where, error) from error
    if find_spec("gwcs") is None or find_spec("stdatamodels") is None:
        return None
    wcs = _coordinate_system(tree, where)
    if wcs is None or wcs.n_inputs_of_ours != 2:
        return None

    def locate(x: Array, y: Array) -> tuple[Array, Array]:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = wcs.call(np.asarray(x, np.float64), np.asarray(y, np.float64))
        except Exception as error:  # transforms raise many types
            raise _failed(where, error) from error
        ra, dec = (np.asarray(getattr(one, "value", one), np.float64) for one in found[:2])
        return ra, dec

    return locate


class _Wcs:
    """A gwcs object and how many numbers it takes."""

    def __init__(self, wcs: Any):
        self.call = wcs
        self.n_inputs_of_ours = int(wcs.forward_transform.n_inputs)


def _failed(where: str, error: Exception) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        Problem(f"the coordinate system in the ASDF extension cannot be used ({reason})", where,
                "give --wavelengths FILE (a WAVELENGTH image, a calints, or a table)", "wcs")
    )  # fmt: skip


def _coordinate_system(content: bytes, where: str) -> _Wcs | None:
    """Find ``meta.wcs``, of the exposure or of its only slit."""
    import asdf

    # without these entries the tree cannot hold one; looked for before libraries that may be missing are needed
    if b"gwcs" not in content:
        return None
    try:
        # their entry points teach asdf the transforms of the observatory
        import gwcs
        import stdatamodels
    except ImportError as error:
        raise ConfigError(
            Problem(MISSING_EXTRA, where, "or give --wavelengths FILE", "missing_extra")
        ) from error
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
                return None if wcs is None else _Wcs(wcs)
    except Exception as error:  # asdf and astropy raise many types on trees they do not know
        raise _failed(where, error) from error


def _evaluate(wcs: _Wcs, x: Array, y: Array, order: int, where: str) -> Array | None:
    inputs: list[Array] = [x, y] if wcs.n_inputs_of_ours < 3 else [x, y, np.full_like(x, order)]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            outputs: Any = wcs.call(*inputs)
    except Exception as error:  # transforms raise many types
        raise _failed(where, error) from error
    found: list[Any] = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    if len(found) < 3:
        return None
    values = np.array(getattr(found[2], "value", found[2]), np.float64)
    return values if values.shape == x.shape else None

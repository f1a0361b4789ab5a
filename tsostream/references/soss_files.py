"""The contents of SOSS references: PASTASOSS from ASDF, profiles and kernels from FITS or ASDF."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_pastasoss"]

Arrays = dict[str, npt.NDArray]

#: keyword -> name in ``meta``
_META = {
    "PWCPOS_CMD": "pwcpos_cmd",
    "WAVEMAP_WLMIN": "wavemap_wlmin",
    "WAVEMAP_WLMAX": "wavemap_wlmax",
    "WAVEMAP_NWL": "wavemap_nwl",
}


def read_pastasoss(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read the traces of a PASTASOSS reference.

    Parameters
    ----------
    path
        ASDF file.

    Returns
    -------
    arrays
        By order *n*: ``TRACE,n`` [point, (x, y)], ``PIVOT,n`` [(x, y)], ``CUTOFF,n`` [1], ``SHORT,n`` [1] (µm, NaN
        where there is none), ``WAVECAL,n`` [coefficient], ``EXTENTS,n`` [(low, high), (x, offset)],
        ``THROUGHPUT,n`` [(µm, throughput), point]; float64, read-only.
    keywords
        ``ORDERS``, ``PWCPOS_CMD``, ``PWCPOS_MIN``, ``PWCPOS_MAX``, ``WAVEMAP_WLMIN``, ``WAVEMAP_WLMAX``,
        ``WAVEMAP_NWL``, ``ORDER2_LOW``, ``ORDER2_HIGH`` (limits of the overlap of the orders [µm]).

    Raises
    ------
    ValueError
        When something is missing; says what.
    """
    tree = _tree(path)
    meta = tree.get("meta")
    if not isinstance(meta, Mapping):
        raise ValueError("there is no meta")
    keywords: dict[str, Any] = {}
    for key, name in _META.items():
        if name not in meta:
            raise ValueError(f"meta.{name} is missing")
        keywords[key] = float(meta[name])
    bounds = meta.get("pwcpos_bounds")
    if bounds is None or len(bounds) != 2:
        raise ValueError("meta.pwcpos_bounds is missing")
    keywords["PWCPOS_MIN"], keywords["PWCPOS_MAX"] = float(bounds[0]), float(bounds[1])
    # the official default where a reference does not say
    low, high = meta.get("order2_separation_cutoff") or (0.77, 0.95)
    keywords["ORDER2_LOW"], keywords["ORDER2_HIGH"] = float(low), float(high)
    arrays: Arrays = {}
    for entry in _entries(tree, "traces"):
        n = int(entry["spectral_order"])
        arrays[f"TRACE,{n}"] = _array(entry, "trace", 2)
        arrays[f"PIVOT,{n}"] = np.array([entry["pivot_x"], entry["pivot_y"]], np.float64)
        arrays[f"CUTOFF,{n}"] = np.array([entry.get("cutoff") or 2048], np.float64)
        short = entry.get("short_cutoff")
        arrays[f"SHORT,{n}"] = np.array([np.nan if short is None else short], np.float64)
    keywords["ORDERS"] = tuple(int(entry["spectral_order"]) for entry in _entries(tree, "traces"))
    for entry in _entries(tree, "wavecal_models"):
        n = int(entry["spectral_order"])
        arrays[f"WAVECAL,{n}"] = _array(entry, "coefficients", 1)
        arrays[f"EXTENTS,{n}"] = _array(entry, "scale_extents", 2)
    for entry in tree.get("throughputs") or ():
        n = int(entry["spectral_order"])
        arrays[f"THROUGHPUT,{n}"] = np.stack([_array(entry, "wavelength", 1), _array(entry, "throughput", 1)])
    for n in keywords["ORDERS"]:
        if f"WAVECAL,{n}" not in arrays:
            raise ValueError(f"there is no wavecal_models entry of order {n}")
    for array in arrays.values():
        array.flags.writeable = False
    return arrays, keywords


def _tree(path: Path) -> dict[str, Any]:
    """Load an ASDF tree with its arrays; tags of packages that are not installed do not matter."""
    import asdf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            return dict(file.tree)


def _entries(tree: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    entries = list(tree.get(name) or ())
    if not entries or not all("spectral_order" in entry for entry in entries):
        raise ValueError(f"{name} is missing, or an entry of it lacks spectral_order")
    return entries


def _array(entry: Mapping[str, Any], name: str, ndim: int) -> npt.NDArray[np.float64]:
    if entry.get(name) is None:
        raise ValueError(f"{name} of order {entry['spectral_order']} is missing")
    array = np.array(entry[name], np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} of order {entry['spectral_order']} has {array.ndim} axes, expected {ndim}")
    return array

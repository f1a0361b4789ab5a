"""The contents of WAVECORR references: offsets of the wavelength's zero point, from ASDF."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_wavecorr"]


def read_wavecorr(path: Path) -> tuple[dict[str, npt.NDArray], dict[str, Any]]:
    """Read the tables of a WAVECORR reference.

    Parameters
    ----------
    path
        ASDF file; ``apertures[].zero_point_offset`` is a table (an astropy ``Tabular2D``) of wavelength [m] and source
        position [slit width].

    Returns
    -------
    arrays
        By aperture *a*: ``WAVE,a`` [wavelength, in µm], ``POSITION,a`` [position], ``OFFSET,a`` [wavelength, position]
        in pixels; float64, ascending in both, read-only.
    keywords
        ``APERTURES``.

    Raises
    ------
    ValueError
        When something is missing; says what.
    """
    import asdf

    arrays: dict[str, npt.NDArray] = {}
    with warnings.catch_warnings():
        # tags of packages that are not installed: their contents come as plain mappings
        warnings.simplefilter("ignore")
        with asdf.open(path, lazy_load=False, memmap=False, ignore_unrecognized_tag=True) as file:
            tree = file.tree
            entries = tree.get("apertures")
            if not entries:
                raise ValueError("there are no apertures")
            for entry in entries:
                name = str(entry.get("aperture_name", "")).strip().upper()
                arrays |= _table(entry.get("zero_point_offset"), name)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays, {"APERTURES": tuple(key.partition(",")[2] for key in arrays if key.startswith("OFFSET,"))}


def _table(model: Any, name: str) -> dict[str, npt.NDArray]:
    """Take a table apart, whether its tag is known to this installation or not."""
    if isinstance(model, Mapping):
        points, lookup = model.get("points"), model.get("lookup_table")
    else:
        points, lookup = getattr(model, "points", None), getattr(model, "lookup_table", None)
    if points is None or lookup is None or len(points) != 2:
        raise ValueError(f"the zero_point_offset of aperture {name or '(no name)'} is no table of two axes")
    wave, place = (np.array(getattr(one, "value", one), np.float64) for one in points)
    table = np.array(getattr(lookup, "value", lookup), np.float64)
    if table.shape != (len(wave), len(place)) or min(table.shape) < 2:
        raise ValueError(
            f"the table of aperture {name} has the shape {table.shape}, its axes {len(wave)}, {len(place)}"
        )
    # an axis may run backwards
    wave_order, place_order = np.argsort(wave), np.argsort(place)
    table = table[np.ix_(wave_order, place_order)]
    metres = 1e6 if np.nanmax(wave) < 1e-4 else 1.0
    return {
        f"WAVE,{name}": wave[wave_order] * metres,
        f"POSITION,{name}": place[place_order],
        f"OFFSET,{name}": table,
    }

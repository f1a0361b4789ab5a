"""The contents of small references in JSON and ASDF: waves of EMICORR, apertures of EXTRACT1D, WAVELENGTHRANGE."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tsostream.references.headers import read_asdf_tree

__all__ = ["read_emicorr", "read_extract1d", "read_wavelengthrange", "write_emicorr"]

Contents = tuple[dict[str, npt.NDArray], dict[str, Any]]

_NUMBERS = ("xstart", "xstop", "ystart", "ystop", "extract_width", "bkg_order", "smoothing_length")
_POLYNOMIALS = ("src_coeff", "bkg_coeff")


def read_extract1d(path: Path) -> Contents:
    """Read the apertures of an EXTRACT1D reference (JSON).

    Returns
    -------
    arrays
        None.
    keywords
        ``APERTURES``: a tuple of mappings as they stand in the file.

    Raises
    ------
    ValueError
        When there are no apertures, or one holds something else than numbers; says which.
    """
    tree = json.loads(path.read_bytes())
    apertures = tree.get("apertures") if isinstance(tree, Mapping) else None
    if not isinstance(apertures, list) or not all(isinstance(one, Mapping) for one in apertures):
        raise ValueError("it has no list of apertures")
    for number, one in enumerate(apertures):
        for name in _NUMBERS:
            if one.get(name) is not None and not isinstance(one[name], int | float):
                raise ValueError(
                    f"{name} of aperture {number} ({one.get('id')}) is {one[name]!r}, expected a number"
                )
        for name in _POLYNOMIALS:
            if one.get(name) is not None:
                _check_polynomials(one[name], f"{name} of aperture {number} ({one.get('id')})")
    return {}, {"APERTURES": tuple(dict(one) for one in apertures)}


def _check_polynomials(given: Any, where: str) -> None:
    whole = isinstance(given, list) and all(
        isinstance(one, list) and one and all(isinstance(value, int | float) for value in one)
        for one in given
    )
    if not whole or len(given) % 2:
        raise ValueError(f"{where} is {given!r}, expected pairs of lists of numbers (lower, upper limit)")


def read_emicorr(path: Path) -> Contents:
    """Read the waves of an EMICORR reference (ASDF): its waveforms lie in binary blocks, or inline.

    Returns
    -------
    arrays
        None.
    keywords
        ``frequencies``: name -> ``frequency`` [Hz] and ``phase_amplitudes`` (float64 [bin]); ``subarray_cases``:
        subarray -> ``rowclocks``, ``frameclocks`` and ``freqs``, the names of its waves by readout.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read, or holds no waves.
    """
    import asdf

    with warnings.catch_warnings():
        # tags of the official data models, whose package need not be there: plain trees do
        warnings.simplefilter("ignore")
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            tree = {name: _plain(file.tree.get(name)) for name in ("frequencies", "subarray_cases")}
    missing = [name for name, content in tree.items() if not isinstance(content, dict) or not content]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    for name, wave in tree["frequencies"].items():
        values = np.asarray(wave.get("phase_amplitudes", ()) if isinstance(wave, dict) else (), np.float64)
        if values.ndim != 1 or values.size < 4 or not float(wave.get("frequency") or 0) > 0:
            raise ValueError(f"its wave {name} has no frequency, or no amplitudes of its phases")
        wave["phase_amplitudes"] = values
    return {}, tree


def write_emicorr(path: Path, waves: Mapping[str, tuple[float, np.ndarray]], case: Mapping[str, Any]) -> None:
    """Write waves that were found on the fly as an EMICORR reference.

    Parameters
    ----------
    path
        File to write.
    waves
        Name -> frequency [Hz] and amplitudes over one period.
    case
        Subarray -> its clocks and the names of its waves.
    """
    import asdf

    frequencies = {
        name: {"frequency": frequency, "phase_amplitudes": np.asarray(shape)}
        for name, (frequency, shape) in waves.items()
    }
    meta = {
        "reftype": "emicorr", "author": "tsostream", "description": "EMI correction file, found on the fly",
        "pedigree": "GROUND", "useafter": "2000-01-01T00:00:00", "instrument": {"name": "MIRI"},
    }  # fmt: skip
    tree = {"meta": meta, "frequencies": frequencies, "subarray_cases": dict(case)}
    asdf.AsdfFile(tree).write_to(path)


def _plain(node: Any) -> Any:
    """Take tagged nodes for the mappings, lists and arrays they are."""
    if isinstance(node, Mapping):
        return {str(name): _plain(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return np.array(node) if hasattr(node, "__array__") else node


def read_wavelengthrange(path: Path) -> Contents:
    """Read the ranges of a WAVELENGTHRANGE reference (ASDF).

    Returns
    -------
    arrays
        None.
    keywords
        ``WAVELENGTHRANGE``: a tuple of (order, filter, shortest, longest wavelength [µm]).
    """
    rows = read_asdf_tree(path).get("wavelengthrange") or ()
    # spectroscopic ranges stand as (order, filter, low, high); rows of another form are other modes'
    found = [
        (int(row[0]), str(row[1]), float(row[2]), float(row[3]))
        for row in rows
        if len(row) == 4 and isinstance(row[0], int)
    ]
    return {}, {"WAVELENGTHRANGE": tuple(found)}

"""Windows of persistence that an exposure leaves open, in the official step's ASDF files (stage 1, 19).

Each detector has an entry: ``rows`` and ``cols`` of the pixels, ``vals``, when their windows close [s since 1970],
``pers_time``, how long windows are [s], and ``filename`` of the exposure.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.errors import InputError, Problem, SinkError

__all__ = ["read_open_windows", "write_open_windows"]


def read_open_windows(
    path: str | Path, detector: str, duration: float, shape: tuple[int, int]
) -> tuple[np.ndarray, str]:
    """Read when the windows close that an earlier exposure left open.

    Parameters
    ----------
    path
        The file; as with the official step it need not be there.
    detector
        Whose entry.
    duration
        How long windows are [s].
    shape
        (y, x) of the subarray.

    Returns
    -------
    until : float64 [y, x]
        [s since 1970], 0 for none.
    reason : str
        Why there is none at all; empty otherwise.

    Raises
    ------
    InputError
        The file cannot be read, or is of another subarray.
    """
    place, until = Path(path).expanduser(), np.zeros(shape)
    if not place.exists():
        return until, "there is no such file"
    todo = "give a file that save_persistence wrote"
    try:
        entry = _tree(place).get(detector)
        if entry is None:
            return until, f"it holds nothing of {detector}"
        if entry["pers_time"] != duration:
            return until, f"its windows are of {entry['pers_time']} s, not {duration:g} s"
        rows, columns = (np.asarray(entry[name], np.int64) for name in ("rows", "cols"))
        values = np.asarray(entry["vals"], np.float64)
        if not rows.shape == columns.shape == values.shape or rows.ndim != 1:
            raise ValueError("rows, cols and vals are not as many")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"cannot be read as windows of persistence ({error})"
        raise InputError(Problem(what, str(place), todo, "mask")) from None
    if rows.size and not (
        rows.min() >= 0 and rows.max() < shape[0] and columns.min() >= 0 and columns.max() < shape[1]
    ):
        what = f"its windows do not lie in the subarray of {shape} pixels (y, x)"
        raise InputError(Problem(what, str(place), "give one of the same subarray", "mask"))
    until[rows, columns] = values
    return until, ""


def write_open_windows(
    path: str | Path, detector: str, filename: str, duration: int, until: np.ndarray
) -> Path:
    """Write the windows that an exposure leaves open; entries of other detectors stay.

    Parameters
    ----------
    path
        The file; its suffix becomes ``.asdf``.
    detector, filename
        Of the exposure.
    duration
        How long windows are [s].
    until : float64 [y, x]
        When they close [s since 1970], 0 for none.

    Raises
    ------
    SinkError
        It cannot be written.
    """
    import asdf

    place = Path(path).expanduser().with_suffix(".asdf")
    rows, columns = np.nonzero(until)
    entry = {
        "filename": filename,
        "rows": rows,
        "cols": columns,
        "vals": until[rows, columns],
        "pers_time": duration,
    }
    part = place.with_name(f"{place.name}.part")
    try:
        tree = {**(_tree(place) if place.exists() else {}), detector: entry}
        asdf.AsdfFile(tree).write_to(part)
        part.replace(place)
    except (OSError, ValueError) as error:
        raise SinkError(f"{place}: windows of persistence cannot be written ({error})") from error
    return place


def _tree(path: Path) -> dict[str, Any]:
    """Read the entries of all detectors, with their arrays in memory."""
    import asdf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            return {
                str(name): {key: np.array(value) if isinstance(value, asdf.tags.core.ndarray.NDArrayType) else value
                            for key, value in entry.items()}
                for name, entry in file.tree.items()
                if isinstance(entry, dict) and "vals" in entry
            }  # fmt: skip

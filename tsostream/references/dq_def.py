"""Data-quality bits of reference files, translated to the standard bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsostream.integration.dq import BITS

__all__ = ["remap_dq", "to_uint32"]

#: names that are no bit: nothing to translate, nothing to warn about
_NO_BIT = frozenset({"", "GOOD"})


def to_uint32(values: npt.NDArray) -> npt.NDArray[np.uint32]:
    """Read bits stored as any number type.

    Old files hold DQ as uint8, int16, int32 (bit 31 negative) or even floats.

    Parameters
    ----------
    values
        Any shape.

    Raises
    ------
    ValueError
        When values are not whole numbers between -2**31 and 2**32 - 1.
    """
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 4:
        return (
            values.astype(np.int64).astype(np.uint32)
            if values.dtype.kind == "i"
            else values.astype(np.uint32)
        )
    numbers = values.astype(np.float64)
    good = (
        np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers >= -(2.0**31)) & (numbers < 2.0**32)
    )
    if not good.all():
        raise ValueError(f"{int((~good).sum())} values are no bits (found e.g. {numbers[~good].flat[0]})")
    return numbers.astype(np.int64).astype(np.uint32)


def remap_dq(
    stored: npt.NDArray[np.uint32], definitions: npt.NDArray
) -> tuple[npt.NDArray[np.uint32], list[str]]:
    """Translate a reference's own bits with its DQ_DEF table.

    Every row says: where any bit of VALUE is set, set the standard bit called NAME. Bits that the
    table does not name are dropped, as in the official pipeline.

    Parameters
    ----------
    stored
        DQ as in the file, any shape.
    definitions
        Structured array with the columns ``name`` and ``value`` (or ``bit``), lower case.

    Returns
    -------
    dq
        Standard bits, the shape of `stored`.
    unknown
        Names in the table that are no standard mnemonic; their bits are dropped.

    Raises
    ------
    ValueError
        When the table lacks the columns.
    """
    columns = definitions.dtype.names or ()
    if "name" not in columns or not {"value", "bit"} & set(columns):
        raise ValueError(f"DQ_DEF has the columns {', '.join(columns)}, expected NAME and VALUE")
    if "value" in columns:
        values = to_uint32(np.atleast_1d(definitions["value"]))
    else:
        values = np.left_shift(np.uint64(1), definitions["bit"].astype(np.uint64)).astype(np.uint32)
    dq = np.zeros_like(stored)
    unknown: list[str] = []
    for raw, value in zip(definitions["name"], values, strict=True):
        name = str(raw).strip().upper()
        if name in _NO_BIT:
            continue
        if name not in BITS:
            unknown.append(name)
            continue
        dq[(stored & value) != 0] |= np.uint32(BITS[name])
    return dq, unknown

"""Metadata of an output: one JSON object under one key, in the schema and again in the footer.

Arrow metadata are pairs of bytes. Everything tsostream says stands as strict JSON (no ``NaN``: other
languages read it too) under `METADATA_KEY`; what is known at the start in the schema, the rest in the footer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

__all__ = ["METADATA_KEY", "decode_metadata", "encode_metadata", "merge_metadata", "plain_values"]

#: key of the JSON object in schema and footer metadata
METADATA_KEY = "tsostream"


def encode_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """Make Arrow metadata out of plain facts.

    Parameters
    ----------
    facts
        Strings, numbers, booleans, None, lists, mappings; numpy scalars and arrays, paths, sets and tuples
        are converted. NaN and infinities become null.

    Returns
    -------
    dict of str to str
        ``{"tsostream": <JSON>}``, what `light_curve_schema` and `spectra_schema` take.
    """
    return {
        METADATA_KEY: json.dumps(plain_values(facts), allow_nan=False, sort_keys=True, ensure_ascii=False)
    }


def decode_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Read the facts back; other programs' keys come along as strings.

    Raises
    ------
    ValueError
        When the JSON or its encoding is damaged.
    """
    facts: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for raw_key, raw in (metadata or {}).items():
        key = raw_key.decode()
        if key == METADATA_KEY:
            decoded = json.loads(raw)
            if not isinstance(decoded, dict):
                raise ValueError(f"the {METADATA_KEY!r} metadata are not a JSON object")
            own = decoded
        else:
            facts[key] = raw.decode(errors="replace")
    return {**facts, **own}


def merge_metadata(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Any]:
    """Merge what was known at the start with what the end adds, nested objects too; the end wins."""
    merged = dict(start)
    for key, value in end.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge_metadata(old, value) if both else value  # type: ignore[arg-type]
    return merged


def plain_values(value: Any) -> Any:
    """Return what JSON makes of a value: numpy scalars and arrays, tuples, sets and paths become plain."""
    if isinstance(value, np.ndarray | np.generic):
        plain = value.tolist()
        if value.dtype.kind in "iub" or (value.dtype.kind == "f" and np.isfinite(value).all()):
            return plain
        value = plain
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain_values(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(f"{type(value).__name__} cannot stand in metadata: {value!r}")

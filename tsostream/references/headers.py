"""The keywords of a reference file, read quickly, and whether they suit an exposure."""

from __future__ import annotations

import gzip
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from tsostream.integration.exposure_info import ExposureInfo

__all__ = [
    "SELECTORS",
    "disagreement",
    "is_wild",
    "meta_keywords",
    "read_asdf_tree",
    "read_keywords",
    "same_value",
]

#: keyword -> (the pattern keyword that overrules it, the attribute of `ExposureInfo`)
SELECTORS: dict[str, tuple[str, str]] = {
    "INSTRUME": ("P_INSTRU", "instrument"),
    "DETECTOR": ("P_DETECT", "detector"),
    "EXP_TYPE": ("P_EXP_TY", "exp_type"),
    "READPATT": ("P_READPA", "readpatt"),
    "FILTER": ("P_FILTER", "filter"),
    "PUPIL": ("P_PUPIL", "pupil"),
    "GRATING": ("P_GRATIN", "grating"),
    "SUBARRAY": ("P_SUBARR", "subarray"),
}

_WILD = frozenset({"", "N/A", "NA", "GENERIC", "ANY", "*"})

#: the two names NIRCam's long-wavelength detectors go by
_SAME_DETECTOR = {"NRCA5": "NRCALONG", "NRCB5": "NRCBLONG"}

_GZIP_MAGIC = b"\x1f\x8b"
_ASDF_MAGIC = b"#ASDF"
_HEADER_LIMIT = 288_000
"""Longest primary header that is looked at [bytes], 3600 cards; real ones have a few hundred."""
_TREE_LIMIT = 16 * 1024**2
"""Longest ASDF tree or JSON file that is looked at [bytes]; the trees of real references are far shorter."""

#: where the ASDF form of a reference keeps the selectors
_ASDF_PATHS = {
    "REFTYPE": ("meta", "reftype"),
    "INSTRUME": ("meta", "instrument", "name"),
    "DETECTOR": ("meta", "instrument", "detector"),
    "FILTER": ("meta", "instrument", "filter"),
    "PUPIL": ("meta", "instrument", "pupil"),
    "GRATING": ("meta", "instrument", "grating"),
    "EXP_TYPE": ("meta", "exposure", "type"),
    "P_EXP_TY": ("meta", "exposure", "p_exptype"),
    "READPATT": ("meta", "exposure", "readpatt"),
    "P_READPA": ("meta", "exposure", "p_readpatt"),
    "SUBARRAY": ("meta", "subarray", "name"),
}


def read_keywords(path: Path) -> dict[str, Any]:
    """Read the primary keywords of a FITS(.gz) file, or their like in ASDF and JSON.

    Returns
    -------
    dict
        Upper-case keywords; without REFTYPE the file is not a reference.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read as what its name says.
    """
    name = path.name.lower()
    if name.endswith(".json"):
        return _json_keywords(path)
    if name.endswith(".asdf"):
        return meta_keywords(read_asdf_tree(path))
    return _fits_keywords(path)


def _fits_keywords(path: Path) -> dict[str, Any]:
    """Read the primary header only, however large the file is."""
    with path.open("rb") as probe:
        zipped = probe.read(2) == _GZIP_MAGIC
    try:
        with gzip.open(path) if zipped else path.open("rb") as stream:
            head = stream.read(_HEADER_LIMIT)
        if not head.startswith(b"SIMPLE  ="):
            raise ValueError("it does not begin with SIMPLE = T")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            return header_dict(fits.Header.fromfile(io.BytesIO(head), endcard=True))
    except (OSError, ValueError):
        raise
    except Exception as exc:  # a corrupt header makes astropy and zlib raise almost anything
        raise ValueError(f"its primary header is corrupt ({exc})") from exc


def header_dict(header: fits.Header) -> dict[str, Any]:
    """Give the keywords as plain values; commentary, undefined and unreadable cards are left out."""
    skip = {"", "COMMENT", "HISTORY"}
    values: dict[str, Any] = {}
    for card in header.cards:
        try:
            key, value = str(card.keyword), card.value
        except (fits.VerifyError, ValueError):
            continue  # one broken card is no reason to refuse an old file; what is needed is checked by name
        if key not in skip and not isinstance(value, fits.card.Undefined):
            values[key] = value
    return values


def _json_keywords(path: Path) -> dict[str, Any]:
    """Read the upper-case keys at the top of a JSON reference (extract1d), or its ``meta``."""
    if path.stat().st_size > _TREE_LIMIT:
        return {}
    tree = json.loads(path.read_bytes())
    if not isinstance(tree, dict):
        return {}
    flat = {str(key).upper(): value for key, value in tree.items() if isinstance(value, str | int | float)}
    return meta_keywords(tree) | flat


def read_asdf_tree(path: Path) -> dict[str, Any]:
    """Read the YAML tree in front of an ASDF file as plain values, without its binary blocks and tags.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read, or is not ASDF.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Takes every tagged node for the plain mapping, sequence or scalar below its tag."""

    def plain(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(cast("yaml.ScalarNode", node))

    PlainLoader.add_multi_constructor("tag:", plain)
    PlainLoader.add_multi_constructor("!", plain)
    with path.open("rb") as stream:
        head = stream.read(len(_ASDF_MAGIC))
        if head != _ASDF_MAGIC:
            raise ValueError("it does not begin with #ASDF")
        text = b"".join(_tree_lines(stream))
    try:
        tree = yaml.load(text, Loader=PlainLoader)  # a SafeLoader that ignores tags
    except yaml.YAMLError as exc:
        raise ValueError(f"its tree is not YAML ({exc})") from exc
    return tree if isinstance(tree, dict) else {}


def _tree_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Give the lines of the tree up to the line ``...`` that ends it."""
    stream.readline()
    read = 0
    for line in stream:
        read += len(line)
        if read > _TREE_LIMIT:
            raise ValueError("its tree is longer than 16 MB")
        yield line
        if line.rstrip() == b"...":
            return


def meta_keywords(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Translate ``meta.instrument.name`` and the like to keywords; what is not there is left out."""
    values: dict[str, Any] = {}
    for keyword, parts in _ASDF_PATHS.items():
        node: Any = tree
        for part in parts:
            node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(node, str | int | float):
            values[keyword] = node
    return values


def is_wild(value: Any) -> bool:
    """Whether a keyword value stands for any value."""
    return value is None or str(value).strip().upper() in _WILD


def same_value(keyword: str, found: Any, expected: str) -> bool:
    """Whether a value, or one part of a pattern ``A|B|``, is the expected one or wild."""
    parts = [part.strip().upper() for part in str(found).split("|")]
    parts = [part for part in parts if part] or [""]
    want = expected.strip().upper()
    if keyword == "DETECTOR":
        parts = [_SAME_DETECTOR.get(part, part) for part in parts]
        want = _SAME_DETECTOR.get(want, want)
    return any(part in _WILD or part == want for part in parts)


def disagreement(keyword: str, keywords: Mapping[str, Any], info: ExposureInfo) -> tuple[str, str] | None:
    """Compare one selector of a reference with the exposure.

    A keyword the exposure does not have (PUPIL at NIRSpec) cannot disagree.

    Returns
    -------
    tuple or None
        ``(found, expected)`` when they disagree, else None.
    """
    pattern, attribute = SELECTORS[keyword]
    expected = str(getattr(info, attribute))
    found = keywords.get(pattern)
    if found is None or not str(found).strip():
        found = keywords.get(keyword)
    if is_wild(found) or not expected.strip() or same_value(keyword, found, expected):
        return None
    return str(found).strip(), expected

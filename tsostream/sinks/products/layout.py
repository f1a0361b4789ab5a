"""Where everything lies in a FITS product, before a single pixel is known.

All sizes of a product are known at the start, so each plane of each integration has its place, and slabs can be
written in any order, twice, and by several threads. Headers are made once; what the input's header says is carried
over card by card, except for what describes the input's own arrays.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from astropy.io import fits

from tsostream.errors import ReadError

__all__ = [
    "BLOCK",
    "INT_TIMES_COLUMNS",
    "AnyExtension",
    "Image",
    "Kind",
    "Layout",
    "Place",
    "Records",
    "Table",
    "Tree",
    "carry",
    "image_header",
    "make_layout",
    "primary_header",
    "read_headers",
]

#: FITS files come in blocks of this many bytes
BLOCK: Final = 2880

#: columns of INT_TIMES with their FITS formats
INT_TIMES_COLUMNS: Final = (
    ("integration_number", "J"),
    *((f"int_{part}_{scale}", "D") for scale in ("MJD_UTC", "BJD_TDB") for part in ("start", "mid", "end")),
)

Kind = Literal["f4", "u4", "u1"]

_BITPIX: Final[dict[Kind, int]] = {"f4": -32, "u4": 32, "u1": 8}
#: cards that describe arrays of the input, or were computed from them
_STRUCTURE: Final = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BSCALE|BZERO|BLANK|EXTNAME|EXTVER|EXTLEVEL|BUNIT"
    r"|CHECKSUM|DATASUM|DATAMIN|DATAMAX|END)"
)
#: cards of the primary header that are made anew, or that only other products have
_REMADE: Final = re.compile(r"(DATE|FILENAME|CAL_VER|CAL_VCS|DATAMODL|CRDS_VER|CRDS_CTX|[RSH]_[A-Z0-9]{1,6})")


@dataclass(frozen=True)
class Image:
    """An image extension.

    Parameters
    ----------
    name, kind
        EXTNAME; ``f4``, ``u4`` (as BITPIX 32 with BZERO) or ``u1``.
    shape
        numpy order; with ``cube`` the first axis counts integrations.
    unit
        BUNIT; empty for none.
    cards
        Further cards.
    cube
        Whether it has a slab per integration.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    unit: str = ""
    cards: Sequence[fits.Card] = ()
    cube: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * abs(_BITPIX[self.kind]) // 8


@dataclass(frozen=True)
class Table:
    """INT_TIMES with so many rows."""

    rows: int
    name: str = "INT_TIMES"

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum({"J": 4, "D": 8}[form] for _, form in INT_TIMES_COLUMNS)


@dataclass(frozen=True)
class Records:
    """A binary table with a row per integration.

    Parameters
    ----------
    name, version
        EXTNAME and EXTVER; its place is called ``NAME,VERSION``.
    dtype
        Of a row, big-endian; uint32 columns hold the value minus 2**31, as FITS has them.
    rows
        How many.
    first
        Index of its first integration among those of the file.
    units
        Column -> TUNIT.
    unsigned
        Columns that are uint32.
    cards
        Further cards.
    """

    name: str
    dtype: np.dtype
    rows: int
    version: int = 1
    first: int = 0
    units: Mapping[str, str] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()
    cards: Sequence[fits.Card] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.rows * self.dtype.itemsize


@dataclass(frozen=True)
class Tree:
    """The ASDF extension: one row with one column of bytes, which are a file of their own."""

    content: bytes
    name: str = "ASDF"

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return len(self.content)


@dataclass(frozen=True)
class Place:
    """Where the data of an extension lie.

    Parameters
    ----------
    offset, nbytes
        First byte, and bytes of all data.
    step
        Bytes of one integration (of a row for tables, of everything where there is no integration axis).
    kind
        How elements are written (`Image`); empty for tables, whose rows come as the bytes of the file.
    first
        Index of its first integration among those of the file.
    """

    offset: int
    nbytes: int
    step: int
    kind: str
    first: int = 0


AnyExtension = Image | Table | Records | Tree


@dataclass(frozen=True)
class Layout:
    """A whole file.

    Parameters
    ----------
    headers
        ``(offset, bytes)`` of each header.
    places
        Extension name -> place of its data.
    size
        Bytes of the file.
    """

    headers: tuple[tuple[int, bytes], ...]
    places: Mapping[str, Place]
    size: int


def make_layout(primary: fits.Header, extensions: Sequence[AnyExtension]) -> Layout:
    """Give each header and each array its place."""
    raw = _bytes(primary)
    headers, places, at = [(0, raw)], {}, len(raw)
    for one in extensions:
        raw = _bytes(_header(one))
        headers.append((at, raw))
        at += len(raw)
        if isinstance(one, Table):
            places[one.name] = Place(at, one.nbytes, one.row_bytes, "")
        elif isinstance(one, Tree):
            places[one.name] = Place(at, one.nbytes, one.nbytes, "u1")
        elif isinstance(one, Records):
            places[f"{one.name},{one.version}"] = Place(at, one.nbytes, one.dtype.itemsize, "", one.first)
        else:
            step = one.nbytes // one.shape[0] if one.cube else one.nbytes
            places[one.name] = Place(at, one.nbytes, step, one.kind)
        at += -(-one.nbytes // BLOCK) * BLOCK
    return Layout(tuple(headers), places, at)


def _header(one: AnyExtension) -> fits.Header:
    if isinstance(one, Image):
        return image_header(one)
    if isinstance(one, Tree):
        return _tree_header(one)
    return _table_header(one) if isinstance(one, Table) else records_header(one)


def _bytes(header: fits.Header) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return header.tostring().encode("ascii", "replace")


def image_header(image: Image) -> fits.Header:
    """Header of an image extension, structural cards first and EXTVER last, as the official products have it."""
    cards: list[Any] = [
        ("XTENSION", "IMAGE", "Image extension"),
        ("BITPIX", _BITPIX[image.kind], "array data type"),
        ("NAXIS", len(image.shape), "number of array dimensions"),
        *((f"NAXIS{axis}", size) for axis, size in enumerate(reversed(image.shape), 1)),
        ("PCOUNT", 0, "number of parameters"),
        ("GCOUNT", 1, "number of groups"),
    ]
    if image.kind == "u4":
        cards += [("BSCALE", 1), ("BZERO", 1 << 31)]
    cards.append(("EXTNAME", image.name, "extension name"))
    header = fits.Header([fits.Card(*card) for card in cards])
    header.extend(image.cards, strip=False, unique=False, update=False, end=True)
    if image.unit:
        header.append(fits.Card("BUNIT", image.unit, "physical units of the array values"), end=True)
    header.append(fits.Card("EXTVER", 1, "extension value"), end=True)
    return header


def _table_header(table: Table) -> fits.Header:
    cards: list[Any] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", table.row_bytes, "length of dimension 1"),
        ("NAXIS2", table.rows, "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(INT_TIMES_COLUMNS), "number of table fields"),
    ]
    for number, (name, form) in enumerate(INT_TIMES_COLUMNS, 1):
        cards += [(f"TTYPE{number}", name), (f"TFORM{number}", form)]
    cards += [("EXTNAME", table.name, "extension name"), ("EXTVER", 1, "extension value")]
    return fits.Header([fits.Card(*card) for card in cards])


def _tree_header(tree: Tree) -> fits.Header:
    cards: list[Any] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", tree.nbytes, "length of dimension 1"),
        ("NAXIS2", 1, "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", 1, "number of table fields"),
        ("TTYPE1", "ASDF_METADATA"),
        ("TFORM1", f"{tree.nbytes}B"),
        ("EXTNAME", tree.name, "extension name"),
    ]
    return fits.Header([fits.Card(*card) for card in cards])


def records_header(table: Records) -> fits.Header:
    """Header of a table with a row per integration."""
    names = table.dtype.names or ()
    cards: list[Any] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", table.dtype.itemsize, "length of dimension 1"),
        ("NAXIS2", table.rows, "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(names), "number of table fields"),
    ]
    for number, name in enumerate(names, 1):
        column = table.dtype[name]
        size = column.shape[0] if column.shape else 0
        form = {"i4": "J", "f8": "D"}[column.base.str[1:]]
        cards += [(f"TTYPE{number}", name), (f"TFORM{number}", f"{size or ''}{form}")]
        if name in table.units:
            cards.append((f"TUNIT{number}", table.units[name]))
        if name in table.unsigned:
            cards.append((f"TZERO{number}", 1 << 31))
        if size:
            cards.append((f"TDIM{number}", f"({size})"))
    cards += [("EXTNAME", table.name, "extension name"), ("EXTVER", table.version, "extension value")]
    header = fits.Header([fits.Card(*card) for card in cards])
    header.extend(table.cards, strip=False, unique=False, update=False, end=True)
    return header


def primary_header(
    carried: Iterable[fits.Card], values: Mapping[str, Any], sections: Mapping[str, Mapping[str, str]]
) -> fits.Header:
    """PRIMARY header of a product.

    Parameters
    ----------
    carried
        Cards of the input.
    values
        Keyword -> value; those the input has are replaced where they stand.
    sections
        Title -> keyword -> value, each under its title at the end.
    """
    header = fits.Header(
        [
            fits.Card("SIMPLE", True, "conforms to FITS standard"),
            fits.Card("BITPIX", 8, "array data type"),
            fits.Card("NAXIS", 0, "number of array dimensions"),
            fits.Card("EXTEND", True),
            *(fits.Card(*card) for card in _identity(values)),
        ]
    )
    known = {card[0] for card in _identity(values)}
    for card in carried:
        if card.keyword not in known:
            header.append(card, end=True)
    for key, value in values.items():
        if key not in known:
            header[key] = value
    for title, entries in sections.items():
        if entries:
            for text in ("", title, ""):
                header.append(fits.Card("", text), end=True)
            for key, value in sorted(entries.items()):
                header.append(fits.Card(key, value), end=True)
    return header


def _identity(values: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    comments = {
        "DATE": "UTC date file created",
        "FILENAME": "Name of the file",
        "CAL_VER": "Calibration Software Version",
        "DATAMODL": "Type of data model",
    }
    return [(key, values[key], comment) for key, comment in comments.items() if key in values]


def carry(header: fits.Header, *, primary: bool) -> list[fits.Card]:
    """Cards that a product takes over from its input; cards that cannot be written again are left out."""
    cards = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for card in header.cards:
            try:
                key = card.keyword
                if _STRUCTURE.fullmatch(key) or (primary and _REMADE.fullmatch(key)):
                    continue
                card.verify("fix")
                str(card).encode("ascii")
                # a card of its own: those of a parsed header remember where they came from
                cards.append(fits.Card(key, card.value, card.comment))
            except Exception:  # astropy raises whatever comes to it on broken cards
                continue
    return cards


def read_headers(path: Path) -> tuple[fits.Header, fits.Header]:
    """PRIMARY and SCI headers of an input.

    Raises
    ------
    ReadError
        When they cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, mode="readonly", memmap=True, lazy_load_hdus=True) as hdus:
                return hdus[0].header.copy(), hdus["SCI"].header.copy()
    except Exception as error:  # astropy raises whatever comes to it on broken headers
        raise ReadError(
            f"{path}: its headers cannot be carried over to the products ({type(error).__name__}: {error}); "
            "fetch the file again, or leave out --products and --save-steps"
        ) from error

"""What a product is: where it comes from, what goes in, and its layout.

One file per input segment and product, under the segment's own name:

==========  ==========  ==========================================================  ====================
product     model       extensions                                                  slab
==========  ==========  ==========================================================  ====================
rateints    CubeModel   SCI, ERR, DQ, INT_TIMES, VAR_POISSON, VAR_RNOISE            one integration
rate        ImageModel  SCI, ERR, DQ, VAR_POISSON, VAR_RNOISE                       all at once, at the end
ramp        RampModel   SCI, PIXELDQ, GROUPDQ, INT_TIMES                            one integration
calints,    CubeModel   SCI, ERR, DQ, INT_TIMES, VAR_POISSON, VAR_RNOISE,           one integration
crfints                 VAR_FLAT, AREA
and of      SlitModel   SCI, ERR, DQ, WAVELENGTH, VAR_POISSON, VAR_RNOISE,          one integration
spectra                 VAR_FLAT, INT_TIMES, AREA
==========  ==========  ==========================================================  ====================

VAR_FLAT, WAVELENGTH and AREA are there where they are known, ASDF comes last where the input has it or a coordinate
system is known. Spectra of SOSS are CubeModels without wavelengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.integration.payload import Times
from tsostream.sinks.products.layout import (
    AnyExtension,
    Image,
    Layout,
    Table,
    Tree,
    carry,
    make_layout,
    primary_header,
    read_headers,
)

__all__ = ["ProductKind", "ProductSpec", "Source", "product_bytes"]

Array = npt.NDArray

ProductKind = Literal["rateints", "rate", "ramp", "calints", "crfints"]

_MODELS: dict[ProductKind, str] = {
    "rateints": "CubeModel",
    "rate": "ImageModel",
    "ramp": "RampModel",
    "calints": "CubeModel",
    "crfints": "CubeModel",
}


@dataclass(frozen=True)
class Source:
    """An input segment, as far as its products need it.

    Parameters
    ----------
    path
        The file to read headers from.
    first, count
        Integrations it holds: number in the exposure of the first, and how many.
    times
        ``times(first, count)``, None where the file has no INT_TIMES.
    """

    path: Path
    first: int
    count: int
    times: Callable[[int, int], Times] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ProductSpec:
    """One file to be.

    Parameters
    ----------
    path
        Its final name.
    kind
        What is in it.
    source
        Segment it is made from.
    first, count
        Integrations that go in.
    shape
        ``(y, x)`` of slopes, ``(group, y, x)`` of ramps.
    step
        The step whose result it holds; empty for the slopes at the end.
    unit
        BUNIT of SCI and ERR.
    keywords
        Primary keywords that are not the input's.
    sections
        Title -> keyword -> value: references, steps.
    pixeldq : uint32 [y, x], optional
        Flags of the pixels, for ramps.
    science
        Keywords of SCI that are not the input's.
    slit
        Whether calibrated slopes are those of a spectrum cut out.
    has_flat
        Whether they have a flat-field variance.
    planes
        ``WAVELENGTH, AREA`` float32 [y, x], as far as they are known.
    tree
        Content of its ASDF extension; empty for none.
    """

    path: Path
    kind: ProductKind
    source: Source
    first: int
    count: int
    shape: tuple[int, ...]
    step: str = ""
    unit: str = ""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pixeldq: Array | None = field(default=None, repr=False)
    science: Mapping[str, Any] = field(default_factory=dict)
    slit: bool = False
    has_flat: bool = False
    planes: Mapping[str, Array] = field(default_factory=dict, repr=False)
    tree: bytes = field(default=b"", repr=False)

    @property
    def static(self) -> dict[str, Array]:
        """Whatever is the same for all integrations."""
        fixed = {} if self.pixeldq is None else {"PIXELDQ": self.pixeldq}
        if self.tree:
            fixed["ASDF"] = np.frombuffer(self.tree, np.uint8)
        return {**fixed, **self.planes}

    @property
    def last(self) -> int:
        """Number in the exposure of the last integration."""
        return self.first + self.count - 1

    def layout(self) -> Layout:
        """Read the input's headers and give everything its place.

        Raises
        ------
        ReadError
            When the headers cannot be read.
        """
        primary, science = read_headers(self.source.path)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        values = {
            "DATE": now,
            "FILENAME": self.path.name,
            **self.keywords,
            "DATAMODL": "SlitModel" if self.slit else _MODELS[self.kind],
            "INTSTART": self.first,
            "INTEND": self.last,
        }
        header = primary_header(carry(primary, primary=True), values, self.sections)
        cards = [card for card in carry(science, primary=False) if card.keyword not in self.science]
        cards += [fits.Card(key, value) for key, value in self.science.items()]
        trees = [Tree(self.tree)] if self.tree else []
        return make_layout(header, [*self._extensions(cards), *trees])

    def _extensions(self, cards: Sequence[Any]) -> list[AnyExtension]:
        n, shape = self.count, self.shape
        table: list[AnyExtension] = [Table(n)] if self.source.times is not None else []
        if self.kind == "ramp":
            cube = (n, *shape)
            return [
                Image("SCI", "f4", cube, self.unit, cards),
                Image("PIXELDQ", "u4", shape[-2:], cube=False),
                Image("GROUPDQ", "u1", cube),
                *table,
            ]
        if self.kind in ("calints", "crfints"):
            return self._calibrated(cards, table)
        one = self.kind == "rate"
        full = shape if one else (n, *shape)
        return [
            Image("SCI", "f4", full, self.unit, cards, cube=not one),
            Image("ERR", "f4", full, self.unit, cube=not one),
            Image("DQ", "u4", full, cube=not one),
            *(() if one else table),
            Image("VAR_POISSON", "f4", full, cube=not one),
            Image("VAR_RNOISE", "f4", full, cube=not one),
        ]

    def _calibrated(self, cards: Sequence[Any], table: list[AnyExtension]) -> list[AnyExtension]:
        """List the extensions of calibrated slopes; tools that count them expect SCI, ERR, DQ first."""
        cube = (self.count, *self.shape)
        variances = ["VAR_POISSON", "VAR_RNOISE", *(["VAR_FLAT"] if self.has_flat else [])]
        planes = {name: [Image(name, "f4", self.shape, cube=False)] for name in self.planes}
        return [
            Image("SCI", "f4", cube, self.unit, cards),
            Image("ERR", "f4", cube, self.unit),
            Image("DQ", "u4", cube),
            *planes.get("WAVELENGTH", []),
            *([] if self.slit else table),
            *(Image(name, "f4", cube) for name in variances),
            *(table if self.slit else []),
            *planes.get("AREA", []),
        ]


def product_bytes(kind: ProductKind, shape: tuple[int, ...], count: int) -> int:
    """Size of a product, headers roughly [bytes]."""
    frame = int(np.prod(shape))
    if kind == "ramp":
        each, whole = frame * 5 + 52, 4 * int(np.prod(shape[-2:]))
    else:
        each, whole = (0, 20 * frame) if kind == "rate" else (frame * 20 + 52, 0)
        if kind in ("calints", "crfints"):
            # flat-field variance, wavelengths and areas where they are known
            each, whole = each + 4 * frame, 8 * frame
    return each * count + whole + 16 * 2880

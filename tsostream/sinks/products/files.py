"""The products of a run: which file each slab of slopes or ramps belongs to.

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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import InputError, Problem
from tsostream.integration import dq
from tsostream.integration.payload import Rate, Times
from tsostream.sinks.arrow_file import flush_directory
from tsostream.sinks.products.average import MeanRate
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
from tsostream.sinks.products.slabs import Kept, ProductFile, part_path

__all__ = [
    "ProductKind",
    "ProductSpec",
    "Products",
    "Resumed",
    "Source",
    "kept_integrations",
    "product_bytes",
]

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


@dataclass
class _Open:
    """A product being written, and the sums where it is a mean."""

    spec: ProductSpec
    file: ProductFile
    mean: MeanRate | None = None


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on.

    Parameters
    ----------
    following
        Number of the first integration to do; all before are in the products.
    named
        Whether complete products may have their names already.
    """

    following: int
    named: bool = False


def kept_integrations(spec: ProductSpec, following: int) -> int:
    """How many of a product's first integrations are in its file when ``following`` is the next one."""
    count = min(max(following - spec.first, 0), spec.count)
    # a mean is written when its last integration is in; sums die with their process
    return 0 if spec.kind == "rate" and count < spec.count else count


def _kept(spec: ProductSpec, resume: Resumed | None) -> Kept | None:
    return None if resume is None else Kept(kept_integrations(spec, resume.following), resume.named)


class Products:
    """All products of a run, written from any thread.

    Parameters
    ----------
    specs
        The files to be.
    overwrite
        Replace products that are there, also unfinished ones.
    unusable
        Errors of pixels of ``rate`` without any slope.
    resume
        What an earlier session has done; None for a run that begins.
    """

    def __init__(
        self,
        specs: Sequence[ProductSpec],
        *,
        overwrite: bool = False,
        unusable: float = np.nan,
        resume: Resumed | None = None,
    ):
        self._unusable = unusable
        self._following = resume.following if resume else 0
        self._overwrite, self._resume = overwrite, resume
        self._products = [self._begin(spec) for spec in specs]
        #: makes the specs of a segment that comes while the run goes on
        self.more: Callable[[Any], Sequence[ProductSpec]] = lambda segment: ()

    def _begin(self, spec: ProductSpec) -> _Open:
        file = ProductFile(
            spec.path,
            spec.layout,
            spec.first,
            spec.count,
            static=spec.static,
            times=None if spec.kind == "rate" else spec.source.times,
            overwrite=self._overwrite,
            kept=_kept(spec, self._resume),
        )
        shape = (spec.shape[-2], spec.shape[-1])
        return _Open(spec, file, MeanRate(spec.first, spec.count, shape) if spec.kind == "rate" else None)

    def know_segment(self, segment: Any) -> None:
        """Make room for the products of a segment that came while the run goes on; before it is read.

        Raises
        ------
        InputError
            When an earlier session has made a part of them, and it is not there any more.
        """
        # a new list: workers may be walking through the old one
        self._products = [*self._products, *(self._begin(spec) for spec in self.more(segment))]
        self.check_kept()

    @property
    def paths(self) -> list[Path]:
        """Final names."""
        return [one.spec.path for one in self._products]

    @property
    def ramp_steps(self) -> set[str]:
        """Steps after which `add_ramps` wants to see the ramps."""
        return {one.spec.step for one in self._products if one.spec.kind == "ramp"}

    @property
    def rate_steps(self) -> set[str]:
        """Steps after which `add_rates` wants to see the slopes; empty for the last."""
        return {one.spec.step for one in self._products if one.spec.kind != "ramp"}

    def add_rates(self, rate: Rate, step: str = "") -> None:
        """Write slopes to where they belong; blocks may come in any order.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        for one, part in self._parts(rate.first, rate.count, step, ramps=False):
            block = rate
            if (part.start, part.stop) != (0, rate.count):
                block = Rate(
                    rate.first + part.start,
                    rate.data[part],
                    rate.err[part],
                    rate.var_poisson[part],
                    rate.var_rnoise[part],
                    rate.dq[part],
                    rate.times[part],
                    None if rate.var_flat is None else rate.var_flat[part],
                )
            if one.mean is not None:
                sums = one.mean.add(block)
                if sums is not None:
                    one.file.write_whole(sums.planes(unusable=self._unusable))
                continue
            planes = {
                "SCI": block.data,
                "ERR": block.err,
                "DQ": block.dq,
                "VAR_POISSON": block.var_poisson,
                "VAR_RNOISE": block.var_rnoise,
            }
            if one.spec.has_flat:
                # what could not be read has none
                planes["VAR_FLAT"] = block.err * np.nan if block.var_flat is None else block.var_flat
            one.file.write(block.first, planes)

    def add_ramps(self, first: int, data: Array, groupdq: Array, step: str) -> None:
        """Write ramps [integration, group, y, x] to where they belong.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        for one, part in self._parts(first, len(data), step, ramps=True):
            one.file.write(first + part.start, {"SCI": data[part], "GROUPDQ": groupdq[part]})

    def add_lost(self, first: int, count: int) -> None:
        """Fill the places of integrations that could not be read: NaN, DO_NOT_USE.

        Raises
        ------
        SinkError, OutputExistsError
            Names the file and the integrations.
        """
        for spec in {
            (one.spec.step, one.spec.kind == "ramp", one.spec.shape): one.spec for one in self._products
        }.values():
            shape = (1, *spec.shape)
            empty = np.full(shape, np.nan, np.float32)
            for number in range(first, first + count):
                if spec.kind == "ramp":
                    self.add_ramps(number, empty, np.full(shape, dq.DO_NOT_USE, np.uint8), spec.step)
                    continue
                times = Times(np.full((1, 6), np.nan), np.zeros(1, np.uint32))
                bits = np.full(shape, dq.DO_NOT_USE, np.uint32)
                self.add_rates(Rate(number, empty, empty, empty, empty, bits, times), spec.step)

    def _parts(self, first: int, count: int, step: str, *, ramps: bool) -> Iterator[tuple[_Open, slice]]:
        """Products that take some of these integrations, and which."""
        for one in self._products:
            spec = one.spec
            if spec.step != step or (spec.kind == "ramp") != ramps:
                continue
            # integrations done before are read again only for those behind them
            start = spec.first if one.mean is not None else max(spec.first, self._following)
            low, high = max(first, start), min(first + count - 1, spec.last)
            if low <= high:
                yield one, slice(low - first, high - first + 1)

    def check_kept(self) -> None:
        """Look whether what earlier sessions made is still there.

        Raises
        ------
        InputError
            Names the files that are not.
        """
        gone = [one.spec for one in self._products if one.file.lost]
        if gone:
            todo = "put it back, or start again with --overwrite"
            raise InputError(
                [
                    Problem(
                        f"the product is not there any more; integrations {spec.first}-{spec.last} of it were made",
                        str(part_path(spec.path)),
                        todo,
                        "product_gone",
                    )
                    for spec in gone
                ]
            )

    @property
    def start(self) -> int | None:
        """First integration that must be worked on again for what is summed; None when nothing is."""
        numbers = [
            one.spec.first
            for one in self._products
            if one.mean is not None and one.spec.first < self._following <= one.spec.last
        ]
        return min(numbers, default=None)

    def sync(self) -> None:
        """Wait until everything written so far is on the medium.

        Raises
        ------
        SinkError
            When the system reports a failed write.
        """
        for one in self._products:
            one.file.sync()

    def publish(self) -> None:
        """Give all products their names.

        Raises
        ------
        SinkError, OutputExistsError
            The products not yet named stay as ``.part``.
        """
        for one in self._products:
            one.file.publish()
        for directory in {one.spec.path.parent for one in self._products}:
            flush_directory(directory)

    def close(self) -> None:
        """Let go of all files; those without their names stay as ``.part``."""
        for one in self._products:
            one.file.close()

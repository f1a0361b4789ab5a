"""The products of a run: which file each slab of slopes or ramps belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem
from tsostream.integration import dq
from tsostream.integration.payload import Rate, Times
from tsostream.sinks.arrow_file import flush_directory
from tsostream.sinks.products.average import MeanRate
from tsostream.sinks.products.slabs import Kept, ProductFile, part_path
from tsostream.sinks.products.spec import ProductSpec

__all__ = ["Products", "Resumed", "kept_integrations"]

Array = npt.NDArray


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
    means
        First integration of a segment -> extension -> image of its ``rate``, where stage 1 has made it already.
    resume
        What an earlier session has done; None for a run that begins.
    """

    def __init__(
        self,
        specs: Sequence[ProductSpec],
        *,
        overwrite: bool = False,
        unusable: float = np.nan,
        means: Mapping[int, Mapping[str, Array]] | None = None,
        resume: Resumed | None = None,
    ):
        self._unusable, self._means = unusable, means or {}
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
                    made = None if step else self._means.get(one.spec.first)
                    one.file.write_whole(made or sums.planes(unusable=self._unusable))
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

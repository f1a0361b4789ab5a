"""The steps up to the slopes, bound to an exposure: raw blocks in, slopes out.

Ramp steps are walked band by band (`tsostream.operators.tile`). What one block leaves to the next is handed on by
whoever calls (`tsostream.operators.memory`); the chain itself holds no state between blocks, so blocks may be worked on
side by side, and each worker borrows a workspace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate, Raw
from tsostream.integration.reference import Reference
from tsostream.operators.banded import band
from tsostream.operators.base import (
    Binding,
    BoundRampStep,
    RowPass,
)
from tsostream.operators.catalog import SPECTRUM_CALIBRATION
from tsostream.operators.decode import decode_bits, decode_floats, decode_pass
from tsostream.operators.fused import fuse
from tsostream.operators.memory import Carry, memories_of
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.tile import Tile, TilePlan, empty_rate, make_scratch, plan_tile, run_passes
from tsostream.operators.window import slice_rate
from tsostream.run.config import Config
from tsostream.run.slopes import image_steps, slope_steps, wanted_references

__all__ = ["Lent", "RateChain", "bind_rates"]

_ORDER = {"ramp": 0, "rate": 1, "measurement": 2}


@dataclass
class _Workspace:
    """Arrays of one worker: a few integrations of decoded ramps, and the steps' scratch."""

    data: np.ndarray
    groupdq: np.ndarray
    scratch: dict[str, np.ndarray]
    band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Lent:
    """Slopes of a block on loan.

    Parameters
    ----------
    rate
        The slopes.
    release
        Gives the arrays back; call once, when nobody looks at them any more.
    """

    rate: Rate
    release: Callable[[], None] = lambda: None


@dataclass
class RateChain:
    """From raw blocks to slopes.

    Parameters
    ----------
    info
        The exposure.
    steps
        Bound ramp steps; none when the files hold slopes.
    pixeldq : uint32 [y, x]
        Static DQ plane after all steps.
    plan
        Tile size.
    seconds
        Step -> worker time spent in it [s].
    taps
        Step (or ``decode``) -> ``tap(tile, step)``, called when the step has finished all rows of a tile; for results
        that are saved. Called from the workers, side by side.
    """

    info: ExposureInfo
    steps: tuple[BoundRampStep, ...]
    pixeldq: np.ndarray
    plan: TilePlan
    seconds: dict[str, float] = field(default_factory=dict)
    taps: dict[str, Callable[[Tile, str], None]] = field(default_factory=dict, repr=False)
    _idle: queue.SimpleQueue = field(default_factory=queue.SimpleQueue, repr=False)
    _slopes: queue.SimpleQueue = field(default_factory=queue.SimpleQueue, repr=False)
    _timing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _walk: tuple[Any, list[str], list[RowPass]] | None = field(default=None, repr=False)

    @property
    def means(self) -> Mapping[int, Mapping[str, np.ndarray]]:
        """First integration of a segment -> extension -> image of its ``rate``, where stage 1 makes that by itself."""
        return {}

    @contextmanager
    def rates(self, raw: Raw) -> Iterator[Rate]:
        """Calibrate a block, give its buffer back, and lend the slopes.

        Yields
        ------
        Rate
            Valid within the ``with`` block; the arrays serve the next block afterwards.
        """
        lent = self.lend(raw)
        try:
            yield lent.rate
        finally:
            lent.release()

    @property
    def before(self) -> int:
        """How many integrations back the ramp steps remember."""
        return max((one.before for one in memories_of(self.steps)), default=0)

    def ramp_flags(self, segment: int) -> dict[str, np.ndarray]:
        """Step -> DQ plane uint32 [y, x] of the ramps it leaves of a segment, where segments differ."""
        return {}

    def carry(self) -> Carry | None:
        """Make what is carried between the blocks of a run; None where nothing is."""
        memories = memories_of(self.steps)
        return Carry(memories, self.info.frame_shape) if memories else None

    def remember(self, raw: Raw, carry: Carry) -> None:
        """Take notice of a block for the sake of later ones, and give its buffer back."""
        space = self._borrow()
        try:
            rate = empty_rate((raw.count, *self.info.frame_shape), raw.first, raw.times)
            self._recall(self._tiles(raw, space, rate), raw, carry)
        finally:
            raw.release()
            self._idle.put(space)

    def lend(self, raw: Raw, carry: Carry | None = None) -> Lent:
        """Calibrate a block, give its buffer back, and lend the slopes until they are released.

        Parameters
        ----------
        raw
            The block.
        carry
            What earlier blocks of the run left; without it the block is taken for the first.
        """
        if not self.info.is_ramp:
            try:
                return Lent(self._decode(raw))
            finally:
                raw.release()
        # fresh pages for every block would cost more than fitting the ramps
        whole = self._borrow_slopes(raw)
        space = self._borrow()
        try:
            rate = self._fit(raw, space, whole, carry)
        except BaseException:
            self._slopes.put(whole)
            raise
        finally:
            raw.release()
            self._idle.put(space)
        return Lent(rate, partial(self._slopes.put, whole))

    def _decode(self, raw: Raw) -> Rate:
        data = decode_floats(raw.arrays["SCI"])
        missing = [name for name in ("VAR_POISSON", "VAR_RNOISE") if name not in raw.arrays]
        err = decode_floats(raw.arrays["ERR"]) if "ERR" in raw.arrays else np.full_like(data, np.nan)
        if missing:
            # old products have only the total error
            poisson, rnoise = np.zeros_like(data), err**2
        else:
            poisson, rnoise = (
                decode_floats(raw.arrays["VAR_POISSON"]),
                decode_floats(raw.arrays["VAR_RNOISE"]),
            )
        bits = decode_bits(raw.arrays["DQ"]) if "DQ" in raw.arrays else np.zeros(data.shape, np.uint32)
        flat = decode_floats(raw.arrays["VAR_FLAT"]) if "VAR_FLAT" in raw.arrays else None
        return Rate(raw.first, data, err, poisson, rnoise, bits, raw.times, flat)

    def _borrow_slopes(self, raw: Raw) -> Rate:
        """Arrays for the slopes of a block; those of shorter blocks are dropped."""
        while True:
            try:
                whole = self._slopes.get_nowait()
            except queue.Empty:
                return empty_rate((raw.count, *self.info.frame_shape), raw.first, raw.times)
            if whole.count >= raw.count:
                return whole

    def _fit(self, raw: Raw, space: _Workspace, whole: Rate, carry: Carry | None) -> Rate:
        rate = replace(slice_rate(whole, 0, raw.count), first=raw.first, times=raw.times)
        known = self._recall(self._tiles(raw, space, rate), raw, carry)
        names, passes = self._passes()
        spent = [0.0] * len(passes)
        for tile in self._tiles(raw, space, rate):
            start = tile.first - raw.first
            tile.scratch |= {name: planes[start : start + tile.count] for name, planes in known.items()}
            run_passes(tile, passes, self.info.ny, self.plan.rows, spent)
            space.band = tile.band
        with self._timing:
            for name, value in zip(names, spent, strict=True):
                self.seconds[name] = self.seconds.get(name, 0.0) + value
        return rate

    def _tiles(self, raw: Raw, space: _Workspace, rate: Rate) -> Iterator[Tile]:
        """Cut a block into tiles, which share the workspace."""
        words = raw.arrays["SCI"]
        zero = raw.arrays["ZEROFRAME"] if self.info.zeroframe else None
        for start in range(0, raw.count, self.plan.integrations):
            part = slice(start, min(start + self.plan.integrations, raw.count))
            n = part.stop - start
            yield Tile(
                first=raw.first + start,
                raw=words[part],
                data=space.data[:n],
                groupdq=space.groupdq[:n],
                rate=Rate(
                    raw.first + start, rate.data[part], rate.err[part], rate.var_poisson[part],
                    rate.var_rnoise[part], rate.dq[part], raw.times[part],
                ),
                scratch={name: array[:n] for name, array in space.scratch.items()},
                zero_raw=None if zero is None else zero[part],
                band=space.band,
            )  # fmt: skip

    def _recall(self, tiles: Iterator[Tile], raw: Raw, carry: Carry | None) -> dict[str, np.ndarray]:
        """Find what earlier integrations left to each of a block, by the name of the scratch plane."""
        memories = memories_of(self.steps)
        planes = {one.plane: np.zeros((raw.count, *self.info.frame_shape), one.dtype) for one in memories}
        if not memories or carry is None:
            return planes
        began = time.thread_time()
        names = [step.name for step in self.steps]
        last = names.index("saturation") + 1 if "saturation" in names else 0
        passes = [decode_pass, *(one for step in self.steps[:last] for one in step.passes)]
        for tile in tiles:
            run_passes(tile, passes, self.info.ny, self.plan.rows)
            start = tile.first - raw.first
            for memory in memories:
                memory.trace(tile, planes[memory.plane][start : start + tile.count])
        with self._timing:
            self.seconds["memory"] = self.seconds.get("memory", 0.0) + time.thread_time() - began
        carry.exchange(raw.first, raw.count, planes)
        return planes

    def _passes(self) -> tuple[list[str], list[RowPass]]:
        """All passes in order with the names they are timed under; a tap waits for all rows, as statistics do."""
        # the same for all blocks as long as the taps are: putting passes together takes whole planes
        taps = tuple(self.taps.items())
        if self._walk is None or self._walk[0] != taps:
            named = self._join_passes()
            self._walk = taps, [name for name, _ in named], [one for _, one in named]
        return self._walk[1:]

    def _join_passes(self) -> list[tuple[str, RowPass]]:
        named: list[tuple[str, RowPass]] = []
        stages = [("decode", (decode_pass,)), *((step.name, step.passes) for step in self.steps)]
        for name, passes in stages:
            named += [(name, one) for one in passes]
            if name in self.taps:
                tap = self.taps[name]
                named.append(("products", RowPass(partial(_call_tap, tap=tap, step=name), frame=True)))
        return band(fuse(named))

    def _borrow(self) -> _Workspace:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            info, n = self.info, self.plan.integrations
            shape = (n, info.ngroups, info.ny, info.nx)
            return _Workspace(
                np.empty(shape, np.float32), np.empty(shape, np.uint8), make_scratch(self.steps, n)
            )


def _call_tap(tile: Tile, _y0: int, _y1: int, *, tap: Callable[[Tile, str], None], step: str) -> None:
    tap(tile, step)


def bind_rates(
    config: Config,
    info: ExposureInfo,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
    *,
    official: bool = False,
) -> RateChain:
    """Bind all ramp steps; the static DQ plane goes from one to the next.

    Parameters
    ----------
    config, info, references, templates
        What they are bound with.
    official
        Only to see that they fit: the segment scope does the work.

    Raises
    ------
    ConfigError, ReferenceMismatchError
        When a step refuses the exposure or a reference.
    """
    steps: list[BoundRampStep] = []
    pixeldq = np.zeros(info.frame_shape, np.uint32)
    if not any(isinstance(one, RampFit) and one.uses_zeroframe(info) for one in config.operators):
        info = replace(info, zeroframe=False)
    behind = {one.name for one in slope_steps(config, info)}
    for operator in image_steps(config, info):
        if operator.name in behind:
            continue
        own = wanted_references(operator, info, references)
        bound: Any = operator.bind(Binding(info, own, pixeldq, templates, official_rounding=official))
        pixeldq = bound.pixeldq
        templates = {**templates, **bound.templates}
        steps.append(bound)
    _check_order(config, info)
    if info.is_ramp and not any(step.produces == "rate" and step.name == "ramp_fit" for step in steps):
        raise ConfigError(
            Problem("no step turns ramps into slopes", todo="do not skip ramp_fit", code="parameter")
        )
    return RateChain(info, tuple(steps), pixeldq, plan_tile(info, steps))


def _check_order(config: Config, info: ExposureInfo) -> None:
    """Ramp -> Ramp*, one Ramp -> Rate, Rate -> Rate*, one Rate -> Measurement, Measurement*."""
    stage = None
    for operator in config.operators:
        if operator.name in SPECTRUM_CALIBRATION.get(info.exp_type, ()):
            # takes images or measurements, by mode
            continue
        accepts, produces = _ORDER[operator.accepts], _ORDER[operator.produces]
        if stage is not None and accepts != stage:
            raise ConfigError(
                Problem(
                    f"step {operator.name} takes {operator.accepts} blocks, which the step before does not make"
                )
            )
        stage = produces

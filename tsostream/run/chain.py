"""The steps of a run, bound to an exposure: raw blocks in, measurements out.

Ramp steps up to the slopes are walked band by band (`tsostream.operators.tile`); what follows takes whole blocks. A
chain holds no state between blocks, so blocks may be worked on side by side; each worker borrows a workspace.

Who owns the slopes of a block: the chain lends them (`Lent`) and takes them back when the block has been measured; then
they serve another block. Steps on slopes may change them in place. Taps are shown them between two steps and neither
change nor keep them. A block that waits for its neighbours keeps its slopes until it is measured.
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

from tsostream.errors import ConfigError, OperatorError, Problem, TsoStreamError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement, Rate, Raw
from tsostream.integration.reference import Reference
from tsostream.operators.banded import band
from tsostream.operators.base import (
    Binding,
    BoundRampStep,
    BoundRateStep,
    BoundStep,
    BoundWindowStep,
    RowPass,
)
from tsostream.operators.catalog import SPECTRUM_CALIBRATION
from tsostream.operators.decode import decode_bits, decode_floats, decode_pass
from tsostream.operators.fused import fuse
from tsostream.operators.memory import Carry, memories_of
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.tile import Tile, TilePlan, empty_rate, make_scratch, plan_tile, run_passes
from tsostream.operators.window import Ring, copy_rate, slice_rate
from tsostream.records import Quality
from tsostream.run.config import Config
from tsostream.run.slopes import SlopeSteps, image_steps, slope_steps, wanted_references

__all__ = ["TAPS", "Chain", "Lent", "RateChain", "Waiting", "bind_measurement", "bind_rates"]

READ_FAILED = int(Quality.READ_FAILED)

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
        named: list[tuple[str, RowPass]] = []
        stages = [("decode", (decode_pass,)), *((step.name, step.passes) for step in self.steps)]
        for name, passes in stages:
            named += [(name, one) for one in passes]
            if name in self.taps:
                tap = self.taps[name]
                named.append(("products", RowPass(partial(_call_tap, tap=tap, step=name), frame=True)))
        named = band(fuse(named))
        return [name for name, _ in named], [one for _, one in named]

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


#: what a tap is shown
TAPS = ("slopes", "calints", "crfints")


@dataclass
class Waiting:
    """A calibrated block that waits for its neighbours.

    Parameters
    ----------
    raw
        Where it came from: numbers and times.
    lent
        Its slopes, to be released when it is measured; None for integrations that are not there.
    rate
        The slopes after calibration.
    """

    raw: Raw
    lent: Lent | None = None
    rate: Rate | None = None

    @property
    def first(self) -> int:
        """Number of the first integration."""
        return self.raw.first

    @property
    def last(self) -> int:
        """Number of the last integration."""
        return self.raw.first + self.raw.count - 1


@dataclass
class Chain:
    """From raw blocks to measurements.

    Parameters
    ----------
    rates
        The part up to the slopes.
    slopes
        Bound steps on slopes.
    measuring
        Bound steps that measure the images and go on with the measurement, in order.
    keys
        ``(order, aperture)`` of the rows of one integration.
    seconds
        Step -> worker time spent in it [s].
    taps
        ``slopes``, ``calints``, ``crfints``, or a step on slopes -> functions that are shown the block at that point
        (after the step), before the next one changes it; called from the workers. `slopes` is what stage 1 leaves.
    lost
        ``lost(first, count)``, told of integrations that could not be read; called from the workers.
    """

    rates: RateChain
    slopes: SlopeSteps
    measuring: tuple[BoundStep, ...]
    keys: tuple[tuple[int, int], ...]
    seconds: dict[str, float] = field(default_factory=dict)
    taps: dict[str, tuple[Callable[[Rate], None], ...]] = field(default_factory=dict)
    lost: Callable[[int, int], None] = field(default=lambda first, count: None, repr=False)
    _timing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def window(self) -> BoundWindowStep | None:
        """The step that needs neighbouring integrations, if one runs."""
        window = self.slopes.window
        return None if window is None or window.skipped else window

    def measure(self, raw: Raw) -> Measurement:
        """Take a block through all steps; for chains without a window.

        Raises
        ------
        OperatorError
            A step failed; names it and the integrations.
        """
        if self.window is not None:
            raise ValueError(f"{self.window.name} needs the neighbours: use calibrate() and finish()")
        return self.finish(self.calibrate(raw, None), None)

    def remember(self, raw: Raw, carry: Carry) -> Waiting:
        """Take notice of a block whose rows are not wanted, for the ramps of later ones.

        Raises
        ------
        OperatorError
            A step failed; names it and the integrations.
        """
        if not raw.present:
            return self.calibrate(raw, None, carry)
        with self._naming(raw, carry):
            self.rates.remember(raw, carry)
        return Waiting(raw)

    def calibrate(self, raw: Raw, ring: Ring | None, carry: Carry | None = None) -> Waiting:
        """Take a block up to the window, and remember of it what the window needs.

        Parameters
        ----------
        raw
            The block.
        ring
            Where the window's frames are kept.
        carry
            What ramp steps know of earlier blocks; blocks begin in order.

        Raises
        ------
        OperatorError
            A step failed; names it and the integrations.
        """
        if not raw.present:
            raw.release()
            with self._naming(raw, carry):
                if carry is not None:
                    carry.exchange(raw.first, raw.count, None)
                if raw.failed:
                    self.lost(raw.first, raw.count)
            return Waiting(raw)
        lent: Lent | None = None
        with self._naming(raw, carry) as at:
            try:
                at.step, began = "ramp_fit", time.thread_time()
                lent = self.rates.lend(raw, carry)
                if not self.rates.info.is_ramp:
                    self._clock("decode", began)
                rate = self._show("slopes", lent.rate, at)
                rate = self._walk(self.slopes.calibration, rate, at)
                rate = self._show("calints", rate, at)
                if self.window is not None and ring is not None:
                    at.step, began = self.window.name, time.thread_time()
                    ring.put(rate)
                    self._clock(at.step, began)
                    if rate.data.size < lent.rate.data.size:
                        # many blocks wait: not with the rows that were cut off
                        rate, whole = copy_rate(rate), lent
                        lent = Lent(rate)
                        whole.release()
            except BaseException:
                if lent is not None:
                    lent.release()
                raise
        return Waiting(raw, lent, rate)

    def finish(self, block: Waiting, ring: Ring | None, start: int = 0) -> Measurement:
        """Take a calibrated block to its rows.

        Parameters
        ----------
        block
            From `calibrate`.
        ring
            Where its neighbours are.
        start
            Leave out so many integrations at the beginning, which were only read for their neighbours' sake.

        Raises
        ------
        OperatorError
            A step failed; names it and the integrations.
        """
        if block.rate is None or block.lent is None:
            return self.absent(block.raw, start)
        try:
            with self._naming(block.raw) as at:
                rate = slice_rate(block.rate, start, block.rate.count) if start else block.rate
                if self.window is not None and ring is not None:
                    at.step, began = self.window.name, time.thread_time()
                    rate = self.window.run(rate, ring.frames)
                    self._clock(at.step, began)
                    rate = self._show(self.window.name, rate, at)
                rate = self._show("crfints", rate, at)
                rate = self._walk(self.slopes.cleaning, rate, at)
                result: Any = rate
                for step in self.measuring:
                    at.step, began = step.name, time.thread_time()
                    (result,) = step.push(result)
                    self._clock(at.step, began)
        finally:
            block.lent.release()
        return result

    def absent(self, raw: Raw, start: int = 0) -> Measurement:
        """Rows for integrations that are not there."""
        n = raw.count - start
        bits = np.full(n, READ_FAILED if raw.failed else 0, np.uint32)
        columns = {"quality": bits}
        return Measurement(raw.first + start, raw.times[start:], self.keys, columns, {}, np.zeros(n, bool))

    def _walk(self, steps: tuple[BoundRateStep, ...], rate: Rate, at: _At) -> Rate:
        for step in steps:
            at.step, began = step.name, time.thread_time()
            if not step.skipped:
                rate = step.run(rate)
                self._clock(step.name, began)
            rate = self._show(step.name, rate, at)
        return rate

    def _show(self, place: str, rate: Rate, at: _At) -> Rate:
        for tap in self.taps.get(place, ()):
            at.step, began = "products", time.thread_time()
            tap(rate)
            self._clock(at.step, began)
        return rate

    @contextmanager
    def _naming(self, raw: Raw, carry: Carry | None = None) -> Iterator[_At]:
        """Say where a mistake of ours happened, and let no later block wait for this one."""
        at = _At("ramp_fit")
        try:
            yield at
        except TsoStreamError:
            if carry is not None:
                carry.give_up()
            raise
        except Exception as error:
            if carry is not None:
                carry.give_up()
            raise OperatorError(
                f"step {at.step} failed on integrations {raw.first}-{raw.first + raw.count - 1}: "
                f"{type(error).__name__}: {error}; please report this with the input's header"
            ) from error

    def _clock(self, name: str, began: float) -> None:
        with self._timing:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - began

    def step_seconds(self) -> dict[str, float]:
        """Processor time that every step took of the workers so far, in processing order [s]."""
        order = ["decode", *(step.name for step in (*self.slopes.all, *self.measuring)), "products"]
        mine = {name: self.seconds[name] for name in order if name in self.seconds}
        return {**self.rates.seconds, **mine}


@dataclass
class _At:
    """The step a block is in."""

    step: str


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


def bind_measurement(
    config: Config,
    slopes: SlopeSteps,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
    names: tuple[str, ...],
    segments: tuple[tuple[int, int], ...] = (),
) -> tuple[Any, ...]:
    """Bind the named steps after the images."""
    bound = []
    later = {one.name for one in config.operators} & {*SPECTRUM_CALIBRATION.get(slopes.info.exp_type, ())}
    for operator in config.operators:
        if operator.name in names:
            own = wanted_references(operator, slopes.info, references)
            if (
                later
                and operator.produces == "measurement"
                and operator.accepts == "rate"
                and operator.name not in later
            ):
                # the conversion that follows is one of DN/s, not of electrons
                own.pop("gain", None)
            bound.append(operator.bind(Binding(slopes.info, own, slopes.pixeldq, templates, segments)))
    return tuple(bound)


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

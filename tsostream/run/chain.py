"""The steps of a run, bound to an exposure: raw blocks in, measurements out.

Up to the slopes they are those of `tsostream.run.ramps`; what follows takes whole blocks.

Who owns the slopes of a block: the chain lends them (`Lent`) and takes them back when the block has been measured; then
they serve another block. Steps on slopes may change them in place. Taps are shown them between two steps and neither
change nor keep them. A block that waits for its neighbours keeps its slopes until it is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsostream.errors import OperatorError, TsoStreamError
from tsostream.integration.payload import Measurement, Rate, Raw
from tsostream.integration.reference import Reference
from tsostream.operators.base import (
    Binding,
    BoundRateStep,
    BoundStep,
    BoundWindowStep,
)
from tsostream.operators.catalog import SPECTRUM_CALIBRATION
from tsostream.operators.memory import Carry
from tsostream.operators.window import Ring, copy_rate, slice_rate
from tsostream.records import Quality
from tsostream.run.config import Config
from tsostream.run.ramps import Lent, RateChain
from tsostream.run.slopes import SlopeSteps, wanted_references

__all__ = ["TAPS", "Chain", "Waiting", "bind_measurement"]

READ_FAILED = int(Quality.READ_FAILED)


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

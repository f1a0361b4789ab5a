"""The steps of a run, bound to an exposure: raw blocks in, measurements out.

Ramp steps up to the slopes are walked band by band (`tsostream.operators.tile`); what follows takes whole blocks. A
chain holds no state between blocks, so blocks may be worked on side by side; each worker borrows a workspace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, OperatorError, Problem, TsoStreamError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement, Rate, Raw
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, BoundStep, RowPass
from tsostream.operators.decode import decode_bits, decode_floats, decode_pass
from tsostream.operators.tile import Tile, TilePlan, empty_rate, make_scratch, plan_tile, run_passes
from tsostream.run.config import Config

__all__ = ["Chain", "RateChain", "bind_measurement", "bind_rates"]

_ORDER = {"ramp": 0, "rate": 1, "measurement": 2}


@dataclass
class _Workspace:
    """Arrays of one worker: a few integrations of decoded ramps, the steps' scratch, and the slopes of a block.

    The slopes are kept from block to block: fresh pages for every block would cost more than fitting the ramps.
    """

    data: np.ndarray
    groupdq: np.ndarray
    scratch: dict[str, np.ndarray]
    rate: Rate | None = None

    def slopes(self, info: ExposureInfo, raw: Raw) -> Rate:
        """Arrays for the slopes of a block, overwritten by the next one."""
        if self.rate is None or self.rate.count < raw.count:
            self.rate = empty_rate((raw.count, *info.frame_shape), raw.first, raw.times)
        whole, n = self.rate, raw.count
        return Rate(
            raw.first,
            whole.data[:n],
            whole.err[:n],
            whole.var_poisson[:n],
            whole.var_rnoise[:n],
            whole.dq[:n],
            raw.times,
        )


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
    _timing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def rates(self, raw: Raw) -> Iterator[Rate]:
        """Calibrate a block, give its buffer back, and lend the slopes.

        Yields
        ------
        Rate
            Valid within the ``with`` block; the arrays serve the next block afterwards.
        """
        if not self.info.is_ramp:
            try:
                rate = self._decode(raw)
            finally:
                raw.release()
            yield rate
            return
        space = self._borrow()
        try:
            try:
                rate = self._fit(raw, space)
            finally:
                raw.release()
            yield rate
        finally:
            self._idle.put(space)

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

    def _fit(self, raw: Raw, space: _Workspace) -> Rate:
        words = raw.arrays["SCI"]
        rate = space.slopes(self.info, raw)
        names, passes = self._passes()
        spent = [0.0] * len(passes)
        for start in range(0, raw.count, self.plan.integrations):
            stop = min(start + self.plan.integrations, raw.count)
            part = slice(start, stop)
            n = stop - start
            tile = Tile(
                first=raw.first + start,
                raw=words[part],
                data=space.data[:n],
                groupdq=space.groupdq[:n],
                rate=Rate(
                    raw.first + start, rate.data[part], rate.err[part], rate.var_poisson[part],
                    rate.var_rnoise[part], rate.dq[part], raw.times[part],
                ),
                scratch={name: array[:n] for name, array in space.scratch.items()},
            )  # fmt: skip
            run_passes(tile, passes, self.info.ny, self.plan.rows, spent)
        with self._timing:
            for name, value in zip(names, spent, strict=True):
                self.seconds[name] = self.seconds.get(name, 0.0) + value
        return rate

    def _passes(self) -> tuple[list[str], list[RowPass]]:
        """All passes in order with the names they are timed under; a tap waits for all rows, as statistics do."""
        named: list[tuple[str, RowPass]] = []
        stages = [("decode", (decode_pass,)), *((step.name, step.passes) for step in self.steps)]
        for name, passes in stages:
            named += [(name, one) for one in passes]
            if name in self.taps:
                tap = self.taps[name]
                named.append(("products", RowPass(partial(_call_tap, tap=tap, step=name), frame=True)))
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


@dataclass
class Chain:
    """From raw blocks to measurements.

    Parameters
    ----------
    rates
        The part up to the slopes.
    steps
        Bound steps on slopes and measurements, in order.
    key
        ``(order, aperture)`` of the rows.
    seconds
        Step -> worker time spent in it [s].
    taps
        Functions that are shown the slopes of each block before it is measured; called from the workers.
    """

    rates: RateChain
    steps: tuple[BoundStep, ...]
    key: tuple[int, int]
    seconds: dict[str, float] = field(default_factory=dict)
    taps: tuple[Callable[[Rate], None], ...] = ()
    _timing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def measure(self, raw: Raw) -> Measurement:
        """Take a block through all steps.

        Raises
        ------
        OperatorError
            A step failed; names it and the integrations.
        """
        if not raw.present:
            raw.release()
            return self.absent(raw)
        number = raw.first
        last = raw.first + raw.count - 1
        name = "ramp_fit"
        try:
            began = time.perf_counter()
            with self.rates.rates(raw) as rate:
                if not self.rates.info.is_ramp:
                    self._clock("decode", began)
                for tap in self.taps:
                    name, began = "products", time.perf_counter()
                    tap(rate)
                    self._clock(name, began)
                block: Any = rate
                for step in self.steps:
                    name, began = step.name, time.perf_counter()
                    (block,) = step.push(block)
                    self._clock(name, began)
        except TsoStreamError:
            raise
        except Exception as error:
            raise OperatorError(
                f"step {name} failed on integrations {number}-{last}: {type(error).__name__}: {error}; "
                "please report this with the input's header"
            ) from error
        return block

    def absent(self, raw: Raw) -> Measurement:
        """Rows for integrations that are not there."""
        return Measurement(raw.first, raw.times, (self.key,), {}, {}, np.zeros(raw.count, bool))

    def _clock(self, name: str, began: float) -> None:
        with self._timing:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def step_seconds(self) -> dict[str, float]:
        """Worker time of every step so far, in processing order [s]."""
        return {**self.rates.seconds, **self.seconds}


def bind_rates(
    config: Config,
    info: ExposureInfo,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
) -> RateChain:
    """Bind all ramp steps; the static DQ plane goes from one to the next.

    Raises
    ------
    ConfigError, ReferenceMismatchError
        When a step refuses the exposure or a reference.
    """
    steps: list[BoundRampStep] = []
    pixeldq = np.zeros(info.frame_shape, np.uint32)
    for operator in config.operators:
        if operator.accepts == "measurement" or operator.produces == "measurement":
            continue
        wanted = (*operator.references, *operator.optional_references)
        chosen = {name: references[name] for name in wanted if name in references}
        bound: Any = operator.bind(Binding(info, chosen, pixeldq, templates))
        pixeldq = bound.pixeldq
        steps.append(bound)
    _check_order(config)
    if info.is_ramp and not any(step.produces == "rate" and step.name == "ramp_fit" for step in steps):
        raise ConfigError(
            Problem("no step turns ramps into slopes", todo="do not skip ramp_fit", code="parameter")
        )
    return RateChain(info, tuple(steps), pixeldq, plan_tile(info, steps))


def bind_measurement(
    config: Config,
    rates: RateChain,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
    names: tuple[str, ...],
) -> tuple[Any, ...]:
    """Bind the named steps after the slopes."""
    bound = []
    for operator in config.operators:
        if operator.name in names:
            wanted = (*operator.references, *operator.optional_references)
            chosen = {name: references[name] for name in wanted if name in references}
            bound.append(operator.bind(Binding(rates.info, chosen, rates.pixeldq, templates)))
    return tuple(bound)


def _check_order(config: Config) -> None:
    """Ramp -> Ramp*, one Ramp -> Rate, Rate -> Rate*, one Rate -> Measurement, Measurement*."""
    stage = None
    for operator in config.operators:
        accepts, produces = _ORDER[operator.accepts], _ORDER[operator.produces]
        if stage is not None and accepts != stage:
            raise ConfigError(
                Problem(
                    f"step {operator.name} takes {operator.accepts} blocks, which the step before does not make"
                )
            )
        stage = produces

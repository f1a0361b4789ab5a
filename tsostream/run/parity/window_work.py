"""The work on one window of a segment with all its integrations: steps up to the jump search, the search, the fit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tsostream.integration import dq
from tsostream.integration.payload import Times
from tsostream.operators.base import RowPass
from tsostream.operators.decode import decode_pass
from tsostream.operators.fused import fuse
from tsostream.operators.jump_segment import (
    JumpWorkspace,
    Method,
    SegmentJump,
    clear_seeds,
    living_planes,
    spread_seeds,
)
from tsostream.operators.likelihood import LIKELY_GROUPS, SegmentLikely
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.ramp_fit_segment import SegmentFit
from tsostream.operators.rate_planes import RatePlanes
from tsostream.operators.tile import BAND_BYTES, Tile, make_scratch, run_passes
from tsostream.operators.window_fit import WindowFit
from tsostream.run.parity.frames import SAMPLE
from tsostream.run.parity.reading import Jobs, SegmentReader
from tsostream.run.parity.spool import RampSpool
from tsostream.run.parity.steps import ESTIMATED, ParitySteps, WindowSteps
from tsostream.run.parity.windows import Window

__all__ = ["Held", "Known", "WindowWork"]

DNU = np.uint8(dq.DO_NOT_USE)
JUMP = np.uint8(dq.JUMP_DET)
#: pixels that are searched, or fitted, in one go
RUN_PIXELS = 1024


@dataclass
class Held:
    """Arrays of a window.

    Parameters
    ----------
    data, groupdq : float32, uint8 [integration, group, y, x]
        Signal and flags.
    marked : uint8 [integration, y]
        Rows with jumps.
    medians : float64 [y, x]
        Of the jump search.
    out, mean
        Slopes of the integrations [integration, y, x], and of all together [y, x].
    zero : float32 [integration, y, x] or None
        Zero frames.
    rooms
        Name -> memory of the large arrays, which windows of other sizes (halos differ) use again: the system takes as
        long to find and clear new memory as a step takes to fill it.
    """

    data: np.ndarray
    groupdq: np.ndarray
    marked: np.ndarray
    medians: np.ndarray
    out: RatePlanes
    mean: RatePlanes
    zero: np.ndarray | None
    rooms: dict[str, np.ndarray]


@dataclass
class Known:
    """What is known of whole planes; see `tsostream.run.parity.segment`.

    Parameters
    ----------
    reset : uint8 [integration, group]
        Planes that are nothing but jumps, so that theirs do not count.
    groups
        First group that can be used, and the one after the last.
    """

    reset: np.ndarray
    groups: tuple[int, int]


@dataclass
class WindowWork:
    """What is done to the windows of one segment.

    Parameters
    ----------
    reader
        The open file.
    steps
        Bound to whole frames.
    jobs
        Where the work is done.
    tables
        What refpix subtracts, by scratch plane.
    draft
        Whether slopes are only wanted to tell what is background: with the fit's defaults.
    kept
        Step -> where the ramps go that it leaves; for products.
    """

    reader: SegmentReader
    steps: ParitySteps
    jobs: Jobs
    tables: Mapping[str, np.ndarray]
    draft: bool = False
    kept: Mapping[str, RampSpool] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _idle: list[JumpWorkspace] = field(default_factory=list, repr=False)

    def hold(self, window: Window, held: Held | None) -> Held:
        """Make the arrays of a window, in the memory of the last one's as far as that is large enough."""
        shape = window.shape
        n, ngroups = self.reader.count, self.steps.info.ngroups
        if held is not None and held.data.shape[-2:] == shape:
            return held
        rooms: dict[str, np.ndarray] = {} if held is None else held.rooms
        if held is not None:
            # what is too small is given back before the new one is made
            held.__dict__.clear()

        def make(name: str, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
            size = math.prod(shape)
            if name in rooms and rooms[name].size < size:
                del rooms[name]
            if name not in rooms:
                rooms[name] = np.empty(size, kind)
            return rooms[name][:size].reshape(shape)

        planes = {name: np.uint32 if name == "dq" else np.float32 for name in RatePlanes.__annotations__}
        return Held(
            make("data", (n, ngroups, *shape)),
            make("groupdq", (n, ngroups, *shape), np.uint8),
            np.zeros((n, shape[0]), np.uint8),
            np.full(shape, np.nan),
            RatePlanes(*(make(f"out.{name}", (n, *shape), kind) for name, kind in planes.items())),
            RatePlanes.empty(shape),
            make("zero", (n, *shape)) if self.steps.info.zeroframe else None,
            rooms,
        )

    def calibrate(self, window: Window, bound: WindowSteps, held: Held) -> None:
        """Take all integrations of a window through the steps before the jump search."""
        n, (ny, nx) = self.reader.count, window.shape
        length = max(1, min(n, BAND_BYTES // (bound.info.ngroups * ny * nx * SAMPLE)))
        passes = [one for _, one in fuse(self._named_passes(window, bound))]
        estimated = np.zeros((ny, nx), bool)

        def work(start: int) -> None:
            tile = self._tile(window, bound, held, slice(start, min(start + length, n)))
            run_passes(tile, passes, ny, ny)
            marks = [tile.scratch[name].any(axis=0) for name in ESTIMATED if name in tile.scratch]
            if marks:
                with self._lock:
                    for mark in marks:
                        estimated[mark] = True

        self.jobs.each(work, range(0, n, length))
        bound.pixeldq[estimated] |= np.uint32(dq.FLUX_ESTIMATED)
        self._keep_flags(window, estimated)

    def _named_passes(self, window: Window, bound: WindowSteps) -> list[tuple[str, RowPass]]:
        """List the passes with their steps; behind a step whose ramps are kept, one that keeps them."""
        named: list[tuple[str, RowPass]] = []
        running = {step.name: step for step in bound.steps}
        for name in ("decode", *(one.name for one in self.steps.operators)):
            passes = (decode_pass,) if name == "decode" else getattr(running.get(name), "passes", ())
            named += [(name, one) for one in passes]
            if name in self.kept:
                named.append(("products", RowPass(self._keeping(window, self.kept[name]), frame=True)))
        return named

    def _keeping(self, window: Window, spool: RampSpool) -> Callable[[Tile, int, int], None]:
        def keep(tile: Tile, _y0: int, _y1: int) -> None:
            spool.put_ramps(window, tile.data, tile.groupdq, tile.first - self.reader.first)

        return keep

    def _keep_flags(self, window: Window, estimated: np.ndarray) -> None:
        """Note estimated signal in the DQ planes of ramps that are kept behind the step that estimates."""
        y0, y1, x0, x1 = window.core
        bits = np.where(estimated[y0:y1, x0:x1], np.uint32(dq.FLUX_ESTIMATED), np.uint32(0))
        order = self.steps.ramp_order
        for mark in ESTIMATED:
            step = mark.partition(".")[0]
            for name, spool in self.kept.items():
                if step in order and order.index(name.partition(".")[0]) >= order.index(step):
                    spool.pixeldq[window.slices] |= bits

    def _tile(self, window: Window, bound: WindowSteps, held: Held, part: slice) -> Tile:
        """Read some integrations of a window, and cut to it what was found in whole frames."""
        start, count = part.start, part.stop - part.start
        rows, columns = (window.top, window.bottom), slice(window.left, window.right)
        words = np.ascontiguousarray(self.reader.words(start, count, *rows)[..., columns])
        scratch = make_scratch(bound.steps, count)
        for name, table in self.tables.items():
            along = columns if name.endswith("_x") else slice(*rows)
            scratch[name] = np.ascontiguousarray(table[part, :, along])
        zero = self.reader.zero_frames(start, count, *rows)
        if zero is not None and held.zero is not None:
            zero = np.ascontiguousarray(zero[..., columns])
            scratch["zeroframe"] = held.zero[part]
        return Tile(
            self.reader.first + start, words, held.data[part], held.groupdq[part], None, scratch, zero
        )

    def find_jumps(
        self, window: Window, bound: WindowSteps, held: Held, method: Method, known: Known, clean: np.ndarray
    ) -> None:
        """Flag jumps.

        Parameters
        ----------
        window, bound, held
            The window, its steps and arrays.
        method
            How jumps are found.
        known
            Of whole planes.
        clean : uint8 [integration, group]
            1 is written for planes with a sample that is no jump.
        """
        jump = self.steps.jump
        if jump is None or self.steps.info.ngroups < 3:
            return
        gain, read = (bound.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
        typical = float(np.nanmedian(self.steps.references["gain"].arrays["SCI"]))
        search = SegmentJump(jump, self.steps.info, gain, read, typical, method)
        top, bottom, left, right = window.grown(1)

        length = self._rows(window, bottom - top)

        def find(y: int) -> None:
            space = self._borrow()
            rows = (y, min(y + length, bottom), left, right)
            search.find(held.data, held.groupdq, held.marked, held.medians, known.reset, space, rows)
            with self._lock:
                self._idle.append(space)

        held.marked[...] = 0
        self.jobs.each(find, range(top, bottom, length))
        if method in ("clip", "clip_all"):
            living_planes(held.groupdq, DNU | JUMP, clean, *window.core)
        y0, y1, x0, x1 = window.core
        if jump.flag_4_neighbors:
            n = len(held.marked)
            share = -(-n // (4 * self.jobs.workers))

            def spread(start: int) -> None:
                part = slice(start, start + share)
                spread_seeds(held.groupdq[part], held.marked[part], y0, y1, x0, x1)
                clear_seeds(held.groupdq[part], held.marked[part], 0, window.shape[0])

            self.jobs.each(spread, range(0, n, share))
        search.flag_after(held.data, held.groupdq, held.medians, window.core)

    def _rows(self, window: Window, rows: int) -> int:
        """Rows of a job: long runs of pixels, for every group of every integration lies in another page of memory."""
        return max(1, min(RUN_PIXELS // window.shape[1], -(-rows // self.jobs.workers)))

    def _borrow(self) -> JumpWorkspace:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return JumpWorkspace(self.reader.count, self.steps.info.ngroups)

    def fit(self, window: Window, bound: WindowSteps, held: Held, known: Known) -> None:
        """Fit the ramps of a window, and take the slopes through the steps behind the fit."""
        place = (slice(window.top, window.bottom), slice(window.left, window.right))
        gain, read = (bound.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
        info, step = self.steps.info, RampFit() if self.draft else self.steps.fit
        dark = np.ascontiguousarray(self.steps.dark[place])
        likely = step.algorithm == "LIKELY" and info.ngroups >= LIKELY_GROUPS
        fit: WindowFit = (
            SegmentLikely(info, gain, read, dark)
            if likely
            else SegmentFit(info, gain, read, dark, step.suppress_one_group, self.steps.loses_charge)
        )
        for group in step.outside(info.ngroups):
            held.groupdq[:, group] |= DNU
        y0, y1, x0, x1 = window.core

        length = self._rows(window, y1 - y0)

        def work(y: int) -> None:
            rows = (y, min(y + length, y1), x0, x1)
            fit.run(
                held.data, held.groupdq, bound.pixeldq, held.out, held.mean, rows, known.groups, held.zero
            )

        self.jobs.each(work, range(y0, y1, length))
        if not self.draft:
            self.finish(held.out)

    def finish(self, planes: RatePlanes) -> None:
        """Take slopes through the steps behind the fit, in place."""
        n = len(planes.data)
        rate = planes.rate(self.reader.first, Times(np.zeros((n, 6)), np.zeros(n, np.uint32)))
        unused = np.empty((0, 0, 0, 0), np.float32)
        tile = Tile(rate.first, None, unused, unused.astype(np.uint8), rate, {})
        rows = rate.data.shape[1]
        for step in self.steps.after:
            run_passes(tile, step.passes, rows, rows)

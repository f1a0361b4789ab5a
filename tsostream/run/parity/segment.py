"""One segment file from raw samples to slopes, as the official pipeline takes it.

First what needs whole frames (reference-pixel levels) is found integration by integration, and kept: a few numbers per
group. Then window after window of the frame, with all integrations of the file: the steps up to the jump search, the
search itself, the fit, and the slopes into a store that is read back integration by integration.

Three statistics of the official code look at whole planes (how many groups no pixel can use, whether a plane is
nothing but jumps, whether MIRI's first or last group is unused everywhere). They are assumed to say nothing, checked
on the way, and where one does say something the windows are done again with it known.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from tsostream.errors import OperatorError, ReadError
from tsostream.files import SegmentFile, SegmentTimes
from tsostream.integration import dq
from tsostream.integration.payload import Rate, Times
from tsostream.operators.decode import decode_pass
from tsostream.operators.emi_segment import Corrections, SegmentInterference
from tsostream.operators.fused import fuse, fuse_levels
from tsostream.operators.jump_segment import (
    JumpWorkspace,
    Method,
    SegmentJump,
    choose_method,
    clear_seeds,
    living_planes,
    spread_seeds,
)
from tsostream.operators.likelihood import LIKELY_GROUPS, SegmentLikely
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.ramp_fit_segment import SegmentFit
from tsostream.operators.rate_planes import RatePlanes
from tsostream.operators.tile import BAND_BYTES, Tile, make_scratch, run_passes
from tsostream.run.parity.cleaning import clean_spool
from tsostream.run.parity.events import flag_persistence, grow_events
from tsostream.run.parity.scratch import map_scratch
from tsostream.run.parity.spool import RampSpool, let_go, make_room, spool_bytes
from tsostream.run.parity.steps import ESTIMATED, TABLES, ParitySteps, WindowSteps, bind_window
from tsostream.run.parity.windows import Window, plan_windows

__all__ = ["SegmentRun", "SegmentSlopes"]

logger = logging.getLogger("tsostream")

DNU = np.uint8(dq.DO_NOT_USE)
JUMP = np.uint8(dq.JUMP_DET)
#: bytes of a sample: signal and flags
SAMPLE = 5
#: bytes a window with all its integrations may take
WINDOW_BYTES = 96 << 20
#: slopes of a segment up to this size stay in memory
STORE_BYTES = 48 << 20


@dataclass
class SegmentSlopes:
    """What the official pipeline calls rateints and rate of a segment.

    Parameters
    ----------
    first
        Number in the exposure of the first integration.
    planes
        Slope, error, variances, DQ [integration, y, x].
    mean
        The product over all integrations [y, x].
    times
        One row per integration.
    method
        How jumps were found.
    """

    first: int
    planes: RatePlanes
    mean: RatePlanes
    times: Times
    method: str

    def blocks(self, length: int) -> Iterator[Rate]:
        """Hand the slopes out in order, ``length`` integrations at a time."""
        for start in range(0, len(self.times), length):
            part = slice(start, min(start + length, len(self.times)))
            yield self.planes.rate(self.first + start, self.times[part], part)


@dataclass
class _Held:
    """Arrays of a window."""

    data: np.ndarray
    groupdq: np.ndarray
    marked: np.ndarray
    medians: np.ndarray
    out: RatePlanes
    mean: RatePlanes
    zero: np.ndarray | None


@dataclass
class _Known:
    """What is known of whole planes; see the module's text."""

    reset: np.ndarray
    groups: tuple[int, int]


@dataclass
class SegmentRun:
    """The way of one segment through stage 1.

    Parameters
    ----------
    segment
        The file.
    steps
        Bound to whole frames.
    pool, workers
        Where the work is done.
    window_bytes
        Memory of a window.
    scratch
        Folder of the store; default the system's.
    ramp
        Called with ``(window, data, groupdq)`` after the jump search, before the fit; for products and tests.
    """

    segment: SegmentFile
    steps: ParitySteps
    pool: Executor
    workers: int = 1
    window_bytes: int = WINDOW_BYTES
    scratch: Path | None = None
    ramp: Callable[[Window, np.ndarray, np.ndarray], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _tables: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _spool: RampSpool | None = field(default=None, repr=False)
    _draft: bool = False

    @property
    def count(self) -> int:
        """Integrations of the segment."""
        return self.segment.count

    @property
    def store_bytes(self) -> int:
        """Size of the slopes' store."""
        info = self.steps.info
        return 20 * self.count * info.ny * info.nx

    @property
    def spool_bytes(self) -> int:
        """Size of the ramps, where a step looks at whole frames behind the jump search; else 0."""
        return spool_bytes(self.steps.info, self.count) if self.steps.frames_after else 0

    def run(self) -> SegmentSlopes:
        """Do it.

        Raises
        ------
        OperatorError
            No group is left for the fit.
        ReadError
            The file cannot be read.
        """
        info, n = self.steps.info, self.count
        descriptor = os.open(self.segment.path, os.O_RDONLY)
        try:
            if self.steps.interference is not None:
                self.steps = self.steps.corrected(
                    self._find_interference(self.steps.interference, descriptor)
                )
            if self.steps.needs_frames:
                self._find_tables(descriptor)
            windows = plan_windows(n, info, self.steps.halo, self.window_bytes)
            method = self._method(descriptor, windows)
            planes, mean = self._store(), RatePlanes.empty(info.frame_shape)
            if self.steps.frames_after:
                self._look_at_frames(descriptor, windows, method, planes, mean)
            self._settle(descriptor, windows, method, planes, mean)
        finally:
            os.close(descriptor)
            self._spool = None
        self._after(RatePlanes(*(one[None] for one in mean.arrays())))
        return SegmentSlopes(
            self.segment.first, planes, mean, SegmentTimes(self.segment).rows(self.segment.first, n), method
        )

    def _settle(
        self, descriptor: int, windows: list[Window], method: Method, planes: RatePlanes, mean: RatePlanes
    ) -> None:
        """Walk through the windows until nothing is found out about whole planes that was not known."""
        ngroups = self.steps.info.ngroups
        known = _Known(np.zeros((self.count, ngroups), np.uint8), (0, ngroups))
        for _ in range(3):
            found = self._walk(descriptor, windows, method, known, planes, mean)
            if found is None:
                break
            known = found

    def _look_at_frames(
        self,
        descriptor: int,
        windows: list[Window],
        method: Method,
        planes: RatePlanes,
        mean: RatePlanes,
        *,
        clean: bool = True,
    ) -> None:
        """Spool the ramps after the jump search, grow snowballs, and take the noise out.

        What is background, draft slopes tell, with the fit's defaults.
        """
        spool = self._spool = RampSpool.make(self.steps.info, self.count, self.scratch)
        self._draft = True
        self._settle(descriptor, windows, method, planes, mean)
        spool.complete = True
        flicker, jump = self.steps.flicker if clean else None, self.steps.jump
        if jump is not None and self.steps.has_events:
            grow_events(jump, self.steps.info, spool.groupdq)
            if flicker is not None:
                self._settle(descriptor, windows, method, planes, mean)
        self._draft = False
        if flicker is not None and not clean_spool(flicker, spool, planes, mean, self._each):
            logger.warning(
                "%s: clean_flicker_noise cannot find the noise; as with the official step the file is not cleaned",
                self.segment.source_path,
            )
            self._spool = None
            if self.steps.has_events:
                self._look_at_frames(descriptor, windows, method, planes, mean, clean=False)

    # -- reading ------------------------------------------------------------------------------------------------

    def _read_zero(self, descriptor: int, start: int, count: int, top: int, bottom: int) -> np.ndarray | None:
        """Read rows of zero frames; uint16 [integration, row, x], or None where the fit makes nothing of them."""
        if not self.steps.info.zeroframe:
            return None
        return self._read(descriptor, start, count, top, bottom, "ZEROFRAME")[:, 0]

    def _read(
        self, descriptor: int, start: int, count: int, top: int, bottom: int, name: str = "SCI"
    ) -> np.ndarray:
        """Read rows of some integrations; uint16 [integration, group, row, x], big-endian words."""
        info, extension = self.steps.info, self.segment.extensions[name]
        ngroups = info.ngroups if name == "SCI" else 1
        words = np.empty((count, ngroups, bottom - top, info.nx), np.uint16)
        offset = extension.offset + start * extension.bytes_per_integration
        if bottom - top == info.ny:
            self._fill(descriptor, words.reshape(-1), offset)
            return words
        plane = info.ny * info.nx * 2
        for number, part in enumerate(words.reshape(count * ngroups, -1)):
            self._fill(descriptor, part, offset + number * plane + top * info.nx * 2)
        return words

    def _fill(self, descriptor: int, words: np.ndarray, offset: int) -> None:
        into = words.view(np.uint8)
        done = 0
        while done < into.nbytes:
            got = os.preadv(descriptor, [into[done:].data], offset + done)
            if not got:
                raise ReadError(f"{self.segment.source_path}: the file became shorter while it was read")
            done += got

    # -- whole frames -------------------------------------------------------------------------------------------

    def _find_tables(self, descriptor: int) -> None:
        """Find what refpix subtracts from every group of every integration."""
        info, n = self.steps.info, self.count
        passes = fuse_levels([decode_pass, *self.steps.frame_passes()])
        steps = self.steps.frame_steps()
        frame = info.ngroups * info.ny * info.nx * SAMPLE
        length = max(1, min(64, BAND_BYTES // frame))
        first = {name: spec for step in steps for name, spec in step.scratch.items()}
        self._tables = {
            name: np.empty((n, *first[name][0]), first[name][1]) for name in TABLES if name in first
        }

        def work(start: int) -> None:
            count = min(length, n - start)
            words = self._read(descriptor, start, count, 0, info.ny)
            shape = (count, info.ngroups, info.ny, info.nx)
            scratch = make_scratch(steps, count)
            scratch |= {name: table[start : start + count] for name, table in self._tables.items()}
            tile = Tile(
                self.segment.first + start, words, np.empty(shape, np.float32), np.empty(shape, np.uint8),
                None, scratch, self._read_zero(descriptor, start, count, 0, info.ny),
            )  # fmt: skip
            rows = info.ny if count > 1 else max(1, BAND_BYTES // (frame // info.ny))
            run_passes(tile, passes, info.ny, rows)

        self._each(work, range(0, n, length))

    def _find_interference(self, step: SegmentInterference, descriptor: int) -> Corrections:
        """Find emicorr's waves in the integrations as the steps before leave them."""
        info = self.steps.info
        before = self.steps.before_interference()
        passes = [decode_pass, *(one for own in before for one in own.passes)]
        rows = max(1, BAND_BYTES // (info.ngroups * info.nx * SAMPLE))

        def scan(visit: Callable[[int, np.ndarray], None], count: int) -> None:
            def work(index: int) -> None:
                words = self._read(descriptor, index, 1, 0, info.ny)
                shape = (1, info.ngroups, *info.frame_shape)
                tile = Tile(
                    self.segment.first + index, words, np.empty(shape, np.float32), np.empty(shape, np.uint8),
                    None, make_scratch(before, 1),
                )  # fmt: skip
                run_passes(tile, passes, info.ny, rows)
                visit(index, tile.data[0])

            self._each(work, range(count))

        return step.find(scan, self.count, self.segment.first, partial(make_room, folder=self.scratch))

    def _each(self, work: Callable[[int], None], jobs: range) -> None:
        """Work on jobs side by side; the first failure is raised."""
        if self.workers < 2 or len(jobs) < 2:
            for job in jobs:
                work(job)
            return
        share = threading.Lock()
        waiting = iter(jobs)

        def take() -> None:
            while True:
                with share:
                    job = next(waiting, None)
                if job is None:
                    return
                work(job)

        running = [self.pool.submit(take) for _ in range(self.workers)]
        for one in running:
            one.result()

    # -- windows ------------------------------------------------------------------------------------------------

    def _calibrate(self, descriptor: int, window: Window, bound: WindowSteps, held: _Held) -> None:
        """Take all integrations of a window through the steps before the jump search."""
        n, (ny, nx) = self.count, window.shape
        length = max(1, min(n, BAND_BYTES // (bound.info.ngroups * ny * nx * SAMPLE)))
        named = [("decode", decode_pass), *((step.name, one) for step in bound.steps for one in step.passes)]
        passes = [one for _, one in fuse(named)]
        estimated = np.zeros((ny, nx), bool)

        def work(start: int) -> None:
            part = slice(start, min(start + length, n))
            count = part.stop - start
            words = self._read(descriptor, start, count, window.top, window.bottom)
            words = np.ascontiguousarray(words[..., window.left : window.right])
            scratch = make_scratch(bound.steps, count)
            for name, table in self._tables.items():
                low, high = (
                    (window.left, window.right) if name.endswith("_x") else (window.top, window.bottom)
                )
                scratch[name] = np.ascontiguousarray(table[part, :, low:high])
            zero = self._read_zero(descriptor, start, count, window.top, window.bottom)
            if zero is not None and held.zero is not None:
                zero = np.ascontiguousarray(zero[..., window.left : window.right])
                scratch["zeroframe"] = held.zero[part]
            tile = Tile(
                self.segment.first + start, words, held.data[part], held.groupdq[part], None, scratch, zero
            )
            run_passes(tile, passes, ny, ny)
            marks = [scratch[name].any(axis=0) for name in ESTIMATED if name in scratch]
            if marks:
                with self._lock:
                    for mark in marks:
                        estimated[mark] = True

        self._each(work, range(0, n, length))
        bound.pixeldq[estimated] |= np.uint32(dq.FLUX_ESTIMATED)

    def _method(self, descriptor: int, windows: list[Window]) -> Method:
        """Choose the way jumps are found; reads until the count of unusable groups cannot change it any more."""
        info, n = self.steps.info, self.count
        jump = self.steps.jump
        if jump is None:
            return "none"
        alive = np.zeros((n, info.ngroups), np.uint8)
        none = np.zeros(n, int)
        held = None
        for window in [None, *windows]:
            if window is not None:
                bound = bind_window(self.steps, window, self.segment.first)
                held = self._hold(window, held)
                self._calibrate(descriptor, window, bound, held)
                living_planes(held.groupdq, DNU, alive, *window.core)
            most = (alive == 0).sum(axis=1)
            method = choose_method(jump, n, most, info.ngroups)
            if method == choose_method(jump, n, none, info.ngroups):
                return method
        return method

    def _hold(self, window: Window, held: _Held | None) -> _Held:
        """Make the arrays of a window, or use those of the last one."""
        shape = window.shape
        n, ngroups = self.count, self.steps.info.ngroups
        if held is not None and held.data.shape[-2:] == shape:
            return held
        if held is not None:
            # windows differ by a halo: give the old arrays back before the new ones are made
            held.__dict__.clear()
        return _Held(
            np.empty((n, ngroups, *shape), np.float32),
            np.empty((n, ngroups, *shape), np.uint8),
            np.zeros((n, shape[0]), np.uint8),
            np.full(shape, np.nan),
            RatePlanes.empty((n, *shape)),
            RatePlanes.empty(shape),
            np.empty((n, *shape), np.float32) if self.steps.info.zeroframe else None,
        )

    def _walk(
        self,
        descriptor: int,
        windows: list[Window],
        method: Method,
        known: _Known,
        planes: RatePlanes,
        mean: RatePlanes,
    ) -> _Known | None:
        """Do all windows; returns what was found out about whole planes that was not known."""
        info, n = self.steps.info, self.count
        shape = (n, info.ngroups)
        usable, clean, fitted = (np.zeros(shape, np.uint8) for _ in range(3))
        held: _Held | None = None
        spaces = [JumpWorkspace(n, info.ngroups) for _ in range(self.workers)]
        for window in windows:
            bound = bind_window(self.steps, window, self.segment.first)
            held = self._hold(window, held)
            spooled = (window, held.data, held.groupdq, held.zero, bound.pixeldq)
            if self._spool is not None and self._spool.complete:
                self._spool.get(*spooled)
            else:
                self._calibrate(descriptor, window, bound, held)
                living_planes(held.groupdq, DNU, usable, *window.core)
                self._find_jumps(window, bound, held, method, known, spaces, clean)
                if self._spool is not None:
                    self._spool.put(*spooled)
            if self.steps.persistence is not None and not self._draft:
                flag_persistence(self.steps.persistence, info, self.segment, held.data, held.groupdq)
            if self.ramp is not None and not self._draft:
                self.ramp(window, held.data, held.groupdq)
            self._fit(window, bound, held, known)
            living_planes(held.groupdq, DNU, fitted, *window.core)
            y0, y1, x0, x1 = window.core
            rows, columns = window.slices
            for kept, one in zip(planes.arrays(), held.out.arrays(), strict=True):
                kept[:, rows, columns] = one[:, y0:y1, x0:x1]
            for kept, one in zip(mean.arrays(), held.mean.arrays(), strict=True):
                kept[rows, columns] = one[y0:y1, x0:x1]
            for one in planes.arrays():
                let_go(one)
        found = replace(known)
        searched = self._spool is None or not self._spool.complete
        if method == "clip" and searched and not known.reset.any():
            # planes with nothing but jumps; those that DO_NOT_USE explains alone have no flag to take back
            found.reset = ((clean == 0) & (usable == 1)).astype(np.uint8)
        if info.is_miri and info.ngroups > 1:
            found.groups = _used_groups(fitted)
            if found.groups[1] - found.groups[0] < 2:
                raise OperatorError(
                    f"{self.segment.source_path}: no two groups can be used; check the references"
                )
        if found.groups == known.groups and np.array_equal(found.reset, known.reset):
            return None
        return found

    def _find_jumps(
        self,
        window: Window,
        bound: WindowSteps,
        held: _Held,
        method: Method,
        known: _Known,
        spaces: list[JumpWorkspace],
        clean: np.ndarray,
    ) -> None:
        if self.steps.jump is None or self.steps.info.ngroups < 3:
            return
        gain = bound.references["gain"].arrays["SCI"]
        typical = float(np.nanmedian(self.steps.references["gain"].arrays["SCI"]))
        search = SegmentJump(
            self.steps.jump,
            self.steps.info,
            gain,
            bound.references["readnoise"].arrays["SCI"],
            typical,
            method,
        )
        idle = list(spaces)
        top, bottom, left, right = window.grown(1)

        def find(y: int) -> None:
            with self._lock:
                space = idle.pop()
            search.find(
                held.data,
                held.groupdq,
                held.marked,
                held.medians,
                known.reset,
                space,
                (y, y + 1, left, right),
            )
            with self._lock:
                idle.append(space)

        held.marked[...] = 0
        self._each(find, range(top, bottom))
        if method == "clip":
            living_planes(held.groupdq, DNU | JUMP, clean, *window.core)
        y0, y1, x0, x1 = window.core
        if self.steps.jump.flag_4_neighbors:
            spread_seeds(held.groupdq, held.marked, y0, y1, x0, x1)
            clear_seeds(held.groupdq, held.marked, 0, window.shape[0])
        search.flag_after(held.data, held.groupdq, held.medians, window.core)

    def _fit(self, window: Window, bound: WindowSteps, held: _Held, known: _Known) -> None:
        place = (slice(window.top, window.bottom), slice(window.left, window.right))
        gain, read = (bound.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
        info, step = self.steps.info, RampFit() if self._draft else self.steps.fit
        dark = np.ascontiguousarray(self.steps.dark[place])
        likely = step.algorithm == "LIKELY" and info.ngroups >= LIKELY_GROUPS
        fit: SegmentFit | SegmentLikely = (
            SegmentLikely(info, gain, read, dark)
            if likely
            else SegmentFit(info, gain, read, dark, step.suppress_one_group, self.steps.loses_charge)
        )
        for group in step.outside(info.ngroups):
            held.groupdq[:, group] |= DNU
        y0, y1, x0, x1 = window.core

        def work(y: int) -> None:
            rows = (y, y + 1, x0, x1)
            fit.run(
                held.data, held.groupdq, bound.pixeldq, held.out, held.mean, rows, known.groups, held.zero
            )

        self._each(work, range(y0, y1))
        if not self._draft:
            self._after(held.out)

    def _after(self, planes: RatePlanes) -> None:
        """Take slopes through the steps behind the fit, in place."""
        n = len(planes.data)
        rate = planes.rate(self.segment.first, Times(np.zeros((n, 6)), np.zeros(n, np.uint32)))
        unused = np.empty((0, 0, 0, 0), np.float32)
        tile = Tile(rate.first, None, unused, unused.astype(np.uint8), rate, {})
        rows = rate.data.shape[1]
        for step in self.steps.after:
            run_passes(tile, step.passes, rows, rows)

    # -- the store ----------------------------------------------------------------------------------------------

    def _store(self) -> RatePlanes:
        """Make the place the slopes are kept in: memory for small segments, else an unnamed file."""
        info, n = self.steps.info, self.count
        shape = (n, info.ny, info.nx)
        if self.store_bytes <= STORE_BYTES:
            return RatePlanes.empty(shape)
        return RatePlanes(*map_scratch(self.scratch, [*[(shape, np.float32)] * 4, (shape, np.uint32)]))


def _used_groups(alive: np.ndarray) -> tuple[int, int]:
    """Leave out the first groups, and the last one, that no pixel of any integration can use (21.1, item 4)."""
    some = np.asarray(alive.any(axis=0))
    first = int(np.argmax(some)) if some.any() else len(some)
    last = len(some)
    if last > first and not some[last - 1]:
        last -= 1
    return first, last

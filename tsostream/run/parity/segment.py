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
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from tsostream.errors import OperatorError
from tsostream.files import SegmentFile, SegmentTimes
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate, Times
from tsostream.operators.flicker_segment import SegmentFlicker
from tsostream.operators.jump_segment import Method, choose_method, living_planes
from tsostream.operators.rate_planes import RatePlanes
from tsostream.run.parity.cleaning import clean_spool, find_median_image, keep_nothing
from tsostream.run.parity.events import earlier_windows, flag_persistence, grow_events, save_windows
from tsostream.run.parity.frames import find_interference, find_tables
from tsostream.run.parity.light import DraftLight
from tsostream.run.parity.reading import Jobs, open_segment
from tsostream.run.parity.spool import RampSpool, spool_bytes
from tsostream.run.parity.steps import ParitySteps, WindowSteps, bind_window
from tsostream.run.parity.store import SegmentSlopes, SlopeStore
from tsostream.run.parity.window_work import DNU, Held, Known, WindowWork
from tsostream.run.parity.windows import RATE_BYTES, Window, plan_windows

__all__ = ["SegmentRun"]

logger = logging.getLogger("tsostream")

#: bytes a window with all its integrations may take
WINDOW_BYTES = 96 << 20
#: draft slopes that are looked at in one go [bytes]
DRAFT_BYTES = 8 << 20


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
    light
        Tells how bright the source is in draft slopes, where a step wants to know.
    keep
        Steps whose ramps are kept, of `ParitySteps.ramp_order`, and what clean_flicker_noise keeps besides
        (``step.name``); for products.
    """

    segment: SegmentFile
    steps: ParitySteps
    pool: Executor
    workers: int = 1
    window_bytes: int = WINDOW_BYTES
    scratch: Path | None = None
    light: DraftLight | None = None
    keep: tuple[str, ...] = ()

    @property
    def store_bytes(self) -> int:
        """Size of the slopes' store."""
        info = self.steps.info
        return RATE_BYTES * self.segment.count * info.ny * info.nx

    @property
    def spool_bytes(self) -> int:
        """Size of the ramps, where a step looks at whole frames behind the jump search; else 0."""
        return spool_bytes(self.steps.info, self.segment.count) if self.steps.frames_after else 0

    @property
    def kept_bytes(self) -> int:
        """Size of the ramps that are kept for products."""
        return sum(spool_bytes(self._kept_info(step), self.segment.count) for step in self.keep)

    def run(self) -> SegmentSlopes:
        """Do it.

        Raises
        ------
        OperatorError
            No group is left for the fit.
        ReadError
            The file cannot be read.
        """
        segment, jobs = self.segment, Jobs(self.pool, self.workers)
        with open_segment(segment, self.steps.info) as reader:
            if self.steps.interference is not None:
                found = find_interference(self.steps.interference, reader, self.steps, jobs, self.scratch)
                self.steps = self.steps.corrected(found)
            tables = find_tables(reader, self.steps, jobs) if self.steps.needs_frames else {}
            windows = plan_windows(segment.count, self.steps.info, self.steps.halo, self.window_bytes)
            shape = self.steps.info.frame_shape
            store, mean = SlopeStore(segment.count, shape, windows, self.scratch), RatePlanes.empty(shape)
            kept = {name: self._room(name) for name in self.keep}
            work = WindowWork(reader, self.steps, jobs, tables, kept=kept)
            walk = _Walk(
                self, work, windows, store, mean, earlier_windows(self.steps.persistence, self.steps.info)
            )
            method = walk.choose_method()
            walk.slopes(method)
            walk.work.finish(RatePlanes(*(one[None] for one in mean.arrays())))
            save_windows(self.steps.persistence, self.steps.info, segment, walk.later)
        times = SegmentTimes(segment).rows(segment.first, segment.count)
        return SegmentSlopes(segment.first, store, mean, times, method, kept)

    def _kept_info(self, step: str) -> ExposureInfo:
        """Describe what is kept: ramps, or a mask as ramps of one group."""
        info = replace(self.steps.info, zeroframe=False)
        return replace(info, ngroups=1) if step.endswith(".mask") else info

    def _room(self, step: str) -> RampSpool:
        """Make room for the ramps a step leaves."""
        spool = RampSpool.make(self._kept_info(step), self.segment.count, self.scratch)
        spool.pixeldq[...] = self.steps.static_dq(step)
        return spool


@dataclass
class _Walk:
    """Goes through the windows of a segment, as often as it takes.

    Parameters
    ----------
    run
        The segment.
    work
        What is done to a window.
    windows
        Those of the frame.
    store, mean
        Slopes of the integrations, and of all together [y, x], written.
    earlier : float64 [y, x]
        When the windows of persistence close that the file finds open [s since 1970]; 0 for none.
    spool
        Ramps after the jump search, where a step looks at whole frames there.
    held
        Arrays of the last window.
    ready
        The window that is held as the steps before the jump search leave it, and those steps.
    later : float64 [y, x]
        The windows that the file leaves open, written.
    """

    run: SegmentRun
    work: WindowWork
    windows: list[Window]
    store: SlopeStore
    mean: RatePlanes
    earlier: np.ndarray
    spool: RampSpool | None = None
    held: Held | None = None
    ready: tuple[Window, WindowSteps] | None = None
    later: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.later = np.zeros_like(self.earlier)

    @property
    def steps(self) -> ParitySteps:
        """Bound to whole frames."""
        return self.work.steps

    @property
    def count(self) -> int:
        """Integrations of the segment."""
        return self.work.reader.count

    def choose_method(self) -> Method:
        """Choose the way jumps are found; reads until the count of unusable groups cannot change it any more."""
        info, n, jump = self.steps.info, self.count, self.steps.jump
        if jump is None:
            return "none"
        alive = np.zeros((n, info.ngroups), np.uint8)
        none = np.zeros(n, int)
        for window in [None, *self.windows]:
            if window is not None:
                bound = bind_window(self.steps, window, self.work.reader.first)
                self.held = self.work.hold(window, self.held)
                self.work.calibrate(window, bound, self.held)
                self.ready = window, bound
                living_planes(self.held.groupdq, DNU, alive, *window.core)
            most = (alive == 0).sum(axis=1)
            method = choose_method(jump, n, most, info.ngroups)
            if method == choose_method(jump, n, none, info.ngroups):
                return method
        return method

    def slopes(self, method: Method) -> None:
        """Make the slopes, with what looks at whole frames before."""
        if self.steps.frames_after:
            self._look_at_frames(method)
        self._settle(method)
        self.spool = None

    def _settle(self, method: Method) -> None:
        """Walk through the windows until nothing is found out about whole planes that was not known."""
        ngroups = self.steps.info.ngroups
        known = Known(np.zeros((self.count, ngroups), np.uint8), (0, ngroups))
        for _ in range(3):
            found = self._once(method, known)
            if found is None:
                break
            known = found

    def _look_at_frames(self, method: Method, *, clean: bool = True) -> None:
        """Spool the ramps after the jump search, grow snowballs, and take the noise out.

        What is background, draft slopes tell, with the fit's defaults.
        """
        spool = self.spool = RampSpool.make(self.steps.info, self.count, self.run.scratch)
        self.work.draft = True
        self._settle(method)
        spool.complete = True
        flicker, jump = self.steps.flicker if clean else None, self.steps.jump
        if jump is not None and self.steps.has_events:
            grow_events(jump, self.steps.info, spool.groupdq)
            if flicker is not None:
                self._settle(method)
        self.work.draft = False
        if clean and (kept := self.work.kept.get("jump")) is not None:
            kept.copy(spool)
        if flicker is not None and not self._clean(flicker, spool):
            logger.warning(
                "%s: clean_flicker_noise cannot find the noise; as with the official step the file is not cleaned",
                self.run.segment.source_path,
            )
            keep_nothing(spool, self.work.kept)
            self.spool = None
            if self.steps.has_events:
                self._look_at_frames(method, clean=False)

    def _clean(self, flicker: SegmentFlicker, spool: RampSpool) -> bool:
        """Take the noise out; False where the official step gives the file back as it came."""
        median, each = None, self.work.jobs.each
        if flicker.against_median:
            drafts = partial(self._drafts, flicker.cleaner.flat)
            median = find_median_image(self.run.light, drafts, spool, self.steps.info, self.run.scratch, each)
            if median is None:
                return False
        return clean_spool(flicker, spool, self.store.signal, self.mean, each, median, self.work.kept)

    def _drafts(self, flat: np.ndarray) -> Iterator[Rate]:
        """Hand out the draft slopes of the file, divided by a flat, block by block."""
        length = max(1, DRAFT_BYTES // (RATE_BYTES * flat.size))
        for start in range(0, self.count, length):
            planes = self.store.take(start, min(start + length, self.count))
            n = len(planes.data)
            np.divide(planes.data, flat, out=planes.data)
            yield planes.rate(
                self.work.reader.first + start, Times(np.full((n, 6), np.nan), np.zeros(n, np.uint32))
            )

    def _once(self, method: Method, known: Known) -> Known | None:
        """Do all windows; returns what was found out about whole planes that was not known."""
        shape = (self.count, self.steps.info.ngroups)
        usable, clean, fitted = (np.zeros(shape, np.uint8) for _ in range(3))
        for window in self.windows:
            bound, calibrated = self._bind(window)
            held = self.held = self.work.hold(window, self.held)
            spooled = (window, held.data, held.groupdq, held.zero, bound.pixeldq)
            if self.spool is not None and self.spool.complete:
                self.spool.get(*spooled)
            else:
                if not calibrated:
                    self.work.calibrate(window, bound, held)
                living_planes(held.groupdq, DNU, usable, *window.core)
                self.work.find_jumps(window, bound, held, method, known, clean)
                if self.spool is not None:
                    self.spool.put(*spooled)
            if not self.work.draft:
                self._before_fit(window, held)
            self.work.fit(window, bound, held, known)
            living_planes(held.groupdq, DNU, fitted, *window.core)
            self._keep(window, held)
        self.held = None
        return self._news(method, known, usable, clean, fitted)

    def _bind(self, window: Window) -> tuple[WindowSteps, bool]:
        """Bind the steps to a window; True: it is held already as they leave it."""
        ready, self.ready = self.ready, None
        if ready is not None and ready[0] == window:
            return ready[1], True
        return bind_window(self.steps, window, self.work.reader.first), False

    def _before_fit(self, window: Window, held: Held) -> None:
        """Flag persistence, and keep the ramps that are wanted."""
        # where the noise is taken out, the jump search's own were kept before
        if self.spool is None or self.steps.flicker is None:
            self._keep_ramps("jump", window, held)
        self._keep_ramps("clean_flicker_noise", window, held)
        if self.steps.persistence is not None:
            info, segment = self.steps.info, self.run.segment
            until = self.earlier[None, window.top : window.bottom, window.left : window.right].copy()
            flag_persistence(self.steps.persistence, info, segment, held.data, held.groupdq, until)
            y0, y1, x0, x1 = window.core
            self.later[window.slices] = until[0, y0:y1, x0:x1]
        self._keep_ramps("persistence", window, held)

    def _keep_ramps(self, step: str, window: Window, held: Held) -> None:
        """Keep the ramps that a step has left, if they are wanted."""
        if (kept := self.work.kept.get(step)) is not None:
            kept.put_ramps(window, held.data, held.groupdq)

    def _keep(self, window: Window, held: Held) -> None:
        """Put the slopes of a window's own pixels to their place."""
        y0, y1, x0, x1 = window.core
        rows, columns = window.slices
        length = -(-self.count // (4 * self.work.jobs.workers))

        def keep(start: int) -> None:
            self.store.keep(window, held.out, start, min(start + length, self.count))

        self.work.jobs.each(keep, range(0, self.count, length))
        for kept, one in zip(self.mean.arrays(), held.mean.arrays(), strict=True):
            kept[rows, columns] = one[y0:y1, x0:x1]

    def _news(
        self, method: Method, known: Known, usable: np.ndarray, clean: np.ndarray, fitted: np.ndarray
    ) -> Known | None:
        """Tell what planes with a usable, a clean, a fitted sample say that was not known; None for nothing."""
        info = self.steps.info
        found = replace(known)
        searched = self.spool is None or not self.spool.complete
        if method in ("clip", "clip_all") and searched and not known.reset.any():
            # planes with nothing but jumps; those that DO_NOT_USE explains alone have no flag to take back
            found.reset = ((clean == 0) & (usable == 1)).astype(np.uint8)
        if info.is_miri and info.ngroups > 1:
            found.groups = _used_groups(fitted)
            if found.groups[1] - found.groups[0] < 2:
                raise OperatorError(
                    f"{self.run.segment.source_path}: no two groups can be used; check the references"
                )
        if found.groups == known.groups and np.array_equal(found.reset, known.reset):
            return None
        return found


def _used_groups(alive: np.ndarray) -> tuple[int, int]:
    """Leave out the first groups, and the last one, that no pixel of any integration can use (21.1, item 4)."""
    some = np.asarray(alive.any(axis=0))
    first = int(np.argmax(some)) if some.any() else len(some)
    last = len(some)
    if last > first and not some[last - 1]:
        last -= 1
    return first, last

"""Runs that begin before their exposure is complete: ``--follow``.

Rows do not depend on when the segments came: the scout is made of the first integrations, as ``--scout head`` does, and
the reader waits where a segment is missing.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tsostream.errors import IdleTimeoutError, InputError, Problem
from tsostream.files import Exposure, SegmentFile, read_blocks
from tsostream.files.follow import Following, Key, follow, growing_exposure, part_of
from tsostream.integration.payload import Raw
from tsostream.run.plan import parse_bytes
from tsostream.run.request import Request
from tsostream.run.scout import ScoutPlan, parse_scout, scout_numbers
from tsostream.sinks import journal_path, read_journal

__all__ = [
    "Arrivals",
    "follow_exposures",
    "follow_problems",
    "followed_blocks",
    "growing_scout",
    "share_memory",
]

#: how long detectors that are announced may keep those waiting that could begin [s]
PATIENCE: Final = 60.0
#: files that are not complete are named up to this number
_TOLD: Final = 3
_LENGTH: Final = re.compile(r"\b\d+ bytes\b")


@dataclass
class Arrivals:
    """The segments of one exposure and detector, as the run needs them.

    Parameters
    ----------
    folder
        Where they come.
    key
        Exposure and detector.
    group
        All exposures and detectors that are processed from this folder.
    idle
        Seconds without anything new after which waiting ends; None for never.
    known
        Segments the run knows of.
    on_segment
        Called with each further segment before it is read.
    report
        Told what is worth a line.
    """

    folder: Following
    key: Key
    group: tuple[Key, ...]
    idle: float | None
    known: list[SegmentFile]
    on_segment: Callable[[SegmentFile], None] = lambda segment: None
    report: Callable[[str], None] = lambda text: None
    _strangers: set[Key] = field(default_factory=set)

    async def run(self, number: int) -> list[SegmentFile]:
        """Wait for the segment of an integration; give it and those behind it that are there.

        Raises
        ------
        IdleTimeoutError
            When nothing came for too long.
        """
        began = time.monotonic()
        while True:
            await asyncio.to_thread(self.folder.look)
            self._look_for_strangers()
            found = self.folder.run(self.key, number)
            if found:
                for segment in self.folder.segments(self.key):
                    if segment.first not in {one.first for one in self.known}:
                        self.known.append(segment)
                        self.on_segment(segment)
                return found
            quiet = time.monotonic() - max(self.folder.changed, began)
            if self.idle is not None and quiet >= self.idle:
                raise IdleTimeoutError(self._missing(number))
            await asyncio.to_thread(
                self.folder.wait, 1.0 if self.idle is None else max(self.idle - quiet, 0.02)
            )

    def _missing(self, number: int) -> str:
        waiting = "".join(f"; {one}" for one in self.folder.pending()[:3])
        return (
            f"{self.folder.folder}: nothing new came for {self.idle:g} s, and the segment with integration {number} of "
            f"{'_'.join(self.key).lower()} is not there{waiting}; go on with --resume --follow when it comes"
        )

    def _look_for_strangers(self) -> None:
        for key in self.folder.trains():
            if key not in self.group and key not in self._strangers:
                self._strangers.add(key)
                self.report(
                    f"segments of {'_'.join(key).lower()} came into {self.folder.folder}, too: they are not part of "
                    "this output; give them a run of their own"
                )

    def describe(self) -> dict[str, Any]:
        """Say in the footer what came while the run went on."""
        segments = sorted(self.known, key=lambda one: one.first)
        return {
            "inputs": [
                {
                    "path": str(Path(one.source_path).absolute()),
                    "size": one.size,
                    "mtime_ns": one.mtime_ns,
                    "header_sha256": one.header_sha256,
                }
                for one in segments
            ],
            "segments": [
                {
                    "file": one.source_path.name,
                    "segment": one.segment_number,
                    "intstart": one.first,
                    "intend": one.last,
                }
                for one in segments
            ],
            "follow_reports": list(self.folder.reports),
        }


def follow_problems(request: Request) -> list[Problem]:
    """Find what does not go with ``--follow``."""
    problems = []
    for option, given, why in (
        ("--parity", request.parity, "works on whole segments"),
        ("--allow-gaps", request.allow_gaps, "cannot be told from segments that have not come yet"),
        ("--hash-inputs", request.hash_inputs, "needs all files at the beginning"),
    ):
        if given:
            problems.append(Problem(f"{option} {why}", "--follow", "leave one of the two out", "parameter"))
    if request.scout.partition(":")[0] == "spread":
        what = "the scout cannot be spread over an exposure that is still arriving"
        problems.append(
            Problem(what, f"--scout {request.scout}", "give head:N or a stored scout", "parameter")
        )
    return problems


def growing_scout(plan: ScoutPlan) -> ScoutPlan:
    """Take the first integrations where ``auto`` would spread over all."""
    return replace(plan, kind="head") if plan.kind == "spread" else plan


def follow_exposures(
    request: Request, stop: threading.Event | None = None, say: Callable[[str], None] = lambda text: None
) -> list[tuple[Exposure, Arrivals]]:
    """Wait until the run can begin: enough integrations for the scout, of every detector that is announced.

    Of several exposures, the first that can begin is taken: of an earlier one, some segments may just lie there.

    Parameters
    ----------
    request
        What is wanted.
    stop
        Ends the waiting when it is set; nothing is returned then.
    say
        Told what is waited for whenever that changes, and what is left out.

    Raises
    ------
    InputError
        When the directory cannot be followed, or nothing comes for too long.
    """
    folder = follow(request.inputs, request.level)
    folder.tell(say)
    plan = growing_scout(parse_scout(request.scout))
    waiting, begun = _Waiting(folder, say), _begun(request)
    began: float | None = None
    while True:
        folder.look()
        keys = [key for key in folder.trains() if begun in ("", key[0])]
        needs = {key: _needed(folder, key, plan, request) for key in keys}
        ready = _first_ready(needs)
        group = [key for key in needs if key[0] == ready[0][0]] if ready else [*needs]
        if ready and began is None:
            began = time.monotonic()
        waited = 0.0 if began is None else time.monotonic() - began
        detectors = {detector.lower() for _, detector in group}
        everyone = len(ready) == len(group) and folder.announced() <= detectors
        if ready and (everyone or waited > PATIENCE):
            break
        quiet = time.monotonic() - folder.changed
        if request.idle_timeout is not None and quiet >= request.idle_timeout:
            if ready:
                break
            folder.close()
            raise _nothing(folder, needs, request.idle_timeout)
        if stop is not None and stop.is_set():
            folder.close()
            return []
        waiting.tell(needs, ready)
        folder.wait(1.0 if request.idle_timeout is None else max(request.idle_timeout - quiet, 0.02))
    found = []
    for key in ready:
        segments = folder.segments(key)
        arrivals = Arrivals(folder, key, tuple(ready), request.idle_timeout, segments)
        found.append((growing_exposure(segments), arrivals))
    return found


def _first_ready(needs: dict[Key, str]) -> list[Key]:
    """Detectors that can begin, of the first exposure that can; empty for none."""
    ready = [key for key, missing in needs.items() if not missing]
    return [key for key in ready if key[0] == ready[0][0]]


class _Waiting:
    """Says what is waited for, and says it again when something else is."""

    def __init__(self, folder: Following, say: Callable[[str], None]):
        self._folder, self._say, self._last = folder, say, ""

    def tell(self, needs: dict[Key, str], ready: list[Key]) -> None:
        """Look at what is missing now."""
        missing = [text for text in needs.values() if text] or ([] if needs else ["no segment is there yet"])
        if ready:
            able = ", ".join(detector.lower() for _, detector in ready)
            missing.append(f"{able} can begin and waits for the other detectors, {PATIENCE:g} s at most")
        pending = self._folder.pending(judged=True)
        missing += [f"not complete: {text}" for text in pending[:_TOLD]]
        if len(pending) > _TOLD:
            missing.append(f"and {len(pending) - _TOLD} files more are not complete")
        # a file that grows changes its size all the time, which is not worth a line
        essence = _LENGTH.sub("", "; ".join(missing))
        if essence != self._last:
            self._last = essence
            self._say(f"waiting: {'; '.join(missing)}")


def _begun(request: Request) -> str:
    """Exposure of the output that is to be resumed; empty where that is not known."""
    if not request.resume or request.out is None or not journal_path(request.out).exists():
        return ""
    header, _ = read_journal(journal_path(request.out))
    return str(header["fingerprint"].get("exposure", {}).get("exposure_id", "")) if header else ""


def _needed(folder: Following, key: Key, plan: ScoutPlan, request: Request) -> str:
    """Say what is missing to begin; empty when nothing is."""
    segments = folder.segments(key)
    last = 1
    if plan.kind != "file" and not (request.resume and request.out and journal_path(request.out).exists()):
        last = scout_numbers(plan, growing_exposure(segments))[-1]
    there = folder.run(key, 1)
    if there and there[-1].last >= last:
        return ""
    have = f"1-{there[-1].last} are" if there else "none from the beginning is"
    return f"{'_'.join(key).lower()}: the scout needs integrations 1-{last}, {have} there"


def _nothing(folder: Following, needs: dict[Key, str], idle: float) -> InputError:
    what = f"nothing new came for {idle:g} s"
    todo = "give a longer --idle-timeout, or look why nothing comes"
    found = [text for text in needs.values() if text] or folder.pending()[:5] or ["no segment is there"]
    return InputError([Problem(f"{what}: {text}", str(folder.folder), todo, "idle") for text in found])


def share_memory(request: Request, runs: int) -> Request:
    """Give each of several runs that go on side by side its part of the memory."""
    if request.max_memory is None or runs < 2:
        return request
    return replace(request, max_memory=str(parse_bytes(request.max_memory) // runs))


async def followed_blocks(
    exposure: Exposure, arrivals: Arrivals, begins: tuple[int, int], *, after: int = 0, **options: Any
) -> AsyncIterator[Raw]:
    """Read blocks as `tsostream.files.read_blocks` does, and wait for segments that are not there yet.

    A block whose last integrations need frames of a segment that is still to come waits for it as a whole. Therefore
    those that do are a block of their own.

    Parameters
    ----------
    exposure
        As far as it is there when the run begins.
    arrivals
        What becomes complete.
    begins
        First integration, and one at which a block begins.
    after
        Frames behind its own that an integration needs.
    **options
        As for `read_blocks`.

    Yields
    ------
    Raw
        Consecutive integrations.
    """
    number, begin = begins
    while number <= exposure.last:
        part = part_of(exposure, await arrivals.run(number))
        blocks = read_blocks(part, ranges=_cut(number, part.last, (begin, part.last - after + 1)), **options)
        async with aclosing(blocks):  # type: ignore[type-var]
            async for raw in blocks:
                yield raw
        number = part.last + 1


def _cut(first: int, last: int, begins: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cut integrations ``first … last`` before those given; ``(first, count)`` of each part."""
    bounds = [first, *sorted({one for one in begins if first < one <= last}), last + 1]
    return [(begin, end - begin) for begin, end in pairwise(bounds)]

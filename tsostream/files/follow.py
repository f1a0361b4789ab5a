"""A directory that segments arrive in: each is taken as soon as it is complete.

A file counts as complete when its size is what its headers promise and it has not changed for a moment. One that lacks
an extension that others have, ends in the middle of a block, or has holes that nobody has written to must rest longer,
for a copy may pause. Names that downloads use until they are done (hidden, ``.part``, ``.tmp``) are no segment names. A
file beside which a download keeps its state (``<name>.aria2``) is not complete, whatever its length; a ``<name>.part``
says nothing of the file without that ending: it may be what an attempt that broke off left behind.
Looking at the directory works on every file system; where `watchfiles` is installed and the system reports changes, the
next look comes at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tsostream.errors import InputError, Problem
from tsostream.files.exposure import Exposure, audit_common, audit_times
from tsostream.files.inputs import segment_name
from tsostream.files.segment import SegmentFile, open_segment
from tsostream.integration.exposure_info import Level

__all__ = ["Following", "Key", "follow"]

logger = logging.getLogger("tsostream")

#: exposure_id and detector
Key = tuple[str, str]

#: seconds a file must not have changed
SETTLE: Final = 0.25
#: the same for one that may lack its last extensions
SETTLE_LONG: Final = 3.0
#: files of this format come in such blocks [bytes]
BLOCK: Final = 2880
#: a file this old when it is first seen is not being written [s]
OLD: Final = 10.0
#: seconds between two looks, without and with a system that reports changes
POLL: Final = 0.15
POLL_NOTIFIED: Final = 1.0
#: a look never takes more than this part of the time
_DUTY: Final = 0.1
#: ending, after the whole name, of what a download keeps beside a file of full length until it is done
_UNDER_WAY: Final = ".aria2"
#: what a file that is not complete yet may look like
_GROWING: Final = frozenset(
    {"truncated", "empty", "not_fits", "corrupt_header", "corrupt_gzip", "unreadable", "not_found",
     "missing_extension", "missing_keywords", "axes", "no_permission"}
)  # fmt: skip
_DETECTOR: Final = re.compile(
    r"_(nrs\d|nrc[ab](?:\d|long)|nis|mirimage|mirif[a-z]+)_[a-z]+\.fits", re.IGNORECASE
)

_FRESH: Final = "not looked at yet"

Signature = tuple[int, int, int]


@dataclass
class _Seen:
    """A file as it was at the last look."""

    signature: Signature
    since: float
    judged: Signature | None = None
    segment: SegmentFile | None = None
    why: str = _FRESH


@dataclass
class _Train:
    """Segments of one exposure and detector, by their first integration."""

    segments: list[SegmentFile] = field(default_factory=list)

    def run(self, number: int) -> list[SegmentFile]:
        """Segments that hold ``number`` and what follows it without a gap."""
        found: list[SegmentFile] = []
        for segment in self.segments:
            if segment.first <= number <= segment.last or (found and segment.first == found[-1].last + 1):
                found.append(segment)
        return found


class Following:
    """The segments of one directory, as they come. All methods may be called from any thread.

    Parameters
    ----------
    folder
        The directory.
    level
        Look only at files of this product level; default that of the first segment.
    scratch
        Where packed files are unpacked.
    clock
        Seconds, for tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        level: Level | None = None,
        scratch: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.level = folder, level
        self.reports: list[str] = []
        self._tell: Callable[[str], None] = lambda text: None
        self._scratch, self._clock = scratch, clock
        self._seen: dict[Path, _Seen] = {}
        self._trains: dict[Key, _Train] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._looked, self._cost = -1e9, 0.0
        self.changed = clock()
        self._notice = _Notice(folder)

    def tell(self, listener: Callable[[str], None]) -> None:
        """Say from now on to ``listener`` what is worth a line; what came before is in `reports`."""
        self._tell = listener

    def close(self) -> None:
        """Stop listening to the system."""
        self._notice.close()

    def trains(self) -> list[Key]:
        """Exposures and detectors with complete segments."""
        with self._lock:
            return sorted(self._trains)

    def announced(self) -> set[str]:
        """Detectors that file names tell of, lower case, whether complete or not."""
        with self._lock:
            return {match[1].lower() for path in self._seen if (match := _DETECTOR.search(path.name))}

    def segments(self, key: Key) -> list[SegmentFile]:
        """Complete segments, in the order of their integrations."""
        with self._lock:
            return list(self._trains[key].segments) if key in self._trains else []

    def run(self, key: Key, number: int) -> list[SegmentFile]:
        """Complete segments that hold an integration and those after it, up to the first that is missing."""
        with self._lock:
            return self._trains[key].run(number) if key in self._trains else []

    def pending(self, *, judged: bool = False) -> list[str]:
        """Files that are not complete, and why not; ``judged`` leaves out those that have just come."""
        with self._lock:
            return [
                f"{path.name}: {seen.why}"
                for path, seen in sorted(self._seen.items())
                if not seen.segment and seen.why and not (judged and seen.why == _FRESH)
            ]

    def wait(self, seconds: float) -> None:
        """Sleep until it is time for the next look, or the system reports a change."""
        self._notice.wait(min(seconds, self.pause()))

    def pause(self) -> float:
        """Seconds until the next look is worth while."""
        base = POLL_NOTIFIED if self._notice.works else POLL
        base = max(base, self._cost / _DUTY)
        now = self._clock()
        with self._lock:
            due = [
                seen.since + SETTLE - now
                for seen in self._seen.values()
                if seen.judged != seen.signature and seen.since + SETTLE > now
            ]
        return max(0.02, min([base, *(one + 0.01 for one in due)]))

    def look(self) -> bool:
        """Look at the directory; return whether a segment became complete.

        Raises
        ------
        InputError
            When the directory cannot be read.
        """
        with self._lock:
            began = time.perf_counter()
            new = False
            now = self._clock()  # one moment for all: of equal files the first name is taken
            for path, signature, beside in self._listing():
                seen = self._seen.get(path)
                if seen is None:
                    age = time.time() - signature[1] / 1e9
                    seen = self._seen[path] = _Seen(signature, now - (OLD if age > OLD else 0.0))
                    self.changed = now
                elif seen.signature != signature:
                    seen.signature, seen.since = signature, now
                    self.changed = now
                if beside and seen.segment is None:
                    seen.since, seen.judged = now, None
                    seen.why = f"still arrives as long as {beside} stands beside it"
                elif seen.judged != seen.signature and now - seen.since >= SETTLE:
                    new = self._judge(path, seen, now) or new
            self._looked, self._cost = self._clock(), time.perf_counter() - began
            return new

    def _listing(self) -> list[tuple[Path, Signature, str]]:
        """Files with the names of segments, and what a download keeps beside each; empty for nothing."""
        found = []
        try:
            paths = sorted(self.folder.iterdir())
            names = {path.name for path in paths}
            for path in paths:
                level = segment_name(path)
                if level is None or path.name.startswith(".") or (self.level and level != self.level):
                    continue
                try:
                    stat = path.stat()
                except OSError:
                    continue  # on its way to another name
                beside = path.name + _UNDER_WAY if path.name + _UNDER_WAY in names else ""
                found.append((path, (stat.st_size, stat.st_mtime_ns, stat.st_ino), beside))
        except OSError as error:
            what = f"the directory cannot be read ({error.strerror or error})"
            raise InputError(Problem(what, str(self.folder), "check the path", "unreadable")) from error
        return found

    def _judge(self, path: Path, seen: _Seen, now: float) -> bool:
        """Decide about a file that has come to rest."""
        try:
            segment = open_segment(path, scratch=self._scratch)
        except InputError as error:
            seen.judged, seen.why = seen.signature, error.problems[0].what
            if not {problem.code for problem in error.problems} <= _GROWING:
                self._say(f"left out: {error.problems[0]}")
            return False
        may_go_on = segment.size % BLOCK and path == segment.path
        if (
            may_go_on or has_holes(path) or not self._looks_final(segment)
        ) and now - seen.since < SETTLE_LONG:
            return False  # judged again at the next look
        seen.judged, seen.why = seen.signature, ""
        if seen.segment is not None:
            self._changed(seen, segment)
            return False
        return self._accept(seen, segment)

    def _looks_final(self, segment: SegmentFile) -> bool:
        """Whether nothing is missing that others have, or that every product ends with."""
        train = self._trains.get(_key(segment))
        if train is not None:
            other = train.segments[0]
            return other.extensions.keys() <= segment.extensions.keys() and (
                other.time_table is None or segment.time_table is not None
            )
        planes = {"SCI"} if segment.info.is_ramp else {"SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"}
        return planes <= segment.extensions.keys() and segment.time_table is not None

    def _changed(self, seen: _Seen, segment: SegmentFile) -> None:
        """Judge an accepted file that is not as it was: touched, grown by an extension, or another version."""
        before = seen.segment
        if before is None or before.header_sha256 == segment.header_sha256:
            return
        same = before.info.header == segment.info.header and all(
            ext == segment.extensions.get(name) for name, ext in before.extensions.items()
        )
        if not same:
            self._say(
                f"{segment.source_path.name} was replaced by another version after it was taken; versions are not "
                "mixed: what was read stays, and what was not ends the run"
            )

    def _accept(self, seen: _Seen, segment: SegmentFile) -> bool:
        """Add a complete segment, unless it does not belong to what is there."""
        self.level = self.level or segment.info.level
        if segment.info.level != self.level:
            self._say(
                f"left out: {segment.source_path.name} is of the level {segment.info.level}, not {self.level}"
            )
            return False
        train = self._trains.setdefault(_key(segment), _Train())
        name, where = segment.source_path.name, f"integrations {segment.first}-{segment.last}"
        for other in train.segments:
            if segment.first <= other.last and other.first <= segment.last:
                twin = segment.header_sha256 == other.header_sha256
                kind = "the same" if twin else "another version of"
                self._say(f"left out: {name} holds {where}, {kind} as {other.source_path.name}" if twin else
                          f"left out: {name} holds {where}, {kind} what {other.source_path.name} holds")  # fmt: skip
                return False
        problems: list[Problem] = []
        if train.segments:
            audit_common([*train.segments, segment], problems)
        if problems:
            self._say(f"left out: {name}: {problems[-1].what}")
            return False
        seen.segment = segment
        members = sorted([*train.segments, segment], key=lambda one: one.first)
        try:
            audited, notes = audit_times(members)
        except InputError as error:  # one that was taken is being written again: reading it will tell
            audited, notes = members, [str(error)]
        for note in notes:
            self._say(note)
        # those that may have been read already stay as they are
        train.segments = [new if old is segment else old for old, new in zip(members, audited, strict=True)]
        self.changed = self._clock()
        logger.info("%s is complete: %s", name, where)
        return True

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.reports.append(text)
            self._tell(text)


def has_holes(path: Path) -> bool:
    """Whether a part of a file was never written: made at its full length, to be filled; False where unknown."""
    if not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size
    except OSError:
        return False


def _key(segment: SegmentFile) -> Key:
    return segment.info.exposure_id, segment.info.detector


def growing_exposure(segments: Sequence[SegmentFile]) -> Exposure:
    """Make an exposure of NINTS integrations of the segments that are there so far."""
    info = segments[0].info
    last = max(info.nints, segments[-1].last)
    notes = [f"{one.source_path.name}: {note}" for one in segments for note in one.notes]
    return Exposure(info, tuple(segments), 1, last, (), tuple(notes), growing=True)


def part_of(exposure: Exposure, segments: Sequence[SegmentFile]) -> Exposure:
    """Make an exposure of some consecutive segments, to be read by `read_blocks`."""
    return replace(
        exposure, segments=tuple(segments), first=segments[0].first, last=segments[-1].last, growing=False
    )


def follow(inputs: Sequence[str | Path], level: Level | None, scratch: Path | None = None) -> Following:
    """Begin to follow a directory.

    Raises
    ------
    InputError
        When the input is not one directory.
    """
    if len(inputs) != 1 or not Path(inputs[0]).is_dir():
        what = "--follow takes the directory that segments arrive in"
        raise InputError(
            Problem(what, ", ".join(map(str, inputs)), "give one directory that exists", "follow")
        )
    return Following(Path(inputs[0]), level=level, scratch=scratch)


class _Notice:
    """Wakes up when the system reports a change of a directory; where it cannot, it only sleeps."""

    def __init__(self, folder: Path):
        self.works = False
        self._came, self._stop = threading.Event(), threading.Event()
        try:
            library: Any = importlib.import_module("watchfiles")
        except ImportError:
            return
        thread = threading.Thread(
            target=self._listen, args=(library, folder), name="tsostream-notice", daemon=True
        )
        thread.start()

    def _listen(self, library: Any, folder: Path) -> None:
        try:
            for changes in library.watch(
                folder, stop_event=self._stop, debounce=50, step=20, rust_timeout=500, yield_on_timeout=True,
                recursive=False, raise_interrupt=False,
            ):  # fmt: skip
                if changes and not self._stop.is_set():
                    # only now it is known that this file system tells
                    self.works = True
                    self._came.set()
        except Exception as error:  # too many watches, a directory that went away: looking does as well
            logger.debug("no change notification: %s", error)
        self.works = False

    def wait(self, seconds: float) -> None:
        self._came.wait(seconds)
        self._came.clear()

    def close(self) -> None:
        self.works = False
        self._stop.set()

"""Segments are written into a directory as a schedule says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from tsostream.errors import InputError, OutputExistsError, Problem, ReadError, SinkError
from tsostream.replay.schedule import Transfer

__all__ = ["check_target", "feed"]

#: seconds between two writes
TICK: Final = 0.02
_CHUNK: Final = 1 << 22
#: seconds' digits of the DATE card of a primary header
_DATE: Final = re.compile(rb"DATE    = '[^']*?(\d)(?:\.\d*)?\s*'")


def check_target(transfers: Sequence[Transfer], into: Path, *, overwrite: bool = False) -> None:
    """Refuse to write over anything, and over the source in any case.

    Raises
    ------
    InputError
        It is no directory, or the segments are in it.
    OutputExistsError
        Files of these names are there.
    """
    if into.exists() and not into.is_dir():
        raise InputError(Problem("is not a directory", str(into), "give another --into", "not_a_directory"))
    if any(one.source.parent.resolve() == into.resolve() for one in transfers):
        raise InputError(
            Problem("the segments themselves are here", str(into), "give another --into", "own_source")
        )
    there = sorted({into / one.name for one in transfers if (into / one.name).exists()})
    if there and not overwrite:
        todo = "remove it, give another --into, or --overwrite"
        raise OutputExistsError([Problem("is there already", str(path), todo, "exists") for path in there])


def feed(
    transfers: Sequence[Transfer],
    into: Path,
    *,
    speed: float = 1.0,
    say: Callable[[float, str], None] = lambda at, text: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the files as they would arrive.

    Parameters
    ----------
    transfers
        From `make_schedule`.
    into
        Directory; made when absent.
    speed
        Seconds of the observation per second; infinity: as fast as it goes, still in order.
    say
        Called with the time of the observation and a line, when something has happened.
    clock, sleep
        For tests.

    Raises
    ------
    ReadError, SinkError
        A file cannot be read or written.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{into}: cannot be made: {error.strerror}") from error
    waiting = sorted(transfers, key=lambda one: one.begin)
    running: list[_Writing] = []
    began = clock()
    with ExitStack() as stack:
        while waiting or running:
            now = (clock() - began) * speed
            if speed == float("inf"):
                now = min([one.transfer.end for one in running] or [waiting[0].begin])
            while waiting and waiting[0].begin <= now:
                transfer = waiting.pop(0)
                running = [one for one in _advanced(running, transfer.begin, say) if one.goes_on(transfer)]
                running.append(_Writing(transfer, into, stack))
                if transfer.fault:
                    say(now, f"{transfer.name} begins ({transfer.fault})")
            running = _advanced(running, now, say)
            if speed != float("inf") and (running or waiting):
                pause = TICK if running else max(TICK, (waiting[0].begin - now) / speed)
                sleep(min(pause, 0.5))


def _advanced(running: list[_Writing], now: float, say: Callable[[float, str], None]) -> list[_Writing]:
    """Write what is there by now; returns the transfers that go on."""
    for one in running:
        if one.advance(now):
            say(now, one.told)
    return [one for one in running if not one.done]


class _Writing:
    """A transfer that goes on."""

    def __init__(self, transfer: Transfer, into: Path, stack: ExitStack):
        self.transfer = transfer
        self.done = False
        self._path = into / transfer.name
        self._part = into / f"{transfer.name}.part" if transfer.whole else self._path
        self._written = 0
        self._source = _open(transfer.source, "rb", stack)
        self._target = _open(self._part, "wb", stack)

    @property
    def told(self) -> str:
        """What has happened."""
        return f"{self.transfer.name} {'is complete' if self.transfer.whole_file else 'breaks off'}"

    def advance(self, now: float) -> bool:
        """Write what is there by now; True when that was the last of it."""
        stop = self.transfer.there(now)
        while self._written < stop:
            try:
                data = self._source.read(min(_CHUNK, stop - self._written))
            except OSError as error:
                raise ReadError(f"{self.transfer.source}: cannot be read: {error.strerror}") from error
            if not data:
                raise ReadError(f"{self.transfer.source}: has become shorter while it was fed")
            if self.transfer.newer and self._written == 0:
                data = _newer(data)
            try:
                self._target.write(data)
                self._target.flush()
            except OSError as error:
                raise SinkError(f"{self._part}: cannot be written: {error.strerror}") from error
            self._written += len(data)
        if now < self.transfer.end:
            return False
        self._close()
        return True

    def goes_on(self, other: Transfer) -> bool:
        """Whether this transfer may go on although ``other`` begins; ends it when both write one file."""
        if other.name != self.transfer.name or other.whole != self.transfer.whole:
            return True
        self._close()
        return False

    def _close(self) -> None:
        self.done = True
        self._source.close()
        self._target.close()
        if self._part != self._path and self._written == self.transfer.source.stat().st_size:
            self._part.replace(self._path)


def _open(path: Path, mode: str, stack: ExitStack) -> BinaryIO:
    try:
        return stack.enter_context(path.open(mode))  # type: ignore[return-value]
    except OSError as error:
        kind = ReadError if mode == "rb" else SinkError
        raise kind(f"{path}: cannot be opened: {error.strerror}") from error


def _newer(data: bytes) -> bytes:
    """Let a header say another second of its DATE: a version made later, of the same length."""
    found = _DATE.search(data)
    if found is None:
        return data
    digit = b"%d" % ((int(found[1]) + 1) % 10)
    return data[: found.start(1)] + digit + data[found.end(1) :]

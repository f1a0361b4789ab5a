"""Observers of a run: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tsostream.cli.meter import Meter
from tsostream.records import RowPair
from tsostream.run.plan import resident_bytes

__all__ = ["Bar", "Lines", "Watcher", "make_console", "make_watcher"]

#: seconds between plain lines
LINE_SECONDS: Final = 5.0

logger = logging.getLogger("tsostream")


class _Console(Console):
    """A console that falls silent when its reader goes away; a run must not end for that."""

    def on_broken_pipe(self) -> None:
        """Go on in silence."""
        self.quiet = True


def make_console(*, stderr: bool = True) -> Console:
    """Where people read: file names must not be taken for markup, and logs must not be cut at 80 columns."""
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=200)
    return console


class Watcher:
    """Counts, and says nothing: ``--quiet``, and base of the others.

    Parameters
    ----------
    meter
        What counts.
    """

    def __init__(self, meter: Meter):
        self.meter = meter

    def begin(self, stage: str, total: int) -> None:
        """Take note of a stage."""
        self.meter.begin(stage, total)
        logger.info("%s begins: %d integrations", stage, total)
        self.show(force=True)

    def advance(self, done: int, pair: RowPair | None) -> None:
        """Take note of progress."""
        self.meter.advance(done, pair)
        self.show(force=done >= self.meter.total)

    def message(self, text: str) -> None:
        """Log what is worth a line, and say it."""
        logger.info("%s", text)
        # a terminal that is gone must not end the run
        with contextlib.suppress(OSError, ValueError):
            self.say(text)

    def show(self, *, force: bool = False) -> None:
        """Show where the run is."""

    def say(self, text: str) -> None:
        """Say a line."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Show things inside this block."""
        yield


class Lines(Watcher):
    """Plain lines, at most every few seconds, for logs and pipes."""

    def __init__(self, meter: Meter, console: Console, seconds: float = LINE_SECONDS):
        super().__init__(meter)
        self._console = console
        self._seconds = seconds
        self._last = -seconds

    def show(self, *, force: bool = False) -> None:
        """Write a line, unless the last one is recent."""
        meter, now = self.meter, time.monotonic()
        if meter.done and now - self._last < self._seconds and not force:
            return
        self._last = now
        facts = [
            f"{meter.stage}: {meter.done} of {meter.total} integrations",
            meter.speed(),
            memory(),
            meter.quality(),
        ]
        with contextlib.suppress(OSError, ValueError):
            self.say(", ".join(fact for fact in facts if fact))

    def say(self, text: str) -> None:
        """Write a line."""
        self._console.print(text, soft_wrap=True)


class Bar(Watcher):
    """A progress bar with a line of figures below."""

    def __init__(self, meter: Meter, console: Console):
        super().__init__(meter)
        self._console = console
        self._live: Any = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Show the bar inside this block; its last state stays."""
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=8) as self._live:
            yield
            self._live.refresh()

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text)

    def _render(self) -> RenderableType:
        meter = self.meter
        if not meter.total:
            return Text("starting", style="dim")
        top = Table.grid(padding=(0, 1))
        top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=meter.total, completed=meter.done, complete_style="cyan", finished_style="green"
        )
        top.expand = True
        top.add_row(Text(meter.stage, style="bold"), bar, f"{meter.done}/{meter.total}")
        facts = Text("  ", style="dim")
        facts.append(" · ".join(fact for fact in (meter.speed(), memory()) if fact))
        quality = meter.quality()
        if quality:
            found, expected = meter.scatter
            facts.append(" · ")
            facts.append(quality, style="green" if found < 1.5 * expected else "yellow")
        return Group(top, facts)


def memory() -> str:
    """Resident memory now."""
    resident = resident_bytes()
    return f"{resident / 1e6:.0f} MB memory" if resident else ""


def make_watcher(meter: Meter, console: Console, *, quiet: bool) -> Watcher:
    """Choose the observer that suits whoever reads."""
    if quiet:
        return Watcher(meter)
    return Bar(meter, console) if console.is_terminal else Lines(meter, console)

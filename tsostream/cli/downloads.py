"""A progress bar for reference files that are downloaded before a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.references.crds_client import Progress

__all__ = ["download_bar"]


@contextmanager
def download_bar(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """Show a bar per file, from the first piece on; nothing when nothing is downloaded.

    Where nobody watches (no terminal), one line per file when it is there.
    """
    bars: Any = None
    tasks: dict[str, Any] = {}

    def advance(name: str, done: int, size: int) -> None:
        nonlocal bars
        if quiet:
            return
        if not console.is_terminal:
            if done >= size:
                console.print(f"downloaded {name} ({size / 1e6:.1f} MB)", soft_wrap=True)
            return
        if bars is None:
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            bars = Bars(*columns, console=console)
            bars.start()
        if name not in tasks:
            tasks[name] = bars.add_task(f"CRDS {name}", total=size)
        bars.update(tasks[name], completed=done)

    try:
        yield advance
    finally:
        if bars is not None:
            bars.stop()

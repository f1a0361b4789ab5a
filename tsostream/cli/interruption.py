"""Ctrl-C, SIGTERM and a closed terminal all end a run the same way: properly."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, Self

from tsostream.cli.failures import INTERRUPTED

__all__ = ["Interruptible"]

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interruptible:
    """Takes the signals while it is entered.

    The first one cancels the run, which ends its output with status ``interrupted``; where no run is going on
    it is a `KeyboardInterrupt`. The second one ends the process on the spot: what was written survives that,
    too. Signals that are ignored (``nohup``) stay ignored.

    Parameters
    ----------
    announce
        Called once, inside the loop, when the first signal came during a run.
    """

    def __init__(self, announce: Callable[[str], None] = lambda text: None):
        self.announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task | None = None
        self._came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in a loop of its own.

        Raises
        ------
        KeyboardInterrupt
            When a signal cancelled it, after it has put its things in order.
        """
        try:
            return asyncio.run(self._watched(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _watched(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await work
        finally:
            self._loop = self._task = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came += 1
        if self._came > 1:
            os._exit(INTERRUPTED)
        if self._loop is None:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self.announce("interrupted: putting the output in order (once more: stop on the spot)")

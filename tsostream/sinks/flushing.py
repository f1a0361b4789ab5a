"""Data go to the medium beside the run: a flush of large products can take seconds, and rows must not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

__all__ = ["Flusher"]


class Flusher:
    """One flush at a time, in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._mark = 0
        self._error: Exception | None = None

    @property
    def idle(self) -> bool:
        """Whether a new flush can be started."""
        return self._thread is None

    def start(self, actions: Sequence[Callable[[], None]], mark: int) -> None:
        """Call functions one after the other; ``mark`` is handed out when all are done."""

        def work() -> None:
            try:
                for action in actions:
                    action()
            except Exception as error:
                self._error = error

        self._mark = mark
        self._thread = threading.Thread(target=work, name="tsostream-flush", daemon=True)
        self._thread.start()

    def collect(self, *, wait: bool = False) -> int | None:
        """Return the mark of a flush that has ended, once; else None.

        Raises
        ------
        Exception
            What a function raised.
        """
        thread = self._thread
        if thread is None:
            return None
        if wait:
            thread.join()
        elif thread.is_alive():
            return None
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._mark

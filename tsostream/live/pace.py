"""Who watches takes little, whatever it shows: it steps back, and rests in proportion to what it has used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST", "SHARE", "Pace", "step_back"]

#: part of one processor that a watcher takes in the long run, at most
SHARE: Final = 0.03
#: the longest rest [s]: reading a long file at the beginning is not paid for by minutes without news
LONGEST: Final = 3.0
#: how far behind others a watcher stands (`nice`): on a full machine a tenth of a processor is left to it
_NICE: Final = 10


def step_back() -> None:
    """Let everybody else go first, where the system has priorities."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)


class Pace:
    """Says how long to rest, so that what this process uses stays below a part of one processor.

    Parameters
    ----------
    least
        Rest at least so long [s].
    share
        Part of one processor.
    used
        Processor seconds of this process so far; for tests.
    """

    def __init__(self, least: float, *, share: float = SHARE, used: Callable[[], float] = time.process_time):
        self._least, self._share, self._used = least, share, used
        self._before = used()

    def rest(self) -> float:
        """How long to rest now [s], for what was used since the last call."""
        now = self._used()
        spent, self._before = now - self._before, now
        return min(max(self._least, spent / self._share), max(self._least, LONGEST))

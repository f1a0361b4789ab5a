"""Who watches takes little, whatever it shows: it steps back, and rests in proportion to what it has used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST", "SHARE", "Pace", "step_back"]

#: part of one processor that a watcher takes in the long run
SHARE: Final = 0.01
#: the longest rest [s]; looks that cost more than this allows (0.15 s of a processor) come no more often
LONGEST: Final = 15.0
#: how far behind others a watcher stands (`nice`): on a full machine a tenth of a processor is left to it
_NICE: Final = 10


def step_back() -> None:
    """Let everybody else go first, where the system has priorities."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)


class Pace:
    """Says how long to rest, so that what this process uses stays near a part of one processor.

    What is used until all rows that were there at the beginning have been read does not count: who opens a long file
    sees it at once, and new rows soon.

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
        self._opening = True

    def rest(self, *, waiting: bool = False) -> float:
        """How long to rest now [s], for what was used since the last call; nothing is left to read.

        Parameters
        ----------
        waiting
            There are no rows yet.
        """
        now = self._used()
        spent, self._before = now - self._before, now
        opening, self._opening = self._opening, self._opening and waiting
        if opening:
            return self._least
        return min(max(self._least, spent / self._share), max(self._least, LONGEST))

"""A light curve is followed to its end, whichever way it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from tsostream.errors import InputError, Problem
from tsostream.records.metadata import decode_metadata
from tsostream.sinks import Tail, is_being_written, journal_path, open_output

__all__ = ["ENDED", "Follower", "State"]

State = Literal["waiting", "growing", "complete", "interrupted", "failed", "died"]

#: states after which no rows come
ENDED: Final = frozenset({"complete", "interrupted", "failed", "died"})

#: seconds between two looks whether the writer lives
_LOOK: Final = 0.5


class Follower:
    """Rows of a light curve as they come, and what the run does.

    Parameters
    ----------
    path
        The light curve; it need not be there yet.
    after_integration
        Rows up to this integration are left out.
    patient
        Whether to wait for a run that has not begun; else it counts as one that died before its first row.

    Attributes
    ----------
    state
        ``waiting`` (no rows yet), ``growing``, ``complete``, ``interrupted``, ``failed``, or ``died``: the file has no
        end, and nobody writes it. A run that is taken up again makes it ``growing`` again.
    begun
        While it waits: whether the run has started, and measures its scout.
    metadata
        What the file says about the run; empty before it is there.
    runs
        How many runs were seen under this name; when it grows, everything begins anew.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        after_integration: int = 0,
        patient: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.path = Path(path)
        self.state: State = "waiting"
        self.begun = False
        self.metadata: dict[str, Any] = {}
        self._patient = patient
        self._tail = Tail(self.path, after_integration=after_integration)
        self._clock = clock
        self._looked = -1e9
        self._schema: pa.Schema | None = None

    @property
    def runs(self) -> int:
        """How many runs were seen under this name."""
        return self._tail.runs

    @property
    def schema(self) -> pa.Schema | None:
        """Schema of the light curve; None before it is there."""
        return self._tail.schema

    @property
    def last(self) -> int:
        """Number of the last integration the run will make; 0 when not known."""
        return int(self.metadata.get("last_integration") or 0)

    @property
    def total(self) -> int:
        """How many integrations the run will make; 0 when not known."""
        return max(0, self.last - int(self.metadata.get("first_integration") or 1) + 1) if self.last else 0

    @property
    def error(self) -> str:
        """What ended a failed run; empty for others."""
        return str(self.metadata.get("error", ""))

    def poll(self, max_batches: int | None = None) -> list[pa.RecordBatch]:
        """Rows that have come since the last call; with none, `state` is up to date.

        Raises
        ------
        InputError
            The file cannot be read, or is no light curve of a run.
        """
        found = self._read(max_batches)
        if found:
            self.state = "growing"
            return found
        if self._tail.schema is None:
            return self._wait(max_batches)
        if not self._tail.finished and self._clock() - self._looked < _LOOK and self.state == "growing":
            return []
        self._looked = self._clock()
        if is_being_written(journal_path(self.path)):
            # also when there is an end mark: it is being written, or an old output is about to be replaced
            self.state = "growing"
            return []
        # the last rows and the end may have been written between our read and our look
        found = self._read(max_batches)
        if found:
            return found
        self.state = self._ended() if self._tail.finished else "died"
        return []

    def _wait(self, max_batches: int | None) -> list[pa.RecordBatch]:
        """Look whether a run without a file has started."""
        self.state = "waiting"
        if self._clock() - self._looked < _LOOK:
            return []
        self._looked = self._clock()
        self.begun = is_being_written(journal_path(self.path))
        if not self.begun and not self._patient:
            # a short run may have begun and ended between our read and our look
            found = self._read(max_batches)
            if not found and self._tail.schema is None:
                self.state = "died"
            return found
        return []

    def _read(self, max_batches: int | None) -> list[pa.RecordBatch]:
        found = self._tail.poll(max_batches)
        if self._tail.schema is not None and self._tail.schema is not self._schema:
            self._schema = self._tail.schema
            facts = decode_metadata(self._schema.metadata)
            if facts.get("table") != "light_curve":
                todo = "give the light curve (--out) of a run"
                raise InputError(Problem("holds spectra", str(self.path), todo, "wrong_table"))
            self.metadata = facts
        return found

    def _ended(self) -> State:
        try:
            opened = open_output(self.path)
        except InputError:
            return "died"
        self.metadata = opened.metadata
        return opened.status if opened.status != "growing" else "died"

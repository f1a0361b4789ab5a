"""Whoever watches a run."""

from __future__ import annotations

from typing import Protocol

from tsostream.records import RowPair

__all__ = ["Observer", "Silent"]


class Observer(Protocol):
    """Somebody who watches a run; all methods are called from the thread that runs the loop."""

    def begin(self, stage: str, total: int) -> None:
        """Note that a stage (``scout``, ``stream``) begins with so many integrations to do."""

    def advance(self, done: int, pair: RowPair | None) -> None:
        """So many integrations of the stage are done; the batch that was written, if one was."""

    def message(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """An observer that does not care."""

    def begin(self, stage: str, total: int) -> None:
        """Ignore."""

    def advance(self, done: int, pair: RowPair | None) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""

"""What stands against a run, gathered so that it is told in one breath."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tsostream.errors import InputError, Problem

__all__ = ["Problems"]

Result = TypeVar("Result")


class Problems(list[Problem]):
    """Problems found so far."""

    def collect(self, action: Callable[[], Result]) -> Result | None:
        """Do something; None, and its problems among these, when the input does not allow it."""
        try:
            return action()
        except InputError as error:
            self.extend(error.problems)
            return None

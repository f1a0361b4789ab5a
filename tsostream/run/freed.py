"""Memory that was freed, but that the C library keeps for the next time."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to.

    What the scout used is of other sizes than what comes after it, and would stay beside it to the end of the run.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return  # another C library than glibc: nothing to ask
    trim(0)

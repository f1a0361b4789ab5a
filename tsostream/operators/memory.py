"""What ramp steps carry from integration to integration, while blocks are worked on side by side.

Each block first finds what its integrations leave (a cheap look at the saturated samples), waits for its turn, and is
told what it finds; the steps themselves run side by side as ever. What is carried is one plane per step, whatever the
length of the exposure.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from tsostream.errors import OperatorError
from tsostream.operators.base import BoundRampStep, Memory

__all__ = ["Carry", "memories_of", "replace_by_earlier"]


def memories_of(steps: Sequence[BoundRampStep]) -> tuple[Memory, ...]:
    """List what the steps remember, in order."""
    return tuple(step.memory for step in steps if step.memory is not None)


def replace_by_earlier(memory: Memory, state: np.ndarray, planes: np.ndarray) -> None:
    """Turn what each integration leaves into what it finds.

    Parameters
    ----------
    memory
        How planes are joined.
    state : [y, x]
        What is carried to the first integration; on return, what is carried on.
    planes : [integration, y, x]
        What each integration leaves; on return, what it finds.
    """
    found = np.empty_like(state)
    for plane in planes:
        np.copyto(found, state)
        memory.join(state, plane)
        np.copyto(plane, found)


class Carry:
    """The planes that are carried, and whose turn it is.

    Parameters
    ----------
    memories
        Of the steps.
    shape
        Of a frame.
    """

    def __init__(self, memories: Sequence[Memory], shape: tuple[int, int]):
        self._memories = tuple(memories)
        self._states = {one.plane: np.zeros(shape, one.dtype) for one in memories}
        self._turn = threading.Condition()
        self._next: int | None = None
        self._failed = False

    def begin(self, first: int) -> None:
        """Tell the first integration of the first block, before any block waits; later calls change nothing."""
        if self._next is None:
            self._next = first

    def exchange(self, first: int, count: int, planes: Mapping[str, np.ndarray] | None) -> None:
        """Wait for the turn of a block, leave what its integrations leave and take what they find.

        Parameters
        ----------
        first, count
            The block's integrations.
        planes : name -> [integration, y, x]
            As in `replace_by_earlier`; None for integrations that are not there, which leave nothing.

        Raises
        ------
        OperatorError
            An earlier block failed.
        ValueError
            The turn is over: blocks must follow each other.
        """
        with self._turn:
            if self._next is None or first < self._next:
                raise ValueError(f"integration {first} comes when {self._next} is due")
            self._turn.wait_for(lambda: self._failed or self._next == first)
            if self._failed:
                raise OperatorError(f"integrations before {first} failed")
            for memory in self._memories:
                state = self._states[memory.plane]
                if planes is not None:
                    replace_by_earlier(memory, state, planes[memory.plane])
                    continue
                nothing = np.zeros_like(state)
                for _ in range(count):
                    memory.join(state, nothing)
            self._next = first + count
            self._turn.notify_all()

    def give_up(self) -> None:
        """Let nobody wait for a block that failed."""
        with self._turn:
            self._failed = True
            self._turn.notify_all()

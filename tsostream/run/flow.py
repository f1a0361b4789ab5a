"""Blocks in flight: calibrated side by side, finished when their neighbours are there, handed out in order.

The window's ring, the slopes that wait and what ramp steps carry are all a run remembers between blocks. They are a
function of the integrations read, so a run can begin at any integration: it reads as many before it as these look back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tsostream.integration.payload import Measurement, Raw
from tsostream.operators.base import BoundWindowStep
from tsostream.operators.memory import Carry
from tsostream.operators.window import Ring
from tsostream.run.chain import Chain, Waiting

__all__ = ["Flow", "blocks_in_flight", "first_to_read", "frames_waiting", "ring_capacity"]


def blocks_in_flight(workers: int, length: int) -> int:
    """Blocks in the workers' hands at the same time: one each, and one that nobody need wait for.

    A block of one integration is large, and takes long: then the next one is not taken before a worker is free.
    """
    return workers + (length > 1)


def ring_capacity(before: int, after: int, length: int, workers: int) -> int:
    """Slots that let every window see its frames while other blocks go on.

    Parameters
    ----------
    before, after
        Reach of the window.
    length
        Integrations of the longest block.
    workers
        Blocks worked on side by side.
    """
    # from the oldest frame that the first unfinished block needs to the newest of the last block that was begun
    return before + after + (blocks_in_flight(workers, length) + 3) * length


def frames_waiting(after: int, length: int, workers: int) -> int:
    """Integrations whose slopes are held at the same time: those that wait and those in the workers' hands."""
    return after + (blocks_in_flight(workers, length) + 2) * length


def first_to_read(window: BoundWindowStep | None, first: int, start: int) -> int:
    """Integration at which reading begins so that the rows can begin at ``start``.

    Parameters
    ----------
    window
        The window step, if one runs.
    first
        First integration at hand.
    start
        First integration wanted.
    """
    before = 0 if window is None else window.before
    for low, high in window.segments if window is not None else ():
        if low <= start <= high:
            first = max(first, low)
    return max(first, start - before)


@dataclass
class Flow:
    """Takes blocks through a chain.

    Parameters
    ----------
    chain
        The bound steps.
    pool
        The workers.
    workers
        Their number.
    length
        Integrations of the longest block.
    start
        First integration wanted; those before it are only neighbours. None for all.
    slopes_from
        First integration whose slopes are wanted; earlier ones are only remembered by ramp steps. A block begins there.
    """

    chain: Chain
    pool: Executor
    workers: int
    length: int
    start: int | None = None
    slopes_from: int = 0
    _ring: Ring | None = None
    _carry: Carry | None = None
    _calibrating: deque[tuple[Raw, asyncio.Future[Waiting]]] = field(default_factory=deque)
    _waiting: deque[Waiting] = field(default_factory=deque)
    _finishing: deque[tuple[int, asyncio.Future[Measurement]]] = field(default_factory=deque)
    _front: int = 0
    _ended: bool = False

    def __post_init__(self) -> None:
        window = self.chain.window
        if window is not None:
            self._ring = Ring(window, ring_capacity(window.before, window.after, self.length, self.workers))
        self._carry = self.chain.rates.carry()

    async def measure(self, blocks: AsyncIterator[Raw]) -> AsyncIterator[Measurement]:
        """Measure blocks, in order.

        Parameters
        ----------
        blocks
            Consecutive, closed at the end.

        Yields
        ------
        Measurement
            Integrations follow each other without gap.
        """
        try:
            async with aclosing(blocks):  # type: ignore[type-var]
                coming: asyncio.Future[Raw | None] | None = None
                try:
                    while True:
                        coming = asyncio.ensure_future(anext(blocks, None))
                        while not coming.done():
                            # rows must not wait for a block that may be long in coming
                            if not self._head_is_done():
                                await asyncio.wait([coming, *self._heads()], return_when="FIRST_COMPLETED")
                            elif (done := await self._step()) is not None:
                                yield done
                        ended, coming = coming, None
                        if ended.exception() is not None:
                            # rows that can be finished are not lost with what cannot be read
                            while self._calibrating or self._finishing or self._complete():
                                if (done := await self._step()) is not None:
                                    yield done
                        raw = ended.result()
                        if raw is None:
                            break
                        while self._full(raw) or self._head_is_done():
                            if (done := await self._step()) is not None:
                                yield done
                        self._begin(raw)
                finally:
                    if coming is not None:
                        coming.cancel()
                        await asyncio.gather(coming, return_exceptions=True)
            self._ended = True
            while self._calibrating or self._waiting or self._finishing:
                if (done := await self._step()) is not None:
                    yield done
        finally:
            # let the threads finish with buffers they hold, whatever interrupted us
            left: list[asyncio.Future[Any]] = [future for _, future in self._calibrating]
            left += [future for _, future in self._finishing]
            if left:
                await asyncio.gather(*left, return_exceptions=True)

    def _begin(self, raw: Raw) -> None:
        loop = asyncio.get_running_loop()
        if self._carry is not None:
            self._carry.begin(raw.first)
        if self._carry is not None and raw.first < self.slopes_from:
            future = loop.run_in_executor(self.pool, self.chain.remember, raw, self._carry)
        else:
            future = loop.run_in_executor(self.pool, self.chain.calibrate, raw, self._ring, self._carry)
        self._calibrating.append((raw, future))

    def _full(self, raw: Raw) -> bool:
        """Whether a block must wait: for a worker, or for a slot that is still needed."""
        if len(self._calibrating) + len(self._finishing) >= blocks_in_flight(self.workers, self.length):
            return True
        ring, window = self._ring, self.chain.window
        if ring is None or window is None or not raw.present:
            return False
        return self._oldest(raw.first) - window.before <= raw.first + raw.count - 1 - ring.capacity

    def _oldest(self, otherwise: int) -> int:
        """First integration of the oldest block that is not finished."""
        if self._finishing:
            return self._finishing[0][0]
        if self._waiting:
            return self._waiting[0].first
        return self._calibrating[0][0].first if self._calibrating else otherwise

    def _head_is_done(self) -> bool:
        """Whether something can be done without waiting."""
        return bool(
            (self._finishing and self._finishing[0][1].done())
            or (self._calibrating and self._calibrating[0][1].done())
            or self._complete()
        )

    def _complete(self) -> bool:
        """Whether the oldest block that waits has all its neighbours."""
        if not self._waiting:
            return False
        window = self.chain.window
        if window is None or (self._ended and not self._calibrating):
            return True
        return window.last_needed(self._waiting[0].last) <= self._front

    async def _step(self) -> Measurement | None:
        """Do the next thing there is to do, and wait for it if need be; gives rows that are ready."""
        if self._finishing and self._finishing[0][1].done():
            return self._finishing.popleft()[1].result()
        if self._calibrating and self._calibrating[0][1].done():
            block = self._calibrating.popleft()[1].result()
            self._front = block.last
            self._waiting.append(block)
            return None
        if self._complete():
            self._finish(self._waiting.popleft())
            return None
        await asyncio.wait(self._heads(), return_when=asyncio.FIRST_COMPLETED)
        return None

    def _heads(self) -> list[asyncio.Future[Any]]:
        """List the oldest block of each kind that is worked on."""
        heads: list[asyncio.Future[Any]] = []
        if self._calibrating:
            heads.append(self._calibrating[0][1])
        if self._finishing:
            heads.append(self._finishing[0][1])
        return heads

    def _finish(self, block: Waiting) -> None:
        skip = 0 if self.start is None else min(max(self.start - block.first, 0), block.raw.count)
        if skip == block.raw.count:
            # only a neighbour
            if block.lent is not None:
                block.lent.release()
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self.pool, self.chain.finish, block, self._ring, skip)
        self._finishing.append((block.first + skip, future))

"""Frames that window steps remember, and blocks that wait for their neighbours.

What travels between integrations is only what a step asked for: one plane, a few scalars and a few bits per pixel of
each, in a ring of fixed size. Each integration has one possible slot, so workers write theirs side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tsostream.integration.payload import Rate
from tsostream.operators.base import BoundWindowStep, Frames

__all__ = ["Ring", "mark_words", "ring_bytes", "run_blocks", "run_whole", "slice_rate"]


def slice_rate(rate: Rate, start: int, stop: int) -> Rate:
    """Integrations ``start:stop`` (positions) of a block, without copying."""
    part = slice(start, stop)
    return replace(
        rate,
        first=rate.first + start,
        data=rate.data[part],
        err=rate.err[part],
        var_poisson=rate.var_poisson[part],
        var_rnoise=rate.var_rnoise[part],
        dq=rate.dq[part],
        times=rate.times[part],
        var_flat=None if rate.var_flat is None else rate.var_flat[part],
    )


def copy_rate(rate: Rate) -> Rate:
    """Make a block with arrays of its own."""
    return replace(
        rate,
        data=rate.data.copy(),
        err=rate.err.copy(),
        var_poisson=rate.var_poisson.copy(),
        var_rnoise=rate.var_rnoise.copy(),
        dq=rate.dq.copy(),
        var_flat=None if rate.var_flat is None else rate.var_flat.copy(),
    )


def mark_words(nx: int) -> int:
    """Words of 64 bits that a row of marks takes."""
    return -(-nx // 64)


def ring_bytes(step: BoundWindowStep, capacity: int) -> int:
    """Bytes of a ring of so many integrations."""
    ny, nx = step.info.frame_shape
    return capacity * ny * (4 * nx + 8 * step.marks * mark_words(nx))


class Ring:
    """The remembered frames of the latest integrations.

    Parameters
    ----------
    step
        The window step.
    capacity
        Slots. Integration *n* overwrites *n - capacity*: whoever puts frames in takes care that nobody needs the old
        ones any more.
    """

    def __init__(self, step: BoundWindowStep, capacity: int):
        self._step = step
        self.capacity = capacity
        ny, nx = step.info.frame_shape
        self.frames = Frames(
            np.empty((capacity, ny, nx), np.float32),
            np.zeros((capacity, step.scalars)),
            np.empty((capacity, step.marks, ny, mark_words(nx)), np.uint64),
            np.zeros(capacity, np.int64),
        )

    def put(self, rate: Rate) -> None:
        """Remember the integrations of a block; blocks may be put in side by side."""
        start = 0
        while start < rate.count:
            slot = (rate.first + start) % self.capacity
            count = min(rate.count - start, self.capacity - slot)
            part = slice(slot, slot + count)
            block = rate if count == rate.count else slice_rate(rate, start, start + count)
            self._step.prepare(block, self.frames.part(part))
            self.frames.numbers[part] = np.arange(block.first, block.first + count)
            start += count


def run_blocks(step: BoundWindowStep, blocks: Iterator[Rate], longest: int) -> Iterator[Rate]:
    """Take consecutive blocks through a window step, one after the other (tests, notebooks).

    Parameters
    ----------
    step
        The window step.
    blocks
        In order.
    longest
        Integrations of the longest block.

    Yields
    ------
    Rate
        Each block, as soon as its neighbours are there.
    """
    ring = Ring(step, step.before + step.after + 2 * longest + 1)
    waiting: deque[Rate] = deque()
    for block in blocks:
        last = block.first + block.count - 1
        while waiting and step.last_needed(waiting[0].first + waiting[0].count - 1) < block.first:
            yield step.run(waiting.popleft(), ring.frames)
        ring.put(block)
        waiting.append(block)
        while waiting and step.last_needed(waiting[0].first + waiting[0].count - 1) <= last:
            yield step.run(waiting.popleft(), ring.frames)
    while waiting:
        yield step.run(waiting.popleft(), ring.frames)


def run_whole(step: BoundWindowStep, block: Rate) -> Rate:
    """Run a window step on a block that is the whole exposure."""
    return next(run_blocks(step, iter([block]), block.count))

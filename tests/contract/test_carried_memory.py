"""Steps that know of earlier ramps: the declared reach, and no trace of blocks, bands, workers or the beginning."""

from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import test_operators as contract

from tsostream.errors import OperatorError
from tsostream.integration import dq
from tsostream.integration.coupling import Lasting, PerIntegration, Template, Window
from tsostream.integration.payload import Ramp, Rate
from tsostream.operators.base import BoundRampStep, Operator
from tsostream.operators.jump import Jump
from tsostream.operators.memory import Carry, memories_of
from tsostream.operators.persistence import Persistence
from tsostream.operators.tile import Tile, empty_rate, run_passes
from tsostream.testing.builders import make_binding, make_info, make_ramp, make_snowballs

COUNT = 12
#: integrations are a minute apart
STEPS: dict[str, Operator] = {
    "snowballs": Jump(expand_large_events=True, edge_size=3, snowball_time_masked_next_int=30),
    "persistence": Persistence(persistence_time=150),
}
every_step = pytest.mark.parametrize("name", list(STEPS))
INFO = make_info(ny=40, nx=44, ngroups=5, frame_time=10.0)


def bound(name: str) -> BoundRampStep:
    operator = STEPS[name]
    return operator.bind(make_binding(type(operator), INFO, np.random.default_rng(1)))


def ramps() -> Ramp:
    rng = np.random.default_rng(3)
    ramp = make_ramp(INFO, rng, COUNT, hits=0.02, flags=0.0)
    ramp.groupdq[...] = make_snowballs(rng, ramp.groupdq.shape)
    for number in range(COUNT):
        # a core that grows in every integration, elsewhere each time
        ramp.groupdq[number, 3:, 10:16, 2 * number : 2 * number + 6] = dq.SATURATED
    return ramp


def work(step: BoundRampStep, block: Ramp, carry: Carry, rows: int) -> np.ndarray:
    """Take a block through a step as the run does, with rubbish in the working arrays."""
    rng = np.random.default_rng(5)
    scratch = {
        key: np.frombuffer(
            rng.bytes(block.count * int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype
        ).reshape(block.count, *shape).copy()
        for key, (shape, dtype) in step.scratch.items()
    }  # fmt: skip
    rate: Rate = empty_rate((block.count, *INFO.frame_shape), block.first, block.times)
    tile = Tile(block.first, None, block.data, block.groupdq, rate, scratch)
    planes = {}
    for memory in memories_of([step]):
        planes[memory.plane] = np.zeros((block.count, *INFO.frame_shape), memory.dtype)
        memory.trace(dataclasses.replace(tile, groupdq=block.groupdq.copy()), planes[memory.plane])
    carry.exchange(block.first, block.count, planes)
    tile.scratch |= planes
    run_passes(tile, step.passes, INFO.ny, rows)
    return block.groupdq


def flags(
    step: BoundRampStep, ramp: Ramp, cuts: tuple[int, ...] = (), rows: int = 7, workers: int = 1
) -> Any:
    """Flags [integration, group, y, x] when the block is cut before these integrations."""
    carry = Carry(memories_of([step]), INFO.frame_shape)
    carry.begin(ramp.first)
    bounds = (0, *cuts, ramp.count)
    blocks = [contract.cut(ramp, a, b) for a, b in pairwise(bounds)]
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(lambda block: work(step, block, carry, rows), blocks)))


@every_step
def test_says_what_it_remembers(name: str) -> None:
    step, coupling = bound(name), STEPS[name].coupling
    assert isinstance(coupling, Window | Lasting)
    if isinstance(coupling, Window):
        assert (coupling.before, coupling.after) == (step.memory.before, 0)
    assert step.memory.plane in step.scratch
    assert step.scratch[step.memory.plane] == (INFO.frame_shape, step.memory.dtype)
    assert isinstance(type(STEPS[name])().coupling, PerIntegration | Template), (
        "by default it looks at no other integration"
    )
    again = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(flags(again, ramps()), flags(step, ramps()))


@every_step
def test_leaves_no_trace_of_blocks_bands_and_workers(name: str) -> None:
    step = bound(name)
    whole = flags(step, ramps())
    (alone,) = step.push(contract.cut(ramps(), 0, COUNT))
    np.testing.assert_array_equal(alone.groupdq, whole)
    for cuts, rows, workers in ((tuple(range(1, COUNT)), 1, 1), ((7,), 40, 2), ((1, 2, 5, 9), 13, 4)):
        np.testing.assert_array_equal(flags(step, ramps(), cuts, rows, workers), whole)


@every_step
def test_can_begin_anywhere_if_it_looks_back(name: str) -> None:
    step, ramp = bound(name), ramps()
    whole = flags(step, contract.cut(ramp, 0, COUNT))
    begin = 7
    back = begin - step.memory.before
    assert 0 < back < begin
    np.testing.assert_array_equal(
        flags(step, contract.cut(ramp, back, COUNT), (begin - back,))[begin - back :], whole[begin:]
    )
    without = flags(step, contract.cut(ramp, begin, COUNT))
    assert (without != whole[begin:]).any(), "what came before matters"


@every_step
def test_reaches_as_far_as_it_says(name: str) -> None:
    step, coupling, ramp = bound(name), STEPS[name].coupling, ramps()
    whole = flags(step, contract.cut(ramp, 0, COUNT))
    starts = ramp.times.values[:, 0] * 86400
    seen = set()
    for k in (0, 4, COUNT - 1):
        other = contract.cut(ramp, 0, COUNT)
        other.groupdq[k, 2:, 5:25, 8:30] = dq.SATURATED
        found = set(np.flatnonzero((flags(step, other) != whole).any(axis=(1, 2, 3))).tolist())
        if isinstance(coupling, Window):
            reach = set(range(k, k + coupling.before + 1))
        else:
            end = starts[k] + INFO.ngroups * INFO.group_time + coupling.seconds
            reach = {i for i in range(k, COUNT) if starts[i] <= end}
        assert k in found
        assert found <= reach
        seen |= {i - k for i in found}
    assert len(seen) > 1, "the reach is used"


def test_nobody_waits_for_a_block_that_failed() -> None:
    step = bound("persistence")
    carry = Carry(memories_of([step]), INFO.frame_shape)
    carry.begin(1)
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(carry.exchange, 5, 1, None)
        carry.give_up()
        with pytest.raises(OperatorError, match="integrations before 5 failed"):
            later.result(timeout=60)


def test_integrations_that_are_not_there_leave_nothing() -> None:
    """A window of persistence stays open over a gap; a snowball does not reach beyond it."""
    for name, survives in (("persistence", True), ("snowballs", False)):
        (memory,) = memories_of([bound(name)])
        carry = Carry([memory], (2, 2))
        carry.begin(1)
        carry.exchange(1, 1, {memory.plane: np.full((1, 2, 2), 4, memory.dtype)})
        carry.exchange(2, 1, None)
        found = np.zeros((1, 2, 2), memory.dtype)
        carry.exchange(3, 1, {memory.plane: found})
        assert bool(found.all()) == survives

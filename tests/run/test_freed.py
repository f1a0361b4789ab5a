"""Freed memory goes back to the system, and cut-off rows do not wait with the slopes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tsostream.operators.window import copy_rate
from tsostream.run.freed import give_back
from tsostream.testing.builders import make_info, make_rate


def test_a_library_that_cannot_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        malloc_trim = asked.append

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library)
    give_back()
    assert asked == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    give_back()
    assert asked == [0]


@pytest.mark.parametrize("has_flat", [True, False])
def test_a_copy_shares_nothing(has_flat: bool) -> None:
    block = make_rate(make_info(level="rateints"), np.random.default_rng(0), 3)
    if has_flat:
        block.var_flat = block.var_rnoise.copy()
    copy = copy_rate(block)
    for name in ("data", "err", "var_poisson", "var_rnoise", "var_flat", "dq"):
        given, made = getattr(block, name), getattr(copy, name)
        if given is None:
            assert made is None
            continue
        np.testing.assert_array_equal(made, given)
        assert not np.shares_memory(made, given)
    assert copy.first == block.first
    assert copy.times is block.times

"""The store of slopes gives back what windows put in, from memory and from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsostream.errors import SinkError
from tsostream.operators.rate_planes import RatePlanes
from tsostream.run.parity import store as module
from tsostream.run.parity.store import SlopeStore
from tsostream.run.parity.windows import plan_windows
from tsostream.testing.builders import make_info


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_windows_come_back_as_frames(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_BYTES", limit)
    monkeypatch.setattr(module, "PIECE_BYTES", 300)
    rng, count, info = np.random.default_rng(1), 9, make_info(ny=20, nx=23, ngroups=3)
    windows = plan_windows(count, info, 2, 40_000)
    assert len({one.shape for one in windows}) > 1
    whole = [rng.normal(size=(count, 20, 23)).astype(np.float32) for _ in range(4)]
    expected = RatePlanes(*whole, rng.integers(0, 1 << 31, (count, 20, 23)).astype(np.uint32))
    store = SlopeStore(count, (20, 23), windows, tmp_path)
    for start, stop in ((4, 9), (0, 4)):
        for one in windows:
            place = (slice(None), slice(one.top, one.bottom), slice(one.left, one.right))
            store.keep(one, RatePlanes(*(plane[place] for plane in expected.arrays())), start, stop)
    for found, plane in zip(store.take(3, 8).arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(found, plane[3:8])
        assert found.dtype == plane.dtype
    np.testing.assert_array_equal(store.signal(7), expected.data[7])
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_said_at_once(tmp_path: Path) -> None:
    info = make_info(ny=8, nx=8, ngroups=3)
    with pytest.raises(SinkError, match="--scratch DIR with more room"):
        SlopeStore(1 << 45, (8, 8), plan_windows(1, info, 0, 1 << 30), tmp_path)

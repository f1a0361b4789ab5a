"""Scratch files of the segment scope."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tsostream.errors import SinkError
from tsostream.run.parity.scratch import map_scratch


def test_arrays_lie_one_after_the_other_and_hold_what_is_written(tmp_path: Path) -> None:
    small, large = map_scratch(tmp_path, [((3,), np.uint8), ((2, 5), np.float32)])
    assert not small.any()
    assert not large.any()
    small[...], large[...] = 7, 1.5
    assert (small == 7).all()
    assert (large == 1.5).all()
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_room_that_is_not_there_is_missed_at_once(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"no room for .* GB of scratch .*; give --scratch DIR") as caught:
        map_scratch(tmp_path, [((1 << 52,), np.float32)])
    assert isinstance(caught.value.__cause__, OSError)


def test_a_full_disk_is_missed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(SinkError, match="No space left on device"):
        map_scratch(tmp_path, [((4,), np.float32)])

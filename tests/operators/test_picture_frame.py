"""picture_frame: does nothing to subarrays, and is refused by name where it would have to do something."""

from __future__ import annotations

import pytest

from tsostream.errors import ConfigError
from tsostream.operators.base import Binding
from tsostream.operators.picture_frame import PictureFrame
from tsostream.testing.builders import make_info


def test_subarrays_are_left_alone() -> None:
    assert PictureFrame().skip
    assert "full frames" in PictureFrame().bind(Binding(make_info())).skipped


def test_full_frames_of_nirspec_are_refused() -> None:
    with pytest.raises(ConfigError, match="picture_frame is not supported"):
        PictureFrame().bind(Binding(make_info(subarray="FULL")))

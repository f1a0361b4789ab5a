"""Noise taken out in the segment scope: windows and workers do not show, and what is asked for is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asdf
import numpy as np
import pytest
from run_helpers import Simulated

from tsostream.testing.builders import make_info
from tsostream.testing.parity_table import run_case
from tsostream.testing.recipes import emi_tree


def slopes(folder: Path, settings: list[str], **options: Any) -> list[Any]:
    return [result.slopes.planes for result in run_case(folder, settings, **options)]


def write_waves(folder: Path, subarray: str) -> None:
    info = make_info("MIR_LRS-SLITLESS", subarray=subarray)
    meta = {"reftype": "emicorr", "instrument": {"name": "MIRI", "detector": "MIRIMAGE"}}
    asdf.AsdfFile({"meta": meta, **emi_tree(info)}).write_to(folder / "waves.asdf")


CASES = [
    ("NRS_BRIGHTOBJ", {"nx": 96, "ny": 16, "groups": 4}, ["clean_flicker_noise.skip=false"]),
    (
        "NRS_BRIGHTOBJ",
        {"nx": 96, "ny": 16, "groups": 3},
        ["clean_flicker_noise.skip=false", "clean_flicker_noise.fit_method=fft"],
    ),
    ("MIR_LRS-SLITLESS", {"ny": 48, "groups": 6}, ["emicorr.skip=false"]),
    ("MIR_LRS-SLITLESS", {"ny": 48, "groups": 6}, ["emicorr.skip=false", "emicorr.algorithm=sequential"]),
]


@pytest.mark.parametrize(("mode", "size", "settings"), CASES)
def test_windows_and_workers_do_not_show(
    mode: str, size: dict[str, Any], settings: list[str], simulated: Simulated
) -> None:
    exposure = simulated(mode, ints=4, segments=2, **size)
    if mode.startswith("MIR") and not (exposure.directory / "waves.asdf").exists():
        write_waves(exposure.directory, "SLITLESSPRISM")
    one = slopes(exposure.directory, settings)
    many = slopes(exposure.directory, settings, window_bytes=30_000, workers=3)
    plain = slopes(exposure.directory, [])
    assert len(one) == 2
    for a, b, c in zip(one, many, plain, strict=True):
        for left, right in zip(a.arrays(), b.arrays(), strict=True):
            np.testing.assert_array_equal(left, right)
        assert (a.data != c.data).mean() > 0.5

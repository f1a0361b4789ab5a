"""References that are not images on detector pixels; `tsostream.testing.builders` hands them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["RECIPES", "emi_tree", "make_emicorr", "make_ipc", "make_rscd"]


def make_ipc(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a deconvolution kernel of 3 x 3 pixels."""
    weights = rng.normal(-0.005, 0.001, (3, 3)).astype(np.float32)
    weights[1, 1] = np.float32(1) - (weights.sum() - weights[1, 1])
    weights.flags.writeable = False
    return Reference("ipc", "test_ipc.fits", {"SCI": weights})


def make_rscd(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a table that tells the first integration from the others."""
    kind = [("subarray", "U20"), ("readpatt", "U10"), ("group_skip1", "i4"), ("group_skip", "i4")]
    rows = [("FULL", info.readpatt, 1, 1), (info.subarray, info.readpatt, 5, 2)]
    table = np.array(rows, kind)
    table.flags.writeable = False
    return Reference("rscd", "test_rscd.fits", {}, tables={"RSCD_GROUP_SKIP": table})


def emi_tree(info: ExposureInfo) -> dict[str, Any]:
    """Two waves of interference, as the tree of an emicorr reference."""
    t = 2 * np.pi * (np.arange(64) + 0.5) / 64
    fast = (np.sin(t) + 0.3 * np.cos(3 * t)).tolist()
    names = ["Hz390", "Hz10"]
    case = {
        "rowclocks": 28,
        "frameclocks": 15904,
        "freqs": {"FAST": names, "SLOW": {info.detector: names[:1]}},
    }
    return {
        "frequencies": {
            "Hz390": {"frequency": 390.625, "phase_amplitudes": fast},
            "Hz10": {"frequency": 10.039, "phase_amplitudes": np.cos(t[:50]).tolist()},
        },
        "subarray_cases": {info.subarray: case},
    }


def make_emicorr(info: ExposureInfo, rng: np.random.Generator) -> Reference:
    """Make a reference with two waves."""
    return Reference("emicorr", "test_emicorr.asdf", {}, emi_tree(info))


#: reference type -> how to make it
RECIPES: dict[str, Callable[[ExposureInfo, np.random.Generator], Reference]] = {
    "emicorr": make_emicorr,
    "ipc": make_ipc,
    "rscd": make_rscd,
}

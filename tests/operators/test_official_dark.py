"""dark_current against the official step: averaged, extrapolated, numbered darks (stage 1, section 14)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tsostream.integration import dq
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding
from tsostream.operators.dark_current import DarkCurrent
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.oracle import Case, compare, official_python, run_official

#: mode, NFRAMES, GROUPGAP of the exposure and of the dark, groups of the dark
PATTERNS = (
    ("NRC_TSGRISM", 1, 0, 1, 0, 6),
    ("NRC_TSGRISM", 1, 0, 1, 0, 3),
    ("NRC_TSGRISM", 4, 1, 1, 0, 30),
    ("NRC_TSGRISM", 4, 1, 1, 0, 20),
    ("NRC_TSGRISM", 4, 1, 4, 1, 5),
    ("NRC_TSGRISM", 4, 1, 4, 1, 3),
    ("NRC_TSGRISM", 2, 0, 4, 0, 8),
    ("NRC_TSGRISM", 4, 0, 2, 1, 8),
    ("MIR_IMAGE", 1, 0, 1, 0, 6),
    ("MIR_IMAGE", 1, 0, 1, 0, 3),
    ("MIR_IMAGE", 2, 1, 1, 0, 20),
)


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng = np.random.default_rng(8)
    cases: list[Case] = []
    ours: list[Any] = []
    for mode, nframes, gap, dark_frames, dark_gap, groups in PATTERNS:
        info = make_info(mode, ny=6, nx=9, ngroups=5, nints=4, nframes=nframes, groupgap=gap)
        members = (3,) if info.is_miri else ()
        planes = rng.normal(3, 0.5, (*members, groups, 6, 9)).cumsum(axis=-3).astype(np.float32)
        planes[rng.random(planes.shape) < 0.03] = np.nan
        shape = (3, 1, 6, 9) if info.is_miri else (6, 9)
        bits = np.where(rng.random(shape) < 0.1, np.uint32(dq.UNRELIABLE_DARK), np.uint32(0))
        ramp = make_ramp(info, rng, 4)
        keywords = {"NFRAMES": dark_frames, "GROUPGAP": dark_gap, "NGROUPS": groups}
        content = {"SCI": planes, "DQ": bits}
        cases.append(
            Case(
                "dark_current", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                references={
                    "dark": {
                        "arrays": content, "model": "DarkMIRIModel" if info.is_miri else "DarkModel",
                        "meta": {"exposure.nframes": dark_frames, "exposure.groupgap": dark_gap,
                                 "exposure.ngroups": groups},
                    }
                },
            )
        )  # fmt: skip
        bound = DarkCurrent().bind(Binding(info, {"dark": Reference("dark", "", content, keywords)}))
        (out,) = bound.push(ramp)
        ours.append((bound.skipped, out))
    for case, (skipped, out), theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == ("SKIPPED" if skipped else "COMPLETE")
        assert compare(out.data / 1000, theirs["data"] / 1000).largest < 2e-5, case.references["dark"]["meta"]
        np.testing.assert_array_equal(out.pixeldq, theirs["pixeldq"])

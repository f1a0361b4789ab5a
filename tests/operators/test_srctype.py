"""srctype: the official rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tsostream.operators.base import Binding
from tsostream.operators.srctype import Srctype
from tsostream.testing.builders import make_info, make_rate


@pytest.mark.parametrize(
    ("exp_type", "facts", "header", "wanted", "expected"),
    [
        ("NRS_BRIGHTOBJ", {}, {}, None, "POINT"),
        ("NRS_BRIGHTOBJ", {}, {}, "EXTENDED", "EXTENDED"),
        ("NRS_BRIGHTOBJ", {}, {"BKGDTARG": True}, None, "EXTENDED"),
        ("NRS_BRIGHTOBJ", {}, {"SRCTYAPT": "EXTENDED"}, None, "POINT"),
        ("NRS_BRIGHTOBJ", {"nints": 1}, {"SRCTYAPT": "EXTENDED"}, None, "EXTENDED"),
        ("NIS_SOSS", {"tsovisit": True}, {"SRCTYAPT": "EXTENDED"}, None, "POINT"),
        ("NIS_SOSS", {"tsovisit": False}, {"SRCTYAPT": "EXTENDED"}, None, "EXTENDED"),
        ("MIR_LRS-SLITLESS", {"tsovisit": False}, {"SRCTYAPT": "UNKNOWN"}, None, "POINT"),
    ],
)
def test_rule(
    exp_type: str, facts: dict[str, Any], header: dict[str, Any], wanted: Any, expected: str
) -> None:
    info = make_info(exp_type, header=header, level="rateints", **facts)
    step = Srctype(source_type=wanted).bind(Binding(info))
    assert step.facts == {"SRCTYPE": expected}
    assert step.info.header == {**header, "SRCTYPE": expected}
    rate = make_rate(info, np.random.default_rng(0), 1)
    before = rate.data.copy()
    (out,) = step.push(rate)
    np.testing.assert_array_equal(out.data, before)

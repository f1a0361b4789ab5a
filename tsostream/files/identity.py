"""Header keywords -> `ExposureInfo`; keywords that are missing or make no sense are reported together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tsostream.errors import Problem
from tsostream.integration.exposure_info import ExposureInfo, Level

__all__ = ["Keywords", "exposure_identity", "exposure_info"]

_FETCH = "fetch the file again, or correct the keyword in its primary header"


class Keywords:
    """Typed access to a header that remembers what was missing or wrong.

    Parameters
    ----------
    header
        Keyword -> value.
    where
        How messages call the file.
    """

    def __init__(self, header: Mapping[str, Any], where: str):
        self.header = header
        self.where = where
        self.missing: list[str] = []
        self.bad: list[str] = []

    def integer(
        self, key: str, default: int | None = None, low: int = -(1 << 31), high: int = (1 << 31) - 1
    ) -> int:
        """Whole number in [low, high]; ``default`` where the keyword is absent (None = it must be there)."""
        value = self.header.get(key)
        if value is None:
            return self._absent(key, default, 0)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            limits = f"from {low} to {high}" if low > -(1 << 31) else ""
            self.bad.append(f"{key} is {value!r}, expected a whole number {limits}".rstrip())
            return max(low, 0)
        return value

    def real(self, key: str, default: float | None = None, positive: bool = True) -> float:
        """Finite number, above zero if ``positive``."""
        value = self.header.get(key)
        if value is None:
            return self._absent(key, default, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.bad.append(f"{key} is {value!r}, expected a number")
            return 0.0
        if value < 0 or (positive and value == 0):
            self.bad.append(f"{key} is {value!r}, expected a number above zero")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Text, stripped."""
        value = self.header.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return self._absent(key, default, "")
        return str(value).strip()

    def _absent(self, key: str, default: Any, stand_in: Any) -> Any:
        if default is None:
            self.missing.append(key)
            return stand_in
        return default

    def problems(self) -> list[Problem]:
        """Say what was missing and what was wrong, one finding each."""
        found = []
        if self.missing:
            what = f"the headers lack {', '.join(self.missing)}"
            found.append(Problem(what, where=self.where, todo=_FETCH, code="missing_keywords"))
        if self.bad:
            found.append(Problem("; ".join(self.bad), where=self.where, todo=_FETCH, code="bad_keyword"))
        return found


def exposure_identity(keys: Keywords) -> str:
    """Build ``jw<VISIT_ID>_<VISITGRP><SEQ_ID><ACT_ID>_<EXPOSURE>`` from the keywords.

    PROGRAM, OBSERVTN and VISIT serve where VISIT_ID is absent.
    """

    def part(key: str, width: int) -> str:
        text = keys.text(key).zfill(width)
        if not re.fullmatch(r"[0-9A-Za-z]{1,16}", text):
            keys.bad.append(f"{key} is {text!r}, expected letters and digits")
        return text

    if "VISIT_ID" in keys.header:
        visit = part("VISIT_ID", 11)
    else:
        present = [key for key in ("PROGRAM", "OBSERVTN", "VISIT") if key in keys.header]
        if len(present) < 3:
            keys.missing.append("VISIT_ID (or PROGRAM, OBSERVTN and VISIT)")
            visit = ""
        else:
            visit = part("PROGRAM", 5) + part("OBSERVTN", 3) + part("VISIT", 3)
    return f"jw{visit}_{part('VISITGRP', 2)}{part('SEQ_ID', 1)}{part('ACT_ID', 2)}_{part('EXPOSURE', 5)}"


def exposure_info(keys: Keywords, level: Level, shape: tuple[int, ...]) -> ExposureInfo:
    """Read the facts of an exposure from its keywords.

    Parameters
    ----------
    keys
        PRIMARY and SCI keywords; collects what is missing or wrong.
    level
        Product level of the file.
    shape
        Of SCI: [integration, (group,) y, x].
    """
    header = keys.header
    nframes = keys.integer("NFRAMES", 1, low=1)
    groupgap = keys.integer("GROUPGAP", 0, low=0)
    frame_time = keys.real("TFRAME")
    ngroups = keys.integer("NGROUPS", low=1)
    group_time = keys.real("TGROUP", frame_time * (nframes + groupgap) or 1.0)
    tint = ((ngroups - 1) * (nframes + groupgap) + nframes) * frame_time
    divisor = header.get("FRMDIVSR")
    return ExposureInfo(
        exposure_id=exposure_identity(keys),
        instrument=keys.text("INSTRUME").upper(),
        detector=keys.text("DETECTOR").upper(),
        exp_type=keys.text("EXP_TYPE").upper(),
        level=level,
        subarray=keys.text("SUBARRAY").upper(),
        xstart=keys.integer("SUBSTRT1", low=1, high=1 << 16),
        ystart=keys.integer("SUBSTRT2", low=1, high=1 << 16),
        nx=shape[-1],
        ny=shape[-2],
        fastaxis=keys.integer("FASTAXIS", low=-2, high=2),
        slowaxis=keys.integer("SLOWAXIS", low=-2, high=2),
        nints=keys.integer("NINTS", low=1),
        ngroups=ngroups,
        nframes=nframes,
        groupgap=groupgap,
        noutputs=keys.integer("NOUTPUTS", 1, low=1, high=64),
        readpatt=keys.text("READPATT", "").upper(),
        filter=keys.text("FILTER", "").upper(),
        pupil=keys.text("PUPIL", "").upper(),
        grating=keys.text("GRATING", "").upper(),
        frame_time=frame_time,
        group_time=group_time,
        integration_time=keys.real("EFFINTTM", tint or 1.0),
        frame_divisor=divisor if isinstance(divisor, int) and not isinstance(divisor, bool) else None,
        resets_between=keys.integer("NRESETS", 1, low=0, high=1 << 16),
        tsovisit=header.get("TSOVISIT") is True,
        bunit=keys.text("BUNIT", ""),
        header=dict(header),
    )

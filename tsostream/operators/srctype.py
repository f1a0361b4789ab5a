"""srctype: whether the source is a point or extended (spec stages 2-3, B.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator

__all__ = ["Srctype", "source_type"]

#: modes that are time series whatever TSOVISIT says
_ALWAYS = ("NRC_TSIMAGE", "NRC_TSGRISM", "NRS_BRIGHTOBJ")
_KINDS = ("POINT", "EXTENDED")


def source_type(info: ExposureInfo, wanted: str | None = None) -> str:
    """Decide by the official rule.

    Parameters
    ----------
    info
        The exposure; BKGDTARG and SRCTYAPT of its header.
    wanted
        What the user says; it counts first.

    Returns
    -------
    str
        ``POINT`` or ``EXTENDED``: a background target is extended, any other time series a point; else what the
        observer told (SRCTYAPT), else a point.
    """
    if wanted:
        return wanted
    if _true(info.header.get("BKGDTARG")):
        return "EXTENDED"
    if (info.tsovisit or info.exp_type in _ALWAYS) and info.nints > 1:
        return "POINT"
    told = str(info.header.get("SRCTYAPT", "")).strip().upper()
    return told if told in _KINDS else "POINT"


def _true(value: Any) -> bool:
    return value is True or str(value).strip().upper() in ("T", "TRUE")


@dataclass(frozen=True, kw_only=True)
class Srctype(Operator):
    """Decide whether the source is a point; changes no pixel.

    Parameters
    ----------
    source_type
        ``POINT`` or ``EXTENDED``; by default a time series has a point source unless it is a background target.
    """

    name: ClassVar[str] = "srctype"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"

    source_type: Literal["POINT", "EXTENDED"] | None = None

    def bind(self, binding: Binding) -> BoundRateStep:
        """Put SRCTYPE into the header that later steps see."""
        facts = {"SRCTYPE": source_type(binding.info, self.source_type)}
        info = replace(binding.info, header={**binding.info.header, **facts})
        return BoundRateStep(self.name, binding.dq_plane, info, _unchanged, facts=facts)


def _unchanged(rate: Rate) -> Rate:
    return rate

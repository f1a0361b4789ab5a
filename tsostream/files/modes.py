"""Which observing modes tsostream reduces, and how it says no to the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tsostream.errors import Problem

__all__ = ["SUPPORTED_EXP_TYPES", "mode_problem"]

#: EXP_TYPE -> what it is, in the order the documentation lists them
SUPPORTED_EXP_TYPES: Final[dict[str, str]] = {
    "NRS_BRIGHTOBJ": "NIRSpec bright object time series",
    "NRC_TSGRISM": "NIRCam grism time series",
    "NIS_SOSS": "NIRISS SOSS",
    "MIR_LRS-SLITLESS": "MIRI low-resolution slitless",
    "NRC_TSIMAGE": "NIRCam time-series imaging",
    "MIR_IMAGE": "MIRI time-series imaging",
}

#: time series by their type alone; the others need TSOVISIT (as jwst's ``is_tso``)
_ALWAYS_TSO: Final = ("NRC_TSIMAGE", "NRC_TSGRISM", "NRS_BRIGHTOBJ")
_ACQUISITION: Final = re.compile(r".*_(TACQ|TACONFIRM|WATA|MSATA|TASLIT|BOTA|CONFIRM|VERIFY)$")
_SUPERSTRIPE: Final = re.compile(r"SUB\d+STRIPE_SOSS")


def _has(header: Mapping[str, Any], key: str) -> bool:
    return header.get(key) not in (None, "", 0, "N/A", "NONE")


def mode_problem(header: Mapping[str, Any], where: str) -> Problem | None:
    """Say why an exposure of this primary header cannot be reduced, or None when it can.

    One integration is enough: NINTS does not decide whether something is a time series.
    """
    exp_type = str(header.get("EXP_TYPE", "")).upper()
    subarray = str(header.get("SUBARRAY", "")).upper()
    pupil = str(header.get("PUPIL", "")).upper()

    def problem(code: str, what: str, todo: str) -> Problem:
        return Problem(what, where=where, todo=todo, code=code)

    if _ACQUISITION.match(exp_type):
        return problem(
            "target_acquisition",
            f"this is a target acquisition exposure (EXP_TYPE {exp_type}), not a time series",
            "leave it out",
        )
    if "DHS" in subarray or pupil.startswith("GDHS"):
        return problem(
            "unsupported_mode",
            f"NIRCam DHS (SUBARRAY {subarray or '-'}, PUPIL {pupil or '-'}) is not supported: "
            "several spectra share a multistripe readout",
            "reduce it with jwst",
        )
    if _SUPERSTRIPE.search(subarray) or _has(header, "SSTR_NST"):
        return problem(
            "unsupported_mode",
            f"NIRISS SOSS superstripe (SUBARRAY {subarray or '-'}) is not supported: "
            "its NINTS counts stripes, not integrations",
            "collate it with jwst",
        )
    if _has(header, "MSTR_RD1"):
        return problem(
            "unsupported_mode",
            f"multistripe readout (SUBARRAY {subarray or '-'}, MSTR_RD1 present) is not supported",
            "reduce it with jwst",
        )
    if exp_type == "MIR_MRS":
        return problem(
            "unsupported_mode",
            "MIRI MRS (EXP_TYPE MIR_MRS) is not supported: its slices need cube building",
            "reduce it with jwst",
        )
    if exp_type not in SUPPORTED_EXP_TYPES:
        return problem(
            "unsupported_mode",
            f"EXP_TYPE {exp_type or 'is empty, it'} is not supported; supported are "
            f"{', '.join(SUPPORTED_EXP_TYPES)}",
            "leave the file out",
        )
    if header.get("TSOVISIT") is not True and exp_type not in _ALWAYS_TSO:
        return problem(
            "not_tso",
            f"this {exp_type} exposure is not a time series: "
            f"TSOVISIT is {header.get('TSOVISIT', 'absent')}, expected True",
            "leave it out, or set TSOVISIT to T in its primary header if it is one",
        )
    return None

"""What ``--parity jwst`` runs: the steps of the official time-series configuration (spec stage 1, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["official_parameters", "official_skips"]

#: what the official parameter files switch off for time series, or leave off
OFFICIAL_SKIPS = (
    "emicorr", "ipc", "firstframe", "lastframe", "rscd", "persistence", "charge_migration", "picture_frame",
    "clean_flicker_noise",
)  # fmt: skip


def official_skips(order: Sequence[str], *, miri: bool) -> list[str]:
    """List the steps among ``order`` that the official time-series set does not run."""
    return [name for name in order if name in OFFICIAL_SKIPS or (miri and name == "refpix")]


#: step -> parameters that make it do what the official step does, where ours does something else by default
OFFICIAL_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "emicorr": {"scope": "segment"},
    "clean_flicker_noise": {"scope": "segment"},
    "bkg_subtract": {"scope": "segment"},
    "extract_1d": {"scope": "segment"},
    "photom": {"scope": "segment"},
    "white_light": {"scope": "segment"},
    "tso_photometry": {"scope": "segment"},
    "outlier_detection": {"scope": "segment", "set_nan": True},
}


def official_parameters(order: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """List (step, parameters) of the steps among ``order`` that have a form of their own for parity."""
    return [(name, OFFICIAL_PARAMETERS[name]) for name in order if name in OFFICIAL_PARAMETERS]

"""What ``--parity jwst`` runs: the steps of the official time-series configuration (spec stage 1, section 2)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["official_skips"]

#: what the official parameter files switch off for time series, or leave off
OFFICIAL_SKIPS = (
    "emicorr", "ipc", "firstframe", "lastframe", "rscd", "persistence", "charge_migration", "picture_frame",
    "clean_flicker_noise",
)  # fmt: skip


def official_skips(order: Sequence[str], *, miri: bool) -> list[str]:
    """List the steps among ``order`` that the official time-series set does not run."""
    return [name for name in order if name in OFFICIAL_SKIPS or (miri and name == "refpix")]

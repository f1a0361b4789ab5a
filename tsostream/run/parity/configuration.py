"""The configuration of ``--parity jwst``: the official time-series steps with the official code's defaults."""

from __future__ import annotations

from collections.abc import Sequence

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.run.config import Config, load_config, step_order

__all__ = ["OFFICIAL_SKIPS", "official_skips", "parity_config"]

#: what the official parameter files switch off for time series, or leave off (spec stage 1, section 2)
OFFICIAL_SKIPS = (
    "emicorr", "ipc", "firstframe", "lastframe", "rscd", "persistence", "charge_migration", "picture_frame",
    "clean_flicker_noise",
)  # fmt: skip


def official_skips(info: ExposureInfo) -> tuple[str, ...]:
    """Steps of this exposure that the official time-series set does not run."""
    skips = OFFICIAL_SKIPS + (("refpix",) if info.is_miri else ())
    return tuple(name for name in skips if name in step_order(info))


def parity_config(info: ExposureInfo, *, settings: Sequence[str] = ()) -> Config:
    """Put the configuration together; ``settings`` win, also over what is skipped."""
    chosen = {text.split("=")[0].strip() for text in settings}
    skips = [f"{name}.skip=true" for name in official_skips(info) if f"{name}.skip" not in chosen]
    return load_config(info, config="none", settings=(*skips, *settings))

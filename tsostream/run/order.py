"""Which steps apply to an exposure, in processing order: by mode, and by what its files already went through."""

from __future__ import annotations

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.catalog import (
    CALIBRATION,
    CLEANING,
    IMAGING,
    MIRI_RAMPS,
    NIR_RAMPS,
    OPERATORS,
    SPECTROSCOPY,
    SPECTRUM_CALIBRATION,
)

__all__ = ["STATUS", "all_steps", "step_order"]

#: step -> keyword of its status (``cal_step`` of the official data models)
STATUS = {
    "group_scale": "S_GRPSCL", "dq_init": "S_DQINIT", "emicorr": "S_MIREMI", "saturation": "S_SATURA",
    "ipc": "S_IPC", "superbias": "S_SUPERB", "refpix": "S_REFPIX", "rscd": "S_RSCD", "firstframe": "S_FRSTFR",
    "lastframe": "S_LASTFR", "reset": "S_RESET", "linearity": "S_LINEAR", "dark_current": "S_DARK",
    "charge_migration": "S_CHGMIG", "jump": "S_JUMP", "picture_frame": "S_PCTFRM",
    "clean_flicker_noise": "S_CLNFNS", "persistence": "S_PERSIS", "ramp_fit": "S_RAMP",
    "gain_scale": "S_GANSCL", "bkg_subtract": "S_BKDSUB", "extract_2d": "S_EXTR2D", "srctype": "S_SRCTYP",
    "wavecorr": "S_WAVCOR", "flat_field": "S_FLAT", "photom": "S_PHOTOM", "outlier_detection": "S_OUTLIR",
    "pixel_replace": "S_PXREPL", "extract_1d": "S_EXTR1D", "white_light": "S_WHTLIT", "tso_photometry": "S_TSPHOT",
}  # fmt: skip


def all_steps(info: ExposureInfo) -> tuple[str, ...]:
    """Names of all steps of a mode from ramps to rows (spec stage 1, section 2; stages 2-3, B.0 and C)."""
    measuring: tuple[str, ...] = IMAGING
    if info.is_spectroscopy:
        first, *rest = SPECTROSCOPY
        measuring = (first, *SPECTRUM_CALIBRATION.get(info.exp_type, ()), *rest)
    ramps = MIRI_RAMPS if info.is_miri else NIR_RAMPS
    return (*ramps, *CALIBRATION.get(info.exp_type, ()), *CLEANING, *measuring)


def step_order(info: ExposureInfo) -> tuple[str, ...]:
    """Names of the steps that apply to an exposure, in processing order.

    What the files already went through is left out: by their level, and where the header says that a step was done.
    """
    order = [name for name in all_steps(info) if name in OPERATORS]
    if info.is_ramp:
        return tuple(order)
    done = {*MIRI_RAMPS, *NIR_RAMPS}
    if info.level in ("calints", "crfints"):
        done |= {*CALIBRATION.get(info.exp_type, ())}
    if info.level == "crfints":
        done.add("outlier_detection")
    done |= {name for name in order if _is_complete(info, name)}
    return tuple(name for name in order if name not in done)


def _is_complete(info: ExposureInfo, step: str) -> bool:
    return str(info.header.get(STATUS.get(step, ""), "")).strip().upper() == "COMPLETE"

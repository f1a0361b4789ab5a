"""Every step by name, in processing order (spec stage 1, section 2; stages 2-3, B.0 and C)."""

from __future__ import annotations

from tsostream.operators.base import Operator
from tsostream.operators.charge_migration import ChargeMigration
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.dark_current import DarkCurrent
from tsostream.operators.dq_init import DqInit
from tsostream.operators.emicorr import Emicorr
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.firstframe import Firstframe
from tsostream.operators.gain_scale import GainScale
from tsostream.operators.group_scale import GroupScale
from tsostream.operators.ipc import Ipc
from tsostream.operators.jump import Jump
from tsostream.operators.lastframe import Lastframe
from tsostream.operators.linearity import Linearity
from tsostream.operators.persistence import Persistence
from tsostream.operators.picture_frame import PictureFrame
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.refpix import Refpix
from tsostream.operators.reset import Reset
from tsostream.operators.rscd import Rscd
from tsostream.operators.saturation import Saturation
from tsostream.operators.superbias import Superbias
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.operators.white_light import WhiteLight

__all__ = ["IMAGING", "MIRI_RAMPS", "NIR_RAMPS", "OPERATORS", "SPECTROSCOPY"]

NIR_RAMPS = (
    "group_scale", "dq_init", "saturation", "ipc", "superbias", "refpix", "linearity", "dark_current",
    "charge_migration", "jump", "picture_frame", "clean_flicker_noise", "persistence", "ramp_fit", "gain_scale",
)  # fmt: skip
MIRI_RAMPS = (
    "group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "linearity",
    "rscd", "dark_current", "refpix", "charge_migration", "jump", "picture_frame", "clean_flicker_noise",
    "persistence", "ramp_fit", "gain_scale",
)  # fmt: skip
SPECTROSCOPY = ("extract_1d", "white_light")
IMAGING = ("tso_photometry",)

#: name -> class
OPERATORS: dict[str, type[Operator]] = {
    cls.name: cls
    for cls in (
        GroupScale,
        DqInit,
        Emicorr,
        Saturation,
        Ipc,
        Superbias,
        Refpix,
        Firstframe,
        Lastframe,
        Reset,
        Linearity,
        Rscd,
        DarkCurrent,
        ChargeMigration,
        Jump,
        PictureFrame,
        CleanFlickerNoise,
        Persistence,
        RampFit,
        GainScale,
        Extract1d,
        WhiteLight,
        TsoPhotometry,
    )
}

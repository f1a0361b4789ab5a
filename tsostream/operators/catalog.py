"""Every step by name, in processing order (spec stage 1, section 2; stages 2-3, B.0 and C)."""

from __future__ import annotations

from tsostream.operators.base import Operator
from tsostream.operators.dark_current import DarkCurrent
from tsostream.operators.dq_init import DqInit
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.gain_scale import GainScale
from tsostream.operators.jump import Jump
from tsostream.operators.lastframe import Lastframe
from tsostream.operators.linearity import Linearity
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.reset import Reset
from tsostream.operators.saturation import Saturation
from tsostream.operators.superbias import Superbias
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.operators.white_light import WhiteLight

__all__ = ["IMAGING", "MIRI_RAMPS", "NIR_RAMPS", "OPERATORS", "SPECTROSCOPY"]

NIR_RAMPS = ("dq_init", "saturation", "superbias", "linearity", "dark_current", "jump", "ramp_fit", "gain_scale")
MIRI_RAMPS = (
    "dq_init", "saturation", "lastframe", "reset", "linearity", "dark_current", "jump", "ramp_fit", "gain_scale",
)  # fmt: skip
SPECTROSCOPY = ("extract_1d", "white_light")
IMAGING = ("tso_photometry",)

#: name -> class
OPERATORS: dict[str, type[Operator]] = {
    cls.name: cls
    for cls in (
        DqInit,
        Saturation,
        Superbias,
        Lastframe,
        Reset,
        Linearity,
        DarkCurrent,
        Jump,
        RampFit,
        GainScale,
        Extract1d,
        WhiteLight,
        TsoPhotometry,
    )
}

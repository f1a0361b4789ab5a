"""Every step by name, in processing order (spec stage 1, section 2; stages 2-3, B.0 and C)."""

from __future__ import annotations

from tsostream.operators.base import Operator
from tsostream.operators.bin_spectra import BinSpectra
from tsostream.operators.bkg_subtract import BkgSubtract
from tsostream.operators.charge_migration import ChargeMigration
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.dark_current import DarkCurrent
from tsostream.operators.dq_init import DqInit
from tsostream.operators.emicorr import Emicorr
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.extract_2d import Extract2d
from tsostream.operators.firstframe import Firstframe
from tsostream.operators.flat_field import FlatField
from tsostream.operators.gain_scale import GainScale
from tsostream.operators.group_scale import GroupScale
from tsostream.operators.ipc import Ipc
from tsostream.operators.jump import Jump
from tsostream.operators.lastframe import Lastframe
from tsostream.operators.linearity import Linearity
from tsostream.operators.outlier_detection import OutlierDetection
from tsostream.operators.persistence import Persistence
from tsostream.operators.photom import Photom
from tsostream.operators.picture_frame import PictureFrame
from tsostream.operators.pixel_replace import PixelReplace
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.refpix import Refpix
from tsostream.operators.reset import Reset
from tsostream.operators.rscd import Rscd
from tsostream.operators.saturation import Saturation
from tsostream.operators.srctype import Srctype
from tsostream.operators.superbias import Superbias
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.operators.wavecorr import Wavecorr
from tsostream.operators.white_light import WhiteLight

__all__ = [
    "CALIBRATION",
    "CLEANING",
    "IMAGING",
    "MIRI_RAMPS",
    "NIR_RAMPS",
    "OPERATORS",
    "SPECTROSCOPY",
    "SPECTRUM_CALIBRATION",
]

NIR_RAMPS = (
    "group_scale", "dq_init", "saturation", "ipc", "superbias", "refpix", "linearity", "dark_current",
    "charge_migration", "jump", "picture_frame", "clean_flicker_noise", "persistence", "ramp_fit", "gain_scale",
)  # fmt: skip
MIRI_RAMPS = (
    "group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "linearity",
    "rscd", "dark_current", "refpix", "charge_migration", "jump", "picture_frame", "clean_flicker_noise",
    "persistence", "ramp_fit", "gain_scale",
)  # fmt: skip
#: EXP_TYPE -> steps on slopes that make calints (spec stages 2-3, B.0)
CALIBRATION: dict[str, tuple[str, ...]] = {
    "NRS_BRIGHTOBJ": ("bkg_subtract", "extract_2d", "srctype", "wavecorr", "flat_field", "photom"),
    "NRC_TSGRISM": ("bkg_subtract", "flat_field", "extract_2d", "srctype", "photom"),
    "NIS_SOSS": ("bkg_subtract", "srctype", "flat_field"),
    "MIR_LRS-SLITLESS": ("bkg_subtract", "srctype", "flat_field", "photom"),
    "NRC_TSIMAGE": ("bkg_subtract", "flat_field", "photom"),
    "MIR_IMAGE": ("bkg_subtract", "flat_field", "photom"),
}
#: steps on calibrated slopes before they are measured; the first makes crfints
CLEANING = ("outlier_detection", "pixel_replace")
#: EXP_TYPE -> steps between extraction and white light: the orders of SOSS overlap on the detector
SPECTRUM_CALIBRATION: dict[str, tuple[str, ...]] = {"NIS_SOSS": ("photom",)}
SPECTROSCOPY = ("extract_1d", "bin_spectra", "white_light")
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
        BkgSubtract,
        Extract2d,
        Srctype,
        Wavecorr,
        FlatField,
        Photom,
        OutlierDetection,
        PixelReplace,
        Extract1d,
        BinSpectra,
        WhiteLight,
        TsoPhotometry,
    )
}

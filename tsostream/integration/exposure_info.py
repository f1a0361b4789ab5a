"""Facts about an exposure that hold for all of its integrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SPECTROSCOPY", "ExposureInfo", "Level"]

Level = Literal["uncal", "rateints", "calints", "crfints"]

#: EXP_TYPE -> dispersion axis (1 = along x, 2 = along y), spec stage 2-3, B.1
SPECTROSCOPY: dict[str, int] = {
    "NRS_BRIGHTOBJ": 1,
    "NRC_TSGRISM": 1,
    "NIS_SOSS": 1,
    "MIR_LRS-SLITLESS": 2,
}


@dataclass(frozen=True, kw_only=True)
class ExposureInfo:
    """One exposure on one detector, as its headers describe it.

    Pixel coordinates are 0-based in the subarray, DMS (science) orientation; ``xstart, ystart`` are the FITS
    keywords SUBSTRT1/2 and stay 1-based. Times are seconds.

    Parameters
    ----------
    exposure_id
        ``jw<VISIT_ID>_<VISITGRP><SEQ_ID><ACT_ID>_<EXPOSURE>``, from the keywords, never from a file name.
    level
        Product level of the files: ``uncal`` (ramps) or ``rateints``, ``calints``, ``crfints`` (slopes).
    nints
        Integrations of the whole exposure (NINTS), whatever the files at hand hold.
    frame_time, group_time
        TFRAME and TGROUP [s].
    integration_time
        EFFINTTM [s].
    zeroframe
        Whether the first read of each integration is there on its own (ZEROFRAME).
    header
        The PRIMARY and SCI keywords of the first segment, for selectors and provenance.
    """

    exposure_id: str
    instrument: str
    detector: str
    exp_type: str
    level: Level
    subarray: str
    xstart: int
    ystart: int
    nx: int
    ny: int
    fastaxis: int
    slowaxis: int
    nints: int
    ngroups: int
    nframes: int = 1
    groupgap: int = 0
    noutputs: int = 1
    readpatt: str = ""
    filter: str = ""
    pupil: str = ""
    grating: str = ""
    frame_time: float = 0.0
    group_time: float = 0.0
    integration_time: float = 0.0
    frame_divisor: int | None = None
    resets_between: int = 1
    tsovisit: bool = False
    bunit: str = ""
    zeroframe: bool = False
    header: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_spectroscopy(self) -> bool:
        """Whether the exposure disperses its source."""
        return self.exp_type in SPECTROSCOPY

    @property
    def dispaxis(self) -> int:
        """1 when wavelength runs along x, 2 along y, 0 for images."""
        return SPECTROSCOPY.get(self.exp_type, 0)

    @property
    def is_miri(self) -> bool:
        """MIRI has its own step order and readout clocks."""
        return self.instrument == "MIRI"

    @property
    def is_ramp(self) -> bool:
        """Whether the files hold ramps (groups) rather than slopes."""
        return self.level == "uncal"

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(y, x)."""
        return self.ny, self.nx

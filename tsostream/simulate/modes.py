"""The observing modes the simulator knows: subarray geometry, readout, detector levels.

Geometry is in DMS (science) orientation; ``xstart, ystart`` are the 1-based SUBSTRT keywords.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Final

from tsostream.errors import ConfigError, Problem

__all__ = ["EXP_TYPES", "Mode", "crop", "find_mode", "with_pupil"]

#: NIR pixel clock and the unit of the MIRI clock [s]
CLOCK: Final = 1.0e-5
#: clocks at the end of every row of an H2RG output
LINE_OVERHEAD: Final = 12
#: clocks MIRI spends on each of the 1024 rows that is outside the subarray
MIRI_FLUSH: Final = 7
#: commanded position of NIRISS's pupil wheel, which simulated exposures have, too [degree]
PWCPOS: Final = 245.76
#: NIRSpec subarrays whose outer columns serve as reference pixels although they see light
EDGELESS: Final = ("SUB512", "SUB512S", "SUB32")


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One subarray of one observing mode.

    Parameters
    ----------
    fast, slow
        FASTAXIS and SLOWAXIS: 1 = x, 2 = y, the sign is the direction.
    nout
        Detector outputs that read the subarray (NOUTPUTS).
    rowclocks
        MIRI only: clocks from one row to the next.
    gain
        Typical gain [electron/DN].
    readnoise
        Typical noise of a correlated double sample [DN], as readnoise references give it.
    oof
        Typical 1/f noise within one frame, RMS [DN].
    bias
        Typical level of a reset pixel [DN].
    kind
        Which scene the mode draws: ``prism``, ``grating``, ``grism``, ``soss``, ``lrs`` or ``image``.
    band
        Wavelength and width of the filter [µm], for imaging.
    pixel_scale
        [arcsec/pixel], for imaging.
    defocus
        Of a weak lens, from the middle to the edge of the pupil [waves at 2.12 µm], for imaging.
    """

    exp_type: str
    subarray: str
    instrument: str
    detector: str
    filter: str
    xstart: int
    ystart: int
    nx: int
    ny: int
    fast: int
    slow: int
    readpatt: str
    groups: int
    gain: float
    readnoise: float
    oof: float
    kind: str
    aperture: str
    nout: int = 1
    rowclocks: int = 0
    bias: float = 9500.0
    pupil: str = ""
    grating: str = ""
    module: str = ""
    channel: str = ""
    slit: str = ""
    band: tuple[float, float] = (0.0, 0.0)
    pixel_scale: float = 0.0
    defocus: float = 0.0
    background: float = 1.0
    #: (x, y) of the crop's first pixel in the uncropped subarray
    origin: tuple[int, int] = (0, 0)
    #: (nx, ny) of the uncropped subarray, in which the scene is laid out
    full: tuple[int, int] = (0, 0)

    @property
    def is_miri(self) -> bool:
        """MIRI reads, resets and linearises in its own way."""
        return self.instrument == "MIRI"

    @property
    def n_fast(self) -> int:
        """Pixels along the fast axis."""
        return self.nx if abs(self.fast) == 1 else self.ny

    @property
    def n_slow(self) -> int:
        """Pixels along the slow axis."""
        return self.ny if abs(self.fast) == 1 else self.nx

    @property
    def frame_clocks(self) -> int:
        """Clocks of one frame, overheads included."""
        if self.is_miri:
            return self.ny * self.rowclocks + (1024 - self.ny) * MIRI_FLUSH
        line = self.n_fast // self.nout + LINE_OVERHEAD
        if self.nout == 4:
            return line * (self.n_slow + 1) + 1
        return line * (self.n_slow + (3 if self.n_fast <= 8 else 2))

    @property
    def frame_time(self) -> float:
        """TFRAME [s]."""
        return round(self.frame_clocks * CLOCK, 8)

    @property
    def dispaxis(self) -> int:
        """1 = wavelength along x, 2 = along y, 0 = image."""
        return {"image": 0, "lrs": 2}.get(self.kind, 1)

    @property
    def orders(self) -> tuple[int, ...]:
        """Spectral orders on the detector."""
        return (1, 2, 3) if self.kind == "soss" else (1,)


_NRS = Mode(
    exp_type="NRS_BRIGHTOBJ", subarray="SUB512", instrument="NIRSPEC", detector="NRS1", filter="CLEAR",
    grating="PRISM", slit="S1600A1", xstart=523, ystart=1000, nx=512, ny=32, fast=2, slow=1,
    readpatt="NRSRAPID", groups=5, gain=1.1, readnoise=8.5, oof=5.0, kind="prism",
    aperture="NRS_S1600A1_SLIT", background=0.4,
)  # fmt: skip
_GRISM = Mode(
    exp_type="NRC_TSGRISM", subarray="SUBGRISM64", instrument="NIRCAM", detector="NRCALONG",
    filter="F322W2", pupil="GRISMR", module="A", channel="LONG", xstart=1, ystart=1, nx=2048, ny=64,
    fast=-1, slow=2, nout=4, readpatt="RAPID", groups=12, gain=1.82, readnoise=7.0, oof=3.5, kind="grism",
    aperture="NRCA5_GRISM64_F322W2", background=1.2,
)  # fmt: skip
_SOSS = Mode(
    exp_type="NIS_SOSS", subarray="SUBSTRIP256", instrument="NIRISS", detector="NIS", filter="CLEAR",
    pupil="GR700XD", xstart=1, ystart=1793, nx=2048, ny=256, fast=-2, slow=-1, readpatt="NISRAPID",
    groups=4, gain=1.61, readnoise=9.0, oof=6.0, kind="soss", aperture="NIS_SUBSTRIP256", background=1.5,
)  # fmt: skip
_LRS = Mode(
    exp_type="MIR_LRS-SLITLESS", subarray="SLITLESSPRISM", instrument="MIRI", detector="MIRIMAGE",
    filter="P750L", xstart=1, ystart=529, nx=72, ny=416, fast=1, slow=2, nout=4, rowclocks=28,
    readpatt="FASTR1", groups=30, gain=3.1, readnoise=8.0, oof=1.2, bias=8000.0, kind="lrs",
    aperture="MIRIM_SLITLESSPRISM", background=12.0,
)  # fmt: skip
_SW = Mode(
    exp_type="NRC_TSIMAGE", subarray="SUB64P", instrument="NIRCAM", detector="NRCB1", filter="F210M",
    pupil="CLEAR", module="B", channel="SHORT", xstart=1, ystart=1981, nx=64, ny=64, fast=1, slow=-2,
    readpatt="RAPID", groups=10, gain=2.05, readnoise=9.0, oof=3.5, kind="image", aperture="NRCB1_SUB64P",
    band=(2.093, 0.205), pixel_scale=0.0311, background=0.6,
)  # fmt: skip
_MIMG = Mode(
    exp_type="MIR_IMAGE", subarray="SUB64", instrument="MIRI", detector="MIRIMAGE", filter="F1500W",
    xstart=1, ystart=779, nx=72, ny=64, fast=1, slow=2, nout=4, rowclocks=28, readpatt="FASTR1", groups=12,
    gain=3.1, readnoise=8.0, oof=1.2, bias=8000.0, kind="image", aperture="MIRIM_SUB64", band=(15.06, 2.92),
    pixel_scale=0.11, background=150.0,
)  # fmt: skip

_MODES: Final[dict[str, tuple[Mode, ...]]] = {
    "NRS_BRIGHTOBJ": (
        _NRS,
        replace(_NRS, subarray="SUB512S", ystart=1008, ny=16),
        replace(_NRS, subarray="SUB1024A", grating="G395H", filter="F290LP", xstart=1, nx=1024,
                kind="grating", groups=12),
        replace(_NRS, subarray="SUB2048", grating="G395H", filter="F290LP", xstart=1, nx=2048,
                kind="grating", groups=10),
    ),
    "NRC_TSGRISM": (
        _GRISM,
        replace(_GRISM, subarray="SUBGRISM128", ny=128, aperture="NRCA5_GRISM128_F322W2", groups=8),
        replace(_GRISM, subarray="SUBGRISM256", ny=256, aperture="NRCA5_GRISM256_F322W2", groups=6),
    ),
    "NIS_SOSS": (
        _SOSS,
        replace(_SOSS, subarray="SUBSTRIP96", ystart=1803, ny=96, aperture="NIS_SUBSTRIP96", groups=5),
    ),
    "MIR_LRS-SLITLESS": (_LRS,),
    "NRC_TSIMAGE": (
        _SW,
        replace(_SW, subarray="SUB160P", ystart=1885, nx=160, ny=160, aperture="NRCB1_SUB160P"),
        replace(_SW, subarray="SUB400P", ystart=1645, nx=400, ny=400, aperture="NRCB1_SUB400P", groups=5),
    ),
    "MIR_IMAGE": (
        _MIMG,
        replace(_MIMG, subarray="SUB128", ystart=889, nx=136, ny=128, rowclocks=44, aperture="MIRIM_SUB128"),
        replace(_MIMG, subarray="SUB256", xstart=413, ystart=51, nx=256, ny=256, rowclocks=96,
                aperture="MIRIM_SUB256"),
    ),
}  # fmt: skip

#: weak lenses of NIRCam's pupil wheel -> their defocus [waves at 2.12 µm]
WEAK_LENSES: Final = {"WLP4": 4.0, "WLP8": 8.0, "WLM8": -8.0}
#: EXP_TYPEs that can be simulated
EXP_TYPES: Final = tuple(_MODES)


def _unknown(what: str, found: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(found.upper(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "choose one of them"
    return ConfigError(
        Problem(
            f"{what} {found!r} cannot be simulated; known are {', '.join(known)}", todo=hint, code="unknown"
        )
    )


def find_mode(exp_type: str, subarray: str | None = None) -> Mode:
    """Look a mode up by EXP_TYPE and SUBARRAY (the usual one when not given).

    Raises
    ------
    ConfigError
        When there is no such mode; names the nearest one.
    """
    choices = _MODES.get(str(exp_type).upper())
    if choices is None:
        raise _unknown("EXP_TYPE", str(exp_type), list(EXP_TYPES))
    mode = choices[0]
    if subarray is not None:
        by_name = {choice.subarray: choice for choice in choices}
        if str(subarray).upper() not in by_name:
            raise _unknown(f"the {mode.exp_type} subarray", str(subarray), list(by_name))
        mode = by_name[str(subarray).upper()]
    return replace(mode, full=(mode.nx, mode.ny))


def with_pupil(mode: Mode, pupil: str) -> Mode:
    """Put a weak lens into the beam of NIRCam's images.

    Raises
    ------
    ConfigError
        The mode is another one, or there is no such lens.
    """
    name = str(pupil).upper()
    if mode.exp_type != "NRC_TSIMAGE":
        raise ConfigError(
            Problem(
                f"pupil={pupil!r}: {mode.exp_type} has no weak lenses",
                todo="leave it out, or simulate NRC_TSIMAGE",
                code="parameter",
            )
        )
    known = {mode.pupil: 0.0, **WEAK_LENSES}
    if name not in known:
        raise _unknown("the pupil", name, list(known))
    return replace(mode, pupil=name, defocus=known[name])


def crop(mode: Mode, nx: int | None, ny: int | None, centre: tuple[float, float]) -> Mode:
    """Cut a mode to a smaller subarray around the interesting part of the scene, for tests.

    Parameters
    ----------
    centre
        (x, y) in the whole subarray around which to cut. Frame time and SUBSTRT, SUBSIZE follow.
    """
    problems = []
    for name, value, limit in (("nx", nx, mode.nx), ("ny", ny, mode.ny)):
        if value is not None and not 8 <= value <= limit:
            problems.append(
                Problem(f"{name}={value} is outside 8 to {limit} of {mode.subarray}", todo=f"change {name}")
            )
    if not problems and nx is not None and nx % mode.nout:
        problems.append(Problem(f"nx={nx} must be a multiple of the {mode.nout} outputs", todo="change nx"))
    if problems:
        raise ConfigError(problems)
    nx, ny = nx or mode.nx, ny or mode.ny
    x0 = int(min(max(round(centre[0] - nx / 2), 0), mode.nx - nx))
    y0 = int(min(max(round(centre[1] - ny / 2), 0), mode.ny - ny))
    if mode.is_miri:
        x0 -= x0 % 4  # the four outputs take turns along x
    return replace(
        mode, nx=nx, ny=ny, xstart=mode.xstart + x0, ystart=mode.ystart + y0, origin=(x0, y0),
        full=(mode.nx, mode.ny),
    )  # fmt: skip

"""What each type of reference file holds, and whether it is cut to the subarray.

The table follows the data models of the official pipeline. A type is one of three layouts:

``image``
    Arrays on detector pixels; cut to the subarray when they are loaded.
``extensions``
    Tables, or images on a grid of their own (padded wavelength maps); loaded whole.
``other``
    ASDF or JSON; recognised and found, read by the step that wants them.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal

from tsostream.errors import ConfigError, Problem

__all__ = ["REFERENCE_TYPES", "ArraySpec", "ReferenceType", "canonical_name", "reference_type"]

Layout = Literal["image", "extensions", "other"]
Signal = Literal["", "DN"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array of a reference file.

    Parameters
    ----------
    name
        Extension name, and the key in ``Reference.arrays``.
    ndim
        Allowed numbers of dimensions; the last two are ``[y, x]``.
    required
        Whether a file without it is refused. An optional DQ that is absent is loaded as zeros.
    also
        Other extension names under which it is found.
    uncut_ndim
        With this many dimensions it is not on detector pixels and stays whole (an IPC kernel); 0: none.
    """

    name: str
    ndim: tuple[int, ...] = (2,)
    required: bool = True
    also: tuple[str, ...] = ()
    uncut_ndim: int = 0

    @property
    def is_dq(self) -> bool:
        """Whether it holds bits (uint32) rather than numbers (float32)."""
        return self.name == "DQ"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceType:
    """One type of reference file.

    Parameters
    ----------
    name
        CRDS type, lower case; upper case it is the REFTYPE keyword.
    layout
        See the module's docstring.
    arrays
        The arrays on detector pixels; the first one that is present decides the geometry.
    tables
        Table extensions that must be there.
    signal
        ``DN`` when the first array is a signal in counts, so that a BUNIT of electrons or a rate is refused.
    readpatt_must_match
        Whether another READPATT makes it a wrong reference (a bias or a read noise belongs to its readout).
    matches_exactly
        The official pipeline never cuts this type; cutting it is worth a note.
    extra_tables
        Tables that stand beside the arrays of an ``image`` type and are read when they are there.
    any_detector
        Instruments whose detectors share this type, so that DETECTOR says nothing.
    ndim_miri, ndim_nir
        Dimensions of the first array per instrument where the general rule is wider; empty: no such rule.
    aliases
        Other spellings of REFTYPE and of ``--override`` names.
    exp_types
        The only modes that have it; empty: all, as far as the reference rules say.
    """

    name: str
    layout: Layout = "image"
    arrays: tuple[ArraySpec, ...] = ()
    tables: tuple[str, ...] = ()
    signal: Signal = ""
    readpatt_must_match: bool = False
    matches_exactly: bool = False
    extra_tables: tuple[str, ...] = ()
    any_detector: tuple[str, ...] = ()
    ndim_miri: tuple[int, ...] = ()
    ndim_nir: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    exp_types: tuple[str, ...] = ()


_SOSS: Final = ("NIS_SOSS",)
_SCI: Final = ArraySpec(name="SCI")
_DQ: Final = ArraySpec(name="DQ")
_DQ_OPTIONAL: Final = ArraySpec(name="DQ", required=False)
_ERR_OPTIONAL: Final = ArraySpec(name="ERR", required=False)
#: the NIRSpec flats of the spectrograph and of the detector: one plane, or one per wavelength
_CUBES: Final = (
    ArraySpec(name="SCI", ndim=(2, 3), also=("FLAT1",)),
    ArraySpec(name="ERR", ndim=(2, 3), required=False),
    ArraySpec(name="DQ", ndim=(2, 3), required=False),
)

_TYPES: Final[tuple[ReferenceType, ...]] = (
    ReferenceType(name="mask", arrays=(_DQ,), aliases=("dq_init", "bad_pixel_mask")),
    ReferenceType(name="saturation", arrays=(_SCI, _DQ_OPTIONAL), signal="DN"),
    ReferenceType(
        name="superbias",
        arrays=(_SCI, _DQ_OPTIONAL),
        signal="DN",
        readpatt_must_match=True,
        aliases=("super_bias", "bias"),
    ),
    ReferenceType(name="ipc", arrays=(ArraySpec(name="SCI", ndim=(2, 4), uncut_ndim=2),)),
    ReferenceType(name="refpix", layout="extensions"),
    ReferenceType(
        name="reset",
        arrays=(ArraySpec(name="SCI", ndim=(4,)), _DQ_OPTIONAL),
        signal="DN",
        readpatt_must_match=True,
        matches_exactly=True,
    ),
    ReferenceType(
        name="linearity",
        arrays=(
            ArraySpec(name="COEFFS", ndim=(3,)),
            _DQ_OPTIONAL,
            ArraySpec(name="INV_COEFFS", ndim=(3,), required=False),
        ),
    ),
    ReferenceType(name="rscd", layout="extensions", tables=("RSCD_GROUP_SKIP",)),
    ReferenceType(
        name="dark",
        arrays=(
            ArraySpec(name="SCI", ndim=(3, 4)),
            ArraySpec(name="DQ", ndim=(2, 4), required=False),
            ArraySpec(name="AVDRKCUR", required=False, also=("AVERAGE_DARK_CURRENT",)),
        ),
        signal="DN",
        matches_exactly=True,
        ndim_miri=(4,),
        ndim_nir=(3,),
        aliases=("dark_current",),
    ),
    ReferenceType(name="gain", arrays=(_SCI,), aliases=("gain_scale",)),
    ReferenceType(
        name="readnoise",
        arrays=(_SCI,),
        signal="DN",
        readpatt_must_match=True,
        aliases=("read_noise", "rdnoise"),
    ),
    ReferenceType(name="flat", arrays=(_SCI, _ERR_OPTIONAL, _DQ_OPTIONAL), aliases=("flat_field",)),
    ReferenceType(
        name="wavelength", arrays=(ArraySpec(name="WAVELENGTH", also=("SCI",)),), aliases=("wavelengths",)
    ),
    ReferenceType(name="photom", layout="extensions", tables=("PHOTOM",), any_detector=("NIRSPEC",)),
    ReferenceType(
        name="area",
        arrays=(ArraySpec(name="SCI", required=False),),
        extra_tables=("AREA",),
        any_detector=("NIRSPEC",),
        aliases=("pixel_area",),
    ),
    ReferenceType(name="bkg", layout="extensions"),
    ReferenceType(name="apcorr", layout="extensions", tables=("APCORR",)),
    ReferenceType(name="spectrace", layout="extensions", exp_types=_SOSS),
    ReferenceType(name="wavemap", layout="extensions", exp_types=_SOSS),
    ReferenceType(name="fflat", layout="extensions", tables=("FAST_VARIATION",), any_detector=("NIRSPEC",)),
    ReferenceType(name="sflat", arrays=_CUBES, extra_tables=("WAVELENGTH", "FAST_VARIATION")),
    ReferenceType(name="dflat", arrays=_CUBES, extra_tables=("WAVELENGTH", "FAST_VARIATION")),
    ReferenceType(name="wavecorr", layout="other", any_detector=("NIRSPEC",)),
    ReferenceType(name="emicorr", layout="other"),
    ReferenceType(name="sirskernel", layout="other"),
    ReferenceType(name="pastasoss", layout="other", exp_types=_SOSS),
    ReferenceType(name="specprofile", layout="extensions", exp_types=_SOSS),
    ReferenceType(name="speckernel", layout="extensions", exp_types=_SOSS),
    ReferenceType(name="extract1d", layout="other"),
    ReferenceType(name="specwcs", layout="other", exp_types=("MIR_LRS-SLITLESS",)),
    ReferenceType(name="wavelengthrange", layout="other"),
    # only the official assign_wcs reads these
    *(
        ReferenceType(name=name, layout="other")
        for name in (
            "camera",
            "collimator",
            "disperser",
            "distortion",
            "filteroffset",
            "fore",
            "fpa",
            "msa",
            "ote",
            "regions",
        )
    ),
)

#: name -> what it holds, in processing order
REFERENCE_TYPES: Final[dict[str, ReferenceType]] = {entry.name: entry for entry in _TYPES}

_ALIASES: Final[dict[str, str]] = {alias: entry.name for entry in _TYPES for alias in entry.aliases}


def canonical_name(text: object) -> str | None:
    """Give the catalogue's name for a REFTYPE keyword or a name on the command line; None when unknown."""
    name = str(text).strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in REFERENCE_TYPES else None


def reference_type(name: str) -> ReferenceType:
    """Look a type up by name or alias.

    Raises
    ------
    ConfigError
        When there is no such type; suggests the nearest one.
    """
    known = canonical_name(name)
    if known is None:
        raise ConfigError(unknown_type(name))
    return REFERENCE_TYPES[known]


def unknown_type(name: str, where: str = "") -> Problem:
    """Describe a reference type that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name.strip().lower(), [*REFERENCE_TYPES, *_ALIASES], n=1, cutoff=0.5)
    todo = f"did you mean {_ALIASES.get(near[0], near[0])!r}?" if near else "see the known types"
    known = ", ".join(REFERENCE_TYPES)
    return Problem(
        f"unknown reference type {name.strip()!r}, expected one of {known}", where, todo, "unknown_reftype"
    )

"""What CRDS selects reference files by: an exposure's keywords under their data-model names."""

from __future__ import annotations

from typing import Final

from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["CRDS_KEYWORDS", "crds_parameters"]

#: keyword -> path in the data model; everything any rule of CRDS matches for the modes we know
CRDS_KEYWORDS: Final = {
    "TELESCOP": "meta.telescope",
    "INSTRUME": "meta.instrument.name",
    "DETECTOR": "meta.instrument.detector",
    "MODULE": "meta.instrument.module",
    "CHANNEL": "meta.instrument.channel",
    "BAND": "meta.instrument.band",
    "FILTER": "meta.instrument.filter",
    "PUPIL": "meta.instrument.pupil",
    "GRATING": "meta.instrument.grating",
    "CORONMSK": "meta.instrument.coronagraph",
    "FXD_SLIT": "meta.instrument.fixed_slit",
    "LAMP": "meta.instrument.lamp_state",
    "OPMODE": "meta.instrument.lamp_mode",
    "EXP_TYPE": "meta.exposure.type",
    "READPATT": "meta.exposure.readpatt",
    "NGROUPS": "meta.exposure.ngroups",
    "NINTS": "meta.exposure.nints",
    "NFRAMES": "meta.exposure.nframes",
    "GROUPGAP": "meta.exposure.groupgap",
    "NOUTPUTS": "meta.exposure.noutputs",
    "SUBARRAY": "meta.subarray.name",
    "SUBSTRT1": "meta.subarray.xstart",
    "SUBSTRT2": "meta.subarray.ystart",
    "SUBSIZE1": "meta.subarray.xsize",
    "SUBSIZE2": "meta.subarray.ysize",
    "TSOVISIT": "meta.visit.tsovisit",
    "VISITYPE": "meta.visit.type",
    "CROWDFLD": "meta.visit.crowded_field",
    "DATE-OBS": "meta.observation.date",
    "TIME-OBS": "meta.observation.time",
    "CAL_VER": "meta.calibration_software_version",
}


def crds_parameters(info: ExposureInfo) -> dict[str, str | int | float | bool]:
    """Collect what ``crds.getreferences`` wants to know about an exposure.

    The header of the first segment speaks; where it says nothing (a dictionary made by hand), the facts of
    `info` do.

    Returns
    -------
    dict
        Data-model path -> value. A keyword that is absent is left out: CRDS then matches ``UNDEFINED``.
    """
    known: dict[str, str | int | float | bool] = {
        "meta.telescope": "JWST",
        "meta.instrument.name": info.instrument,
        "meta.instrument.detector": info.detector,
        "meta.instrument.filter": info.filter,
        "meta.instrument.pupil": info.pupil,
        "meta.instrument.grating": info.grating,
        "meta.exposure.type": info.exp_type,
        "meta.exposure.readpatt": info.readpatt,
        "meta.exposure.ngroups": info.ngroups,
        "meta.exposure.nints": info.nints,
        "meta.exposure.nframes": info.nframes,
        "meta.exposure.groupgap": info.groupgap,
        "meta.exposure.noutputs": info.noutputs,
        "meta.subarray.name": info.subarray,
        "meta.visit.tsovisit": info.tsovisit,
    }
    parameters = {path: value for path, value in known.items() if value != ""}
    for keyword, path in CRDS_KEYWORDS.items():
        value = info.header.get(keyword)
        if isinstance(value, str | int | float | bool) and value != "":
            parameters[path] = value
    return parameters

"""The six modes as ExposureInfo with the header keywords CRDS selects by."""

from __future__ import annotations

from typing import Any

from tsostream.integration.exposure_info import ExposureInfo

#: EXP_TYPE -> (instrument, detector, subarray, readpatt, filter, pupil, grating, more keywords)
_MODES: dict[str, tuple[str, str, str, str, str, str, str, dict[str, Any]]] = {
    "NRS_BRIGHTOBJ": ("NIRSPEC", "NRS1", "SUB512", "NRSRAPID", "CLEAR", "", "PRISM", {"FXD_SLIT": "S1600A1"}),
    "NRC_TSGRISM": ("NIRCAM", "NRCALONG", "SUBGRISM64", "RAPID", "F444W", "GRISMR", "",
                    {"MODULE": "A", "CHANNEL": "LONG"}),
    "NIS_SOSS": ("NIRISS", "NIS", "SUBSTRIP96", "NISRAPID", "CLEAR", "GR700XD", "", {}),
    "MIR_LRS-SLITLESS": ("MIRI", "MIRIMAGE", "SLITLESSPRISM", "FASTR1", "P750L", "", "", {}),
    "NRC_TSIMAGE": ("NIRCAM", "NRCB1", "SUB64P", "RAPID", "F210M", "CLEAR", "",
                    {"MODULE": "B", "CHANNEL": "SHORT"}),
    "MIR_IMAGE": ("MIRI", "MIRIMAGE", "SUB64", "FASTR1", "F1500W", "", "", {}),
}  # fmt: skip
EXP_TYPES = tuple(_MODES)


def mode_info(exp_type: str, /, *, date: str = "2023-07-01", **changes: Any) -> ExposureInfo:
    """An exposure of a mode; keyword arguments change its facts, and its header with them."""
    instrument, detector, subarray, readpatt, optic, pupil, grating, more = _MODES[exp_type]
    facts: dict[str, Any] = {
        "exposure_id": "jw01366003001_04101_00001", "instrument": instrument, "detector": detector,
        "exp_type": exp_type, "level": "uncal", "subarray": subarray, "xstart": 1, "ystart": 1,
        "nx": 16, "ny": 8, "fastaxis": 1, "slowaxis": 2, "nints": 10, "ngroups": 5, "readpatt": readpatt,
        "filter": optic, "pupil": pupil, "grating": grating, "tsovisit": True,
    } | changes  # fmt: skip
    header = {
        "TELESCOP": "JWST", "INSTRUME": instrument, "DETECTOR": facts["detector"], "EXP_TYPE": facts["exp_type"],
        "SUBARRAY": facts["subarray"], "READPATT": facts["readpatt"], "FILTER": facts["filter"],
        "PUPIL": facts["pupil"], "GRATING": facts["grating"], "TSOVISIT": facts["tsovisit"],
        "NGROUPS": 5, "NINTS": 10, "DATE-OBS": date, "TIME-OBS": "12:00:00.000", "VISITYPE": "PRIME_TARGETED_FIXED",
    } | more  # fmt: skip
    return ExposureInfo(**facts, header={key: value for key, value in header.items() if value != ""})

"""Headers and tables of a level-1b file, as the observatory's ground system writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.simulate.integrate import Times, Timing
from tsostream.simulate.modes import PWCPOS, Mode

__all__ = ["GROUP", "INT_TIMES", "Clock", "group_rows", "int_times_rows", "primary_header", "sci_header"]

#: identity of the simulated exposure; the same for all, as the reference files beside it are
VISIT_ID: Final = "01366003001"
ROOT: Final = "jw01366003001_04101_00001"

INT_TIMES: Final = np.dtype(
    [("integration_number", ">i4")]
    + [
        (f"int_{point}_{scale}", ">f8")
        for scale in ("MJD_UTC", "BJD_TDB")
        for point in ("start", "mid", "end")
    ]
)

GROUP: Final = np.dtype(
    [
        ("integration_number", ">i4"), ("group_number", ">i2"), ("end_day", ">i2"),
        ("end_milliseconds", ">i4"), ("end_submilliseconds", ">i2"), ("group_end_time", "S26"),
        ("number_of_columns", ">i2"), ("number_of_rows", ">i2"), ("number_of_gaps", ">i2"),
        ("completion_code_number", ">i2"),
        ("completion_code_text", "S36"), ("bary_end_time", ">f8"), ("helio_end_time", ">f8"),
    ]
)  # fmt: skip

DAY: Final = 86400.0


@dataclass(frozen=True)
class Clock:
    """Absolute times of an exposure.

    Parameters
    ----------
    origin
        MJD UTC of the end of the first reset frame.
    """

    origin: float
    timing: Timing

    def utc(self, seconds: Times) -> Times:
        """MJD UTC at ``seconds`` since the origin."""
        return self.origin + seconds / DAY

    def tdb(self, seconds: Times) -> Times:
        """BJD(TDB) - 2400000.5: leap seconds, and a light travel time that changes as JWST moves."""
        light = 181.44 + 9.0e-5 * seconds
        return self.utc(seconds) + (69.184 + light) / DAY


def int_times_rows(clock: Clock, numbers: NDArray) -> NDArray:
    """INT_TIMES rows: start is the end of the reset frame, end that of the last frame, mid their mean."""
    timing = clock.timing
    start = timing.start(numbers)
    points = {"start": start, "mid": start + timing.integration / 2, "end": start + timing.integration}
    rows = np.zeros(numbers.size, INT_TIMES)
    rows["integration_number"] = numbers
    for point, seconds in points.items():
        rows[f"int_{point}_MJD_UTC"] = clock.utc(seconds)
        rows[f"int_{point}_BJD_TDB"] = clock.tdb(seconds)
    return rows


def group_rows(clock: Clock, numbers: NDArray, mode: Mode) -> NDArray:
    """GROUP rows: one per group, with the time its last frame ended."""
    timing = clock.timing
    rows = np.zeros(numbers.size * timing.groups, GROUP)
    index, group = np.divmod(np.arange(rows.size), timing.groups)
    seconds = timing.start(numbers[index]) + (group + 1) * timing.frame
    utc = clock.utc(seconds)
    rows["integration_number"] = numbers[index]
    rows["group_number"] = group + 1
    day = np.floor(utc)
    milliseconds = (utc - day) * DAY * 1000
    rows["end_day"] = day - 51544  # days since 2000-01-01
    rows["end_milliseconds"] = milliseconds
    rows["end_submilliseconds"] = (milliseconds % 1) * 1000
    stamp = np.datetime64("1858-11-17T00:00:00.000000") + np.rint(utc * DAY * 1e6).astype("timedelta64[us]")
    rows["group_end_time"] = np.datetime_as_string(stamp, unit="us")
    rows["number_of_columns"], rows["number_of_rows"] = mode.nx, mode.ny
    rows["completion_code_text"] = "COMPLETE"
    rows["bary_end_time"] = clock.tdb(seconds)
    rows["helio_end_time"] = clock.tdb(seconds) - 1.5 / DAY
    return rows


@dataclass(frozen=True)
class Part:
    """One segment: its number, how many there are, first and last integration (1-based, inclusive)."""

    number: int
    total: int
    first: int
    last: int


def primary_header(mode: Mode, clock: Clock, part: Part, filename: str) -> fits.Header:
    """PRIMARY header of a segment."""
    timing = clock.timing
    start = np.datetime64("1858-11-17T00:00:00.000") + np.timedelta64(round(clock.origin * DAY * 1000), "ms")
    date, time = str(start).split("T")
    utc, tdb, length = clock.utc, clock.tdb, timing.length
    cards: list[tuple[str, Any, str]] = [
        ("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"), ("EXTEND", True, ""),
        ("DATE", "2026-01-01T00:00:00.000", "UTC date file created"),
        ("ORIGIN", "TSOSTREAM", "simulated, not observed"), ("TIMESYS", "UTC", "principal time system"),
        ("FILENAME", filename, ""), ("DATAMODL", "Level1bModel", "Type of data model"),
        ("TELESCOP", "JWST", "Telescope used to acquire the data"),
        ("TITLE", "Simulated transit", "Proposal title"),
        ("DATE-OBS", date, "[yyyy-mm-dd] UTC date at start of exposure"),
        ("TIME-OBS", time, "[hh:mm:ss.sss] UTC time at start of exposure"),
        ("OBS_ID", f"V{VISIT_ID}P0000000004101", "Programmatic observation identifier"),
        ("VISIT_ID", VISIT_ID, "Visit identifier"), ("PROGRAM", VISIT_ID[:5], "Program number"),
        ("OBSERVTN", VISIT_ID[5:8], "Observation number"), ("VISIT", VISIT_ID[8:], "Visit number"),
        ("VISITGRP", "04", "Visit group identifier"), ("SEQ_ID", "1", "Parallel sequence identifier"),
        ("ACT_ID", "01", "Activity identifier"), ("EXPOSURE", "00001", "Exposure request number"),
        ("TSOVISIT", True, "Time Series Observation visit indicator"),
        ("TARGPROP", "SIM-STAR-B", "Proposer's name for the target"), ("TARGNAME", "SIM-STAR", "Target name"),
        ("TARGTYPE", "FIXED", "Type of target"), ("TARG_RA", 217.3, "[deg]"), ("TARG_DEC", -3.4, "[deg]"),
        ("SRCTYAPT", "POINT", "Source type from APT"),
        ("INSTRUME", mode.instrument, "Instrument"), ("DETECTOR", mode.detector, "Detector"),
        *[(key, value, "") for key, value in (
            ("MODULE", mode.module), ("CHANNEL", mode.channel), ("FILTER", mode.filter),
            ("PUPIL", mode.pupil), ("GRATING", mode.grating), ("FXD_SLIT", mode.slit)) if value],
        ("EXP_TYPE", mode.exp_type, "Type of data in the exposure"),
        ("EXPSTART", utc(0.0), "[d] exposure start time in MJD"),
        ("EXPMID", utc(length / 2), "[d] exposure mid time in MJD"),
        ("EXPEND", utc(length), "[d] exposure end time in MJD"),
        ("READPATT", mode.readpatt, "Readout pattern"),
        ("EXSEGNUM", part.number, "Sequential segment number"),
        ("EXSEGTOT", part.total, "Number of segments"),
        ("NOUTPUTS", mode.nout, "Number of detector outputs used"),
        ("NINTS", timing.ints, "Number of integrations in exposure"),
        ("INTSTART", part.first, "Starting integration number in this segment"),
        ("INTEND", part.last, "Ending integration number in this segment"),
        ("NGROUPS", timing.groups, "Number of groups in integration"),
        ("NFRAMES", 1, "Number of frames per group"), ("FRMDIVSR", 1, "Divisor applied to averaged groups"),
        ("GROUPGAP", 0, "Number of frames dropped between groups"),
        ("DRPFRMS1", 0, "Frames dropped prior to first integration"),
        ("NSAMPLES", 1, "Number of A/D samples per pixel"), ("TSAMPLE", 10.0, "[us] Time between samples"),
        ("TFRAME", timing.frame, "[s] Time between frames"),
        ("TGROUP", timing.frame, "[s] Time between groups"),
        ("EFFINTTM", round(timing.integration, 8), "[s] Effective integration time"),
        ("EFFEXPTM", round(timing.integration * timing.ints, 6), "[s] Effective exposure time"),
        ("DURATION", round(length, 6), "[s] Total duration of exposure"),
        ("NRSTSTRT", 1, "Number of reset frames at start of exposure"),
        ("NRESETS", 1, "Number of reset frames between integrations"),
        ("ZEROFRAM", False, "Zero frame was downlinked separately"),
        ("DATAPROB", False, "Science telemetry indicated a problem"),
        ("SUBARRAY", mode.subarray, "Subarray used"), ("SUBSTRT1", mode.xstart, "Starting pixel in axis 1"),
        ("SUBSTRT2", mode.ystart, "Starting pixel in axis 2"), ("SUBSIZE1", mode.nx, "Pixels in axis 1"),
        ("SUBSIZE2", mode.ny, "Pixels in axis 2"), ("FASTAXIS", mode.fast, "Fast readout axis direction"),
        ("SLOWAXIS", mode.slow, "Slow readout axis direction"),
        ("NUMDTHPT", 1, "Total number of points in dither pattern"),
        ("APERNAME", mode.aperture, "science aperture used"), ("PPS_APER", mode.aperture, "from PPS"),
        ("BARTDELT", round((tdb(0.0) - utc(0.0)) * DAY, 6), "[s] Barycentric correction at start"),
        ("BSTRTIME", tdb(0.0), "[d] Barycentric exposure start"),
        ("BMIDTIME", tdb(length / 2), "[d] Barycentric exposure mid"),
        ("BENDTIME", tdb(length), "[d] Barycentric exposure end"),
        ("HELIDELT", round((tdb(0.0) - utc(0.0)) * DAY - 1.5, 6), "[s] Heliocentric correction at start"),
        ("PCS_MODE", "FINEGUIDE", "Pointing control"), ("HGA_MOVE", False, "High gain antenna moved"),
    ]  # fmt: skip
    if mode.instrument == "NIRSPEC":
        cards += [("LAMP", "NONE", ""), ("GWA_XTIL", 0.3628, "[deg]"), ("GWA_YTIL", 0.1235, "[deg]"),
                  ("GWA_TILT", 38.6, "[K]"), ("GWA_XP_V", 0.3628, ""), ("GWA_YP_V", 0.1235, "")]  # fmt: skip
    if mode.kind == "soss":
        cards.append(("PWCPOS", PWCPOS, "[deg] Pupil wheel position"))
    return fits.Header([fits.Card(*card) for card in cards])


def sci_header(mode: Mode, clock: Clock, ints: int, position: tuple[float, float]) -> fits.Header:
    """Header of the SCI extension; its data are written separately.

    Parameters
    ----------
    ints
        Integrations in this file.
    position
        (x, y) of the source, 0-based.
    """
    timing, utc, tdb = clock.timing, clock.utc, clock.tdb
    length = timing.length
    cards: list[tuple[str, Any, str]] = [
        ("XTENSION", "IMAGE", "Image extension"), ("BITPIX", 16, "array data type"), ("NAXIS", 4, ""),
        ("NAXIS1", mode.nx, ""), ("NAXIS2", mode.ny, ""), ("NAXIS3", timing.groups, ""), ("NAXIS4", ints, ""),
        ("PCOUNT", 0, ""), ("GCOUNT", 1, ""), ("BSCALE", 1, ""), ("BZERO", 32768, ""),
        ("EXTNAME", "SCI", "extension name"), ("BUNIT", "DN", "physical units of the array values"),
        ("SRCTYPE", "POINT", "Source type used for calibration"),
        ("MJD-BEG", utc(0.0), "[d]"), ("MJD-AVG", utc(length / 2), "[d]"), ("MJD-END", utc(length), "[d]"),
        ("TDB-BEG", tdb(0.0), "[d]"), ("TDB-MID", tdb(length / 2), "[d]"), ("TDB-END", tdb(length), "[d]"),
        ("XPOSURE", round(timing.integration * timing.ints, 6), "[s] Effective exposure time"),
        ("TELAPSE", round(length, 6), "[s] Total elapsed time"),
        ("REFFRAME", "EME2000", "Ephemeris reference frame"), ("RADESYS", "ICRS", "coordinate frame"),
        ("WCSAXES", 3 if mode.dispaxis else 2, "number of WCS axes"),
        ("CRPIX1", position[0] + 1, ""), ("CRPIX2", position[1] + 1, ""), ("CRVAL1", 217.3, ""),
        ("CRVAL2", -3.4, ""), ("V2_REF", 300.0, "[arcsec]"), ("V3_REF", -480.0, "[arcsec]"),
        ("VPARITY", -1, ""), ("V3I_YANG", 0.0, "[deg]"), ("RA_REF", 217.3, "[deg]"),
        ("DEC_REF", -3.4, "[deg]"),
        ("ROLL_REF", 100.0, "[deg]"), ("VELOSYS", 0.0, "[m/s]"),
    ]  # fmt: skip
    if mode.dispaxis:
        cards.append(("DISPAXIS", mode.dispaxis, "Dispersion direction"))
    if mode.kind in ("image", "grism"):
        cards += [("XREF_SCI", round(position[0] + 1, 4), "Aperture X reference point in SCI frame"),
                  ("YREF_SCI", round(position[1] + 1, 4), "Aperture Y reference point in SCI")]  # fmt: skip
    cards.append(("EXTVER", 1, "extension value"))
    return fits.Header([fits.Card(*card) for card in cards])

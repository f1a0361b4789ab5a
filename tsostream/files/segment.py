"""One segment file: header facts, byte offset and shape of each extension.

A segment is how the archive cut an exposure into files. `open_segment` reads its headers, checks that the
file is what it says, and never touches a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tsostream.errors import InputError, Problem
from tsostream.files.headers import Hdu, Scan, TableColumn, scan_hdus, table_columns
from tsostream.files.identity import Keywords, exposure_info
from tsostream.files.modes import mode_problem
from tsostream.files.unpack import is_gzip, unpack
from tsostream.integration.exposure_info import ExposureInfo, Level

__all__ = [
    "PLANES",
    "TIME_TABLE_COLUMNS",
    "Extension",
    "SegmentFile",
    "TimeTable",
    "open_segment",
    "os_problem",
]

#: cubes a slope product may carry, in the order they are handed out
PLANES: Final = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")

#: columns of INT_TIMES behind ``integration_number``, lower case, in the order of `TIME_COLUMNS`
TIME_TABLE_COLUMNS: Final = tuple(
    f"int_{part}_{scale}" for scale in ("mjd_utc", "bjd_tdb") for part in ("start", "mid", "end")
)

#: keywords only stage 2 writes (COMPLETE or SKIPPED); any of them makes slopes calints
_STAGE_2: Final = ("S_WCS", "S_FLAT", "S_PHOTOM", "S_EXTR2D", "S_SRCTYP", "S_BKDSUB", "S_WAVCOR", "S_PTHLOS")
#: extensions only stage 2 makes
_STAGE_2_EXTENSIONS: Final = ("WAVELENGTH", "VAR_FLAT", "AREA")
_SUPPORTED: Final = (
    "expected uncal (4-D SCI of 16-bit integers) or rateints, calints, crfints (3-D SCI of 32-bit floats)"
)
_FETCH: Final = "fetch the file again"
_WRONG_FILE: Final = "give the uncal, rateints, calints or crfints file instead"


@dataclass(frozen=True)
class Extension:
    """An image extension.

    Parameters
    ----------
    name, ver
        EXTNAME and EXTVER.
    offset
        First byte of the data.
    shape
        numpy order: [integration, (group,) y, x] for cubes.
    bitpix, bscale, bzero
        As in the header; 16 with ``bzero`` 32768 is uint16, 32 with 2147483648 uint32.
    """

    name: str
    ver: int
    offset: int
    shape: tuple[int, ...]
    bitpix: int
    bscale: float = 1.0
    bzero: float = 0.0

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return abs(self.bitpix) // 8

    @property
    def bytes_per_integration(self) -> int:
        """Bytes of one step along the first axis."""
        return math.prod(self.shape[1:]) * self.itemsize


@dataclass(frozen=True)
class TimeTable:
    """Where INT_TIMES lies in the file.

    Parameters
    ----------
    offset, rows, row_bytes
        First byte, number of rows, bytes per row.
    columns
        Lower-case column name -> place in the row.
    """

    offset: int
    rows: int
    row_bytes: int
    columns: dict[str, TableColumn]


@dataclass(frozen=True)
class SegmentFile:
    """What the headers of one segment file say.

    Parameters
    ----------
    path
        The file to read pixels from; for ``.fits.gz`` the unpacked copy.
    info
        Facts of the exposure.
    first, last
        Integrations in the exposure, 1-based, inclusive (INTSTART, INTEND).
    extensions
        Name -> `Extension`, all image extensions with data (of several versions the first).
    size, mtime_ns
        Of ``source_path``, for provenance.
    header_sha256
        Over the raw header bytes of all HDUs.
    segment_number, segment_total
        EXSEGNUM (absent: 1) and EXSEGTOT (absent: None).
    notes
        Oddities worth a line, not findings.
    source_path
        The file the user gave.
    data_size
        Bytes of ``path``.
    time_table
        INT_TIMES, or None when the file has none that makes sense.
    times_trusted
        False when the audit of the exposure found that the table belongs to another segment.
    """

    path: Path
    info: ExposureInfo
    first: int
    last: int
    extensions: dict[str, Extension]
    size: int
    mtime_ns: int
    header_sha256: str
    segment_number: int
    segment_total: int | None
    notes: tuple[str, ...]
    source_path: Path
    data_size: int = 0
    time_table: TimeTable | None = field(default=None, repr=False)
    times_trusted: bool = True

    @property
    def count(self) -> int:
        """Integrations in the file."""
        return self.last - self.first + 1

    @property
    def planes(self) -> tuple[str, ...]:
        """Extensions that make up an integration: SCI (ZEROFRAME) for ramps, SCI, ERR, DQ, VAR_* for slopes."""
        if self.info.is_ramp:
            return ("SCI", "ZEROFRAME") if self.info.zeroframe else ("SCI",)
        return tuple(name for name in PLANES if name in self.extensions)

    def bytes_per_integration(self, names: tuple[str, ...] | None = None) -> int:
        """Bytes of one integration over the extensions ``names`` (default `planes`)."""
        return sum(self.extensions[name].bytes_per_integration for name in names or self.planes)


def open_segment(path: str | Path, *, scratch: Path | None = None) -> SegmentFile:
    """Read the headers of a segment file and check them.

    Parameters
    ----------
    path
        A FITS file, or a packed one (``.fits.gz``), which is unpacked once.
    scratch
        Where packed files are unpacked; default a temporary directory removed at exit.

    Raises
    ------
    InputError
        With every problem of this file. Codes: ``not_found, no_permission, directory, unreadable, empty,
        not_fits, corrupt_header, corrupt_gzip, scratch, truncated, target_acquisition, unsupported_mode,
        not_tso, unsupported_product, missing_extension, bad_extension, integration_range, axes,
        missing_keywords, bad_keyword``.
    """
    path = Path(path)
    where = str(path)
    try:
        stat = path.stat()
        if path.is_dir():
            raise InputError(
                Problem("this is a directory, expected a file", where, "give its files", "directory")
            )
        data_path = unpack(path, scratch) if is_gzip(path) else path
        data_size = data_path.stat().st_size
        with data_path.open("rb", buffering=1 << 16) as file:
            scan = scan_hdus(file, data_size, where)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise InputError(os_problem(error, where)) from error
    checked = _Checked(scan, where)
    return SegmentFile(
        path=data_path,
        info=checked.info,
        first=checked.first,
        last=checked.last,
        extensions=checked.extensions,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        header_sha256=scan.header_sha256,
        segment_number=checked.segment_number,
        segment_total=checked.segment_total,
        notes=tuple(checked.notes),
        source_path=path,
        data_size=data_size,
        time_table=checked.time_table,
    )


def os_problem(error: OSError | ValueError, where: str) -> Problem:
    """Say what the operating system said, in words."""
    if isinstance(error, FileNotFoundError):
        return Problem("there is no such file", where, "check the path", "not_found")
    if isinstance(error, PermissionError):
        return Problem(
            "the file may not be read (permission denied)", where, "change its permissions", "no_permission"
        )
    reason = getattr(error, "strerror", None) or error
    return Problem(f"the file cannot be read ({reason})", where, "check the path and the disk", "unreadable")


class _Checked:
    """Facts of one scanned file; raises everything that is wrong with it at once."""

    def __init__(self, scan: Scan, where: str):
        self.scan, self.where = scan, where
        self.problems: list[Problem] = []
        self.notes: list[str] = list(scan.notes)
        primary = scan.hdus[0].header
        sci = self._science_hdu(primary)
        self.header: dict[str, Any] = {**sci.header, **primary}
        self.level = self._level(sci, primary)
        keys = Keywords(self.header, where)
        self.info = exposure_info(keys, self.level, sci.shape)
        self.segment_number = keys.integer("EXSEGNUM", 1, low=1)
        total = keys.integer("EXSEGTOT", 0, low=0)
        self.segment_total = total or None
        count = sci.shape[0]
        start, end = keys.header.get("INTSTART"), keys.header.get("INTEND")
        self.first = keys.integer("INTSTART", 1 if end is None else keys.integer("INTEND") - count + 1, low=1)
        self.last = keys.integer("INTEND", self.first + count - 1, low=1)
        if (start is None) != (end is None):
            self.notes.append("only one of INTSTART and INTEND is there; the other follows from the array")
        self.problems += keys.problems()
        self._check_axes(sci)
        self.extensions = self._image_extensions(sci)
        self._find_zero_frames(primary)
        self._check_truncation(count)
        self.time_table = self._time_table()
        bad = [name for hdu in scan.hdus for name in hdu.bad_cards]
        if bad:
            self.notes.append(
                f"{len(bad)} header cards cannot be parsed and were ignored: {', '.join(bad[:5])}"
            )
        if self.problems:
            raise InputError(self.problems)
        self._add_notes()

    def _found(self) -> str:
        return ", ".join(hdu.name or "(no name)" for hdu in self.scan.hdus[:12])

    def _report(self, code: str, what: str, todo: str = _FETCH) -> None:
        self.problems.append(Problem(what, where=self.where, todo=todo, code=code))

    def _science_hdu(self, primary: dict[str, Any]) -> Hdu:
        """Find the SCI extension; raise when this file is something else altogether."""
        science = self.scan.named("SCI")
        if "REFTYPE" in primary:
            kind = primary["REFTYPE"]
            self._report(
                "unsupported_product", f"this is a {kind} reference file", "give it with --refs or --override"
            )
        elif self.scan.named("EXTRACT1D") or self.scan.named("COMBINE1D"):
            self._report(
                "unsupported_product",
                "this file holds extracted spectra (x1d or x1dints), no images",
                _WRONG_FILE,
            )
        elif (wrong := mode_problem(primary, self.where)) is not None and ("EXP_TYPE" in primary or science):
            self.problems.append(wrong)
        if not self.problems and not science:
            if self.scan.truncated is not None:
                self._check_truncation(0)
            self._report(
                "missing_extension", f"there is no SCI extension (found: {self._found()})", _WRONG_FILE
            )
        if not self.problems and len(science) > 1:
            what = f"there are {len(science)} SCI extensions, expected one (a multi-slit product?)"
            self._report("unsupported_product", what, _WRONG_FILE)
        if self.problems:
            raise InputError(self.problems)
        return science[0]

    def _level(self, sci: Hdu, primary: dict[str, Any]) -> Level:
        """Product level from dimensions, type and the steps that were run; raises for any other product."""
        if sci.kind != "IMAGE":
            packed = "ZIMAGE" in sci.header
            what = "SCI is a tile-compressed image" if packed else f"SCI is a {sci.kind}, expected an IMAGE"
            self._report(
                "unsupported_product", what, "unpack the file with funpack" if packed else _WRONG_FILE
            )
            raise InputError(self.problems)
        model, bzero, axes = (
            str(primary.get("DATAMODL", "unknown")),
            sci.header.get("BZERO", 0),
            len(sci.shape),
        )
        if axes == 4 and sci.bitpix == 16 and bzero == 32768:
            return "uncal"
        if axes == 3 and sci.bitpix == -32 and "IFU" not in model:
            if primary.get("S_OUTLIR") == "COMPLETE":
                return "crfints"
            stage_2 = any(key in primary for key in _STAGE_2)
            return (
                "calints"
                if stage_2 or any(self.scan.named(name) for name in _STAGE_2_EXTENSIONS)
                else "rateints"
            )
        guess = {2: "a rate or cal image?", 4: "a ramp product?"}.get(axes, "another product?")
        found = (
            f"{axes}-D SCI of shape {sci.shape} with BITPIX {sci.bitpix} and BZERO {bzero} "
            f"(DATAMODL {model}; {guess})"
        )
        self._report("unsupported_product", f"{found}, {_SUPPORTED}", _WRONG_FILE)
        raise InputError(self.problems)

    def _check_axes(self, sci: Hdu) -> None:
        """Compare the array with INTSTART, INTEND, NGROUPS and SUBSIZE."""
        count = sci.shape[0]
        if 0 in sci.shape:
            self._report("axes", f"SCI holds nothing: its shape is {sci.shape}")
        if self.last - self.first + 1 != count:
            self._report(
                "integration_range",
                f"INTSTART {self.first} and INTEND {self.last} promise {self.last - self.first + 1} "
                f"integrations, but SCI holds {count}",
                "fetch the file again, or correct INTSTART and INTEND in its primary header",
            )
        if self.info.is_ramp and sci.shape[1] != self.info.ngroups:
            self._report(
                "axes", f"NGROUPS is {self.info.ngroups}, but SCI holds {sci.shape[1]} groups per integration"
            )
        # calints of spectroscopic modes may be cut out (extract_2d), so there the subarray may be larger
        for key, axis in (("SUBSIZE1", -1), ("SUBSIZE2", -2)):
            size = self.header.get(key)
            if isinstance(size, int) and size != sci.shape[axis]:
                what = (
                    f"{key} is {size}, but SCI holds {sci.shape[axis]} {'columns' if axis == -1 else 'rows'}"
                )
                if self.level in ("uncal", "rateints"):
                    self._report("axes", what)
                else:
                    self.notes.append(f"{what}: a cut-out")

    def _image_extensions(self, sci: Hdu) -> dict[str, Extension]:
        """All image extensions; those that make up an integration are checked."""
        found: dict[str, Extension] = {}
        for hdu in self.scan.hdus:
            if hdu.kind != "IMAGE" or not hdu.size or hdu.name in found:
                continue
            scale, zero = hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0)
            if not isinstance(scale, int | float) or not isinstance(zero, int | float):
                self._report(
                    "bad_extension", f"{hdu.name} has BSCALE {scale!r} and BZERO {zero!r}, expected numbers"
                )
                continue
            found[hdu.name] = Extension(
                hdu.name, hdu.ver, hdu.offset, hdu.shape, hdu.bitpix, float(scale), float(zero)
            )
        expected = {"SCI": (16, 32768.0)} if self.level == "uncal" else dict.fromkeys(PLANES, (-32, 0.0))
        if self.level != "uncal":
            expected["DQ"] = (32, 2147483648.0)
            missing = [name for name in ("ERR", "DQ") if name not in found]
            if missing:
                what = f"there is no {' and no '.join(missing)} extension (found: {self._found()})"
                self._report(
                    "missing_extension", what, "fetch the file again, or make it anew with calwebb_detector1"
                )
        for name, (bitpix, zero) in expected.items():
            ext = found.get(name)
            if ext is None:
                continue
            if ext.shape != sci.shape:
                self._report("bad_extension", f"{name} has the shape {ext.shape}, but SCI has {sci.shape}")
            if (ext.bitpix, ext.bscale, ext.bzero) != (bitpix, 1.0, zero):
                self._report(
                    "bad_extension",
                    f"{name} has BITPIX {ext.bitpix}, BSCALE {ext.bscale:g}, BZERO {ext.bzero:g}, "
                    f"expected {bitpix}, 1, {zero:g}",
                    "write it as the archive does",
                )
        return found

    def _find_zero_frames(self, primary: dict[str, Any]) -> None:
        """Note whether the file holds the zero frames it promises, and can be used."""
        if self.level != "uncal" or primary.get("ZEROFRAM") is not True:
            return
        zero, sci = self.extensions.get("ZEROFRAME"), self.extensions["SCI"]
        if zero is None:
            self.notes.append("ZEROFRAM is T, but there is no ZEROFRAME extension: nothing is made of it")
            return
        shape = (sci.shape[0], *sci.shape[2:])
        if zero.shape != shape or (zero.bitpix, zero.bscale, zero.bzero) != (16, 1.0, 32768.0):
            self._report(
                "bad_extension",
                f"ZEROFRAME has shape {zero.shape}, BITPIX {zero.bitpix}, BSCALE {zero.bscale:g}, "
                f"BZERO {zero.bzero:g}, expected {shape}, 16, 1, 32768",
                "fetch the file again, or set ZEROFRAM to F to do without it",
            )
            return
        self.info = replace(self.info, zeroframe=True)

    def _check_truncation(self, count: int) -> None:
        """Report a file that ends before its headers say so."""
        hdu = self.scan.truncated
        if hdu is None:
            return
        there = max(self.scan.size - hdu.offset, 0)
        promised = hdu.offset + hdu.size
        what = f"the file ends after {self.scan.size} bytes, {promised} are promised: extension {hdu.name}"
        if count and hdu.kind == "IMAGE" and hdu.shape[0] == count:
            whole = there // (hdu.size // count)
            what += (
                f" breaks off in integration {self.first + whole} of {self.first}-{self.first + count - 1}"
            )
        else:
            what += f" holds {there} of {hdu.size} bytes"
        self._report("truncated", what)

    def _time_table(self) -> TimeTable | None:
        """INT_TIMES, if there is one with the columns we need."""
        tables = self.scan.named("INT_TIMES")
        if not tables:
            self.notes.append("there is no INT_TIMES table: times come from the header, without BJD")
            return None
        hdu = tables[0]
        columns = table_columns(hdu)
        if not {"integration_number", *TIME_TABLE_COLUMNS[:3]} <= columns.keys():
            self.notes.append("INT_TIMES lacks its columns: times come from the header, without BJD")
            return None
        if not hdu.shape[0]:
            self.notes.append("INT_TIMES has no rows: times come from the header, without BJD")
            return None
        return TimeTable(hdu.offset, hdu.shape[0], hdu.shape[1], columns)

    def _add_notes(self) -> None:
        """Note what is odd, but does not stand in the way."""
        if self.info.nints < 2:
            self.notes.append("NINTS is 1: a time series of one integration")
        if self.level != "uncal":
            absent = [name for name in ("VAR_POISSON", "VAR_RNOISE") if name not in self.extensions]
            if absent:
                self.notes.append(f"there is no {' and no '.join(absent)}: errors come from ERR alone")

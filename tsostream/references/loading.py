"""Opens a reference file, checks that it belongs to the exposure, and cuts it to the subarray."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.references.catalog import ArraySpec, ReferenceType, reference_type
from tsostream.references.checks import check_keywords, check_units
from tsostream.references.dq_def import remap_dq
from tsostream.references.fits_arrays import (
    describe_extensions,
    extension_keys,
    is_image,
    open_reference,
    read_image,
    read_table,
)
from tsostream.references.geometry import Box, box_from_keywords, full_frame
from tsostream.references.headers import header_dict, read_keywords
from tsostream.references.small_files import read_emicorr, read_extract1d, read_wavelengthrange
from tsostream.references.soss_files import read_pastasoss
from tsostream.references.specwcs import read_specwcs
from tsostream.references.wavecorr_file import read_wavecorr

#: types in JSON and ASDF whose contents are read with the others
_READERS = {
    "emicorr": read_emicorr,
    "extract1d": read_extract1d,
    "wavelengthrange": read_wavelengthrange,
    "pastasoss": read_pastasoss,
    "specwcs": read_specwcs,
    "wavecorr": read_wavecorr,
}

__all__ = ["LoadedReferences", "load_reference", "load_references"]

log = logging.getLogger(__name__)

_STRUCTURE = (
    "XTENSION",
    "BITPIX",
    "NAXIS",
    "PCOUNT",
    "GCOUNT",
    "EXTNAME",
    "EXTVER",
    "BSCALE",
    "BZERO",
    "TFIELDS",
)


@dataclass(frozen=True)
class LoadedReferences:
    """All references of an exposure.

    Parameters
    ----------
    references
        Reference type -> the reference, cut and read-only.
    notes
        What is odd but no reason to stop: names that disagree while the geometry fits, dropped DQ bits.
    """

    references: dict[str, Reference]
    notes: tuple[Problem, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of all arrays and tables [bytes], for the plan."""
        held = [*self.references.values()]
        return sum(a.nbytes for r in held for a in (*r.arrays.values(), *r.tables.values()))


def load_references(paths: Mapping[str, Path], info: ExposureInfo) -> LoadedReferences:
    """Load every reference of an exposure, once.

    Parameters
    ----------
    paths
        Reference type -> file.
    info
        The exposure.

    Raises
    ------
    ReferenceMismatchError
        With the problems of all files.
    """
    loaded: dict[str, Reference] = {}
    notes: list[Problem] = []
    problems: list[Problem] = []
    for reftype, path in paths.items():
        try:
            loaded[reftype] = load_reference(path, reftype, info, notes=notes)
        except ReferenceMismatchError as exc:
            problems += exc.problems
    if problems:
        raise ReferenceMismatchError(problems)
    return LoadedReferences(loaded, tuple(notes))


def load_reference(
    path: Path | str, reftype: str, info: ExposureInfo, *, notes: list[Problem] | None = None
) -> Reference:
    """Load one reference and cut it to the subarray of the exposure.

    Parameters
    ----------
    path
        FITS or FITS.gz; ASDF or JSON for the types that come in these forms (only their keywords are read).
    reftype
        Name from `REFERENCE_TYPES`, or an alias.
    info
        The exposure.
    notes
        Findings that are no reason to stop are appended here; without it they are logged as warnings.

    Returns
    -------
    Reference
        Arrays ``[..., y, x]``: DQ uint32 with the standard bits, everything else float32; native,
        C-contiguous, read-only. Memory in use on the way: the cut and a band of rows.

    Raises
    ------
    ReferenceMismatchError
        With every reason why this file is not the reference.
    ConfigError
        When there is no such reference type.
    """
    kind = reference_type(reftype)
    path = Path(path)
    found: list[Problem] = []
    if kind.layout == "other":
        loaded = _load_other(path, kind, info, found)
    else:
        with open_reference(path) as hdus:
            loaded = _load_fits(path, hdus, kind, info, found)
    if notes is None:
        for note in found:
            log.warning("%s", note)
    else:
        notes += found
    return loaded


def _sha256(path: Path) -> str:
    """Hash the file as it lies on disk (for a compressed file: the compressed bytes)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load_other(path: Path, kind: ReferenceType, info: ExposureInfo, notes: list[Problem]) -> Reference:
    """Check the selectors of an ASDF or JSON reference; its contents are read by the step that wants them."""
    try:
        keywords = read_keywords(path)
        problems = check_keywords(keywords, kind, info, str(path), notes)
        if problems:
            raise ReferenceMismatchError(problems)
        sha256 = _sha256(path)
        arrays: dict[str, npt.NDArray] = {}
        if kind.name in _READERS:
            arrays, contents = _READERS[kind.name](path)
            keywords = {**keywords, **contents}
    except (OSError, ValueError) as exc:
        if isinstance(exc, ReferenceMismatchError):
            raise
        problem = Problem(
            f"the {kind.name} reference cannot be read ({exc})",
            str(path),
            "give the right file",
            "unreadable",
        )
        raise ReferenceMismatchError(problem) from exc
    return Reference(kind.name, path.name, arrays, keywords, {}, str(path), sha256)


def _load_fits(
    path: Path, hdus: fits.HDUList, kind: ReferenceType, info: ExposureInfo, notes: list[Problem]
) -> Reference:
    """Check everything that headers tell, then read."""
    where = str(path)
    keys = extension_keys(hdus)
    keywords = _all_keywords(hdus, keys, kind)
    problems = check_keywords(keywords, kind, info, where, notes)
    placed = _place_arrays(hdus, keys, kind, info, problems, where)
    problems += [_missing(name, kind, hdus, where) for name in kind.tables if name not in keys]
    if kind.arrays and not placed and not problems and not any(name in keys for name in kind.extra_tables):
        problems.append(_missing(" or ".join((kind.arrays[0].name, *kind.extra_tables)), kind, hdus, where))
    cut = None
    if kind.layout == "image" and not problems:
        if kind.arrays[0] in placed:
            problems += check_units(hdus[placed[kind.arrays[0]]].header, kind, where, notes)
        cut = _cut(hdus, placed, kind, keywords, info, problems, notes, where)
    if problems:
        raise ReferenceMismatchError(problems)

    arrays: dict[str, npt.NDArray] = {}
    tables: dict[str, npt.NDArray] = {}
    if kind.layout == "image":
        for spec, number in placed.items():
            hdu = hdus[number]
            whole = spec.uncut_ndim == len(hdu.shape)
            arrays[spec.name] = _read_array(hdu, None if whole else cut, spec, hdus, keys, notes, where)
        if any(spec.is_dq for spec in kind.arrays) and "DQ" not in arrays:
            # a step need not ask: no DQ in the file means that no pixel is flagged
            arrays["DQ"] = np.zeros(info.frame_shape, dtype=np.uint32)
            arrays["DQ"].flags.writeable = False
            notes.append(Problem("no DQ extension; no pixel is flagged", where, "", "no_dq"))
        tables |= {key: read_table(hdus[keys[key]]) for key in kind.extra_tables if key in keys}
    else:
        for key, number in keys.items():
            if is_image(hdus[number]):
                arrays[key] = read_image(hdus[number], None, bits=False)
            elif isinstance(hdus[number], fits.BinTableHDU) and key != "ASDF":
                tables[key] = read_table(hdus[number])
    box = None if cut is None else (info.xstart, info.ystart, info.nx, info.ny)
    return Reference(kind.name, path.name, arrays, keywords, tables, where, _sha256(path), box)


def _all_keywords(hdus: fits.HDUList, keys: Mapping[str, int], kind: ReferenceType) -> dict[str, Any]:
    """Give the PRIMARY keywords, and those of the first array that PRIMARY does not have."""
    keywords = header_dict(hdus[0].header)
    names = [kind.arrays[0].name, *kind.arrays[0].also] if kind.arrays else list(kind.tables) or list(keys)
    for name in names:
        if name in keys:
            for key, value in header_dict(hdus[keys[name]].header).items():
                if not key.startswith(_STRUCTURE):
                    keywords.setdefault(key, value)
            break
    return keywords


def _missing(name: str, kind: ReferenceType, hdus: fits.HDUList, where: str) -> Problem:
    return Problem(
        f"a {kind.name} reference needs the extension {name}, found {describe_extensions(hdus)}",
        where,
        f"give a {kind.name.upper()} reference in CRDS format",
        "missing_extension",
    )


def _place_arrays(
    hdus: fits.HDUList,
    keys: Mapping[str, int],
    kind: ReferenceType,
    info: ExposureInfo,
    problems: list[Problem],
    where: str,
) -> dict[ArraySpec, int]:
    """Find each array's extension; check its dimensions, and that all of them cover the same pixels."""
    placed: dict[ArraySpec, int] = {}
    plane: tuple[int, ...] | None = None
    for spec in kind.arrays:
        name = next((name for name in (spec.name, *spec.also) if name in keys), None)
        if name is None or not is_image(hdus[keys[name]]):
            # an optional extension may be there as an empty placeholder
            if spec.required:
                problems.append(_missing(spec.name, kind, hdus, where))
            continue
        shape = hdus[keys[name]].shape
        first = spec is kind.arrays[0]
        allowed = (kind.ndim_miri if info.is_miri else kind.ndim_nir) if first else ()
        allowed = allowed or spec.ndim
        if len(shape) not in allowed or 0 in shape:
            wanted = " or ".join(f"{number}-D" for number in allowed)
            what = (
                f"{name} has the shape {shape}, expected a {wanted} array [..., y, x] for {info.instrument}"
            )
            problems.append(Problem(what, f"{where}[{name}]", "give a reference in CRDS format", "shape"))
            continue
        if spec.uncut_ndim != len(shape):
            plane = plane or shape[-2:]
            if shape[-2:] != plane:
                what = f"{name} covers {shape[-2:]} pixels (y, x), the first array {plane}; expected the same"
                problems.append(Problem(what, f"{where}[{name}]", "give a consistent file", "shape"))
        placed[spec] = keys[name]
    return placed


def _cut(
    hdus: fits.HDUList,
    placed: Mapping[ArraySpec, int],
    kind: ReferenceType,
    keywords: Mapping[str, Any],
    info: ExposureInfo,
    problems: list[Problem],
    notes: list[Problem],
    where: str,
) -> tuple[slice, slice] | None:
    """Find the subarray ``[y, x]`` in the reference; None when nothing is on detector pixels."""
    shapes = [
        hdus[number].shape for spec, number in placed.items() if spec.uncut_ndim != len(hdus[number].shape)
    ]
    if not shapes:
        return None
    ny, nx = shapes[0][-2:]
    box = box_from_keywords(keywords, info, (ny, nx))
    wanted = Box.of_exposure(info)
    name = f"subarray {info.subarray} ({wanted})"
    if box is None:
        whole = full_frame(info.instrument)
        what = (
            f"the array is {ny}×{nx} pixels (y, x) and there is no SUBSTRT1/2 to place it; without "
            f"them expected the whole detector ({whole.ny}×{whole.nx}) or exactly {name}, {info.ny}×{info.nx}"
        )
        problems.append(
            Problem(what, where, "give a full-frame reference or one of this subarray", "geometry")
        )
        return None
    if not box.contains(wanted):
        what = f"the reference covers {box}, expected all of {name}"
        problems.append(
            Problem(what, where, "give a full-frame reference or one of this subarray", "geometry")
        )
        return None
    sizes = keywords.get("SUBSIZE1", nx), keywords.get("SUBSIZE2", ny)
    if sizes != (nx, ny):
        what = (
            f"SUBSIZE1/2 say {sizes[0]}×{sizes[1]}, the array has {nx}×{ny} pixels (x, y); the array counts"
        )
        notes.append(Problem(what, where, "", "subsize"))
    if "SUBSTRT1" not in keywords or "SUBSTRT2" not in keywords:
        notes.append(
            Problem(f"no SUBSTRT1/2; by its shape it is taken to cover {box}", where, "", "no_substrt")
        )
    if kind.matches_exactly and box != wanted:
        what = f"cut from {box}; the official pipeline only takes a {kind.name} made for the subarray itself"
        notes.append(Problem(what, where, "check that its readout times are those of the exposure", "cut"))
    return box.slices_of(wanted)


def _read_array(
    hdu: Any,
    cut: tuple[slice, slice] | None,
    spec: ArraySpec,
    hdus: fits.HDUList,
    keys: Mapping[str, int],
    notes: list[Problem],
    where: str,
) -> npt.NDArray:
    """Read one array; the bits of a DQ array are translated to the standard ones."""
    if not spec.is_dq:
        return read_image(hdu, cut, bits=False)
    try:
        stored = read_image(hdu, cut, bits=True)
        if "DQ_DEF" not in keys:
            return stored
        definitions = read_table(hdus[keys["DQ_DEF"]])
        if not len(definitions):
            return stored
        dq, unknown = remap_dq(stored, definitions)
    except ValueError as exc:
        problem = Problem(f"the DQ array cannot be read: {exc}", f"{where}[DQ]", "give a correct file", "dq")
        raise ReferenceMismatchError(problem) from exc
    if unknown:
        what = f"DQ_DEF names {', '.join(unknown)}, no standard DQ name; the bits are dropped"
        notes.append(Problem(what, f"{where}[DQ_DEF]", "", "dq_def"))
    dq.flags.writeable = False
    return dq

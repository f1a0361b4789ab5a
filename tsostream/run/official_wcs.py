"""Wavelengths from the official pipeline's assign_wcs and extract_2d, run once per exposure and kept.

The pipeline runs in a process of its own on one empty integration with the exposure's keywords: none of its memory and
imports come here, and pixels do not matter to a coordinate system.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from astropy.io import fits

from tsostream.errors import ConfigError, Problem
from tsostream.files import Exposure, fit_to_frame, wavelength_maps
from tsostream.references import parse_overrides
from tsostream.references.crds_client import crds_is_configured
from tsostream.references.headers import read_keywords

__all__ = ["WCS_REFERENCES", "official_is_here", "official_python", "official_wavelengths"]

#: reference types that only assign_wcs and extract_2d read
WCS_REFERENCES = (
    "camera", "collimator", "disperser", "distortion", "filteroffset", "fore", "fpa", "msa", "ote", "regions",
    "specwcs", "wavelengthrange",
)  # fmt: skip
#: assign_wcs takes some ten seconds; files from CRDS may have to come first [s]
PATIENCE = 900.0

#: what a kept file holds; another text makes older ones be forgotten
_CONTENT = "WAVELENGTH, SCI, ASDF"
_TODO = "give --wavelengths FILE (a WAVELENGTH image, a calints, or a table)"


def official_python() -> str:
    """Name the Python that has jwst: ``TSOSTREAM_WCS_PYTHON``, else this one if it has it, else nothing."""
    if named := os.environ.get("TSOSTREAM_WCS_PYTHON"):
        return named
    return sys.executable if importlib.util.find_spec("jwst") is not None else ""


def official_is_here() -> bool:
    """Whether the official pipeline can be run."""
    return bool(official_python())


def official_wavelengths(
    exposure: Exposure, refs_dir: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[dict[int, np.ndarray], str, dict[str, Any], Path]:
    """Let the official pipeline compute the wavelengths, or take what it computed before for the same keywords.

    Parameters
    ----------
    exposure
        The exposure.
    refs_dir, overrides
        Where references are, as for the run itself; CRDS chooses the others.

    Returns
    -------
    wavelengths
        Order -> float64 [y, x] [µm], NaN outside the spectrum's window.
    source
        For provenance.
    facts
        SLTSTRT1/2, SRCXPOS, SRCYPOS, SLTNAME where the pipeline told them.
    kept
        The file, with an empty image (SCI) and the coordinate system (ASDF) of the window.

    Raises
    ------
    ConfigError
        The pipeline failed; with its last line.
    """
    chosen = _references(refs_dir, overrides)
    kept = _kept(exposure, chosen)
    if not kept.exists():
        _compute(exposure, chosen, kept)
    with fits.open(kept) as hdus:
        version = hdus[0].header.get("CAL_VER", "")
        header = hdus["WAVELENGTH"].header
        names = ("SLTNAME", "SLTSTRT1", "SLTSTRT2", "SRCXPOS", "SRCYPOS")
        facts = {name: header[name] for name in names if name in header}
        if "SLTSTRT1" in facts:
            facts["SLTSIZE2"], facts["SLTSIZE1"] = hdus["WAVELENGTH"].shape
    info = exposure.info
    images = {
        order: fit_to_frame(one, info, str(kept), order=order) for order, one in wavelength_maps(kept).items()
    }
    return images, f"assign_wcs of jwst {version}, kept in {kept}", facts, kept


def _references(refs_dir: Path | None, overrides: Sequence[str]) -> dict[str, str]:
    """Find the files that assign_wcs shall take instead of what CRDS chooses."""
    found: dict[str, str] = {}
    for path in sorted(refs_dir.iterdir()) if refs_dir is not None else ():
        if path.suffix.lower() not in (".asdf", ".fits", ".json"):
            continue
        try:
            kind = str(read_keywords(path).get("REFTYPE", "")).lower()
        except (OSError, ValueError):
            continue
        if kind in WCS_REFERENCES:
            found[kind] = str(path.absolute())
    for kind, path in parse_overrides(overrides).items():
        if kind in WCS_REFERENCES:
            found[kind] = str(path.absolute())
    return found


def _kept(exposure: Exposure, chosen: dict[str, str]) -> Path:
    """Name the file for what the coordinate system depends on: keywords but for the times, references, context."""
    header = {
        key: value
        for key, value in exposure.info.header.items()
        if not key.startswith(
            ("DATE", "FILENAME", "INTSTART", "INTEND", "EXSEG", "CHECKSUM", "DATASUM", "NAXIS")
        )
    }
    files = {kind: hashlib.sha256(Path(path).read_bytes()).hexdigest() for kind, path in chosen.items()}
    context = [os.environ.get(name, "") for name in ("CRDS_CONTEXT", "CRDS_PATH")]
    text = json.dumps(
        [_CONTENT, header, files, context, official_python(), exposure.info.frame_shape],
        sort_keys=True,
        default=str,
    )
    base = os.environ.get("TSOSTREAM_CACHE_DIR") or platformdirs.user_cache_dir("tsostream")
    return Path(base) / "wavelengths" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.fits"


def _compute(exposure: Exposure, chosen: dict[str, str], kept: Path) -> None:
    child = Path(__file__).with_name("wcs_child.py")
    where = exposure.label
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tsostream-wcs-") as folder:
            source, target, wishes = (
                str(Path(folder) / name) for name in ("in.fits", "out.fits", "refs.json")
            )
            _empty_product(exposure, Path(source))
            others = {} if crds_is_configured() else {"*": "N/A"}
            without = _no_rules(Path(folder)) if others else {}
            Path(wishes).write_text(json.dumps({**others, **chosen}))
            done = subprocess.run(
                [official_python(), str(child), source, target, wishes],
                capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder,
                env={**os.environ, "STPIPE_DISABLE_CRDS_STEPPARS": "true", **without},
            )  # fmt: skip
            if done.returncode:
                lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
                raise ConfigError(
                    Problem(
                        f"assign_wcs of the official pipeline failed ({lines[-1].strip()[:200]})",
                        where,
                        _TODO,
                        "wcs",
                    )
                )
            part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
            part.write_bytes(Path(target).read_bytes())
            part.replace(kept)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            Problem(f"assign_wcs of the official pipeline cannot be run ({error})", where, _TODO, "wcs")
        ) from error


def _no_rules(folder: Path) -> dict[str, str]:
    """Make a CRDS cache without rules, and give the environment that points to it."""
    config = folder / "crds" / "config" / "jwst"
    config.mkdir(parents=True)
    context = "jwst_9999.pmap"
    facts = {
        "observatory": "jwst", "operational_context": context, "latest_context": context, "edit_context": context,
        "bad_files_list": [], "bad_files": "", "mappings": [], "status": "cache", "connected": False,
        "force_remote_mode": False, "last_synced": "never", "crds_version": {"str": "14.0.3"}, "reference_url": "",
        "mapping_url": "", "server": "none",
    }  # fmt: skip
    (config / "server_config").write_text(repr(facts))
    return {
        "CRDS_PATH": str(folder / "crds"), "CRDS_SERVER_URL": "https://jwst-serverless.invalid", "CRDS_MODE": "local",
        "CRDS_OBSERVATORY": "jwst", "CRDS_CONTEXT": context, "CRDS_READONLY_CACHE": "1",
    }  # fmt: skip


def _empty_product(exposure: Exposure, path: Path) -> None:
    """Write one integration of zeros with the headers of the first segment."""
    info = exposure.info
    with fits.open(exposure.segments[0].path, memmap=True, lazy_load_hdus=True) as hdus:
        primary, sci = hdus[0].header.copy(), hdus["SCI"].header.copy()
    primary["DATAMODL"] = "CubeModel"
    for key in [one for one in sci if one.startswith(("NAXIS", "BSCALE", "BZERO", "BITPIX"))]:
        del sci[key]
    shape = (1, *info.frame_shape)
    planes = [fits.ImageHDU(np.zeros(shape, np.float32), sci, name="SCI")]
    planes += [
        fits.ImageHDU(np.zeros(shape, np.float32), name=name) for name in ("ERR", "VAR_POISSON", "VAR_RNOISE")
    ]
    planes.append(fits.ImageHDU(np.zeros(shape, np.uint32), name="DQ"))
    fits.HDUList([fits.PrimaryHDU(header=primary), *planes]).writeto(path)

"""What an output says about how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.errors import ReadError
from tsostream.files import TIME_FLAGS
from tsostream.references.crds_client import crds_version
from tsostream.run.prepared import Prepared
from tsostream.run.product_plan import asked_products
from tsostream.run.scout import Scout
from tsostream.run.versions import package_versions

__all__ = ["describe_prepared", "describe_start", "input_identity", "package_versions", "run_fingerprint"]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ReadError(
            f"{path}: cannot be read for --hash-inputs ({error.strerror}); check the file"
        ) from error
    return digest.hexdigest()


def describe_prepared(prepared: Prepared, *, hash_inputs: bool = False) -> dict[str, Any]:
    """Collect what is known before the scout."""
    info, exposure = prepared.exposure.info, prepared.exposure
    users = prepared.config.users(prepared.exposure.info)
    inputs = []
    for segment in exposure.segments:
        entry = {
            "path": str(Path(segment.source_path).absolute()),
            "size": segment.size,
            "mtime_ns": segment.mtime_ns,
            "header_sha256": segment.header_sha256,
        }
        if hash_inputs:
            entry["sha256"] = _sha256(Path(segment.source_path))
        inputs.append(entry)
    return {
        "exposure": {
            name: getattr(info, name)
            for name in (
                "exposure_id", "instrument", "detector", "exp_type", "level", "subarray", "nx", "ny", "nints",
                "ngroups", "nframes", "groupgap", "readpatt", "filter", "pupil", "grating", "frame_time", "group_time",
                "integration_time",
            )
        }
        | {"channel": str(info.header.get("CHANNEL") or "")},
        "target_name": info.header.get("TARGNAME") or "",
        "target": info.header.get("TARGNAME") or info.header.get("TARGPROP") or "",
        "first_integration": exposure.first,
        "last_integration": exposure.last,
        "gaps": exposure.gaps,
        "segments": [
            {"file": Path(s.source_path).name, "segment": s.segment_number, "intstart": s.first, "intend": s.last}
            for s in exposure.segments
        ],
        "inputs": inputs,
        "config": {
            "source": prepared.config.source,
            "steps": prepared.config.parameters(),
            "order": [operator.name for operator in prepared.config.operators],
            "skipped": prepared.config.skipped,
            "scope": "streaming" if prepared.request.parity is None else "segment",
        },
        "references": {
            name: {
                "file": r.name,
                "path": str(Path(r.path).absolute()),
                "sha256": r.sha256,
                "source": prepared.sources.get(name, ""),
                "steps": users.get(name, []),
            }
            for name, r in prepared.references.items()
        },
        "growing": exposure.growing,
        "products_planned": asked_products(prepared.request),
        "crds": {"context": prepared.crds_context, "version": crds_version()},
        "lock": str(prepared.request.lock or ""),
        "scout_request": prepared.request.scout,
        "scout_file": _scout_file(prepared),
        "wavelength_file": _wavelength_file(prepared),
        "wavelength_source": prepared.wavelength_source or "none: pixel index",
        "time_flag_bits": TIME_FLAGS,
        "versions": package_versions(),
        "notes": prepared.notes,
    }  # fmt: skip


def describe_start(prepared: Prepared, scout: Scout, measured: dict[str, Any]) -> dict[str, Any]:
    """Collect what is known before the first row.

    Parameters
    ----------
    prepared
        The run.
    scout
        Its templates.
    measured
        What binding the measuring steps found: trace, aperture, wavelengths, unit.
    """
    return {
        **describe_prepared(prepared, hash_inputs=prepared.request.hash_inputs),
        "scout": {
            "kind": prepared.scout.kind,
            "integrations": scout.numbers,
            "sha256": scout_hash(scout),
            **scout.facts,
        },
        **measured,
    }


def _wavelength_file(prepared: Prepared) -> dict[str, str] | None:
    """Describe the file given with ``--wavelengths``, so that a lock can be made from the output alone."""
    path = prepared.request.wavelengths
    if path is None or not prepared.exposure.info.is_spectroscopy:
        return None
    return _file_entry(Path(path), "--wavelengths")


def _scout_file(prepared: Prepared) -> dict[str, str] | None:
    """Describe the stored scout a run starts from."""
    path = prepared.scout.path
    return None if prepared.scout.kind != "file" or path is None else _file_entry(path, "--scout")


def _file_entry(path: Path, source: str) -> dict[str, str]:
    return {"file": path.name, "path": str(path.absolute()), "sha256": _sha256(path), "source": source}


def scout_hash(scout: Scout) -> str:
    """Hash of the templates."""
    digest = hashlib.sha256()
    for array in (scout.image, scout.scatter, scout.variance, scout.covariance, np.array(scout.numbers)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def run_fingerprint(start: dict[str, Any]) -> dict[str, Any]:
    """List what must be equal for a run to be resumed.

    Parameters
    ----------
    start
        From `describe_start`; of `describe_prepared`, the fingerprint lacks what only the scout tells.
    """
    config = start["config"]
    wavelengths = np.asarray(start.get("wavelength", [])).tolist()
    known = {
        "exposure": start["exposure"],
        "first_integration": start["first_integration"],
        "last_integration": start["last_integration"],
        "gaps": start["gaps"],
        "inputs": {Path(one["path"]).name: input_identity(one) for one in start["inputs"]},
        "config": config["steps"],
        "steps": {name: config[name] for name in ("order", "skipped", "scope")},
        "references": {name: one["sha256"] for name, one in start["references"].items()},
        "wavelength_file": (start["wavelength_file"] or {}).get("sha256"),
        "products": start.get("products_planned", []),
        "versions": start["versions"],
    }
    if start.get("growing"):
        known["growing"] = True
    if "scout" in start:
        known["scout"] = start["scout"]["sha256"]
        known["scout_integrations"] = start["scout"]["integrations"]
        known["wavelength"] = hashlib.sha256(repr(wavelengths).encode()).hexdigest()
    return known


def input_identity(entry: Mapping[str, Any]) -> list[Any]:
    """Size and header hash of an input, as the journal knows it."""
    return [entry["size"], entry["header_sha256"]]

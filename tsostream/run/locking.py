"""Making a lock, of runs that are about to begin or of an output that was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.records.metadata import plain_values
from tsostream.run.lock import FACTS, Lock, LockedFile, LockEntry, locked_file, sha256_of
from tsostream.run.prepared import Prepared

__all__ = ["lock_of", "lock_of_output"]


def lock_of(runs: Sequence[Prepared], versions: Mapping[str, str], crds_version: str) -> Lock:
    """Lock what runs are about to use."""
    entries = []
    for run in runs:
        info, request = run.exposure.info, run.request
        steps_of = run.config.users(info)
        files = {
            name: LockedFile(
                one.name,
                one.sha256,
                str(Path(one.path).absolute()),
                run.sources.get(name, ""),
                tuple(steps_of.get(name, ())),
            )
            for name, one in run.references.items()
        }
        waves = None
        if request.wavelengths is not None and info.is_spectroscopy:
            path = Path(request.wavelengths).expanduser()
            waves = LockedFile(path.name, sha256_of(path), str(path.absolute()), "--wavelengths")
        entries.append(
            LockEntry(
                exposure={name: getattr(info, name) for name in FACTS},
                steps=plain_values(run.config.parameters()),
                skipped=tuple(run.config.skipped),
                references=files,
                wavelengths=waves,
                scout=str(request.scout),
                scout_file=_scout_file(run),
                parity=request.parity,
                context=run.crds_context,
            )
        )
    return Lock(tuple(entries), dict(versions), _now(), crds_version)


def _scout_file(run: Prepared) -> LockedFile | None:
    """Find the stored scout that a run starts from; None when it makes its own."""
    path = run.scout.path
    if run.scout.kind != "file" or path is None:
        return None
    return LockedFile(path.name, sha256_of(path), str(path.absolute()), "--scout")


def lock_of_output(metadata: Mapping[str, Any], where: str) -> Lock:
    """Lock what an output was made with, from the metadata it carries.

    Raises
    ------
    InputError
        The metadata lack what a lock needs: another program wrote the file, or an early version of this one.
    """
    try:
        config, crds = metadata["config"], metadata.get("crds") or {}
        waves, scout = metadata.get("wavelength_file"), metadata.get("scout_file")
        entry = LockEntry(
            exposure={name: metadata["exposure"].get(name, "") for name in FACTS},
            steps=config["steps"],
            skipped=tuple(config["skipped"]),
            references={name: locked_file(one) for name, one in metadata["references"].items()},
            wavelengths=locked_file(waves) if waves else None,
            scout=str(metadata.get("scout_request") or "auto"),
            scout_file=locked_file(scout) if scout else None,
            parity="jwst" if config.get("scope") == "segment" else None,
            context=str(crds.get("context") or ""),
        )
        return Lock((entry,), metadata["versions"], _now(), str(crds.get("version") or ""))
    except (KeyError, TypeError, AttributeError) as error:
        what = f"its metadata do not tell how it was made ({type(error).__name__}: {error})"
        raise InputError(
            Problem(what, where, "give a light curve that tsostream process wrote", "lock")
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"

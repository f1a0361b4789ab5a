"""The file a lock is written to: YAML that people can read, described in docs/references.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem
from tsostream.records.metadata import plain_values
from tsostream.run.lock import Lock, LockedFile, LockEntry, locked_file

__all__ = ["read_lock", "write_lock"]

#: of the format
VERSION: Final = 1

_HEAD: Final = """\
# A tsostream lock: the reference files and parameters of a reduction.
#   use it      tsostream process SEG... --lock THIS --out lc.arrow
#   check it    tsostream refs verify THIS
# Files are known by their sha256; "path" is only where they were. When they have moved, give --refs DIR.
"""


def write_lock(lock: Lock, path: Path, *, overwrite: bool = False) -> None:
    """Write a lock file.

    Raises
    ------
    OutputExistsError
        It exists and ``overwrite`` is not set.
    InputError
        The directory does not exist.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(
            Problem("exists already", str(path), "choose another -o, or give --overwrite", "exists")
        )
    if not path.parent.is_dir():
        raise InputError(
            Problem(
                "the directory does not exist",
                str(path.parent),
                "make it, or choose another -o",
                "unwritable",
            )
        )

    def plain(one: LockedFile) -> dict[str, Any]:
        entry = {"file": one.file, "sha256": one.sha256, "path": one.path, "source": one.source}
        return {**entry, "steps": list(one.steps)} if one.steps else entry

    exposures = []
    for entry in lock.entries:
        told: dict[str, Any] = {"exposure": dict(entry.exposure)}
        if entry.context:
            told["crds_context"] = entry.context
        told["references"] = {name: plain(one) for name, one in entry.references.items()}
        if entry.wavelengths is not None:
            told["wavelengths"] = plain(entry.wavelengths)
        told["scout"] = entry.scout
        if entry.scout_file is not None:
            told["scout_file"] = plain(entry.scout_file)
        if entry.parity is not None:
            told["parity"] = entry.parity
        told |= {"steps": dict(entry.steps), "skipped": list(entry.skipped)}
        exposures.append(told)
    tree = {
        "tsostream_lock": VERSION,
        "created": lock.created,
        "versions": dict(lock.versions),
        "crds_version": lock.crds_version,
        "exposures": exposures,
    }
    text = yaml.safe_dump(plain_values(tree), sort_keys=False, width=110, allow_unicode=True)
    part = path.with_name(path.name + ".part")
    part.write_text(_HEAD + text)
    part.replace(path)


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises
    ------
    ConfigError
        It cannot be read, is no lock, or of a version this program does not know.
    """
    where, todo = str(path), "give a file that tsostream refs lock wrote"
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read ({error.strerror})", where, todo, "lock")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            Problem(f"is not valid YAML: {' '.join(str(error).split())}", where, todo, "lock")
        ) from None
    if not isinstance(tree, dict) or "tsostream_lock" not in tree:
        raise ConfigError(Problem("is no lock: expected the key tsostream_lock", where, todo, "lock"))
    if tree["tsostream_lock"] != VERSION:
        what = f"has the format {tree['tsostream_lock']!r}, this version reads {VERSION}"
        raise ConfigError(Problem(what, where, "use the tsostream it was made with, or lock again", "lock"))
    try:
        entries = tuple(
            LockEntry(
                exposure=one["exposure"],
                steps=one["steps"],
                skipped=tuple(one.get("skipped") or ()),
                references={name: locked_file(file) for name, file in (one.get("references") or {}).items()},
                wavelengths=locked_file(one["wavelengths"]) if one.get("wavelengths") else None,
                scout=str(one.get("scout", "auto")),
                scout_file=locked_file(one["scout_file"]) if one.get("scout_file") else None,
                parity=one.get("parity"),
                context=str(one.get("crds_context", "")),
                where=path,
            )
            for one in tree["exposures"]
        )
        return Lock(
            entries, tree["versions"], str(tree.get("created", "")), str(tree.get("crds_version", ""))
        )
    except (KeyError, TypeError, AttributeError) as error:
        what = f"is damaged: {type(error).__name__} {error}"
        raise ConfigError(Problem(what, where, "lock again", "lock")) from None

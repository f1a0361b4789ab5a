"""Level-2 and level-3 association files: which segments belong together, and what the product is called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.files.segment import os_problem

__all__ = ["Association", "load_association"]

#: a real association has a few kilobytes
_MAX_BYTES = 64 << 20
_REMAKE = "make it anew with asn_from_list, or give the segment files themselves"


@dataclass(frozen=True)
class Association:
    """What an association says.

    Parameters
    ----------
    path
        The JSON file.
    members
        Science members in the order of the file, relative names resolved against its folder.
    product
        Name of the product when there is exactly one (level 3), else empty.
    asn_id, asn_type
        As in the file; empty when absent.
    notes
        What was left out.
    backgrounds
        Background members, as they are named.
    """

    path: Path
    members: tuple[Path, ...]
    product: str
    asn_id: str
    asn_type: str
    notes: tuple[str, ...] = ()
    backgrounds: tuple[Path, ...] = ()


def load_association(path: str | Path) -> Association:
    """Read an association.

    Raises
    ------
    InputError
        ``association_yaml``, ``association_invalid``, ``association_empty``, ``missing_member`` (all missing
        members at once), ``not_found``, ``no_permission``, ``unreadable``.
    """
    path = Path(path)
    where = str(path)

    def fail(code: str, what: str, todo: str = _REMAKE) -> InputError:
        return InputError(Problem(what, where=where, todo=todo, code=code))

    if path.suffix.lower() in (".yaml", ".yml"):
        raise fail("association_yaml", "this is a YAML association, expected JSON", "convert it to JSON")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise fail(
                "association_invalid", f"the file has more than {_MAX_BYTES >> 20} MB: not an association"
            )
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(os_problem(error, where)) from error
    except (ValueError, RecursionError) as error:
        raise fail("association_invalid", f"this is not valid JSON ({error})") from error
    products = content.get("products") if isinstance(content, dict) else None
    if not isinstance(products, list):
        raise fail("association_invalid", "this JSON file has no list 'products': not an association")
    members, skipped, broken = _science_members(products)
    if broken:
        raise fail("association_invalid", f"{broken} members have no text 'expname'")
    if not members:
        raise fail("association_empty", "no product of this association has a member of exptype 'science'")
    found, missing = _resolve(members, path.parent)
    if missing:
        raise InputError(
            [
                Problem(
                    f"the member {name} is not there",
                    where=where,
                    todo=f"put it into {path.parent}, or take it out of the association",
                    code="missing_member",
                )
                for name in missing
            ]
        )
    name = products[0].get("name", "") if len(products) == 1 else ""
    notes = (
        (f"{path.name}: {skipped} members are not science exposures and were left out",) if skipped else ()
    )
    return Association(
        path=path,
        members=found,
        product=Path(name).name if isinstance(name, str) else "",
        asn_id=str(content.get("asn_id") or ""),
        asn_type=str(content.get("asn_type") or ""),
        notes=notes,
        backgrounds=_backgrounds(products, path.parent),
    )


def _backgrounds(products: list[Any], folder: Path) -> tuple[Path, ...]:
    """Find the background members; a packed one serves where the plain one is absent."""
    found: list[Path] = []
    for product in products:
        members = product.get("members") if isinstance(product, dict) else None
        for member in members if isinstance(members, list) else []:
            if isinstance(member, dict) and str(member.get("exptype", "")).lower() == "background":
                path = folder / str(member.get("expname"))
                packed = path.with_name(path.name + ".gz")
                found.append(packed if packed.exists() and not path.exists() else path)
    return tuple(found)


def _science_members(products: list[Any]) -> tuple[list[str], int, int]:
    """Names of science members, number of others, number of unusable entries."""
    names: list[str] = []
    skipped = broken = 0
    for product in products:
        members = product.get("members") if isinstance(product, dict) else None
        for member in members if isinstance(members, list) else []:
            name = member.get("expname") if isinstance(member, dict) else None
            if not isinstance(name, str) or not name or "\0" in name:
                broken += 1
            elif (kind := str(member.get("exptype", "science")).lower()) != "science":
                # backgrounds are found by themselves
                skipped += kind != "background"
            elif name not in names:
                names.append(name)
    return names, skipped, broken


def _resolve(names: list[str], folder: Path) -> tuple[tuple[Path, ...], list[str]]:
    """Paths of the members; a packed ``.gz`` serves where the plain file is absent."""
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        path = folder / name
        packed = path.with_name(path.name + ".gz")
        try:
            if path.exists():
                found.append(path)
            elif packed.exists():
                found.append(packed)
            else:
                missing.append(name)
        except OSError:  # a name too long for the file system
            missing.append(name)
    return tuple(found), missing

"""Best references from CRDS: the field's own rules and cache, asked as little as possible.

The rules (pmap, imap, rmap) are read from the cache with the ``crds`` package; the network is used only for
what the cache does not hold, and only when a server is named: the name of the latest context when none is
pinned, rules, and files. The cache is the one the official pipeline uses.

======================  ==================================================================================
CRDS_PATH               the cache (also CRDS_PATH_SINGLE, CRDS_MAPPATH, CRDS_REFPATH, CRDS_CFGPATH)
CRDS_SERVER_URL         https://jwst-crds.stsci.edu; unset, or with "serverless" in it: no network
CRDS_CONTEXT            jwst_1364.pmap, or latest; ``--crds-context`` wins over it
CRDS_READONLY_CACHE     1: nothing is written into the cache, so nothing can be downloaded
======================  ==================================================================================
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from tsostream.errors import Problem, ReferenceMismatchError

__all__ = [
    "SERVER",
    "Answer",
    "Progress",
    "Trouble",
    "ask_crds",
    "cached_path",
    "crds_is_configured",
    "crds_version",
]

log = logging.getLogger(__name__)

SERVER: Final = "https://jwst-crds.stsci.edu"
#: what crds falls back to itself when no variable is set: the archive's central store
_CENTRAL_STORE: Final = "/grp/crds/cache"
_PINNED: Final = re.compile(r"jwst_\w+\.pmap", re.IGNORECASE)
_PLACES: Final = ("CRDS_PATH", "CRDS_PATH_SINGLE", "CRDS_MAPPATH", "CRDS_REFPATH", "CRDS_SERVER_URL")


class Progress(Protocol):
    """Somebody who watches a download."""

    def __call__(self, name: str, done: int, size: int) -> None:
        """So many of ``size`` bytes of a file are there."""


@dataclass(frozen=True)
class Answer:
    """What CRDS says about an exposure.

    Parameters
    ----------
    context
        The pmap the rules come from.
    files
        Type -> file name, whether or not it is in the cache.
    cached
        Type -> path, for those that are.
    absent
        Type -> why there is none: ``N/A`` in the rules, no match, a type that the context does not know.
    notes
        Worth telling: the server could not be reached, a file is marked as bad.
    """

    context: str
    files: dict[str, str] = field(default_factory=dict)
    cached: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: tuple[Problem, ...] = ()

    @property
    def wanting(self) -> dict[str, str]:
        """Type -> name of the files that would have to be downloaded."""
        return {name: file for name, file in self.files.items() if name not in self.cached}


@dataclass(frozen=True)
class Trouble:
    """Why CRDS could not be asked; one clause without a full stop."""

    why: str


def crds_is_configured(context: str | None = None) -> bool:
    """Whether the user named a cache, a server or a context, or sits at the central store."""
    named = any(os.environ.get(name) for name in _PLACES) or bool(context)
    return named or Path(os.environ.get("CRDS_DEFAULT_CACHE", _CENTRAL_STORE)).is_dir()


def server_url() -> str:
    """Give the server that may be asked, or an empty text."""
    url = os.environ.get("CRDS_SERVER_URL", "").strip()
    return "" if "serverless" in url or "server-less" in url else url


def crds_version() -> str:
    """Give the version of the installed client; empty without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("crds")
    except PackageNotFoundError:
        return ""


_seen_environment: dict[str, str] = {}


def import_crds() -> Any:
    """Import crds (a second; only when it is needed), and make it see the environment as it is now.

    The package reads its variables once and caches what it found, which surprises everybody who sets
    CRDS_PATH in a notebook after an import. Whenever a variable has changed, its caches are dropped.
    """
    import crds
    from crds.client import api
    from crds.core import config, utils

    now = {name: value for name, value in os.environ.items() if name.startswith("CRDS_")}
    if now != _seen_environment:
        _seen_environment.clear()
        _seen_environment.update(now)
        utils.clear_function_caches()
        config.CRDS_REF_SUBDIR_MODE = None
        if "CRDS_VERBOSITY" not in now:
            # its own console handler would write between our lines; what goes wrong comes as an exception
            logging.getLogger("CRDS").setLevel(logging.CRITICAL + 1)
        api.set_crds_server(server_url() or "https://crds-serverless-mode.stsci.edu")
        _import_jwst_rules()
    return crds


def _import_jwst_rules() -> None:
    """Import crds's JWST part also where the JWST data models are not installed.

    It takes the class of one warning from ``stdatamodels`` (50 MB with what that needs), for opening data
    files, which we never ask of it; crds does not list it as a dependency. For the moment of the import a
    module that holds this one class stands in.
    """
    if importlib.util.find_spec("stdatamodels") is not None:
        return
    parent, child = ModuleType("stdatamodels"), ModuleType("stdatamodels.exceptions")
    child.ValidationWarning = type("ValidationWarning", (UserWarning,), {})  # type: ignore[attr-defined]
    sys.modules["stdatamodels"], sys.modules["stdatamodels.exceptions"] = parent, child
    try:
        import crds.jwst.locate  # noqa: F401
    finally:
        for name in ("stdatamodels", "stdatamodels.exceptions"):
            sys.modules.pop(name, None)


@contextlib.contextmanager
def failing_aloud(what: str) -> Iterator[None]:
    """Turn whatever crds raises, SystemExit included, into a `ReferenceMismatchError` of one line."""
    try:
        yield
    except (KeyboardInterrupt, ReferenceMismatchError):
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ReferenceMismatchError(Problem(f"{what}: {text}", code="crds")) from error


def _context(requested: str | None, notes: list[Problem]) -> str | Trouble:
    """Name the context: asked for, CRDS_CONTEXT, the server's latest, the one the cache last saw."""
    wish = (requested or os.environ.get("CRDS_CONTEXT", "")).strip()
    if _PINNED.fullmatch(wish):
        return wish.lower()
    if re.fullmatch(r"\d+", wish):
        return f"jwst_{int(wish):04d}.pmap"
    crds = import_crds()
    try:
        with failing_aloud("no context"):
            name = str(crds.get_context_name("jwst", wish or None))
            reached = bool(crds.core.heavy_client.get_config_info("jwst").connected)
    except ReferenceMismatchError as error:
        log.debug("%s", error)
        if wish:
            return Trouble(
                f"the CRDS context {wish!r} is unknown here; name a rules file such as jwst_1364.pmap"
            )
        if server_url():
            why = f"the CRDS server {server_url()} could not be reached, and the cache {cache_place()}"
            return Trouble(f"{why} does not know a context")
        why = f"the CRDS cache {cache_place()} does not know a context"
        return Trouble(f"{why}, and no server is named (CRDS_SERVER_URL={SERVER})")
    if server_url() and not reached:
        what = f"the CRDS server {server_url()} could not be reached; the context {name} is the cache's last"
        notes.append(Problem(what, "", "pin one with --crds-context to be sure", "crds_offline"))
    return name


def cache_place() -> str:
    return os.environ.get("CRDS_PATH") or os.environ.get("CRDS_PATH_SINGLE") or _CENTRAL_STORE


def ask_crds(
    parameters: Mapping[str, Any], types: Sequence[str], *, context: str | None = None
) -> Answer | Trouble:
    """Ask which files an exposure should be reduced with.

    Parameters
    ----------
    parameters
        See `tsostream.references.crds_parameters.crds_parameters`.
    types
        Reference types, or ``pars-jumpstep`` and the like.
    context
        Rules to use; default CRDS_CONTEXT, then the latest.

    Returns
    -------
    Answer or Trouble
        With the rules in the cache and a pinned context (or no server named) no network call is made.
    """
    notes: list[Problem] = []
    name = _context(context, notes)
    if isinstance(name, Trouble):
        return name
    crds = import_crds()
    try:
        with failing_aloud(f"the CRDS rules {name}"):
            found = _best(crds, name, parameters, types)
    except ReferenceMismatchError as error:
        return Trouble(str(error))
    if isinstance(found, Trouble):
        return found
    files, absent = found
    cached = {}
    for kind, file in files.items():
        path = locate(crds, file, parameters)
        if path is not None and path.is_file():
            cached[kind] = path
    for kind, file in files.items():
        if file in _bad_files():
            what = f"CRDS marks {file} as scientifically invalid; used all the same, as {name} asks for it"
            notes.append(
                Problem(
                    what, "", f"choose another {kind} with --override, or a newer context", "bad_reference"
                )
            )
    return Answer(name, files, cached, absent, tuple(notes))


def _best(
    crds: Any, context: str, parameters: Mapping[str, Any], types: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]] | Trouble:
    """Apply the rules; fetch them first where they are not cached and there is a server."""
    from crds.core import exceptions, utils

    header = utils.condition_header(dict(parameters))

    def choose() -> tuple[Any, dict[str, str]]:
        pmap = crds.get_cached_mapping(context)
        imap = pmap.get_imap(pmap.get_instrument(header))
        known = [kind for kind in types if kind in imap.selections]
        best = pmap.get_best_references(pmap.minimize_header(header), include=known) if known else {}
        return best, {kind: f"{context} has no rules for {kind}" for kind in types if kind not in known}

    try:
        best, absent = choose()
        # rules are loaded one by one when they are used; crds reports an absent file as a failed match
        lost = any("No such file" in str(value) for value in best.values())
    except (OSError, exceptions.CrdsError) as error:
        if isinstance(error, exceptions.CrdsError) and "No such file" not in str(error):
            raise
        lost = True
    if lost:
        trouble = _fetch_rules(context)
        if trouble is not None:
            return trouble
        utils.clear_function_caches()
        best, absent = choose()
    files: dict[str, str] = {}
    for kind in types:
        value = str(best.get(kind, "NOT FOUND n/a"))
        if kind in absent:
            continue
        if "NOT FOUND" in value or value.upper() == "N/A":
            reason = value.replace("NOT FOUND", "").strip()
            nothing = reason.lower() in ("", "n/a")
            absent[kind] = f"{context} has none for this mode (N/A)" if nothing else f"{context}: {reason}"
        else:
            files[kind] = value
    return files, absent


def _fetch_rules(context: str) -> Trouble | None:
    """Download the rules of a context."""
    if not server_url():
        why = f"the rules {context} are not complete in the CRDS cache {cache_place()}"
        return Trouble(f"{why}, and no server is named (CRDS_SERVER_URL={SERVER})")
    from crds.client import api

    log.info("downloading the CRDS rules %s into %s", context, cache_place())
    try:
        with failing_aloud(f"the rules {context} cannot be downloaded from {server_url()}"):
            api.dump_mappings(context)
    except ReferenceMismatchError as error:
        return Trouble(f"{error} (and they are not in the cache {cache_place()})")
    return None


def locate(crds: Any, file: str, parameters: Mapping[str, Any]) -> Path | None:
    """Find the place of a file in the cache; crds knows its two layouts."""
    try:
        return Path(crds.locate_file(file, "jwst", parameters=dict(parameters)))
    except (Exception, SystemExit):  # a layout crds cannot tell: then it is not there
        return None


def _bad_files() -> frozenset[str]:
    """Give the files CRDS has withdrawn, as far as the cache knows."""
    from crds.core import config

    path = Path(config.get_crds_cfgpath("jwst")) / "bad_files.txt"
    try:
        return frozenset(path.read_text().split())
    except OSError:
        return frozenset()


def cached_path(file: str) -> Path | None:
    """Find a file in the CRDS cache by name; None when it is not there (or crds is not installed)."""
    try:
        import_crds()
    except ImportError:
        return None
    from crds.core import config

    folder = Path(config.get_crds_refpath("jwst"))
    places = [folder / file, *(folder / name / file for name in ("miri", "nircam", "niriss", "nirspec"))]
    return next((path for path in places if path.is_file()), None)

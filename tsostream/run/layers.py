"""Layers of parameters: configurations, official parameter files, single settings.

A later layer wins, parameter by parameter, and it is known where each value came from. Official parameter
files are read leniently: what the official step knows and ours does not is told once and left out; in a
configuration or on the command line it is an error that says how theirs maps to ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Operator
from tsostream.operators.catalog import OPERATORS
from tsostream.references import CrdsWish
from tsostream.references.catalog import canonical_name, unknown_type
from tsostream.references.crds_client import Trouble, ask_crds, crds_is_configured
from tsostream.references.crds_fetch import fetch_files
from tsostream.references.crds_parameters import crds_parameters
from tsostream.references.official import NEVER, OfficialStep, by_alias, hint
from tsostream.references.pars import ParsFile, choose_pars, in_order, pars_reftypes, read_pars

__all__ = ["INDISPENSABLE", "Layer", "Merged", "crds_pars", "pars_layers", "read_yaml", "setting_layer"]

#: without these there are no rows
INDISPENSABLE = ("ramp_fit", "extract_1d", "white_light", "tso_photometry")

_KEYS = {"mode", "extends", "steps", "references"}


@dataclass(frozen=True)
class Layer:
    """Parameters from one place.

    Parameters
    ----------
    source
        How messages call the place.
    steps
        (step, parameters) in the order they stand there; a step may come twice.
    official
        From a file of the official pipeline: read leniently.
    references
        Reference type -> file.
    mode
        EXP_TYPE it says it is made for; empty when it does not say.
    """

    source: str
    steps: Sequence[tuple[str, Mapping[str, Any]]]
    official: bool = False
    references: Mapping[str, Path] = field(default_factory=dict)
    mode: str = ""


@dataclass
class Merged:
    """The parameters of all steps of a mode, while layers are laid over each other.

    Parameters
    ----------
    order
        The steps of the mode.
    values, origins
        Step -> parameter -> value, and where it came from.
    references
        Reference type -> file.
    problems, notes
        What stands against the run, and what is worth telling.
    """

    order: Sequence[str]
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[str, dict[str, str]] = field(default_factory=dict)
    references: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def lay(self, layer: Layer) -> None:
        """Lay one more layer over what there is."""
        ignored: dict[str, list[tuple[str, Any]]] = {}
        for step, parameters in layer.steps:
            if step in OPERATORS:
                # a step of another instrument stands in a file for all modes
                if step in self.order:
                    self._lay_step(step, parameters, layer, ignored)
            elif layer.official and (step in by_alias() or step in NEVER):
                self._note_foreign_step(step, parameters, layer)
            else:
                self.problems.append(unknown_step(step, layer.source))
        for step, pairs in ignored.items():
            self._note_ignored(step, pairs, layer)
        self.references.update(layer.references)

    def _lay_step(
        self,
        step: str,
        parameters: Mapping[str, Any],
        layer: Layer,
        ignored: dict[str, list[tuple[str, Any]]],
    ) -> None:
        cls, official = OPERATORS[step], by_alias().get(step)
        known = {spec.name for spec in dataclasses.fields(cls)}
        for given, value in parameters.items():
            name = cls.aliases.get(given, given)
            if name not in known:
                if layer.official and official is not None and official.knows(name):
                    ignored.setdefault(step, []).append((name, value))
                else:
                    self.problems.append(_unknown_parameter(cls, name, official, layer.source))
                continue
            try:
                converted = _convert(cls, name, value)
            except msgspec.ValidationError as error:
                # "not set" of the official step (null) is not always a value of ours
                if layer.official and official is not None and value == official.default(name):
                    continue
                what, way = f"{step}.{name} = {value!r}: {error}", hint(step, name)
                todo = f"the default is {default_of(cls, name)!r}" + (f"; {way}" if way else "")
                self.problems.append(Problem(what, layer.source, todo, "parameter"))
                continue
            if layer.official and name == "skip" and converted and step in INDISPENSABLE:
                what = f"would skip {step}, without which there are no rows; not followed"
                self.notes.append(Problem(what, layer.source, "", "parameter"))
                continue
            self.values.setdefault(step, {})[name] = converted
            self.origins.setdefault(step, {})[name] = layer.source

    def _note_ignored(self, step: str, pairs: Sequence[tuple[str, Any]], layer: Layer) -> None:
        """Tell once what the official step knows and ours does not; what has its default changes nothing."""
        official = by_alias()[step]
        changed = {name: value for name, value in pairs if value != official.default(name)}
        rest = len({name for name, _ in pairs} - set(changed))
        told = []
        for name, value in changed.items():
            way = hint(step, name)
            told.append(f"{name} = {value!r}" + (f" ({way})" if way else ""))
        also = f"{rest} more at the official default" if rest else ""
        if not told:
            return
        lack = f"{step}: {', '.join(told)} of the official step {'are' if len(told) > 1 else 'is'} ignored"
        what = f"{lack}, as ours has no such parameter" + (f" (and {also})" if also else "")
        self.notes.append(Problem(what, layer.source, "", "official_parameter"))

    def _note_foreign_step(self, step: str, parameters: Mapping[str, Any], layer: Layer) -> None:
        """Tell about an official step that we do not have, when the file makes it run or changes it."""
        official = by_alias().get(step)
        if official is None or parameters.get("skip", official.skip):
            return
        changed = [name for name, value in parameters.items() if value != official.default(name)]
        if changed:
            way = hint(step) or "tsostream has no such step"
            what = f"{step} ({', '.join(changed)}) is ignored: {way}"
            self.notes.append(Problem(what, layer.source, "", "official_step"))


def default_of(cls: type[Operator], name: str) -> Any:
    """Give the default of a parameter."""
    spec = next(spec for spec in dataclasses.fields(cls) if spec.name == name)
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return None if spec.default is dataclasses.MISSING else spec.default


def _convert(cls: type[Operator], name: str, value: Any) -> Any:
    # lax: "8" from the command line is 8.0
    return msgspec.convert(value, get_type_hints(cls, include_extras=True)[name], strict=False)


def unknown_step(step: str, where: str) -> Problem:
    """Say that there is no such step, and what may be meant."""
    official = by_alias().get(step)
    if official is not None:
        todo = hint(step) or "leave it out"
        return Problem(
            f"{step} is a step of the official pipeline that tsostream does not have",
            where,
            todo,
            "parameter",
        )
    near = difflib.get_close_matches(step, OPERATORS, n=1)
    todo = f"did you mean {near[0]}?" if near else f"the steps are {', '.join(OPERATORS)}"
    return Problem(f"there is no step {step!r}", where, todo, "parameter")


def _unknown_parameter(cls: type[Operator], name: str, official: OfficialStep | None, where: str) -> Problem:
    known = [spec.name for spec in dataclasses.fields(cls)]
    if official is not None and official.knows(name):
        way = hint(cls.name, name)
        what = f"{cls.name} has no parameter {name!r}; the official step has, ours does not"
        todo = f"use instead: {way}" if way else f"it has {', '.join(known)}"
        return Problem(what, where, way if "not supported" in way else todo, "parameter")
    names = [*known, *(official.parameters if official else ())]
    near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name, names, n=1)
    todo = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
    return Problem(f"{cls.name} has no parameter {name!r}", where, todo, "parameter")


def setting_layer(text: str, problems: list[Problem]) -> Layer | None:
    """Read ``step.parameter=value`` of ``--set``; the value is YAML."""
    name, equals, value = text.partition("=")
    step, dot, parameter = name.strip().partition(".")
    where = f"--set {text}"
    if not (equals and dot and step and parameter):
        todo = "write for example --set jump.rejection_threshold=8"
        problems.append(Problem("expected STEP.PARAMETER=VALUE", where, todo, "parameter"))
        return None
    try:
        return Layer(where, [(step, {parameter: yaml.safe_load(value)})])
    except yaml.YAMLError:
        problems.append(Problem("the value is not valid YAML", where, "quote it", "parameter"))
        return None


def read_yaml(path: Path, shipped: Mapping[str, Path], _above: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a configuration file and those it extends.

    Parameters
    ----------
    path
        The file.
    shipped
        Names under which ``extends:`` finds the files that come with the package.

    Returns
    -------
    list of Layer
        The lowest first.

    Raises
    ------
    ConfigError
        It cannot be read, has another form, or extends itself.
    """
    where = str(path)
    if path.resolve() in _above:
        chain = " extends ".join(str(one) for one in (*_above, path.resolve()))
        raise ConfigError(Problem(f"extends itself: {chain}", where, "remove one of the extends", "config"))
    content = _content(path)
    steps = content.get("steps") or {}
    if not isinstance(steps, dict) or not all(
        isinstance(value, dict) or value is None for value in steps.values()
    ):
        raise ConfigError(
            Problem(
                "'steps' must map step names to parameters", where, "write step: {parameter: value}", "config"
            )
        )
    layers: list[Layer] = []
    if content.get("extends"):
        base = _base(str(content["extends"]), path, shipped)
        layers = read_yaml(base, shipped, (*_above, path.resolve()))
    own = [(str(step), value or {}) for step, value in steps.items()]
    mode = str(content.get("mode") or "")
    return [*layers, Layer(where, own, references=_references(content.get("references"), path), mode=mode)]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(
            Problem(f"cannot be read ({error.strerror})", str(path), "give --config a YAML file", "config")
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(Problem(f"is not valid YAML: {line}", str(path), "correct it", "config")) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or set(content) - _KEYS:
        strange = (
            sorted(map(str, set(content) - _KEYS)) if isinstance(content, dict) else type(content).__name__
        )
        what = f"expected the keys {', '.join(sorted(_KEYS))}, found {strange}"
        raise ConfigError(
            Problem(what, str(path), "see the files shipped in configs/ for the form", "config")
        )
    return content


def _base(name: str, path: Path, shipped: Mapping[str, Path]) -> Path:
    """Find the file that another one extends: beside it, or among those that come with the package."""
    beside = path.parent / Path(name).expanduser()
    if beside.is_file():
        return beside
    known = shipped.get(name) or shipped.get(f"{name}.yaml")
    if known is None:
        near = difflib.get_close_matches(name, shipped, n=1)
        todo = (
            f"did you mean {near[0]}?" if near else f"extend a file beside it, or one of {', '.join(shipped)}"
        )
        raise ConfigError(Problem(f"extends {name!r}, which does not exist", str(path), todo, "config"))
    return known


def _references(section: Any, path: Path) -> dict[str, Path]:
    """Read ``references: {type: file}``; relative paths count from the file they stand in."""
    if section is None:
        return {}
    where = str(path)
    if not isinstance(section, dict):
        raise ConfigError(
            Problem(
                "'references' must map reference types to files", where, "write dark: my_dark.fits", "config"
            )
        )
    problems, files = [], {}
    for name, file in section.items():
        reftype = canonical_name(name)
        if reftype is None:
            problems.append(unknown_type(str(name), where))
        elif not isinstance(file, str):
            problems.append(
                Problem(f"references.{name} is {file!r}, expected a path", where, "quote it", "config")
            )
        else:
            files[reftype] = path.parent / Path(file).expanduser()
    if problems:
        raise ConfigError(problems)
    return files


def pars_layers(places: Sequence[str], info: ExposureInfo, notes: list[Problem]) -> list[Layer]:
    """Read ``--pars`` files and folders, in the order they were given.

    Raises
    ------
    ConfigError
        See `tsostream.references.pars.choose_pars`.
    """
    layers = []
    for place in places:
        layers += [
            _pars_layer(one, str(one.path)) for one in choose_pars(Path(place).expanduser(), info, notes)
        ]
    return layers


def _pars_layer(pars: ParsFile, source: str) -> Layer:
    return Layer(source, pars.root.by_step(), official=True)


def crds_pars(info: ExposureInfo, wish: CrdsWish, notes: list[Problem]) -> list[Layer]:
    """Ask CRDS for the parameter files of an exposure; none without a cache or server.

    Raises
    ------
    ReferenceMismatchError, ConfigError
        A file cannot be downloaded or read.
    """
    disabled = os.environ.get("STPIPE_DISABLE_CRDS_STEPPARS", "").strip().lower() in (
        "1",
        "true",
        "t",
        "yes",
        "y",
    )
    if disabled or not crds_is_configured(wish.context):
        return []
    parameters = crds_parameters(info)
    answer = ask_crds(parameters, pars_reftypes(), context=wish.context)
    if isinstance(answer, Trouble):
        notes.append(Problem(f"no parameters from CRDS: {answer.why}", "", "", "crds"))
        return []
    if wish.fetch:
        answer = fetch_files(answer, parameters, progress=wish.progress)
    for kind, file in answer.wanting.items():
        what = f"{answer.context} asks for the parameters {file} ({kind}), which are not in the cache yet"
        notes.append(Problem(what, "", "process or refs fetch gets them", "not_cached"))
    files = in_order([read_pars(path) for path in answer.cached.values()])
    return [_pars_layer(one, f"{one.path.name} (CRDS {answer.context})") for one in files]

"""Which steps run, with which parameters.

The layers, the lowest first; a later one wins, parameter by parameter::

    code defaults
    pars-*.asdf from CRDS        when a cache or server is configured (--pars none: not)
    the mode's file in configs/  when no --config is given
    --pars FILE|DIR              parameter files of the official pipeline
    --config FILE                below it, what it extends
    --lock FILE                  instead of all of these
    --set, --skip-step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem, SinkError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Operator, build_operator
from tsostream.operators.catalog import OPERATORS
from tsostream.records.metadata import plain_values
from tsostream.references import CrdsWish
from tsostream.run.layers import (
    INDISPENSABLE,
    Layer,
    Merged,
    crds_pars,
    pars_layers,
    read_yaml,
    setting_layer,
    unknown_step,
)
from tsostream.run.lock import LockEntry
from tsostream.run.order import step_order
from tsostream.run.parity.configuration import official_parameters, official_skips

__all__ = ["MODE_FILES", "Config", "load_config", "mode_file", "save_config", "step_order"]

#: relative light curves do without absolute units: both steps multiply all integrations by the same numbers, and the
#: noise of their references comes along
RELATIVE = Layer(
    "relative light curve",
    [(name, {"skip": True}) for name in ("flat_field", "photom") if name in OPERATORS],
)
#: EXP_TYPE -> the configuration shipped for it
MODE_FILES = {
    "NRS_BRIGHTOBJ": "nirspec_bots.yaml",
    "NRC_TSGRISM": "nircam_grism.yaml",
    "NIS_SOSS": "niriss_soss.yaml",
    "MIR_LRS-SLITLESS": "miri_lrs.yaml",
    "NRC_TSIMAGE": "nircam_imaging.yaml",
    "MIR_IMAGE": "miri_imaging.yaml",
}


@dataclass(frozen=True)
class Config:
    """The steps of a run, in processing order.

    Parameters
    ----------
    operators
        Steps that run.
    skipped
        Names of steps that do not run: asked not to, or without a reference.
    source
        Where the parameters came from, for the record.
    left_out
        The steps behind ``skipped``, with their parameters.
    references
        Reference type -> file that the configuration names.
    origins
        Step -> parameter -> where its value came from; what is not there is the code's default.
    notes
        What is worth telling.
    """

    operators: tuple[Operator, ...]
    skipped: tuple[str, ...] = ()
    source: str = "code defaults"
    left_out: tuple[Operator, ...] = ()
    references: Mapping[str, Path] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[Problem, ...] = ()

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Step -> parameters, as written to the metadata."""
        return {operator.name: operator.parameters() for operator in self.operators}

    def users(self, info: ExposureInfo) -> dict[str, list[str]]:
        """Tell which steps want each reference type for an exposure, in processing order."""
        steps: dict[str, list[str]] = {}
        for operator in self.operators:
            for name in (one for names in operator.wants(info) for one in names):
                steps.setdefault(name, []).append(operator.name)
        return steps

    def operator(self, name: str) -> Operator | None:
        """Look a step up by name."""
        return next((operator for operator in self.operators if operator.name == name), None)

    def without(self, names: Mapping[str, Any]) -> Config:
        """Leave out steps that cannot run."""
        from dataclasses import replace

        return replace(
            self,
            operators=tuple(one for one in self.operators if one.name not in names),
            skipped=(*self.skipped, *names),
            left_out=(*self.left_out, *(one for one in self.operators if one.name in names)),
        )


def shipped_files() -> dict[str, Path]:
    """Name -> path of the configurations that come with the package."""
    package = Path(__file__).parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        found = {path.name: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def mode_file(exp_type: str) -> Path:
    """Find the configuration shipped for a mode."""
    name = MODE_FILES[exp_type]
    path = shipped_files().get(name)
    if path is None:
        todo = "install tsostream again, or use --config none"
        raise ConfigError(Problem(f"the configuration {name} is not installed", todo=todo))
    return path


def load_config(
    info: ExposureInfo,
    *,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    skip_steps: Sequence[str] = (),
    pars: Sequence[str] | None = None,
    lock: LockEntry | None = None,
    crds: CrdsWish | None = None,
    parity: bool = False,
    calibrated: bool = False,
) -> Config:
    """Put a configuration together.

    Parameters
    ----------
    info
        The exposure.
    config
        A YAML file; ``None`` for the mode's own; ``"none"`` for the code defaults.
    settings
        ``step.parameter=value`` each, values as in YAML.
    skip_steps
        Steps that shall not run.
    pars
        Parameter files of the official pipeline: files, folders, ``crds``, or ``none``. Default: ``crds``,
        unless `config` is ``"none"``.
    lock
        Takes the place of `config` and `pars`.
    crds
        How to ask CRDS; None not to.
    parity
        Start from the official time-series steps with the code's defaults instead of the mode's own file.
    calibrated
        Run the steps that bring absolute units, which relative light curves do without.

    Raises
    ------
    InputError
        With every unknown step, unknown parameter and unacceptable value, and every file that cannot be read.
    """
    merged = Merged(step_order(info))
    if parity:
        skips = official_skips(merged.order, miri=info.is_miri)
        merged.lay(Layer("--parity jwst", [(name, {"skip": True}) for name in skips]))
        merged.lay(Layer("--parity jwst", official_parameters(merged.order)))
        config = "none" if config is None else config
    relative = not (calibrated or parity)
    if lock:
        source = _lay_lock(merged, lock, config, pars)
    else:
        source = _lay_files(merged, info, config, pars, crds, relative=relative)
    if calibrated:
        merged.lay(Layer("--calibrated", [(name, {"skip": False}) for name, _ in RELATIVE.steps]))
    for text in settings:
        layer = setting_layer(text, merged.problems)
        step = layer.steps[0][0] if layer else ""
        if layer is None:
            continue
        if step in OPERATORS and step not in merged.order:
            what = f"{step} is no step of {info.exp_type} {info.level} exposures"
            todo = f"the steps are {', '.join(merged.order)}"
            merged.problems.append(Problem(what, layer.source, todo, "parameter"))
        else:
            merged.lay(layer)
    for step in skip_steps:
        if step not in OPERATORS:
            merged.problems.append(unknown_step(step, f"--skip-step {step}"))
        elif step in merged.order:
            merged.lay(Layer(f"--skip-step {step}", [(step, {"skip": True})]))
    return _build(merged, source)


def _lay_files(
    merged: Merged,
    info: ExposureInfo,
    config: str | Path | None,
    pars: Sequence[str] | None,
    crds: CrdsWish | None,
    *,
    relative: bool,
) -> str:
    """Lay parameter and configuration files over the code's defaults.

    Returns
    -------
    str
        The files, the one that wins first.
    """
    bare = str(config) == "none"
    wish = list(pars) if pars is not None else ([] if bare else ["crds"])
    if "none" in wish and len(wish) > 1:
        problem = Problem(
            "--pars none stands beside others", "--pars none", "give either none or files", "parameter"
        )
        merged.problems.append(problem)

    def shipped(path: Path) -> list[Layer]:
        return read_yaml(path, {**shipped_files(), "mode": mode_file(info.exp_type)})

    stack: list[Layer] = []
    for action in (
        lambda: crds_pars(info, crds, merged.notes) if crds is not None and "crds" in wish else [],
        # above the official defaults, below what somebody chose for this run
        lambda: [RELATIVE] if relative else [],
        lambda: shipped(mode_file(info.exp_type)) if config is None else [],
        lambda: pars_layers([one for one in wish if one not in ("crds", "none")], info, merged.notes),
        lambda: [] if config is None or bare else shipped(Path(config).expanduser()),
    ):
        try:
            stack += action()
        except InputError as error:
            merged.problems += error.problems
    for layer in stack:
        merged.lay(layer)
        if layer.mode and layer.mode != info.exp_type:
            what = f"is made for {layer.mode}, the exposure is {info.exp_type}; used all the same"
            merged.notes.append(Problem(what, layer.source, "", "mode"))
    own = str(mode_file(info.exp_type)) if config is None else ""
    files = [layer for layer in reversed(stack) if layer is not RELATIVE]
    names = [Path(layer.source).name if layer.source == own else layer.source for layer in files]
    return ", over ".join(dict.fromkeys(names)) or "code defaults"


def _lay_lock(merged: Merged, lock: LockEntry, config: str | Path | None, pars: Sequence[str] | None) -> str:
    """Take the parameters of a lock, which are complete; steps it does not know do not run."""
    source = str(lock.where)
    steps = {step: {**values, "skip": False} for step, values in lock.steps.items()}
    skipped = {step: {"skip": True} for step in merged.order if step not in steps}
    merged.lay(Layer(source, [*steps.items(), *skipped.items()]))
    new = [step for step in skipped if step not in lock.skipped]
    if new:
        what = f"the steps {', '.join(new)} are not in the lock and do not run"
        merged.notes.append(Problem(what, source, "lock again to use them", "lock"))
    if (config is not None and str(config) != "none") or pars:
        what = "the parameters come from the lock; --config and --pars are not used"
        merged.notes.append(Problem(what, source, "change single ones with --set", "lock"))
    return source


def _build(merged: Merged, source: str) -> Config:
    """Make the steps, and say everything that is wrong with them at once."""
    operators = []
    for name in merged.order:
        try:
            operators.append(build_operator(OPERATORS[name], merged.values.get(name, {}), where=source))
        except ConfigError as error:
            merged.problems += error.problems
    if merged.problems:
        raise ConfigError(list(dict.fromkeys(merged.problems)))
    needed = [one.name for one in operators if one.skip and one.name in INDISPENSABLE]
    if needed:
        where = merged.origins.get(needed[0], {}).get("skip", "")
        what = f"the step {needed[0]} cannot be skipped: there would be no rows"
        raise ConfigError(Problem(what, where, "leave it in", code="parameter"))
    left_out = tuple(one for one in operators if one.skip)
    return Config(
        operators=tuple(one for one in operators if not one.skip),
        skipped=tuple(one.name for one in left_out),
        source=source,
        left_out=left_out,
        references=merged.references,
        origins=merged.origins,
        notes=tuple(dict.fromkeys(merged.notes)),
    )


def save_config(config: Config, path: Path, info: ExposureInfo, *, overwrite: bool = False) -> None:
    """Write the resolved configuration, every parameter of every step, to be used with ``--config``.

    Parameters
    ----------
    config
        From `load_config`.
    path
        YAML file to write.
    info
        The exposure it was made for.
    overwrite
        Replace a file that is there.

    Raises
    ------
    OutputExistsError
        The file exists and ``overwrite`` is not set.
    SinkError
        It cannot be written.
    """
    if path.exists() and not overwrite:
        todo = "choose another --save-config, or give --overwrite to replace it"
        raise OutputExistsError(Problem("exists already", str(path), todo, "exists"))
    lines = [
        f"# Every parameter of {info.instrument} {info.exp_type} {info.level} exposures as they were used;",
        "# the comment says where a value came from, without one it is the code's default.",
        f"mode: {info.exp_type}",
        "steps:",
    ]
    running = {one.name for one in config.operators}
    order = {name: number for number, name in enumerate(step_order(info))}
    for operator in sorted((*config.operators, *config.left_out), key=lambda one: order.get(one.name, 0)):
        lines.append(f"  {operator.name}:")
        for name, value in operator.parameters().items():
            origin = config.origins.get(operator.name, {}).get(name, "")
            if name == "skip" and operator.name not in running and not value:
                value, origin = True, "it had no reference file"
            lines.append(f"    {name}: {_scalar(value)}" + (f"  # {origin}" if origin else ""))
    if config.references:
        lines.append("references:")
        lines += [f"  {name}: {_scalar(str(file.absolute()))}" for name, file in config.references.items()]
    try:
        path.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise SinkError(
            f"{path}: the configuration cannot be written ({error.strerror or error}); choose another --save-config"
        ) from None


def _scalar(value: Any) -> str:
    """Write a value as YAML on one line."""
    text = yaml.safe_dump(plain_values(value), default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()

"""Which steps run, with which parameters: mode file < ``--config`` < ``--set`` and ``--skip-step``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Operator, build_operator
from tsostream.operators.catalog import IMAGING, MIRI_RAMPS, NIR_RAMPS, OPERATORS, SPECTROSCOPY

__all__ = ["MODE_FILES", "Config", "load_config", "mode_file", "step_order"]

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
        Names of steps that were asked not to run.
    source
        Where the parameters came from, for the record.
    """

    operators: tuple[Operator, ...]
    skipped: tuple[str, ...] = ()
    source: str = "code defaults"

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Step -> parameters, as written to the metadata."""
        return {operator.name: operator.parameters() for operator in self.operators}

    def operator(self, name: str) -> Operator | None:
        """Look a step up by name."""
        return next((operator for operator in self.operators if operator.name == name), None)


def step_order(info: ExposureInfo) -> tuple[str, ...]:
    """Names of all steps that apply to an exposure, in processing order (spec stage 1, section 2)."""
    ramps = (MIRI_RAMPS if info.is_miri else NIR_RAMPS) if info.is_ramp else ()
    return ramps + (SPECTROSCOPY if info.is_spectroscopy else IMAGING)


def mode_file(exp_type: str) -> Path:
    """Find the configuration shipped for a mode."""
    package = Path(__file__).parent.parent
    name = MODE_FILES[exp_type]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(Problem(f"the configuration {name} is not installed", todo="install tsostream again, or use --config none"))


def load_config(
    info: ExposureInfo,
    *,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    skip_steps: Sequence[str] = (),
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

    Raises
    ------
    ConfigError
        With every unknown step, unknown parameter and unacceptable value.
    """
    order = step_order(info)
    problems: list[Problem] = []
    merged: dict[str, dict[str, Any]] = {name: {} for name in order}
    source = "code defaults"
    if str(config) != "none":
        path = Path(config) if config is not None else mode_file(info.exp_type)
        source = path.name if config is None else str(path)
        for step, parameters in _read(path).items():
            if _known(step, str(path), problems) and step in merged:
                merged[step].update(parameters)
    for text in settings:
        step, parameter, value = _parse_setting(text, problems)
        if not step or not _known(step, f"--set {text}", problems):
            continue
        if step in merged:
            merged[step][parameter] = value
        else:
            problems.append(
                Problem(f"{step} is no step of {info.exp_type} {info.level} exposures", f"--set {text}",
                        f"the steps are {', '.join(order)}", "parameter")
            )  # fmt: skip
    for step in skip_steps:
        if _known(step, f"--skip-step {step}", problems) and step in merged:
            merged[step]["skip"] = True
    operators = []
    for name in order:
        try:
            operators.append(build_operator(OPERATORS[name], merged[name], where=source))
        except ConfigError as error:
            problems += [_blame(problem, name, settings) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    indispensable = [o.name for o in operators if o.skip and o.name in ("ramp_fit", "extract_1d", "white_light", "tso_photometry")]
    if indispensable:
        raise ConfigError(Problem(f"the step {indispensable[0]} cannot be skipped: there would be no rows", code="parameter"))
    running = tuple(operator for operator in operators if not operator.skip)
    return Config(running, tuple(operator.name for operator in operators if operator.skip), source)


def _blame(problem: Problem, step: str, settings: Sequence[str]) -> Problem:
    """Say that a parameter came from the command line, where it did."""
    for text in settings:
        name = text.partition("=")[0].strip()
        parameter = name.removeprefix(f"{step}.")
        if name != parameter and (f"{parameter!r}" in problem.what or f"{name} " in problem.what):
            return replace(problem, where=f"--set {text}")
    return problem


def _known(step: str, where: str, problems: list[Problem]) -> bool:
    if step in OPERATORS:
        return True
    near = difflib.get_close_matches(step, OPERATORS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the steps are {', '.join(OPERATORS)}"
    problems.append(Problem(f"there is no step {step!r}", where, hint, "parameter"))
    return False


def _parse_setting(text: str, problems: list[Problem]) -> tuple[str, str, Any]:
    name, equals, value = text.partition("=")
    step, dot, parameter = name.strip().partition(".")
    if not (equals and dot and step and parameter):
        problems.append(
            Problem("expected STEP.PARAMETER=VALUE", f"--set {text}", "write for example --set jump.rejection_threshold=8", "parameter")
        )  # fmt: skip
        return "", "", None
    try:
        return step, parameter, yaml.safe_load(value)
    except yaml.YAMLError:
        problems.append(Problem("the value is not valid YAML", f"--set {text}", "quote it", "parameter"))
        return "", "", None


def _read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read ({error.strerror})", str(path), "give --config a YAML file")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(Problem(f"is not valid YAML: {line}", str(path))) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or set(content) - {"mode", "steps"}:
        raise ConfigError(
            Problem("expected the keys 'mode' and 'steps'", str(path), "see the files shipped in configs/ for the form")
        )
    steps = content.get("steps") or {}
    if not isinstance(steps, dict) or not all(isinstance(value, dict) or value is None for value in steps.values()):
        raise ConfigError(Problem("'steps' must map step names to parameters", str(path)))
    return {str(step): value or {} for step, value in steps.items()}

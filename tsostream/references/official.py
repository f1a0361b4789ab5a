"""What the official pipeline calls its steps and parameters, and how theirs map to ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["NEVER", "PIPELINES", "OfficialStep", "by_alias", "by_class", "common_parameters", "hint"]

#: pipelines a time series goes through, in order: where two set the same parameter, the later one counts
PIPELINES = ("Detector1Pipeline", "Spec2Pipeline", "Image2Pipeline", "Tso3Pipeline")


@dataclass(frozen=True, kw_only=True)
class OfficialStep:
    """One step of the official pipeline.

    Parameters
    ----------
    cls
        Class, such as ``JumpStep``.
    alias
        Its name in the pipelines, and ours where we have it.
    skip
        Whether it is skipped by default.
    parameters
        Its own parameters and their defaults.
    """

    cls: str
    alias: str
    skip: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reftype(self) -> str:
        """CRDS's name for its parameter files."""
        return f"pars-{self.cls.lower()}"

    def knows(self, parameter: str) -> bool:
        """Whether the official step has this parameter."""
        everywhere = parameter in common_parameters() or parameter.startswith("override_")
        return everywhere or parameter in self.parameters

    def default(self, parameter: str) -> Any:
        """Give the official default; None for a parameter it does not have."""
        if parameter == "skip":
            return self.skip
        return self.parameters.get(parameter, common_parameters().get(parameter))


@functools.cache
def _table() -> dict[str, Any]:
    import yaml

    # libyaml, where PyYAML was built with it: ten times as fast, and every run reads this table
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    path = Path(__file__).with_name("official_steps.yaml")
    table: dict[str, Any] = yaml.load(path.read_text(), Loader=loader)
    return table


@functools.cache
def by_class() -> dict[str, OfficialStep]:
    """Class -> step."""
    return {cls: OfficialStep(cls=cls, **entry) for cls, entry in _table()["steps"].items()}


@functools.cache
def by_alias() -> dict[str, OfficialStep]:
    """Name in the pipeline -> step."""
    return {step.alias: step for step in by_class().values()}


def common_parameters() -> dict[str, Any]:
    """Parameters that every official step has."""
    common: dict[str, Any] = _table()["common"]
    return common


@functools.cache
def _never() -> frozenset[str]:
    never: dict[str, str] = _table()["never"]
    return frozenset({*never, *never.values()})


class _Never:
    """Steps of other modes, by class and by alias."""

    def __contains__(self, name: object) -> bool:
        return name in _never()


#: steps for other instruments' modes; what a file says about them does not concern a time series
NEVER = _Never()


def hint(step: str, parameter: str = "") -> str:
    """Say how an official parameter (or step) maps to ours; empty when nothing corresponds.

    Parameters
    ----------
    step
        Alias.
    parameter
        Empty to ask about the step itself.
    """
    hints = _table()["hints"]
    if not parameter:
        return str(hints["steps"].get(step, ""))
    if parameter.startswith("override_"):
        return str(hints["override"])
    official = by_alias().get(step)
    own = hints.get(official.cls, {}) if official else {}
    return str(own.get(parameter, hints["common"].get(parameter, "")))

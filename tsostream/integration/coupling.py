"""What a step may look at besides the integration in hand.

The declaration is a promise that the contract test checks: it disturbs integration *k* and looks which outputs change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Coupling", "Lasting", "Numbered", "PerIntegration", "Template", "Window"]


@dataclass(frozen=True, slots=True)
class PerIntegration:
    """Only the integration itself."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """The integration itself and its absolute number in the exposure, never its index in a file."""


@dataclass(frozen=True, slots=True)
class Window:
    """A pure function of the frames ``number - before … number + after``.

    Parameters
    ----------
    before, after
        How many integrations on either side.
    edge
        What happens at the ends of the exposure: ``shrink`` uses the frames there are, ``hold`` repeats the
        statistic of the last complete window.
    what
        Names of the scout's products the step needs besides.
    """

    before: int
    after: int
    edge: Literal["shrink", "hold"] = "shrink"
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lasting:
    """The integration itself, and what samples of earlier ones caused for a fixed time.

    Parameters
    ----------
    seconds
        How long a sample has an effect [s].
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Template:
    """A frozen statistic of the run, made by the scout before the first row.

    Parameters
    ----------
    what
        Names of the scout's products the step needs, e.g. ``("image",)``, and of what earlier steps tell it when
        they are bound (``average_dark_current``).
    """

    what: tuple[str, ...]


Coupling = PerIntegration | Numbered | Window | Lasting | Template

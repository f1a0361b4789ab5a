"""The steps of the parity scope, sorted by what they look at, and what this scope cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.emi_segment import Corrections, SegmentInterference
from tsostream.operators.emicorr import Emicorr
from tsostream.operators.flicker_segment import SegmentFlicker, bind_segment
from tsostream.operators.jump import Jump
from tsostream.operators.persistence import Persistence
from tsostream.operators.picture_frame import PictureFrame
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.tile import Tile
from tsostream.run.config import Config
from tsostream.run.parity.windows import Window, cut_info, cut_references
from tsostream.run.product_plan import split_names
from tsostream.run.request import Request

__all__ = ["ParitySteps", "WindowSteps", "bind_window", "check_parity", "split_steps"]

#: scratch planes that mark pixels whose DQ is shared by all integrations of a file (spec 12, 13)
ESTIMATED = ("firstframe.kept", "rscd.lowered")
#: what refpix finds in whole frames, along x and along y, of groups and of zero frames
TABLES = ("refpix.along_x", "refpix.along_y", "refpix.zero_x", "refpix.zero_y")

#: the jump search, and steps that change ramps behind it
BEHIND_JUMPS = ("jump", "clean_flicker_noise", "persistence")
#: scratch planes of the rows of zero frames that refpix corrects
ZERO_PLANES = ("zeroframe", "refpix.zero")


@dataclass(frozen=True)
class ParitySteps:
    """Bound to whole frames.

    Parameters
    ----------
    info
        The exposure.
    references
        All references.
    operators
        Steps before the jump search, in order.
    bound
        The same, bound to whole frames; refpix finds its levels there.
    jump
        None when it is skipped.
    fit
        Ramp fit.
    after
        Steps on slopes, bound to whole frames.
    flicker
        Cleans the ramps between the jump search and the fit; None when it does not run.
    interference, corrections
        Finds waves of interference in a file, None when emicorr does not run; what it found, once that is known.
    pixeldq : uint32 [y, x]
        Static DQ before the jump search.
    dark : float32 [y, x]
        Average dark current.
    flicker, persistence
        clean_flicker_noise and persistence; None when they are skipped.
    """

    info: ExposureInfo
    references: Mapping[str, Reference]
    operators: tuple[Operator, ...]
    bound: tuple[BoundRampStep, ...]
    jump: Jump | None
    fit: RampFit
    after: tuple[BoundRampStep, ...]
    pixeldq: np.ndarray
    dark: np.ndarray
    flicker: SegmentFlicker | None = None
    persistence: Persistence | None = None
    interference: SegmentInterference | None = None
    corrections: Corrections | None = None

    @property
    def has_events(self) -> bool:
        """Whether snowballs are looked for."""
        return self.jump is not None and self.jump.expand_large_events and self.info.ngroups > 2

    @property
    def frames_after(self) -> bool:
        """Whether something looks at whole frames behind the jump search."""
        return self.flicker is not None or self.has_events

    @property
    def ramp_order(self) -> tuple[str, ...]:
        """Everything that leaves ramps, in order."""
        return ("decode", *(one.name for one in self.operators), *BEHIND_JUMPS)

    def static_dq(self, step: str) -> np.ndarray:
        """Copy the static DQ plane that a step leaves, uint32 [y, x]."""
        if step == "decode":
            return np.zeros(self.info.frame_shape, np.uint32)
        return next((one.pixeldq for one in self.bound if one.name == step), self.pixeldq).copy()

    def corrected(self, found: Corrections) -> ParitySteps:
        """Make the steps of one file, whose waves of interference are known."""
        return replace(
            self,
            bound=tuple(
                replace(one, passes=(found.row_pass(),)) if one.name == "emicorr" else one
                for one in self.bound
            ),
            corrections=found,
        )

    def before_interference(self) -> tuple[BoundRampStep, ...]:
        """List the steps whose results the waves of interference are found in."""
        names = [step.name for step in self.bound]
        return self.bound[: names.index("emicorr")]

    @property
    def halo(self) -> int:
        """Pixels around a window that its results depend on."""
        reach = sum(one.halo for step in self.bound for one in step.passes)
        return reach + (1 if self.jump is not None and self.jump.flag_4_neighbors else 0)

    @property
    def needs_frames(self) -> bool:
        """Whether a step looks at whole frames."""
        return any(one.frame for step in self.bound for one in step.passes)

    @property
    def loses_charge(self) -> bool:
        """Whether charge migration takes groups."""
        return any(step.name == "charge_migration" and not step.skipped for step in self.bound)

    def frame_passes(self) -> list[RowPass]:
        """All passes up to the one that finds the levels of whole frames."""
        passes = [one for step in self.bound for one in step.passes]
        last = max(number for number, one in enumerate(passes) if one.frame)
        return passes[: last + 1]

    def frame_steps(self) -> list[BoundRampStep]:
        """List the steps that `frame_passes` belong to."""
        names = [step.name for step in self.bound]
        return list(self.bound[: names.index("refpix") + 1])


def split_steps(
    config: Config,
    info: ExposureInfo,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any] | None = None,
) -> ParitySteps:
    """Bind the steps up to the slopes.

    Parameters
    ----------
    config, info, references
        The run.
    templates
        What steps are told of the exposure: ``slit``, ``user_mask``.

    Raises
    ------
    ConfigError
        A step does not suit the exposure.
    """
    ramps = [one for one in config.operators if one.name in (*MIRI_RAMPS, *NIR_RAMPS)]
    if not any(isinstance(one, RampFit) and one.uses_zeroframe(info) for one in ramps):
        info = replace(info, zeroframe=False)
    before: list[Operator] = []
    bound: list[BoundRampStep] = []
    after: list[BoundRampStep] = []
    jump, fit, flicker, persistence, interference = None, RampFit(), None, None, None
    pixeldq = np.zeros(info.frame_shape, np.uint32)
    for operator in ramps:
        if isinstance(operator, Jump):
            jump = operator
        elif isinstance(operator, RampFit):
            fit = operator
        elif isinstance(operator, Persistence):
            persistence = operator
        elif isinstance(operator, CleanFlickerNoise):
            wanted = _wanted(operator, references)
            found = bind_segment(operator, Binding(info, wanted, pixeldq, templates or {}))
            flicker = None if isinstance(found, str) else found
        elif isinstance(operator, Emicorr):
            waves = operator.bind_segment(Binding(info, _wanted(operator, references), pixeldq))
            if isinstance(waves, SegmentInterference):
                interference = waves
                before.append(operator)
                bound.append(BoundRampStep(operator.name, pixeldq))
        else:
            step = operator.bind(
                Binding(info, _wanted(operator, references), pixeldq, official_rounding=True)
            )
            if not isinstance(step, BoundRampStep):
                raise TypeError(f"{operator.name} is no step on ramps")
            pixeldq = step.pixeldq
            if step.produces == "rate":
                after.append(step)
            else:
                before.append(operator)
                bound.append(step)
    # the jump search flags these, and the fit does where that is skipped
    unknown = np.uint32(dq.NO_GAIN_VALUE | dq.DO_NOT_USE)
    pixeldq = pixeldq | np.where(references["gain"].arrays["SCI"] > 0, np.uint32(0), unknown)
    dark = np.zeros(info.frame_shape, np.float32)
    for step in bound:
        dark = step.templates.get("average_dark_current", dark)
    return ParitySteps(
        info, references, tuple(before), tuple(bound), jump, fit, tuple(after), pixeldq, dark, flicker,
        persistence, interference,
    )  # fmt: skip


def check_scopes(config: Config) -> None:
    """Refuse steps on ramps whose scope is the segment, outside of the parity scope.

    Raises
    ------
    ConfigError
        Names them.
    """
    _refuse_full_frames(config)
    wrong = [
        one.name
        for one in config.operators
        if one.name in (*MIRI_RAMPS, *NIR_RAMPS) and getattr(one, "scope", "streaming") == "segment"
    ]
    if wrong:
        what = f"{', '.join(wrong)}: scope segment looks at all integrations of a file"
        raise ConfigError(Problem(what, todo="give --parity jwst, or leave the scope out", code="parameter"))


def check_parity(
    request: Request,
    config: Config,
    info: ExposureInfo,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
) -> None:
    """Refuse what the parity scope does not do, before the run.

    Raises
    ------
    ConfigError
        A step, a product or a saved step it does not have.
    """
    if not info.is_ramp:
        return
    _refuse_full_frames(config)
    steps = split_steps(config, info, references, templates)
    scaled = [one.name for one in steps.after if not one.skipped]
    if scaled and "ramp_fit" in split_names(request.save_steps):
        what = f"--parity jwst makes slopes and takes them through {', '.join(scaled)} in one go"
        todo = "save rateints instead of ramp_fit"
        raise ConfigError(Problem(what, "--save-steps ramp_fit", todo, "parameter"))


def _refuse_full_frames(config: Config) -> None:
    if config.operator(PictureFrame.name) is not None:
        what = "picture_frame is not supported: it applies to full frames of NIRSpec only, which time series never use"
        raise ConfigError(Problem(what, todo="leave it out (picture_frame.skip=true)", code="unsupported"))


def _wanted(operator: Operator, references: Mapping[str, Reference]) -> dict[str, Reference]:
    names = (*operator.references, *operator.optional_references)
    return {name: references[name] for name in names if name in references}


@dataclass(frozen=True)
class WindowSteps:
    """Steps before the jump search, bound to a window.

    Parameters
    ----------
    info
        The window as if it were the subarray.
    references
        Cut to the window.
    steps
        In order.
    pixeldq : uint32 [y, x]
        Static DQ before the fit.
    """

    info: ExposureInfo
    references: dict[str, Reference]
    steps: tuple[BoundRampStep, ...]
    pixeldq: np.ndarray


def bind_window(parity: ParitySteps, window: Window, first: int) -> WindowSteps:
    """Bind the steps before the jump search to a window.

    Parameters
    ----------
    parity
        Bound to whole frames.
    window
        Part of the frame.
    first
        Number in the exposure of the segment's first integration.
    """
    info = cut_info(parity.info, window)
    references = cut_references(parity.references, parity.info, window)
    place = (slice(window.top, window.bottom), slice(window.left, window.right))
    steps: list[BoundRampStep] = []
    for operator, whole in zip(parity.operators, parity.bound, strict=True):
        if whole.skipped:
            continue
        if operator.name == "emicorr":
            if parity.corrections is not None:
                own_pass = parity.corrections.row_pass(window.top, window.left)
                steps.append(replace(whole, passes=(own_pass,)))
            continue
        if any(one.frame for one in whole.passes):
            # its levels were found in whole frames; the rows are corrected with them
            rows = tuple(one for one in whole.passes if not one.frame)
            own = {name: (info.frame_shape, np.float32) for name in ZERO_PLANES if name in whole.scratch}
            steps.append(replace(whole, passes=rows, scratch=own))
            continue
        step = operator.bind(Binding(info, _wanted(operator, references)))
        if not isinstance(step, BoundRampStep):
            raise TypeError(f"{operator.name} is no step on ramps")
        if operator.name == "dark_current" and info.is_miri and first > 1:
            # in later segments the official step takes the last dark of a MIRI reference for all integrations
            step = replace(step, passes=tuple(_numbered(one, 1 << 30) for one in step.passes))
        steps.append(step)
    return WindowSteps(info, references, tuple(steps), parity.pixeldq[place].copy())


def _numbered(one: RowPass, first: int) -> RowPass:
    def run(tile: Tile, y0: int, y1: int) -> None:
        one.run(replace(tile, first=first), y0, y1)

    part = one.part
    if part is not None:
        part = Part(part.kind, {name: planes[-1:] for name, planes in part.arrays.items()})
    return replace(one, run=run, part=part)

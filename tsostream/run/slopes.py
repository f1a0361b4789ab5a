"""Steps on slopes, bound one behind the other: calibration, the window, what follows it.

Slopes of the streaming chain, of the parity scope and of files (rateints, calints, crfints) go through the same steps.
Each is bound with the exposure, the static DQ plane and the templates that the one before leaves. The scout measured
slopes, so its templates are taken through the same calibration: who measures sees them as it sees the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate, Times
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRateStep, BoundWindowStep, Operator
from tsostream.operators.catalog import CLEANING
from tsostream.run.config import Config
from tsostream.run.order import all_steps

__all__ = ["SlopeSteps", "bind_slopes", "image_steps", "is_news", "slope_steps", "wanted_references"]


@dataclass(frozen=True)
class SlopeSteps:
    """Bound steps on slopes, in three stretches.

    Parameters
    ----------
    info, pixeldq, templates
        The exposure, its static DQ plane uint32 [y, x] and the scout's products after all steps.
    calibration
        Steps that make calints.
    window
        The step that looks at neighbouring integrations and makes crfints, if one runs.
    cleaning
        Steps between the window and the measurement.
    """

    info: ExposureInfo
    pixeldq: np.ndarray
    templates: Mapping[str, Any] = field(default_factory=dict)
    calibration: tuple[BoundRateStep, ...] = ()
    window: BoundWindowStep | None = None
    cleaning: tuple[BoundRateStep, ...] = ()

    @property
    def all(self) -> tuple[BoundRateStep | BoundWindowStep, ...]:
        """Every step in order."""
        window = () if self.window is None else (self.window,)
        return (*self.calibration, *window, *self.cleaning)


def is_news(step: Any) -> bool:
    """Whether a bound step is skipped, and that is worth telling."""
    return bool(step.skipped) and not getattr(step, "quiet", False)


def wanted_references(
    operator: Operator, info: ExposureInfo, references: Mapping[str, Reference]
) -> dict[str, Reference]:
    """Pick the references a step asks for, as far as they are there."""
    needed, optional = operator.wants(info)
    return {name: references[name] for name in (*needed, *optional) if name in references}


def image_steps(config: Config, info: ExposureInfo) -> list[Operator]:
    """List the steps from ramps to the last image, in order."""
    order = all_steps(info)
    first = next(i for i, name in enumerate(order) if name in ("extract_1d", "tso_photometry"))
    return [one for one in config.operators if one.name in order[:first]]


def slope_steps(config: Config, info: ExposureInfo) -> list[Operator]:
    """List the steps behind stage 1 that take images and give images, in order."""
    order = all_steps(info)
    stage_1 = order[: order.index("gain_scale") + 1]
    return [one for one in image_steps(config, info) if one.name not in stage_1]


def bind_slopes(
    config: Config,
    info: ExposureInfo,
    pixeldq: np.ndarray,
    references: Mapping[str, Reference],
    templates: Mapping[str, Any],
    segments: tuple[tuple[int, int], ...] = (),
) -> SlopeSteps:
    """Bind all steps on slopes.

    Parameters
    ----------
    config
        Steps and parameters.
    info, pixeldq
        The exposure and its static DQ plane uint32 [y, x] as the slopes leave them.
    references
        By type.
    templates
        The scout's products; empty to see whether the steps fit, and how large the frames become.
    segments
        First and last integration of each file.

    Raises
    ------
    ConfigError, ReferenceMismatchError
        When a step refuses the exposure or a reference.
    """
    if info.is_ramp:
        # the fit leaves slopes, whatever the ramps' unit was called
        info = replace(info, bunit="DN/s")
    templates = dict(templates)
    calibration: list[BoundRateStep] = []
    cleaning: list[BoundRateStep] = []
    window: BoundWindowStep | None = None
    for operator in slope_steps(config, info):
        own = wanted_references(operator, info, references)
        bound: Any = operator.bind(Binding(info, own, pixeldq, templates, segments))
        info, pixeldq = bound.info, bound.pixeldq
        if isinstance(bound, BoundWindowStep):
            window = bound
        elif not isinstance(bound, BoundRateStep):
            raise TypeError(f"{operator.name} is no step on slopes")
        else:
            (cleaning if operator.name in CLEANING else calibration).append(bound)
        if isinstance(bound, BoundRateStep) and not bound.skipped and "image" in templates:
            templates |= through(bound, templates)
        templates |= bound.templates
    return SlopeSteps(info, pixeldq, templates, tuple(calibration), window, tuple(cleaning))


def through(step: BoundRateStep, templates: Mapping[str, Any]) -> dict[str, Any]:
    """Take the scout's products through a step, as if they were one integration.

    The image goes with its variance, the scatter as the variance of a second copy: a step that subtracts must not
    subtract from a scatter. The covariance of the background scales with the variance of the pixels.
    """
    image = np.asarray(templates["image"], np.float32)
    variance = np.asarray(templates["variance"], np.float32)
    out = step.run(_as_integration(image, variance))
    changed = out.var_poisson[0] + out.var_rnoise[0]
    products: dict[str, Any] = {"image": out.data[0].copy(), "variance": changed.copy()}
    if "scatter" in templates:
        other = step.run(_as_integration(image, np.asarray(templates["scatter"], np.float32) ** 2))
        products["scatter"] = np.sqrt(other.var_poisson[0] + other.var_rnoise[0])
    if "covariance" in templates:
        factor = _variance_factor(variance, changed)
        products["covariance"] = np.asarray(templates["covariance"]) * factor
    return products


def _as_integration(image: np.ndarray, variance: np.ndarray) -> Rate:
    half = (variance / np.float32(2)).astype(np.float32)[None]
    times = Times(np.full((1, 6), np.nan), np.zeros(1, np.uint32))
    # a step may change arrays in place, so every one is a copy
    return Rate(
        1, image[None].copy(), np.sqrt(variance)[None], half, half.copy(),
        np.zeros((1, *image.shape), np.uint32), times,
    )  # fmt: skip


def _variance_factor(before: np.ndarray, after: np.ndarray) -> float:
    """Median factor by which a step changed variances; 1 where frames were cut and nothing else is known."""
    if before.shape != after.shape:
        whole, part = np.nanmedian(before), np.nanmedian(after)
        return float(part / whole) if whole > 0 and np.isfinite(part) else 1.0
    there = np.isfinite(before) & np.isfinite(after) & (before > 0)
    return float(np.median(after[there] / before[there])) if there.any() else 1.0

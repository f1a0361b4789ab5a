"""bkg_subtract: take the background off slopes, from a template or from other exposures (spec stages 2-3, B.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.jit import kernel
from tsostream.operators.soss_background import STEP, Images, TemplateFit, fit_templates

__all__ = ["BkgSubtract", "subtract_image"]

#: row of SUBSTRIP256 at which SUBSTRIP96 begins
_STRIP96 = 10


@kernel
def subtract_image(data, bits, images, flags, which):
    """Subtract an image from each integration and add its flags.

    Parameters
    ----------
    data, bits : float32, uint32 [integration, y, x]
        Changed in place.
    images, flags : float32, uint32 [image, y, x]
        Backgrounds.
    which : int64 [integration]
        The image of each integration.
    """
    for i in range(data.shape[0]):
        k = which[i]
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                data[i, y, x] -= images[k, y, x]
                bits[i, y, x] |= flags[k, y, x]


@dataclass(frozen=True, kw_only=True)
class BkgSubtract(Operator):
    """Subtract the background: SOSS from a library of templates, other modes the mean of background exposures.

    Parameters
    ----------
    bkg_list
        Files of background exposures, beside those of the association.
    sigma
        Values further than this from the median of all integrations of a background exposure are left out.
    maxiters
        How often that is repeated; by default until nothing changes.
    soss_source_percentile
        SOSS pixels brighter than this percentile belong to sources.
    soss_bkg_percentile
        The brightness is the median of the ratio to the template between these two percentiles of it; by default 25
        and 50.
    scope
        What SOSS templates are fitted to: ``streaming``, the scout's image, once for the exposure; ``segment``, all
        integrations of each file, as the official step does.
    """

    name: ClassVar[str] = "bkg_subtract"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("bkg",)

    bkg_list: list[str] | None = None
    sigma: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    maxiters: Annotated[int, msgspec.Meta(ge=1)] | None = None
    soss_source_percentile: Annotated[float, msgspec.Meta(ge=0, le=100)] = 35.0
    soss_bkg_percentile: list[float] | None = None
    scope: Literal["streaming", "segment"] = "streaming"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.soss_bkg_percentile
        if given is not None and not (len(given) == 2 and 0 <= given[0] < given[1] <= 100):
            raise ConfigError(
                Problem(
                    f"bkg_subtract.soss_bkg_percentile = {given} is no pair of ascending percentiles",
                    todo="the default is [25, 50]",
                    code="parameter",
                )
            )

    @property
    def coupling(self) -> Coupling:
        """The scout's image, or the slopes themselves; backgrounds of other exposures."""
        return Template(("image", "rates", "background"))

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Only SOSS has templates."""
        return (("bkg",), ()) if info.exp_type == "NIS_SOSS" else ((), ())

    def bind(self, binding: Binding) -> BoundRateStep:
        """Find the background."""
        info = binding.info
        done = partial(BoundRateStep, self.name, binding.dq_plane, info)
        other = binding.templates.get("background")
        if other is not None:
            image, flags = (np.asarray(one)[None] for one in other)
            run = partial(_subtract, images=image.astype(np.float32), flags=flags.astype(np.uint32))
            return BoundRateStep(self.name, binding.dq_plane | flags[0], info, run)
        if info.exp_type != "NIS_SOSS":
            return done(_unchanged, skipped="there are no background exposures", quiet=True)
        if info.filter not in ("", "CLEAR"):
            return done(_unchanged, skipped=f"there are templates for CLEAR only, not for {info.filter}")
        templates = _on_frame(binding.references["bkg"], info)
        if info.nx <= STEP[1]:
            return done(
                _unchanged, skipped=f"the subarray ends before the step of the background, column {STEP[0]}"
            )
        if "image" not in binding.templates:
            # bound to see that it fits: the fit comes with the scout
            return done(_unchanged)
        spans = binding.segments if self.scope == "segment" and "rates" in binding.templates else ((0, 0),)
        fits = [self._fit(templates, binding, span) for span in spans]
        if any(one is None for one in fits):
            return done(_unchanged, skipped="no template fits the background on both sides of its step")
        images = np.stack([one.image for one in fits if one is not None])
        run = partial(
            _subtract,
            images=images,
            flags=np.zeros(images.shape, np.uint32),
            ends=tuple(last for _, last in spans),
        )
        return done(run, notes=tuple(_told(one) for one in fits if one is not None))

    def _fit(self, templates: np.ndarray, binding: Binding, span: tuple[int, int]) -> TemplateFit | None:
        ground = self.soss_bkg_percentile or [25.0, 50.0]
        images: Images
        if span == (0, 0):
            image = np.asarray(binding.templates["image"], np.float32)[None]
            flags = np.ascontiguousarray(binding.dq_plane)[None]

            def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                yield image, flags
        else:
            rates: Callable[[int, int], Iterator[Rate]] = binding.templates["rates"]

            def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                for rate in rates(*span):
                    yield rate.data, rate.dq

        return fit_templates(
            images, templates, source=self.soss_source_percentile, ground=(ground[0], ground[1])
        )


def _told(fit: TemplateFit) -> str:
    left, right = fit.scales
    return f"template {fit.template}, {left:.4g} left and {right:.4g} right of the step"


def _on_frame(reference: Reference, info: ExposureInfo) -> np.ndarray:
    """Templates on the pixels of the subarray."""
    templates = reference.arrays.get("SCI")
    where = reference.path or reference.name
    if templates is None or templates.ndim not in (2, 3):
        raise ReferenceMismatchError(
            Problem(
                "a bkg reference needs SCI with [template, y, x]",
                where,
                "give the BKG reference of SOSS",
                "bkg",
            )
        )
    templates = templates.reshape(-1, *templates.shape[-2:])
    if templates.shape[1] == 256 and info.ny == 96:
        templates = templates[:, _STRIP96 : _STRIP96 + 96]
    if templates.shape[1:] != info.frame_shape:
        what = f"the templates have {templates.shape[1:]} pixels (y, x), the subarray {info.frame_shape}"
        raise ReferenceMismatchError(Problem(what, where, "give templates of this subarray", "bkg"))
    return np.ascontiguousarray(templates, np.float32)


def _unchanged(rate: Rate) -> Rate:
    return rate


def _subtract(rate: Rate, *, images: np.ndarray, flags: np.ndarray, ends: tuple[Any, ...] = (0,)) -> Rate:
    numbers = np.arange(rate.first, rate.first + rate.count)
    which = np.minimum(np.searchsorted(np.asarray(ends), numbers), len(images) - 1)
    subtract_image(rate.data, rate.dq, images, flags, which.astype(np.int64))
    return rate

"""The official SOSS extraction of whole blocks, bound to an exposure: one calibration per file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture.geometry import pixel_lists
from tsostream.operators.base import Binding
from tsostream.operators.soss import OVERLAP_REFERENCES
from tsostream.operators.soss.engine import TooFewPixelsError
from tsostream.operators.soss.extract import overlap_settings, soss_orders
from tsostream.operators.soss.geometry import box_weights, soss_traces
from tsostream.operators.soss.models import order_models
from tsostream.operators.soss.official import OfficialSoss, SossStatistics, calibrate_official

__all__ = ["BoundOfficialSoss", "SossSegment", "bind_official_soss"]

#: columns that the official step leaves at zero for SOSS
ZERO = (
    "surf_bright", "sb_error", "background_err",
    *(f"{part}_{kind}" for part in ("flux_var", "sb_var", "background_var") for kind in ("poisson", "rnoise", "flat")),
)  # fmt: skip


@dataclass(frozen=True)
class SossSegment:
    """One file as the official step sees it.

    Parameters
    ----------
    first, last
        Its integrations.
    statistics
        Over all of them.
    filled : float32 [integration, y, x]
        Slopes with missing pixels replaced; may lie on disk.
    """

    first: int
    last: int
    statistics: SossStatistics
    filled: np.ndarray


@dataclass(frozen=True)
class BoundOfficialSoss:
    """Official extraction of all orders of one exposure.

    Parameters
    ----------
    orders
        Orders.
    boxes
        Order -> weights, float64 [y, x].
    wavelength : float64 [key, column]
        [µm], NaN beyond the order's cutoff.
    segments, calibrations
        Files and what was calibrated on each.
    """

    name: str
    pixeldq: np.ndarray
    orders: tuple[int, ...]
    boxes: Mapping[int, np.ndarray]
    wavelength: np.ndarray
    width: float
    segments: tuple[SossSegment, ...]
    calibrations: tuple[OfficialSoss, ...]
    notes: tuple[str, ...] = ()
    skipped: str = ""
    along_y: bool = False
    unit: str = "DN/s"
    background_unit: str = "DN/s"

    @property
    def order(self) -> int:
        """The first order."""
        return self.orders[0]

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """(order, aperture) of the rows."""
        return tuple((order, 0) for order in self.orders)

    @property
    def apertures(self) -> tuple[Any, ...]:
        """Pixels of each order's box and their weights."""
        return tuple(_aperture(self.boxes[order]) for order in self.orders)

    @property
    def aperture(self) -> Any:
        """Pixels of the first order's box."""
        return _aperture(self.boxes[self.orders[0]])

    @property
    def trace(self) -> dict[str, np.ndarray]:
        """Order -> middle of its box, float64 [column]; NaN where it has none."""
        rows = np.arange(self.pixeldq.shape[0])[:, None]
        result = {}
        for order, box in self.boxes.items():
            total = box.sum(axis=0)
            middle = (rows * box).sum(axis=0) / np.where(total > 0, total, 1.0)
            result[str(order)] = np.where(total > 0, middle, np.nan)
        return result

    @property
    def sum_weights(self) -> tuple[np.ndarray, ...]:
        """Weight of each pixel in the sums of every order."""
        return tuple(self.boxes[order] for order in self.orders)

    @property
    def wave_grid(self) -> np.ndarray | None:
        """Wavelengths at which the spectrum of the overlap is solved for in the last file, float64 [point]."""
        overlap = self.calibrations[-1].overlap
        return None if overlap is None else overlap.grid

    def describe(self) -> list[dict[str, Any]]:
        """Say what the keys mean, and how each file was regularised."""
        factors = [None if one.overlap is None else one.overlap.factor for one in self.calibrations]
        return [
            {"order": order, "aperture": 0, "extraction_type": "box", "extract_width": self.width,
             "overlap": "modelled" if factors[0] is not None else "not modelled", "tikhonov_factor": factors}
            for order in self.orders
        ]  # fmt: skip

    def push(self, block: Rate) -> list[Measurement]:
        """Extract every integration of a block."""
        n, nx = block.count, block.data.shape[2]
        shape = (n, len(self.orders), nx)
        spectra = {
            name: np.zeros(shape) for name in ("flux", "flux_err", "npixels", "background", "lost", *ZERO)
        }
        for i in range(n):
            segment, calibration = self._file(block.first + i)
            missing = ~(np.isfinite(block.data[i]) & np.isfinite(block.err[i]))
            filled = np.array(segment.filled[block.first + i - segment.first])
            for k, (order, one) in enumerate(calibration.extract(filled, block.err[i], missing).items()):
                inside = np.isfinite(self.wavelength[k])
                whole = self.boxes[order].sum(axis=0)
                spectra["flux"][i, k] = np.where(inside, one.flux, np.nan)
                spectra["flux_err"][i, k] = np.where(inside, one.error, np.nan)
                # order 2 of SUBSTRIP96 has a box of all pixels, also where it has no wavelength
                spectra["npixels"][i, k] = np.where(inside, one.npixels, 0.0)
                spectra["background"][i, k] = (
                    np.where(inside, one.background, 0.0) if one.background is not None else np.nan
                )
                spectra["lost"][i, k] = np.where(
                    whole > 0, 1.0 - one.npixels / np.where(whole > 0, whole, 1.0), 0.0
                )
        spectra["own_err"] = spectra["flux_err"].copy()
        spectra["dq"] = np.zeros(shape, np.uint32)
        spectra["counts"] = np.zeros((*shape, 4), np.int32)
        return [Measurement(block.first, block.times, self.keys, {}, spectra, np.ones(n, bool))]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []

    def _file(self, number: int) -> tuple[SossSegment, OfficialSoss]:
        for segment, calibration in zip(self.segments, self.calibrations, strict=True):
            if segment.first <= number <= segment.last:
                return segment, calibration
        # the scout's template is measured, too, under a number of its own
        return self.segments[0], self.calibrations[0]


def _aperture(box: np.ndarray) -> SimpleNamespace:
    start, pixel, (cross, disp) = pixel_lists(box > 0, along_y=False)
    return SimpleNamespace(start=start, pixel=pixel, weight=box[cross, disp], shape=np.ones((pixel.size, 1)))


def bind_official_soss(
    step: Any, binding: Binding, segments: Sequence[SossSegment]
) -> BoundOfficialSoss | None:
    """Join the official extraction to an exposure; None without a trace reference.

    Parameters
    ----------
    step
        The extract_1d operator.
    binding
        Exposure and references.
    segments
        The files and their statistics.
    """
    info = binding.info
    traces = soss_traces(binding.references, info, soss_orders(step, info))
    if not traces:
        return None
    ny, nx = info.frame_shape
    width = float(step.widths[0] or step.soss_width)
    boxes = {order: box_weights(trace.columns(nx)[0], width, ny) for order, trace in traces.items()}
    if info.subarray == "SUBSTRIP96" and 2 in boxes:
        boxes[2] = np.ones((ny, nx))
    notes: list[str] = []
    modelled = step.soss_atoca or step.soss_bad_pix == "model"
    missing = [name for name in OVERLAP_REFERENCES if name not in binding.references]
    models = None
    if modelled and missing:
        notes.append(f"extract_1d: ATOCA is left out, there is no {' and no '.join(missing)} reference")
    elif modelled:
        models = order_models(binding.references, traces, info)
    chosen = overlap_settings(step, binding) if models is not None else None

    def calibrate(one: SossSegment, using: Any) -> OfficialSoss:
        return calibrate_official(
            one.statistics,
            boxes,
            using,
            chosen,
            atoca=step.soss_atoca,
            model_bad=step.soss_bad_pix == "model",
            subtract=step.subtract_background is True,
        )

    try:
        calibrations = tuple(calibrate(one, models) for one in segments)
    except (TooFewPixelsError, ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        why = "too few pixels" if isinstance(error, TooFewPixelsError) else str(error).splitlines()[0]
        notes.append(f"extract_1d: ATOCA is left out, the overlap cannot be modelled ({why})")
        calibrations = tuple(calibrate(one, None) for one in segments)
    wavelength = np.stack([trace.columns(nx)[1] for trace in traces.values()])
    return BoundOfficialSoss(
        step.name,
        binding.dq_plane,
        tuple(traces),
        boxes,
        wavelength,
        width,
        tuple(segments),
        calibrations,
        tuple(notes),
    )

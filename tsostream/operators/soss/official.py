"""The official extraction of one SOSS file: its statistics over all integrations, and each integration (spec B.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from tsostream.integration import dq
from tsostream.operators.soss.engine import OrderModel
from tsostream.operators.soss.overlap import Overlap, OverlapSettings, calibrate_overlap

__all__ = ["OfficialSoss", "OfficialSpectrum", "SossStatistics", "calibrate_official", "segment_statistics"]

#: missing pixels are replaced by a running median of so many integrations
INFILL = 9
#: errors of replaced pixels are this many times the typical one
INFLATED = 10.0
#: rows worked on at a time, so that the stack of a file never is in memory
ROWS = 16
#: rows of a column that a trace may take, in the official background
TRACE = 40


@dataclass(frozen=True)
class SossStatistics:
    """What the official step takes from all integrations of a file.

    Parameters
    ----------
    typical : float32 [y, x]
        Mean image with the noise of one integration.
    error : float32 [y, x]
        Median error; infinite where there is none.
    bad : bool [y, x]
        Pixels that are bad in every integration.
    reference : bool [y, x]
        Reference pixels.
    """

    typical: np.ndarray
    error: np.ndarray
    bad: np.ndarray
    reference: np.ndarray


def segment_statistics(
    data: np.ndarray, error: np.ndarray, bits: np.ndarray, filled: np.ndarray
) -> SossStatistics:
    """Take the statistics of a file, and fill its missing pixels.

    Parameters
    ----------
    data, error : float32 [integration, y, x]
        May lie on disk.
    bits : uint32 [integration, y, x]
        DQ.
    filled : float32 [integration, y, x]
        Receives the data with NaN replaced.
    """
    count, ny, nx = data.shape
    mean, median = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    bad, reference = np.empty((ny, nx), bool), np.empty((ny, nx), bool)
    for low in range(0, ny, ROWS):
        rows = slice(low, min(low + ROWS, ny))
        part, errors, flags = (np.array(one[:, rows]) for one in (data, error, bits))
        bad[rows] = ((flags & np.uint32(dq.DO_NOT_USE)) != 0).all(axis=0)
        reference[rows] = (flags[0] & np.uint32(dq.REFERENCE_PIXEL)) != 0
        never = ~(np.isfinite(errors) & np.isfinite(part)).any(axis=0)
        with np.errstate(all="ignore"):
            middle, typical = _nanmedian(errors), _nanmedian(part)
        middle[never | reference[rows]] = np.inf
        typical[never] = 0
        missing = ~np.isfinite(part)
        if missing.any():
            whole = np.where(missing, typical, part)
            part[missing] = ndimage.median_filter(whole, min(count, INFILL), axes=(0,))[missing]
        filled[:, rows] = part
        mean[rows], median[rows] = np.mean(part, axis=0), middle
    noise = np.random.default_rng(seed=42).normal(0, median * np.sqrt((count - 1) / count))
    with np.errstate(invalid="ignore"):
        mean += noise
    # pixels whose error is unknown are bad; where that is news, they no longer count as reference pixels
    unknown = ~(np.isfinite(mean) & np.isfinite(median))
    if (unknown & ~bad).any():
        bad |= unknown
        reference &= ~unknown
    return SossStatistics(mean, median, bad, reference)


def _nanmedian(cube: np.ndarray) -> np.ndarray:
    """Median along the first axis without NaN, in the precision of the input."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(cube, axis=0)


@dataclass(frozen=True)
class OfficialSpectrum:
    """Spectrum of one order in one integration, float64 [x] each; NaN where there is no pixel."""

    flux: np.ndarray
    error: np.ndarray
    npixels: np.ndarray
    background: np.ndarray | None = None


@dataclass(frozen=True)
class OfficialSoss:
    """The official extraction of one file, calibrated.

    Parameters
    ----------
    boxes
        Order -> weights, float64 [y, x].
    statistics
        Of the file.
    overlap
        None for the box alone.
    model_bad
        Whether bad pixels are replaced by the model rather than left out.
    subtract
        Whether a background is taken out of each column first.
    """

    boxes: Mapping[int, np.ndarray]
    statistics: SossStatistics
    overlap: Overlap | None = None
    model_bad: bool = False
    subtract: bool = False

    def extract(
        self, data: np.ndarray, error: np.ndarray, missing: np.ndarray
    ) -> dict[int, OfficialSpectrum]:
        """Extract one integration.

        Parameters
        ----------
        data : float32 [y, x]
            With missing pixels filled.
        error : float32 [y, x]
            As measured.
        missing : bool [y, x]
            Pixels that were filled.
        """
        typical = self.statistics.error
        with np.errstate(invalid="ignore", over="ignore"):
            sigma = np.where(missing, typical * np.float32(INFLATED), error).astype(np.float64)
        bad = self.statistics.bad | ~(np.isfinite(data) & np.isfinite(sigma))
        ground = np.zeros(data.shape[1])
        if self.subtract:
            ground = column_background(data, bad)
            data = data - ground.astype(np.float32)
        bad |= ~(sigma > 0)
        models: dict[int, np.ndarray] = {}
        if self.overlap is not None:
            inverse = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, sigma) ** 2)
            models = _images(self.overlap, np.asarray(data, np.float64), inverse)
        found = {}
        for order, box in self.boxes.items():
            clean = np.asarray(data, np.float64).copy()
            for other, model in models.items():
                if other != order:
                    clean -= np.where(np.isfinite(model), model, 0.0)
            found[order] = self._box(clean, sigma, bad, box, models.get(order))
            found[order] = replace(found[order], background=ground)
        return found

    def _box(
        self, data: np.ndarray, sigma: np.ndarray, bad: np.ndarray, box: np.ndarray, model: np.ndarray | None
    ) -> OfficialSpectrum:
        if self.model_bad and model is not None:
            modelled = np.isfinite(model)
            data = np.where(bad & modelled, model, data)
            sigma = _borrowed_errors(sigma, data, (box > 0) & bad & modelled, (box > 0) & ~bad)
            bad = bad & ~modelled
        weight = np.where(bad, 0.0, box)
        used = weight > 0
        npixels = weight.sum(axis=0)
        flux = (weight * np.where(used, data, 0.0)).sum(axis=0)
        variance = (weight * np.where(used, sigma, 0.0) ** 2).sum(axis=0)
        empty = npixels <= 0
        return OfficialSpectrum(
            np.where(empty, np.nan, flux), np.where(empty, np.nan, np.sqrt(variance)), npixels
        )


def _images(overlap: Overlap, data: np.ndarray, inverse: np.ndarray) -> dict[int, np.ndarray]:
    """Model image of each order [y, x], NaN outside all boxes and outside its wavelengths."""
    amplitudes = overlap.amplitudes(data, inverse)
    images = {}
    for model in overlap.models:
        if model.order in amplitudes:
            image = model.profile * amplitudes[model.order]
            images[model.order] = np.where(overlap.rebuilt, image, np.nan)
    return images


def _borrowed_errors(
    sigma: np.ndarray, data: np.ndarray, wanted: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Give pixels the error of the valid pixel whose value is nearest."""
    order = np.argsort(data[valid])
    values, errors = data[valid][order], sigma[valid][order]
    if not values.size:
        return sigma
    above = np.clip(np.searchsorted(values, data[wanted]), 0, values.size - 1)
    below = np.clip(above - 1, 0, values.size - 1)
    nearer = np.abs(values[above] - data[wanted]) < np.abs(values[below] - data[wanted])
    result = sigma.copy()
    result[wanted] = errors[np.where(nearer, above, below)]
    return result


def column_background(data: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Average the pixels of each column that are fainter than the traces, clipped; float64 [x], 0 where none is."""
    rows = data.shape[0]
    share = TRACE / rows if rows == 96 else 2 * TRACE / rows
    with np.errstate(invalid="ignore"):
        bright = (data > np.nanpercentile(data, 100 * (1 - share))) | ~np.isfinite(data)
    use = ~(bright | bad)
    values = np.where(use, data, 0.0).astype(np.float64)
    while True:
        count = np.maximum(use.sum(axis=0), 1)
        mean = np.where(use, values, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(use, (values - mean) ** 2, 0.0).sum(axis=0) / count)
        keep = use & (values >= mean - 3 * spread) & (values <= mean + 3 * spread)
        if keep.sum() == use.sum():
            return np.where(use.any(axis=0), mean, 0.0)
        use = keep


def calibrate_official(
    statistics: SossStatistics,
    boxes: Mapping[int, np.ndarray],
    models: Mapping[int, OrderModel] | None,
    settings: OverlapSettings | None,
    *,
    atoca: bool,
    model_bad: bool,
    subtract: bool = False,
) -> OfficialSoss:
    """Calibrate the extraction of a file.

    Parameters
    ----------
    statistics
        From `segment_statistics`.
    boxes
        Order -> weights.
    models
        Order -> detector model; None when it is not needed.
    settings
        Of the overlap.
    atoca, model_bad, subtract
        Parameters ``soss_atoca``, ``soss_bad_pix`` and ``subtract_background``.
    """
    overlap = None
    if (atoca or model_bad) and models is not None and settings is not None:
        bad = statistics.bad | ~(statistics.error > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.where(statistics.error > 0, 1.0 / statistics.error.astype(np.float64) ** 2, 0.0)
        outside = [~(box > 0) | statistics.reference for box in boxes.values()]
        overlap = calibrate_overlap(
            [models[order] for order in boxes],
            _typical(statistics, subtract=subtract),
            inverse,
            outside,
            bad,
            settings,
        )
    return OfficialSoss(boxes, statistics, overlap, model_bad, subtract)


def _typical(statistics: SossStatistics, *, subtract: bool) -> np.ndarray:
    image = statistics.typical.astype(np.float64)
    return image - column_background(image, statistics.bad) if subtract else image

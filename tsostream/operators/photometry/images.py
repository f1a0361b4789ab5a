"""The official photometry of one segment file, in the passes it takes (spec stages 2-3, C.3).

The place of the aperture is a median over all integrations of a file, and so is the place about which the source is
looked for again. So images are looked at three times: where is the source (`BoundOfficialPhotometry.first_pass`),
where is it about the median of that (`second_pass`), and what is in the aperture about the median of those
(`third_pass`). A pass needs nothing but the images in hand and those medians; whoever runs them keeps the images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsostream.integration import dq
from tsostream.integration.payload import Measurement, Rate, Times
from tsostream.operators.photometry.official import FIT, SUMS, aperture_sums, centroids, fit_gaussians

__all__ = ["BoundOfficialPhotometry", "Images", "Places"]

Array = npt.NDArray


@dataclass
class Images:
    """Images of some integrations, in the unit of the rows.

    Parameters
    ----------
    first
        Number in the exposure of the first integration.
    times
        One row per integration.
    data, error : float32 [integration, y, x]
        Images and their errors.
    bits : uint8 [integration, y, x]
        Low eight DQ bits.
    centroid : float64 [integration, 2]
        x and y from the first pass [px].
    present : bool [integration]
        False for integrations that no file holds.
    """

    first: int
    times: Times
    data: Array
    error: Array
    bits: Array
    centroid: Array
    present: Array

    @property
    def count(self) -> int:
        """Integrations."""
        return len(self.data)


@dataclass(frozen=True)
class Places:
    """Where the source is in each integration of a file, and where the aperture.

    Parameters
    ----------
    centroid : float64 [integration, 2]
        x and y [px]; NaN where not found.
    fit : float64 [integration, FIT]
        1-sigma widths along x and y [px], and flux of the Gaussian.
    aperture : float64 [integration, 2]
        Centre of the aperture [px].
    """

    centroid: Array
    fit: Array
    aperture: Array


@dataclass(frozen=True)
class BoundOfficialPhotometry:
    """Official photometry, bound to an exposure.

    Parameters
    ----------
    name
        Step name.
    pixeldq : uint32 [y, x]
        Static DQ plane.
    scale : float32 [y, x]
        Factor from the input's unit to that of the rows.
    unit
        Unit of the rows.
    x, y
        Planned position [px], 0-based.
    radii
        Radius of each aperture [px].
    radius_inner, radius_outer
        Of the annulus [px].
    search_box, fit_box
        Sizes of the boxes of the first and the second pass, odd [px].
    centroid_source, moving_centroid
        Whether to look for the source, and whether the aperture follows it in every integration.
    whole_frame
        Sum all pixels, without background (SUB64P with WLP8: the aperture is larger than the subarray).
    segments
        First and last integration of each file.
    notes
        What is worth telling.
    """

    name: str
    pixeldq: Array
    scale: Array
    unit: str
    x: float
    y: float
    radii: tuple[float, ...]
    radius_inner: float
    radius_outer: float
    search_box: int = 41
    fit_box: int = 11
    centroid_source: bool = True
    moving_centroid: bool = False
    whole_frame: bool = False
    segments: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def radius(self) -> float:
        """Radius of the default aperture [px]."""
        return self.radii[0]

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """``(order, aperture)`` of each series."""
        return tuple((0, number) for number in range(len(self.radii)))

    @property
    def facts(self) -> dict[str, object]:
        """What the output's metadata say of the apertures."""
        return {
            "aperture_radii": list(self.radii),
            "whole_frame": self.whole_frame,
            "centroided": self.centroid_source,
        }

    def first_pass(self, block: Rate) -> Images:
        """Bring images to the rows' unit and find the source near its planned position; arrays of their own."""
        images = Images(
            block.first,
            block.times,
            block.data * self.scale,
            block.err * self.scale,
            (block.dq & np.uint32(0xFF)).astype(np.uint8),
            np.full((block.count, 2), np.nan),
            np.ones(block.count, bool),
        )
        if self.centroid_source:
            level = np.empty(block.count)
            centroids(
                images.data,
                _masked(images),
                self.x,
                self.y,
                self.radius_inner,
                self.search_box,
                level,
                images.centroid,
            )
        return images

    def guess(self, centroid: Array) -> tuple[float, float] | None:
        """Where to look in the second pass: the median of the first pass [px]; None when it found nothing."""
        return _median_place(centroid)

    def second_pass(self, images: Images, guess: tuple[float, float] | None) -> tuple[Array, Array]:
        """Find the source about the median position, and fit a Gaussian there.

        Returns
        -------
        centroid : float64 [integration, 2]
        fit : float64 [integration, FIT]
        """
        place, fit = np.full((images.count, 2), np.nan), np.full((images.count, FIT), np.nan)
        if guess is not None:
            level, masked = np.empty(images.count), _masked(images)
            centroids(images.data, masked, *guess, self.radius_inner, self.fit_box, level, place)
            fit_gaussians(images.data, masked, level, place, self.fit_box, fit)
        return place, fit

    def places(self, centroid: Array, fit: Array) -> Places:
        """Put the aperture where the second pass found the source."""
        middle = _median_place(centroid)
        if middle is None:
            aperture = np.tile([self.x, self.y], (len(centroid), 1))
        elif self.moving_centroid:
            aperture = centroid
        else:
            aperture = np.tile(middle, (len(centroid), 1))
        return Places(centroid, fit, aperture)

    def third_pass(self, images: Images, places: Places) -> Measurement:
        """Sum apertures and annulus of some images of a file.

        Parameters
        ----------
        images
            Any integrations of the file.
        places
            Of the same integrations.
        """
        n = images.count
        series: list[dict[str, Array]] = []
        for radius in self.radii:
            sums, counts = np.full((n, SUMS), np.nan), np.zeros((n, 4), np.int32)
            if self.whole_frame:
                sums[:, 0] = np.nansum(images.data, axis=(1, 2), dtype=np.float64)
                sums[:, 1] = np.sqrt(np.nansum(images.error.astype(np.float64) ** 2, axis=(1, 2)))
                for place, bit in enumerate((dq.JUMP_DET, dq.SATURATED, dq.OUTLIER)):
                    counts[:, place] = ((images.bits & np.uint8(bit)) != 0).sum(axis=(1, 2))
                counts[:, 3] = (~np.isfinite(images.data)).sum(axis=(1, 2))
            else:
                aperture_sums(
                    images.data, images.error, images.bits, places.aperture, radius, self.radius_inner,
                    self.radius_outer, sums, counts,
                )  # fmt: skip
            series.append(self._columns(sums, counts, places))
        columns = {name: np.stack([one[name] for one in series], axis=1) for name in series[0]}
        extras = {name: columns.pop(name) for name in _EXTRAS}
        return Measurement(images.first, images.times, self.keys, columns, {}, images.present, extras=extras)

    def _columns(self, sums: Array, counts: Array, places: Places) -> dict[str, Array]:
        total, error, area, ring, ring_error, ring_area = sums.T
        mean, mean_error = ring / ring_area, ring_error / ring_area
        ground, ground_error = mean * area, mean_error * area
        net, net_error = total - ground, np.sqrt(error**2 + ground_error**2)
        if self.whole_frame:
            net, net_error = total, error
        return {
            "flux": net,
            "flux_err": net_error,
            "background": mean,
            "background_err": mean_error,
            "x": places.centroid[:, 0],
            "y": places.centroid[:, 1],
            "width_x": places.fit[:, 0],
            "width_y": places.fit[:, 1],
            "n_jump": counts[:, 0],
            "n_saturated": counts[:, 1],
            "n_outlier": counts[:, 2],
            "n_bad": counts[:, 3],
            "annulus_mean": mean,
            "psf_flux": places.fit[:, 2],
            "aperture_sum": total,
            "aperture_sum_err": error,
            "annulus_sum": ring,
            "annulus_sum_err": ring_error,
            "annulus_mean_err": mean_error,
            "aperture_bkg": ground,
            "aperture_bkg_err": ground_error,
            "aperture_x": places.aperture[:, 0],
            "aperture_y": places.aperture[:, 1],
        }

    def push(self, block: Rate) -> list[Measurement]:
        """Measure a block as if it were a whole file (tests, notebooks); runs keep images until their file is read."""
        images = self.first_pass(block)
        places = self.places(*self.second_pass(images, self.guess(images.centroid)))
        return [self.third_pass(images, places)]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


#: columns that only the catalogue shows
_EXTRAS = (
    "aperture_sum", "aperture_sum_err", "annulus_sum", "annulus_sum_err", "annulus_mean_err", "aperture_bkg",
    "aperture_bkg_err", "aperture_x", "aperture_y",
)  # fmt: skip


def _masked(images: Images) -> Array:
    return ((images.bits & np.uint8(dq.DO_NOT_USE)) != 0).astype(np.uint8) | ~np.isfinite(images.data)


def _median_place(centroid: Array) -> tuple[float, float] | None:
    found = np.isfinite(centroid)
    if not (found[:, 0].any() and found[:, 1].any()):
        return None
    return float(np.nanmedian(centroid[:, 0])), float(np.nanmedian(centroid[:, 1]))


def slice_images(images: Images, start: int, stop: int) -> Images:
    """Integrations ``start:stop`` (positions), without copying."""
    part = slice(start, stop)
    return replace(
        images,
        first=images.first + start,
        times=images.times[part],
        data=images.data[part],
        error=images.error[part],
        bits=images.bits[part],
        centroid=images.centroid[part],
        present=images.present[part],
    )

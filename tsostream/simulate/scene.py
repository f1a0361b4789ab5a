"""What falls on the detector: source images per spectral order, wavelengths, transit depths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tsostream.simulate.modes import Mode
from tsostream.simulate.readout import dark_columns, reference_pixels
from tsostream.simulate.sky import load_scene, spectrum_shape, telescope_psf

__all__ = [
    "Scene",
    "build_scene",
    "depth_at",
    "enclosed_light",
    "scene_centre",
    "soss_order",
    "soss_profile",
    "trace_of",
]

#: amplitude of the transmission spectrum relative to the mean depth
MODULATION: Final = 0.08

# Anchor points (position in the whole subarray [pixel], wavelength [µm]) between which the dispersion is
# interpolated with a smooth curve. Rounded from public trace tables and products.
_PRISM: Final = ((0, 0.50), (32, 0.58), (64, 0.72), (96, 1.05), (128, 1.65), (160, 2.245), (192, 2.746),
                 (224, 3.176), (256, 3.556), (288, 3.899), (320, 4.214), (352, 4.505), (384, 4.777),
                 (416, 5.034), (448, 5.277), (480, 5.508), (511, 5.72))  # fmt: skip
_LRS: Final = ((0, 14.15), (40, 13.589), (80, 13.000), (120, 12.367), (160, 11.676), (200, 10.918),
               (240, 10.075), (280, 9.110), (320, 7.976), (360, 6.536), (375, 5.833), (390, 4.833),
               (400, 4.0), (415, 3.2))  # fmt: skip
#: SOSS: wavelength, x, y of the trace centre in SUBSTRIP256, relative throughput
_SOSS: Final = {
    1: ((0.80, 2099.7, 76.0, 0.137), (0.95, 1931.5, 48.6, 0.323), (1.10, 1768.9, 35.7, 0.492),
        (1.25, 1610.4, 30.2, 0.545), (1.40, 1454.5, 28.9, 0.473), (1.55, 1300.4, 30.1, 0.384),
        (1.70, 1147.2, 33.0, 0.314), (1.85, 994.5, 36.7, 0.267), (2.00, 841.9, 41.2, 0.237),
        (2.15, 689.4, 46.3, 0.211), (2.30, 537.0, 51.8, 0.190), (2.45, 384.8, 57.6, 0.172),
        (2.60, 233.3, 63.8, 0.156), (2.75, 83.0, 70.0, 0.145), (2.90, -65.7, 77.0, 0.124)),
    2: ((0.55, 1875.5, 276.1, 0.012), (0.65, 1632.2, 176.2, 0.25), (0.75, 1403.7, 128.0, 0.315),
        (0.85, 1185.6, 104.3, 0.153), (0.95, 973.7, 92.2, 0.064), (1.05, 765.0, 86.2, 0.021),
        (1.15, 556.7, 84.2, 0.005), (1.25, 346.2, 85.6, 0.001), (1.35, 130.7, 89.4, 0.0005),
        (1.42, -20.0, 93.0, 0.0003)),
    3: ((0.60, 1237.3, 267.7, 0.001), (0.65, 1048.8, 221.4, 0.003), (0.70, 860.3, 187.7, 0.0072),
        (0.75, 674.4, 164.8, 0.0232), (0.80, 498.4, 150.5, 0.0247), (0.85, 331.4, 142.0, 0.0210),
        (0.90, 172.1, 137.0, 0.0158), (0.95, 19.6, 133.7, 0.0103), (0.96, -11.0, 133.0, 0.0095)),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A source on the detector, all orders together, normalised to a brightest pixel of 1.

    Parameters
    ----------
    source
        ``[y, x]`` float32: relative electrons per second.
    depth
        ``[y, x]`` float32: transit depth of the light in this pixel (orders weighted by their flux).
    shifts
        ``[term, y, x]`` float32: derivatives of ``source`` by the source's position and width, in the order
        dx, dy, dx²/2, dy²/2, dx·dy, width (the last per pixel of growth of the Gaussian sigma).
    wavelength
        order -> ``[y, x]`` float32 [µm].
    spectra
        order -> (wavelength, depth, flux), each ``[column]`` (or row, where wavelength runs along y).
    position
        (x, y), 0-based: where the source's image is (images), or its trace at mid-spectrum.
    sigma
        Gaussian-equivalent width of the point spread function [pixel].
    white_depth
        Depth of all light together.
    peak
        What the images were divided by.
    """

    source: NDArray[np.float32]
    depth: NDArray[np.float32]
    shifts: NDArray[np.float32]
    wavelength: dict[int, NDArray[np.float32]]
    spectra: dict[int, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]
    position: tuple[float, float]
    sigma: float
    white_depth: float
    peak: float


def _smooth(x: NDArray, anchors: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Interpolate with a cubic Hermite curve through the anchors (ascending), straight beyond them."""
    slopes = np.gradient(values, anchors)
    x = np.asarray(x, float)
    k = np.clip(np.searchsorted(anchors, x) - 1, 0, anchors.size - 2)
    h = anchors[k + 1] - anchors[k]
    t = np.clip((x - anchors[k]) / h, 0, 1)
    inside = (
        (1 + 2 * t) * (1 - t) ** 2 * values[k]
        + t * (1 - t) ** 2 * h * slopes[k]
        + t * t * (3 - 2 * t) * values[k + 1]
        + t * t * (t - 1) * h * slopes[k + 1]
    )
    below, above = np.minimum(x - anchors[0], 0), np.maximum(x - anchors[-1], 0)
    return inside + below * slopes[0] + above * slopes[-1]


def depth_at(wavelength: NDArray, transit_depth: float) -> NDArray[np.float64]:
    """Transit depth against wavelength [µm]: a slope-free spectrum with a few bands, 8 % peak to mean.

    The planet is one: where orders overlap, both have the depth of their own wavelength.
    """
    log_wave = np.log(np.maximum(wavelength, 0.1))
    return transit_depth * (1 + MODULATION * np.sin(7.0 * log_wave + 0.6) * np.cos(2.3 * log_wave))


def _erf(z: NDArray) -> NDArray[np.float64]:
    """Error function to 1.5e-7 (Abramowitz and Stegun 7.1.26); scipy is no dependency."""
    t = 1 / (1 + 0.3275911 * np.abs(z))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(z) * (1 - poly * np.exp(-z * z))


def _gauss(offset: NDArray, sigma: NDArray | float) -> NDArray[np.float64]:
    """Gaussian of unit area, integrated over each pixel."""
    s = np.sqrt(2.0) * sigma
    return 0.5 * (_erf((offset + 0.5) / s) - _erf((offset - 0.5) / s))


def soss_profile(offset: NDArray) -> NDArray[np.float64]:
    """SOSS profile across dispersion of unit area at ``offset`` pixels from the trace.

    The defocusing lens spreads the light over some 23 pixels with two horns.
    """
    s = np.sqrt(2.0) * 1.8
    flat = 0.5 * (_erf((offset + 11.2) / s) - _erf((offset - 11.2) / s)) / 22.4
    horns = 0.5 * (_gauss(offset - 8.5, 1.7) + _gauss(offset + 8.0, 1.7))
    return 0.66 * flat + 0.26 * horns + 0.05 * _gauss(offset, 3.0) + 0.03 * _gauss(offset, 16.0)


def soss_order(order: int, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Wavelength [µm], row in SUBSTRIP256 and throughput of a SOSS order at columns ``x`` of the subarray."""
    table = np.array(sorted(_SOSS[order], key=lambda row: row[1]))
    wave = _smooth(x, table[:, 1], table[:, 0])
    row = _smooth(x, table[:, 1], table[:, 2])
    return wave, row, np.exp(_smooth(x, table[:, 1], np.log(table[:, 3])))


def _profile(kind: str, offset: NDArray, sigma: NDArray | float) -> NDArray[np.float64]:
    """Cross-dispersion profile of unit area at ``offset`` pixels from the trace."""
    if kind == "soss":
        return soss_profile(offset)
    return (
        0.93 * _gauss(offset, sigma)
        + 0.055 * _gauss(offset, 3.0 * sigma)
        + 0.015 * _gauss(offset, 8.0 * sigma)
    )


def enclosed_light(size: float, sigma: float) -> float:
    """Part of a spectrum's light inside so many pixels about its trace."""
    parts = ((0.93, 1.0), (0.055, 3.0), (0.015, 8.0))
    return sum(part * math.erf(size / (2 * math.sqrt(2) * wide * sigma)) for part, wide in parts)


def trace_of(mode: Mode) -> tuple[NDArray, NDArray, NDArray, NDArray | float]:
    """Pixels along, centre across in the subarray [pixel], wavelength [µm] and profile sigma of order 1."""
    along = np.arange(mode.nx if mode.dispaxis == 1 else mode.ny)
    wave, centre, _, sigma = _trace(mode, 1, along + float(mode.origin[mode.dispaxis - 1]))
    return along, centre - mode.origin[2 - mode.dispaxis], wave, sigma


def _trace(mode: Mode, order: int, along: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray | float]:
    """Wavelength [µm], centre across [pixel], throughput and profile sigma at positions along dispersion.

    Parameters
    ----------
    along
        Positions along the dispersion axis in the *whole* subarray.
    """
    if mode.kind == "soss":
        wave, row, through = soss_order(order, along)
        return wave, row - (mode.ystart - mode.origin[1] - 1793), through, 8.5
    length = mode.full[1] if mode.dispaxis == 2 else mode.full[0]
    u = along / (length - 1)
    if mode.kind == "lrs":
        table = np.array(_LRS, float)
        wave = _smooth(along, table[:, 0], table[:, 1])
        sigma = 0.55 + 0.065 * wave
        through = np.clip((wave - 4.2) / 0.8, 0, 1) * np.exp(-0.5 * np.maximum(wave - 8, 0) / 3.0)
        through = through * 0.5 * (1 + np.tanh((13.9 - wave) / 0.15))
        return wave, 36.9 + 0.9 * (u - 0.5), through, sigma
    middle = (mode.full[1] - 1) / 2
    if mode.kind == "prism":
        table = np.array(_PRISM, float)
        wave = _smooth(along, table[:, 0], table[:, 1])
        through = (
            np.gradient(wave, along)
            * np.clip((wave - 0.52) / 0.15, 0, 1)
            * np.clip((5.45 - wave) / 0.2, 0, 1)
        )
        return wave, middle - 0.9 + 0.6 * (u - 0.5), through, 0.62 + 0.06 * wave
    if mode.kind == "grating":
        wave = 2.75 + 0.97 * u
        through = 0.5 * (1 + np.tanh((u - 0.03) / 0.006)) * 0.5 * (1 + np.tanh((0.985 - u) / 0.004))
        return (
            wave,
            middle - 2.2 + 9.0 * u - 5.5 * u * u,
            through * (0.6 + 0.4 * np.sin(np.pi * u)),
            0.62 + 0.06 * wave,
        )
    wave = 2.3991 + 0.000973 * along  # grism: straight, equidistant, undeviated row 34
    through = 0.25 * (1 + np.tanh((wave - 2.43) / 0.006)) * (1 + np.tanh((4.00 - wave) / 0.006))
    return wave, np.full_like(along, 33.6) + 0.3 * (u - 0.5), through, 0.55 + 0.09 * wave


def _spectral_orders(mode: Mode, dx: float, dy: float) -> dict[int, NDArray[np.float64]]:
    """Draw each order's image ``[y, x]`` for a source displaced by (dx, dy) pixels."""
    along_x = mode.dispaxis == 1
    n_along, n_across = (mode.nx, mode.ny) if along_x else (mode.ny, mode.nx)
    start, across0 = mode.origin if along_x else mode.origin[::-1]
    d_along, d_across = (dx, dy) if along_x else (dy, dx)
    # the dispersed image moves as a whole: the light at column c is that of c - d_along
    along = np.arange(n_along) + start - d_along
    across = np.arange(n_across)[:, None] + across0
    images = {}
    for order in mode.orders:
        wave, centre, throughput, sigma = _trace(mode, order, along)
        image = spectrum_shape(wave) * throughput * _profile(mode.kind, across - centre - d_across, sigma)
        images[order] = image if along_x else image.T
    return images


def scene_centre(mode: Mode) -> tuple[float, float]:
    """(x, y) in the whole subarray around which crops are cut: the brightest part of the source."""
    if mode.kind == "image":
        return _image_position(mode)
    along = {"prism": 130.0, "lrs": 340.0, "soss": 1450.0}.get(mode.kind, mode.full[0] * 0.4)
    centre = float(_trace(mode, 1, np.array([along, along + 1.0]))[1][0])
    return (along, centre) if mode.dispaxis == 1 else (centre, along)


def _image_position(mode: Mode) -> tuple[float, float]:
    """(x, y) of the star in the whole subarray; off the pixel centre, as pointings are."""
    nx, ny = mode.full
    left = 4 if mode.xstart == 1 else 0  # light-blind columns
    return (nx + left) / 2 - 0.27, ny / 2 + 0.18


def _templates(draw, h: float) -> NDArray[np.float64]:
    """Numerical derivatives of the summed image by position; rendered, so they hold on any profile."""

    def total(dx: float, dy: float) -> NDArray[np.float64]:
        return sum(draw(dx, dy).values())

    centre = total(0, 0)
    xp, xm, yp, ym = total(h, 0), total(-h, 0), total(0, h), total(0, -h)
    xx, yy = (xp - 2 * centre + xm) / h**2, (yp - 2 * centre + ym) / h**2
    xy = (total(h, h) - total(h, -h) - total(-h, h) + total(-h, -h)) / (4 * h * h)
    return np.stack([(xp - xm) / (2 * h), (yp - ym) / (2 * h), xx / 2, yy / 2, xy])


def build_scene(
    mode: Mode, transit_depth: float, scene: Path | None = None, tilt: tuple[float, float] = (0.0, 0.0)
) -> Scene:
    """Draw the source of a mode.

    Parameters
    ----------
    transit_depth
        Depth of the white light; the depth spectrum is scaled so that it comes out exactly.
    scene
        A median image to use as the source instead of the built-in model.
    tilt
        (dx, dy) [pixel] by which the source is displaced from its nominal position.
    """
    if scene is not None:
        given = load_scene(scene, mode)

        def draw(dx: float, dy: float) -> dict[int, NDArray]:
            return {1: given.shifted(dx + tilt[0], dy + tilt[1])}

        wave = {1: given.wavelength}
        position, sigma = given.position, given.sigma
    elif mode.kind == "image":
        x, y = _image_position(mode)
        x, y = x - mode.origin[0], y - mode.origin[1]

        def draw(dx: float, dy: float) -> dict[int, NDArray]:
            return {1: telescope_psf(mode, x + dx + tilt[0], y + dy + tilt[1])}

        wave = {1: np.full((mode.ny, mode.nx), mode.band[0])}
        diffraction = mode.band[0] * 1e-6 / 6.5 * 206265 / mode.pixel_scale
        position, sigma = (x, y), 0.45 * diffraction
    else:

        def draw(dx: float, dy: float) -> dict[int, NDArray]:
            return _spectral_orders(mode, dx + tilt[0], dy + tilt[1])

        along = np.arange(mode.nx if mode.dispaxis == 1 else mode.ny) + mode.origin[mode.dispaxis - 1]
        traces = {order: _trace(mode, order, along.astype(float)) for order in mode.orders}
        wave = {
            order: np.broadcast_to(t[0] if mode.dispaxis == 1 else t[0][:, None], (mode.ny, mode.nx))
            for order, t in traces.items()
        }
        mid = along.size // 2
        across = float(traces[1][1][mid]) - mode.origin[2 - mode.dispaxis]
        position = (float(mid), across) if mode.dispaxis == 1 else (across, float(mid))
        sigma = float(np.mean(traces[1][3]))
    return _assemble(mode, draw, wave, transit_depth, position, sigma)


def _assemble(mode: Mode, draw, wave, transit_depth, position, sigma) -> Scene:
    lit = ~(reference_pixels(mode) | dark_columns(mode))
    orders = {order: image * lit for order, image in draw(0.0, 0.0).items()}
    terms = _templates(draw, 0.05) * lit
    total = sum(orders.values())
    raw = {order: depth_at(wave[order], 1.0) for order in orders}
    flux = math.fsum(float(image.sum()) for image in orders.values())
    white = math.fsum(float((orders[o] * raw[o]).sum()) for o in orders) / flux
    scale = transit_depth / white
    absorbed = sum(orders[o] * raw[o] for o in orders) * scale
    depth = np.divide(absorbed, total, out=raw[1] * scale, where=total > 0)
    peak = float(total.max())
    # growth of a Gaussian's sigma by ds adds sigma·ds times the second derivative (the heat equation)
    across = 2 * sigma * (terms[3] if mode.dispaxis == 1 else terms[2])
    width = across if mode.dispaxis else 2 * sigma * (terms[2] + terms[3])
    axis = 0 if mode.dispaxis != 2 else 1
    spectra = {}
    for order, image in orders.items():
        weight = image.sum(axis=axis)
        middle = wave[order].mean(axis=axis)
        spectra[order] = (middle, depth_at(middle, 1.0) * scale, weight / peak)
    return Scene(
        source=(total / peak).astype(np.float32),
        depth=depth.astype(np.float32),
        shifts=(np.concatenate([terms, width[None]]) / peak).astype(np.float32),
        wavelength={order: np.asarray(w, np.float32) for order, w in wave.items()},
        spectra=spectra,
        position=position,
        sigma=sigma,
        white_depth=transit_depth,
        peak=peak,
    )

"""Ingredients of a scene: a stellar spectrum, a telescope's point spread function, observed median images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.errors import ConfigError, Problem
from tsostream.simulate.modes import Mode

__all__ = ["GivenScene", "load_scene", "spectrum_shape", "telescope_psf"]

#: wavelength at which the defocus of weak lenses is told [µm]
LENS_WAVE: Final = 2.12


def spectrum_shape(wavelength: NDArray) -> NDArray[np.float64]:
    """Photon spectrum of a 5200 K star, arbitrary units, with two shallow stellar lines [µm -> relative]."""
    wave = np.maximum(wavelength, 0.3)
    planck = 1 / (wave**4 * np.expm1(14388.0 / (wave * 5200.0)))
    lines = (
        1
        - 0.05 * np.exp(-0.5 * ((wave - 2.3) / 0.02) ** 2)
        - 0.1 * np.exp(-0.5 * ((wave - 1.28) / 0.005) ** 2)
    )
    return planck * lines


def _pupil(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a hexagonal aperture with central obstruction and three struts; coordinates in diameters."""
    u = (np.arange(size) - (size - 1) / 2) / size * 1.06
    x, y = np.meshgrid(u, u)
    turns = np.deg2rad([0, 60, 120])
    reach = np.max([np.abs(x * np.cos(a) + y * np.sin(a)) for a in turns], axis=0)
    aperture = (reach < 0.46).astype(float)
    aperture[np.hypot(x, y) < 0.11] = 0
    for angle in np.deg2rad([90, 210 + 12, 330 - 12]):
        away = np.abs(x * np.sin(angle) - y * np.cos(angle))
        aperture[(away < 0.012) & (x * np.cos(angle) + y * np.sin(angle) > 0)] = 0
    return aperture, u


def telescope_psf(mode: Mode, x: float, y: float) -> NDArray[np.float64]:
    """Image of a star ``[y, x]`` (total light 1 over the infinite plane, about), integrated over pixels.

    A direct Fourier transform of the pupil onto the pixels' own positions, so that any sub-pixel
    position is exact.

    Parameters
    ----------
    x, y
        0-based position of the star [pixel].
    """
    # a coarser pupil would repeat the image of the star within the frame
    scale = mode.band[0] * 1e-6 / 6.5 * 206264.8 / mode.pixel_scale
    aperture, u = _pupil(max(96, round(2.2 * max(mode.full) / scale)))
    bend = 2j * np.pi * mode.defocus * LENS_WAVE * (u[:, None] ** 2 + u**2) / 0.25
    oversample = 3
    fine = (np.arange(oversample) - (oversample - 1) / 2) / oversample
    gx = (np.arange(mode.nx)[:, None] + fine).ravel() - x
    gy = (np.arange(mode.ny)[:, None] + fine).ravel() - y
    image = np.zeros((gy.size, gx.size))
    centre, width = mode.band
    for wave in centre + width * np.array([-0.35, 0.0, 0.35]):
        # pixels per (wavelength / diameter): the phase across the pupil is 2 pi u g / that
        unit = wave * 1e-6 / 6.5 * 206264.8 / mode.pixel_scale
        ex = np.exp(-2j * np.pi / unit * gx[:, None] * u)
        ey = np.exp(-2j * np.pi / unit * gy[:, None] * u)
        lens = aperture * np.exp(bend / wave) if mode.defocus else aperture
        field = ey @ lens @ ex.T
        image += np.abs(field) ** 2 / unit**2
    shape = (mode.ny, oversample, mode.nx, oversample)
    return image.reshape(shape).mean(axis=(1, 3)) / (3 * aperture.sum() * (u.size / 1.06) ** 2)


@dataclass(frozen=True)
class GivenScene:
    """An observed image, placed into the subarray.

    Parameters
    ----------
    image
        ``[y, x]`` float64, not negative.
    wavelength
        ``[y, x]`` float64 [µm].
    position, sigma
        As in :class:`tsostream.simulate.scene.Scene`.
    """

    image: NDArray[np.float64]
    wavelength: NDArray[np.float64]
    position: tuple[float, float]
    sigma: float

    def shifted(self, dx: float, dy: float) -> NDArray[np.float64]:
        """Displace the image by cubic convolution (exact for quadratic surfaces)."""
        return _shift(_shift(self.image, dx, 1), dy, 0)


def _shift(image: NDArray, by: float, axis: int) -> NDArray[np.float64]:
    if by == 0:
        return image
    whole = int(np.floor(by))
    t = 1 - (by - whole)  # distance from the sample below
    weights = (
        0.5 * (-t + 2 * t**2 - t**3),
        0.5 * (2 - 5 * t**2 + 3 * t**3),
        0.5 * (t + 4 * t**2 - 3 * t**3),
        0.5 * (-(t**2) + t**3),
    )
    pad = abs(whole) + 3
    width = [(0, 0), (0, 0)]
    width[axis] = (pad, pad)
    padded = np.pad(image, width, mode="edge")
    out = np.zeros_like(image)
    n = image.shape[axis]
    for k, weight in enumerate(weights):
        start = pad - whole - 2 + k
        index = [slice(None), slice(None)]
        index[axis] = slice(start, start + n)
        out += weight * padded[tuple(index)]
    return out


def load_scene(path: Path, mode: Mode) -> GivenScene:
    """Read a median image (extension MEDFLUX or SCI, or the primary) as the source.

    ``X`` and ``Y`` extensions say where its columns and rows are in the subarray (in any order, as reduction
    tools flip images); without them it is centred. ``WAVE_1D`` gives the wavelengths.

    Raises
    ------
    ConfigError
        When the file cannot be read, holds no image, or the image lies outside the subarray.
    """
    path = Path(path)

    def bad(what: str, todo: str) -> ConfigError:
        return ConfigError(Problem(what, where=str(path), todo=todo, code="scene"))

    try:
        with fits.open(path) as hdus:
            names = [
                name for name in ("MEDFLUX", "SCI", "PRIMARY") if name in hdus and hdus[name].data is not None
            ]
            if not names:
                raise bad("no image: neither MEDFLUX nor SCI", "give a FITS file with such an extension")
            image = np.asarray(hdus[names[0]].data, np.float64)
            extra = {k: np.asarray(hdus[k].data, float) for k in ("X", "Y", "WAVE_1D") if k in hdus}
    except OSError as error:
        raise bad(f"not a readable FITS file ({error})", "check the path given to --scene") from error
    while image.ndim > 2:
        image = np.nanmedian(image, axis=0)
    if image.ndim != 2:
        raise bad("the image has fewer than two axes", "give a two-dimensional image")
    image = np.maximum(np.nan_to_num(image), 0.0)
    full_x, full_y = mode.full
    x = extra.get("X", np.arange(image.shape[1]) + (full_x - image.shape[1]) // 2)
    y = extra.get("Y", np.arange(image.shape[0]) + (full_y - image.shape[0]) // 2)
    if mode.kind == "image" and (image.shape[0] > full_y or image.shape[1] > full_x):
        # a cut-out of a larger subarray: bring its star to the middle
        star_x, star_y = _star(image)
        x = np.arange(image.shape[1]) - round(star_x) + full_x // 2
        y = np.arange(image.shape[0]) - round(star_y) + full_y // 2
    columns = np.rint(x).astype(int) - mode.origin[0]
    rows = np.rint(y).astype(int) - mode.origin[1]
    keep_x, keep_y = (columns >= 0) & (columns < mode.nx), (rows >= 0) & (rows < mode.ny)
    placed = np.zeros((mode.ny, mode.nx))
    placed[np.ix_(rows[keep_y], columns[keep_x])] = image[np.ix_(keep_y, keep_x)]
    if placed.max() <= 0:
        raise bad(f"no light of the image falls into {mode.subarray} ({mode.nx} x {mode.ny})",
                  "choose the subarray it was taken with")  # fmt: skip
    wavelength = np.full((mode.ny, mode.nx), mode.band[0] or 1.0)
    along = extra.get("WAVE_1D")
    where, target = (columns, np.arange(mode.nx)) if mode.dispaxis == 1 else (rows, np.arange(mode.ny))
    if mode.dispaxis and along is not None and along.size == where.size:
        order = np.argsort(where)
        line = np.interp(target, where[order], along[order])
        wavelength[:] = line if mode.dispaxis == 1 else line[:, None]
    elif mode.dispaxis:
        wavelength[:] = 1 + target / 1000 if mode.dispaxis == 1 else (1 + target / 1000)[:, None]
    if mode.kind == "image":
        return GivenScene(placed, wavelength, _star(placed), 1.0)
    py, px = np.unravel_index(np.argmax(placed), placed.shape)
    return GivenScene(placed, wavelength, (float(px), float(py)), 1.0)


def _star(image: NDArray) -> tuple[float, float]:
    """Find the middle (x, y) of what is at least a third as bright as the brightest: a weak lens makes a ring of it."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, 1, mode="edge"), (3, 3))
    # a hot pixel is no star
    smooth = np.median(windows, axis=(2, 3))
    rows, columns = np.nonzero(smooth >= max(smooth.max(), 1e-30) / 3)
    if not rows.size:
        rows, columns = np.unravel_index([int(np.argmax(image))], image.shape)
    return float(columns.mean()), float(rows.mean())

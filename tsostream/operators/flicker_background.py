"""The smooth background of clean_flicker_noise's ``background_method=model``; needs photutils."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.operators.flicker import SIGMA, clip_image

__all__ = ["SmoothBackground", "box_of", "need_photutils", "smooth_flat"]

#: largest side of a box that is chosen [pixels]
LARGEST = 32
#: how often values that stand out of a box are left out
ROUNDS = 5
#: boxes a median is taken over
SMOOTH = (5, 5)


def need_photutils(why: str) -> None:
    """Refuse what needs photutils where it is not installed.

    Raises
    ------
    ConfigError
        It is not.
    """
    if importlib.util.find_spec("photutils") is None:
        raise ConfigError(
            Problem(f"{why} needs photutils", todo="pip install tsostream[background]", code="parameter")
        )


def box_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Largest sides up to 32 that divide an image evenly."""
    rows, columns = (max(k for k in range(1, LARGEST + 1) if size % k == 0) for size in shape)
    return rows, columns


@dataclass(frozen=True)
class SmoothBackground:
    """Median of the background in boxes, smoothed and interpolated.

    Parameters
    ----------
    box
        Rows and columns of a box; None: the largest up to 32 that divide the image evenly.
    """

    box: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Find the background of each pixel, or one level where there are too few boxes with background.

        Parameters
        ----------
        image : float32 [y, x]
            Values.
        good : bool [y, x]
            Background.

        Returns
        -------
        background : float32 [y, x] or [1, 1]
        """
        from photutils.background import Background2D, MedianBackground
        from photutils.background.core import SigmaClip

        box = self.box or box_of(image.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = Background2D(
                    np.where(good, image, np.float32(0)),
                    box,
                    mask=~good,
                    filter_size=SMOOTH,
                    sigma_clip=SigmaClip(sigma=SIGMA, maxiters=ROUNDS),
                    bkg_estimator=MedianBackground(),
                )
                return np.ascontiguousarray(found.background, np.float32)
            except ValueError:
                return np.full((1, 1), np.median(image[good]), np.float32)


def smooth_flat(flat: np.ndarray) -> np.ndarray:
    """Replace what a flat does not know (0, NaN) by a smooth surface through the rest; float32 [y, x].

    Raises
    ------
    ConfigError
        Photutils is needed and not there.
    """
    flat = np.array(flat, np.float32)
    bad = (flat == 0) | ~np.isfinite(flat)
    if bad.any():
        if bad.all():
            return np.ones_like(flat)
        need_photutils("clean_flicker_noise.apply_flat_field with a flat that has gaps")
        smooth = SmoothBackground()(flat, _quiet(flat, ~bad))
        flat[bad] = np.broadcast_to(smooth, flat.shape)[bad]
    return flat


def _quiet(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Leave out what stands out by three widths of the lower half."""
    good, size = np.ascontiguousarray(good), image.size
    work = (np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size + 1), np.empty(size + 1))
    clip_image(np.nan_to_num(image), good, SIGMA, *work)
    return good

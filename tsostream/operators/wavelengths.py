"""The wavelength of each pixel, as the steps on slopes look it up."""

from __future__ import annotations

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.operators.base import Binding

__all__ = ["wavelength_map"]


def wavelength_map(binding: Binding, order: int = 1) -> np.ndarray | None:
    """Give the wavelengths of a spectral order as an image.

    Parameters
    ----------
    binding
        Its template ``wavelength`` maps spectral order -> [y, x] or [pixel along the dispersion], in µm.
    order
        Spectral order; a single image without a number (0) serves for any.

    Returns
    -------
    float64 [y, x] or None
        NaN where not known [µm]; None when there are no wavelengths.

    Raises
    ------
    ConfigError
        When they have the shape of another frame.
    """
    info = binding.info
    given = binding.templates.get("wavelength") or {}
    image = given.get(order, given.get(0))
    if image is None:
        return None
    image = np.asarray(image, np.float64)
    if image.ndim == 1:
        image = image[:, None] if info.dispaxis == 2 else image[None, :]
    try:
        return np.array(np.broadcast_to(image, info.frame_shape))
    except ValueError:
        raise ConfigError(
            Problem(
                f"the wavelengths of order {order} have the shape {image.shape}, the frame is {info.frame_shape}",
                todo="give wavelengths of this subarray",
                code="wavelengths",
            )
        ) from None

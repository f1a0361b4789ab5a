"""Detector models of the SOSS orders from their references (PASTASOSS, SPECPROFILE, SPECKERNEL)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.soss.engine import OrderModel
from tsostream.operators.soss.geometry import FIRST_ROW, OrderTrace
from tsostream.operators.soss.grids import SpectralKernel, throughput_function

__all__ = ["order_models", "profile_image"]


def profile_image(reference: Reference, order: int, info: ExposureInfo) -> np.ndarray | None:
    """Cut the spatial profile of an order to the exposure, float64 [y, x]; None when the reference has none.

    Raises
    ------
    ReferenceMismatchError
        When the profile is not that of the subarray, whatever its padding.
    """
    names = [name for name in reference.arrays if name.partition(",")[0] == "ORDER"]
    name = "ORDER" if order == 1 else f"ORDER,{order}"
    if name not in names:
        return None
    image = np.asarray(reference.arrays[name], np.float64)
    small = info.subarray == "SUBSTRIP96"
    rows, columns = (96 if small else 256), 2048
    pad = [(have - want) // 2 for have, want in zip(image.shape, (rows, columns), strict=True)]
    if min(pad) < 0:
        raise ReferenceMismatchError(
            Problem(f"{name} has shape {image.shape}, expected ({rows}, {columns}) or more",
                    reference.path or reference.name, "give a specprofile reference of this subarray", "specprofile")
        )  # fmt: skip
    image = image[pad[0] : pad[0] + rows, pad[1] : pad[1] + columns]
    x0, y0 = info.xstart - 1, info.ystart - 1 - FIRST_ROW - (10 if small else 0)
    return np.ascontiguousarray(image[y0 : y0 + info.ny, x0 : x0 + info.nx])


def order_models(
    references: Mapping[str, Reference], traces: Mapping[int, OrderTrace], info: ExposureInfo
) -> dict[int, OrderModel]:
    """Build the detector model of every order that all references know.

    Parameters
    ----------
    references
        Among them those of `tsostream.operators.soss.OVERLAP_REFERENCES`.
    traces
        Order -> trace.
    info
        The exposure.
    """
    kernels = references["speckernel"]
    centres = np.asarray(kernels.arrays["WAVELENGTHS"], np.float32)[0]
    table = np.asarray(kernels.arrays["KERNELS"], np.float32)
    half = kernels.keywords.get("HALFWIDT")
    if not isinstance(half, int | float):
        raise ReferenceMismatchError(
            Problem("there is no HALFWIDT", kernels.path or kernels.name,
                    "give a speckernel reference in CRDS format", "speckernel")
        )  # fmt: skip
    models = {}
    for order, trace in traces.items():
        profile = profile_image(references["specprofile"], order, info)
        if profile is None or not trace.throughput.size:
            continue
        _, wave = trace.columns(info.nx)
        kernel = None
        if order < 3:
            known = np.where(np.isfinite(wave), wave, 0.0)
            kernel = SpectralKernel(centres, table, known, 2 * int(half) + 1)
        through = throughput_function(np.asarray(trace.throughput, np.float64))
        models[order] = OrderModel(order, trace.pixel_wavelengths(info.nx), profile, wave, through, kernel)
    return models

"""References of a simulated SOSS exposure: traces with wavelengths and throughputs, profiles, spectral kernels.

They describe the simulator's own scene: what an order puts into a column is the star's spectrum times throughput and
wavelength, integrated over the column, as the official model of the detector has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.simulate.modes import PWCPOS, Mode
from tsostream.simulate.scene import soss_order, soss_profile

__all__ = ["SOSS_KINDS", "write_soss_reference"]

#: types of references, with the ending of their files
SOSS_KINDS: Final = {"pastasoss": "asdf", "specprofile": "fits", "speckernel": "fits"}
#: the traces turn about here (x, y) [pixel of SUBSTRIP256]
PIVOT: Final = {1: (1100.0, 48.0), 2: (1000.0, 92.0), 3: (500.0, 150.0)}
#: the wavelength polynomial of the reference has this degree; its terms in the wheel's offset are zero
DEGREE: Final = 9
#: width of the line-spread kernel, and how far it reaches [pixel]
KERNEL_FWHM: Final = 2.1
KERNEL_REACH: Final = 10
KERNEL_OVERSAMPLING: Final = 4
#: columns of a whole subarray, in which references are laid out
COLUMNS: Final = 2048


def _order(order: int, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Wavelength, row in SUBSTRIP256 and throughput of an order at columns."""
    wave, row, through = soss_order(order, np.asarray(x, float))
    return wave, row, through


def _extent(order: int) -> tuple[int, int]:
    """First and last column in which the order's trace is on SUBSTRIP256, with a margin."""
    x = np.arange(-60, COLUMNS + 60)
    _, row, _ = _order(order, x)
    inside = x[(row < 255) & (row > 0)]
    return int(inside.min()), int(inside.max())


def _trace_table(order: int) -> dict[str, Any]:
    low, high = _extent(order)
    x = np.arange(low, high + 1, dtype=np.float64)
    _, row, _ = _order(order, x)
    return {
        "spectral_order": order,
        "pivot_x": PIVOT[order][0],
        "pivot_y": PIVOT[order][1],
        "trace": np.stack([x, row], axis=1),
        "oversampling": 1,
        "cutoff": int(min(high + 1, COLUMNS)),
    }


def _wave_model(order: int) -> dict[str, Any]:
    """Fit the wavelengths by a polynomial of scaled column and scaled wheel offset."""
    low, high = _extent(order)
    x = np.arange(low, high + 1, dtype=np.float64)
    wave, _, _ = _order(order, x)
    powers = np.polynomial.polynomial.polyfit((x - low) / (high - low), wave, DEGREE)
    coefficients = np.zeros((DEGREE + 1) * (DEGREE + 2) // 2)
    for degree in range(DEGREE + 1):
        coefficients[degree * (degree + 1) // 2] = powers[degree]
    return {
        "spectral_order": order,
        "polynomial_degree": DEGREE,
        "coefficients": coefficients,
        "scale_extents": np.array([[low, -0.25], [high, 0.25]], np.float64),
    }


def _throughput(order: int) -> dict[str, Any]:
    """Throughput against wavelength: light per column is throughput times wavelength times the column's width."""
    low, high = _extent(order)
    x = np.linspace(low - 30, high + 30, 3000)
    wave, _, through = _order(order, x)
    value = through / (wave * np.abs(np.gradient(wave, x)))
    rising = np.argsort(wave)
    return {"spectral_order": order, "wavelength": wave[rising], "throughput": value[rising]}


def _pastasoss(mode: Mode, path: Path) -> None:
    import asdf

    orders = mode.orders
    tree = {
        "meta": {
            "reftype": "PASTASOSS", "telescope": "JWST", "pedigree": "DUMMY", "author": "tsostream simulate",
            "description": "simulated by tsostream", "useafter": "2021-12-25T00:00:00",
            "date": "2026-01-01T00:00:00.000", "filename": path.name, "model_type": "PastasossModel",
            "instrument": {"name": "NIRISS", "detector": "NIS", "filter": "CLEAR", "pupil": "GR700XD"},
            "exposure": {"type": "NIS_SOSS", "p_exptype": "NIS_SOSS"},
            "pwcpos_cmd": PWCPOS, "pwcpos_bounds": [PWCPOS - 0.25, PWCPOS + 0.25],
            "order2_separation_cutoff": [0.77, 0.95], "soss_xdim": COLUMNS, "soss_ydim": 300, "subarray_ymin": 1792,
            "wavemap_wlmin": 0.5, "wavemap_wlmax": 5.5, "wavemap_nwl": 5001,
        },
        "traces": [_trace_table(order) for order in orders],
        "wavecal_models": [_wave_model(order) for order in orders],
        "throughputs": [_throughput(order) for order in orders],
    }  # fmt: skip
    part = path.with_name(path.name + ".part")
    asdf.AsdfFile(tree).write_to(part)
    part.replace(path)


def _profiles(mode: Mode, primary: fits.PrimaryHDU) -> fits.HDUList:
    """Spatial profile of each order on the whole subarray, [y, x], of unit area in each column."""
    ny = mode.full[1]
    rows = np.arange(ny)[:, None] + (mode.ystart - mode.origin[1] - 1793)
    hdus = [primary]
    for order in mode.orders:
        _, row, _ = _order(order, np.arange(COLUMNS))
        image = fits.ImageHDU(soss_profile(rows - row).astype(np.float32), name="ORDER", ver=order)
        image.header["ORDER"], image.header["OVERSAMP"], image.header["PADDING"] = order, 1, 0
        hdus.append(image)
    return fits.HDUList(hdus)


def _kernels(primary: fits.PrimaryHDU) -> fits.HDUList:
    """Gaussian line-spread kernels [oversampled pixel, wavelength]."""
    pixels = 2 * KERNEL_REACH + 1
    count = KERNEL_OVERSAMPLING * pixels - (KERNEL_OVERSAMPLING - 1)
    at = np.linspace(-KERNEL_REACH, KERNEL_REACH, count)
    shape = np.exp(-0.5 * (at / (KERNEL_FWHM / 2.3548)) ** 2)
    shape = np.maximum(shape / shape.sum(), 1e-9)
    waves = np.linspace(0.5, 3.0, 95)
    primary.header["HALFWIDT"] = KERNEL_REACH
    kernels = fits.ImageHDU(np.tile(shape[:, None], (1, waves.size)).astype(np.float32), name="KERNELS")
    kernels.header["SPECOS"], kernels.header["HALFWIDT"] = KERNEL_OVERSAMPLING, KERNEL_REACH
    kernels.header["INDCENTR"] = count // 2
    wavelengths = fits.ImageHDU(np.tile(waves[None], (count, 1)).astype(np.float32), name="WAVELENGTHS")
    wavelengths.header["NWAVE"] = waves.size
    return fits.HDUList([primary, wavelengths, kernels])


def write_soss_reference(mode: Mode, kind: str, path: Path, primary: fits.PrimaryHDU) -> None:
    """Write one reference of SOSS.

    Parameters
    ----------
    mode
        A SOSS mode.
    kind
        A name of `SOSS_KINDS`.
    path
        File to write.
    primary
        Its header, for FITS.
    """
    if kind == "pastasoss":
        _pastasoss(mode, path)
        return
    hdus = _profiles(mode, primary) if kind == "specprofile" else _kernels(primary)
    part = path.with_name(path.name + ".part")
    hdus.writeto(part, overwrite=True)
    part.replace(path)

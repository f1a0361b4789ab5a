"""EXTRACT1D and APCORR references that match a simulated spectrum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tsostream.simulate.modes import Mode
from tsostream.simulate.scene import enclosed_light, trace_of

__all__ = ["APERTURE_KINDS", "apcorr_table", "aperture_kinds", "write_extract1d"]

#: reference type -> ending of its file
APERTURE_KINDS = {"extract1d": "json", "apcorr": "fits"}
#: half the width of the aperture, and where the background begins [px]
HALF, INNER = 5.0, 8.0
#: sizes of the aperture correction [px]
SIZES = np.arange(2, 31, 2)


def aperture_kinds(mode: Mode) -> tuple[str, ...]:
    """Types that a mode has: no aperture correction for the grism, neither for SOSS and images."""
    if mode.exp_type in ("NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS"):
        return ("extract1d", "apcorr")
    return ("extract1d",) if mode.exp_type == "NRC_TSGRISM" else ()


def write_extract1d(mode: Mode, path: Path) -> None:
    """Write the apertures: along the trace, with background on both sides where the subarray has room.

    Parameters
    ----------
    mode
        The mode, cut to its subarray.
    path
        File to write.
    """
    along, centre, _, _ = trace_of(mode)
    ncross = mode.ny if mode.dispaxis == 1 else mode.nx
    # constant term first
    middle = np.polynomial.polynomial.polyfit(along, centre, 3)
    half, inner = min(HALF, (ncross - 6) / 2), min(INNER, (ncross - 4) / 2)

    def edge(offset: float) -> list[float]:
        return [float(middle[0] + offset), *(float(value) for value in middle[1:])]

    ground = []
    low, high = float(centre.min()), float(centre.max())
    if low - inner > 1.0:
        ground += [[0.5], edge(-inner)]
    if high + inner < ncross - 2.0:
        ground += [edge(inner), [ncross - 1.5]]
    entry: dict[str, Any] = {
        "id": "S1600A1" if mode.exp_type == "NRS_BRIGHTOBJ" else mode.exp_type,
        "region_type": "target", "spectral_order": 1, "dispaxis": mode.dispaxis,
        "xstart": 0, "xstop": mode.nx - 1, "ystart": 0, "ystop": mode.ny - 1,
        "src_coeff": [edge(-half), edge(half)], "independent_var": "pixel", "bkg_order": 0,
        "smoothing_length": 0, "use_source_posn": False,
    }  # fmt: skip
    if ground:
        entry["bkg_coeff"] = ground
    content = {
        "reftype": "EXTRACT1D", "telescope": "JWST", "instrument": mode.instrument, "exp_type": mode.exp_type,
        "pedigree": "DUMMY", "author": "tsostream simulate", "useafter": "2021-12-25T00:00:00",
        "description": "simulated by tsostream", "apertures": [entry],
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1) + "\n")


def apcorr_table(mode: Mode) -> fits.BinTableHDU:
    """Make the aperture correction: one over the light inside an aperture of so many pixels."""
    _, _, wave, sigma = trace_of(mode)
    chosen = np.linspace(0, wave.size - 1, 24).astype(int)
    order = np.argsort(wave[chosen])
    at = wave[chosen][order]
    width = np.broadcast_to(sigma, wave.shape)[chosen][order]
    # [wavelength, size]
    factor = np.array([[1 / enclosed_light(float(size), float(one)) for size in SIZES] for one in width])
    n_wave, n_size = factor.shape
    columns: list[tuple[Any, ...]]
    if mode.is_miri:
        columns = [("subarray", "S17"), ("wavelength", "<f4", (n_wave,)), ("nelem_wl", "<i2"),
                   ("size", "u1", (n_size,)), ("nelem_size", "<i2"), ("apcorr", "<f4", (n_wave, n_size)),
                   ("apcorr_err", "<f4", (n_wave, n_size))]  # fmt: skip
        row: dict[str, Any] = {"subarray": mode.subarray, "size": SIZES, "apcorr": factor}
    else:
        shape = (n_size, n_wave, 3)
        columns = [("filter", "S12"), ("grating", "S15"), ("slit", "S15"), ("wavelength", "<f4", (n_wave,)),
                   ("nelem_wl", "<i2"), ("size", "<f4", (n_size, n_wave)), ("nelem_size", "<i2"),
                   ("pixphase", "<f4", (3,)), ("apcorr", "<f4", shape), ("apcorr_err", "<f4", shape)]  # fmt: skip
        row = {
            "filter": mode.filter, "grating": mode.grating, "slit": "S1600A1",
            "size": np.broadcast_to(SIZES[:, None], shape[:2]), "pixphase": [0.0, 0.5, 1.0],
            "apcorr": np.broadcast_to(factor.T[:, :, None], shape),
        }  # fmt: skip
    table = np.zeros(1, columns)
    for name, value in {**row, "wavelength": at, "nelem_wl": n_wave, "nelem_size": n_size}.items():
        table[name][0] = value
    hdu = fits.BinTableHDU(table, name="APCORR")
    hdu.header["SIZEUNIT"] = "pixels"
    return hdu

"""Products of the whole exposure (``x1dints, whtlt, phot``): which there are, their names and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tsostream.errors import Problem
from tsostream.files import Exposure
from tsostream.sinks.products import spectra_bytes

__all__ = ["measured_bytes", "product_name", "wrong_measured"]

#: product -> whether it is of a spectrum
_SPECTRAL: Final = {"x1dints": True, "whtlt": True, "phot": False}


#: bytes of a row of text, roughly
_ROW: Final = {"whtlt": 90, "phot": 430}


def product_name(exposure: Exposure, kind: str, *, alone: bool = True) -> str:
    """Name of a product: the association's product, or exposure and detector.

    Parameters
    ----------
    exposure
        The exposure.
    kind
        ``x1dints``, ``whtlt``, ``phot``.
    alone
        False where the inputs hold several exposures or detectors: an association's name would serve twice.
    """
    end = "fits" if kind == "x1dints" else "ecsv"
    if exposure.product:
        root = exposure.product if alone else f"{exposure.product}_{exposure.info.detector.lower()}"
    else:
        root = exposure.label
    return f"{root}_{kind}.{end}"


def wrong_measured(kinds: Sequence[str], exposure: Exposure) -> Iterator[Problem]:
    """Report products that this kind of exposure does not have."""
    spectral = exposure.info.is_spectroscopy
    for kind in kinds:
        if _SPECTRAL[kind] == spectral:
            continue
        other = "whtlt and x1dints" if spectral else "phot"
        yield Problem(
            f"{exposure.info.exp_type} has no {kind}",
            "--products",
            f"leave it out; it has {other}",
            "parameter",
        )


def measured_bytes(exposure: Exposure, kind: str) -> int:
    """Size of a product [bytes]; at most for spectra, whose length the extraction decides."""
    if kind != "x1dints":
        return 4096 + exposure.count * _ROW[kind]
    orders = 3 if exposure.info.exp_type == "NIS_SOSS" else 1
    return spectra_bytes(max(exposure.info.frame_shape), exposure.count, orders)

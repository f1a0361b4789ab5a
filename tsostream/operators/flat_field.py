"""flat_field: divide slopes by the response of each pixel (spec stages 2-3, B.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.nirspec_flat import PARTS, Flat, combined_flat
from tsostream.operators.wavelengths import wavelength_map

__all__ = ["FlatField", "divide_by_flat"]

_LOST = np.uint32(dq.DO_NOT_USE)
_NAN = np.float32(np.nan)


@kernel
def divide_by_flat(data, err, var_poisson, var_rnoise, var_flat, bits, factor, relative, flags):
    """Divide slopes by a flat, find the variance its error adds, and synchronise NaN with DO_NOT_USE.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place; the error is made anew from the three variances.
    var_flat : float32 [integration, y, x]
        Overwritten.
    bits : uint32 [integration, y, x]
        Changed in place.
    factor : float32 [y, x]
        One over the flat.
    relative : float32 [y, x]
        Error of the flat by the flat.
    flags : uint32 [y, x]
        DQ bits of the flat.
    """
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                one = factor[y, x]
                square = one * one
                signal = data[i, y, x] * one
                share = signal * relative[y, x]
                poisson, rnoise = var_poisson[i, y, x] * square, var_rnoise[i, y, x] * square
                flat = share * share
                error = np.sqrt(poisson + rnoise + flat)
                flag = bits[i, y, x] | flags[y, x]
                lost = ((flag & _LOST) != 0) | (signal != signal) | (error != error)
                data[i, y, x] = _NAN if lost else signal
                err[i, y, x] = _NAN if lost else error
                var_poisson[i, y, x] = _NAN if lost else poisson
                var_rnoise[i, y, x] = _NAN if lost else rnoise
                var_flat[i, y, x] = _NAN if lost else flat
                bits[i, y, x] = flag | _LOST if lost else flag


def image_flat(binding: Binding) -> Flat:
    """Prepare an ordinary flat: what cannot be divided by becomes 1 and is flagged.

    Returns
    -------
    Flat
        Of the frame of the exposure.
    """
    shape = binding.info.frame_shape
    reference = binding.references["flat"]
    values = reference_array(reference, "SCI", shape, "flat_field").astype(np.float32)
    error = reference.arrays.get("ERR")
    error = np.zeros(shape, np.float32) if error is None else error.astype(np.float32)
    bits = reference.arrays.get("DQ", np.zeros(shape, np.uint32)).copy()
    bits[np.isnan(values) | (values == 0)] |= np.uint32(dq.DO_NOT_USE | dq.NO_FLAT_FIELD)
    bits[(bits & np.uint32(dq.NO_FLAT_FIELD)) != 0] |= _LOST
    return Flat(np.where((bits & _LOST) != 0, np.float32(1), values), error, bits)


@dataclass(frozen=True, kw_only=True)
class FlatField(Operator):
    """Divide by the flat field; NIRSpec's is the product of three, each a function of the wavelength.

    Parameters
    ----------
    inverse
        Multiply by the flat instead.
    """

    name: ClassVar[str] = "flat_field"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("flat",)
    optional_references: ClassVar[tuple[str, ...]] = PARTS

    inverse: bool = False

    @property
    def coupling(self) -> Coupling:
        """The NIRSpec flats are looked up at each pixel's wavelength."""
        return Template(("wavelength",))

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """NIRSpec has three flats, of which some may be missing; the others have one."""
        return ((), PARTS) if info.instrument == "NIRSPEC" else (("flat",), ())

    def bind(self, binding: Binding) -> BoundRateStep:
        """Prepare one over the flat."""
        info = binding.info
        skip = partial(BoundRateStep, self.name, binding.dq_plane, info, _unchanged)
        done = str(info.header.get("S_FLAT", "")).strip().upper()
        if done == "COMPLETE":
            return skip(skipped="the input is flat-fielded already (S_FLAT)")
        if info.instrument != "NIRSPEC":
            flat = image_flat(binding)
            lacking: tuple[str, ...] = ()
        else:
            lacking = tuple(name for name in PARTS if name not in binding.references)
            if len(lacking) == len(PARTS):
                return skip(skipped="no fflat, sflat or dflat reference was found")
            wave = wavelength_map(binding)
            if wave is None:
                return skip(
                    skipped="the flats depend on the wavelength, and none is known (--wavelengths FILE)"
                )
            flat = combined_flat(binding.references, info, wave)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            factor = flat.value if self.inverse else np.float32(1) / flat.value
            # the official step knows no error of a flat that is multiplied back
            relative = np.zeros_like(flat.error) if self.inverse else flat.error / flat.value
        run = partial(
            _divide,
            factor=np.ascontiguousarray(factor, np.float32),
            relative=np.ascontiguousarray(relative, np.float32),
            flags=np.ascontiguousarray(flat.dq, np.uint32),
        )
        notes = (f"no {' and no '.join(lacking)} reference was found; taken as 1",) if lacking else ()
        return BoundRateStep(self.name, binding.dq_plane | flat.dq, info, run, notes=notes)


def _unchanged(rate: Rate) -> Rate:
    return rate


def _divide(rate: Rate, *, factor: np.ndarray, relative: np.ndarray, flags: np.ndarray) -> Rate:
    var_flat = np.empty_like(rate.data) if rate.var_flat is None else rate.var_flat
    divide_by_flat(
        rate.data, rate.err, rate.var_poisson, rate.var_rnoise, var_flat, rate.dq, factor, relative, flags
    )
    return replace(rate, var_flat=var_flat)

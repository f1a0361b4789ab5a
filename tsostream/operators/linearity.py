"""linearity: a polynomial per pixel takes the non-linearity of the well out (spec stage 1, section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from tsostream.integration import dq
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass, reference_array
from tsostream.operators.jit import kernel
from tsostream.operators.linearity_reads import reads_pass, wants_reads
from tsostream.operators.tile import Tile
from tsostream.operators.zeroframe import linearize_zero, zero_scratch

__all__ = ["Linearity", "linearize", "prepare_coefficients"]

SAT = np.uint8(dq.SATURATED)


@kernel
def linearize(data, groupdq, coefficients, y0, y1):
    """Evaluate the polynomial by Horner's rule, in float32, where the sample is not saturated.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place.
    groupdq : uint8 [integration, group, y, x]
        Samples with SATURATED stay as they are.
    coefficients : float32 [power, y, x]
        Constant term first.
    y0, y1 : int
        Rows.
    """
    powers = coefficients.shape[0]
    nx = data.shape[3]
    # one row at a time and powers outside, so that the innermost loop runs over neighbours in memory
    result = np.empty(nx, np.float32)
    for i in range(data.shape[0]):
        for g in range(data.shape[1]):
            for y in range(y0, y1):
                for x in range(nx):
                    result[x] = coefficients[powers - 1, y, x]
                for k in range(powers - 2, -1, -1):
                    for x in range(nx):
                        result[x] = result[x] * data[i, g, y, x] + coefficients[k, y, x]
                for x in range(nx):
                    data[i, g, y, x] = data[i, g, y, x] if groupdq[i, g, y, x] & SAT else result[x]


def prepare_coefficients(coefficients: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace unusable polynomials by the identity and flag them.

    Parameters
    ----------
    coefficients : float32 [power, y, x]
        As in the reference.
    bits : uint32 [y, x]
        The reference's DQ.

    Returns
    -------
    coefficients : float32 [power, y, x]
        Cleaned copy.
    bits : uint32 [y, x]
        With NO_LIN_CORR where a coefficient was NaN or the linear term zero.
    """
    coefficients = np.array(coefficients, np.float32)
    bits = bits.copy()
    broken = np.isnan(coefficients).any(axis=0) | (coefficients[1] == 0)
    identity = broken | ((bits & dq.NO_LIN_CORR) != 0)
    coefficients[:, identity] = 0.0
    coefficients[1, identity] = 1.0
    bits[broken] |= dq.NO_LIN_CORR
    return coefficients, bits


@dataclass(frozen=True, kw_only=True)
class Linearity(Operator):
    """Correct the classical non-linearity.

    Where the reference holds inverse coefficients (INV_COEFFS) and a group averages several reads, the reads are
    predicted, corrected one by one and averaged again; else the polynomial is applied to the group.
    """

    name: ClassVar[str] = "linearity"
    references: ClassVar[tuple[str, ...]] = ("linearity",)

    def bind(self, binding: Binding) -> BoundRampStep:
        """Clean the coefficients once."""
        reference = binding.references["linearity"]
        shape = binding.info.frame_shape
        coefficients, bits = prepare_coefficients(
            reference_array(reference, "COEFFS", shape, self.name),
            reference_array(reference, "DQ", shape, self.name),
        )

        one = RowPass(
            partial(_linearize, coefficients=coefficients),
            part=Part("polynomial", {"coefficients": coefficients}),
        )
        if wants_reads(reference, binding.info):
            # averaged groups: undo the averaging read by read (spec 10, read-level path)
            inverse, more = prepare_coefficients(
                reference_array(reference, "INV_COEFFS", shape, self.name),
                reference_array(reference, "DQ", shape, self.name),
            )
            bits = bits | more
            one = reads_pass(coefficients, inverse, binding.info.nframes)
        passes = [one]
        if binding.info.zeroframe:
            # a single read: the polynomial itself, whatever is done to averaged groups
            passes.append(RowPass(partial(_linearize_zero, coefficients=coefficients)))
        return BoundRampStep(self.name, binding.dq_plane | bits, tuple(passes), zero_scratch(binding.info))


def _linearize(tile: Tile, y0: int, y1: int, *, coefficients: np.ndarray) -> None:
    linearize(tile.data, tile.groupdq, coefficients, y0, y1)


def _linearize_zero(tile: Tile, y0: int, y1: int, *, coefficients: np.ndarray) -> None:
    linearize_zero(tile.scratch["zeroframe"], coefficients, y0, y1)

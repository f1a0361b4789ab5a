"""Data-quality bits, as in ``stdatamodels.jwst.datamodels.dqflags`` (spec stage 1, section 1.3).

The low eight bits are also the bits of a GROUPDQ plane.
"""

from __future__ import annotations

from typing import Final

GOOD: Final = 0
DO_NOT_USE: Final = 1 << 0
SATURATED: Final = 1 << 1
JUMP_DET: Final = 1 << 2
DROPOUT: Final = 1 << 3
OUTLIER: Final = 1 << 4
PERSISTENCE: Final = 1 << 5
AD_FLOOR: Final = 1 << 6
CHARGELOSS: Final = 1 << 7
RESERVED: Final = 1 << 8
NON_SCIENCE: Final = 1 << 9
DEAD: Final = 1 << 10
HOT: Final = 1 << 11
WARM: Final = 1 << 12
LOW_QE: Final = 1 << 13
RC: Final = 1 << 14
TELEGRAPH: Final = 1 << 15
NONLINEAR: Final = 1 << 16
BAD_REF_PIXEL: Final = 1 << 17
NO_FLAT_FIELD: Final = 1 << 18
NO_GAIN_VALUE: Final = 1 << 19
NO_LIN_CORR: Final = 1 << 20
NO_SAT_CHECK: Final = 1 << 21
UNRELIABLE_BIAS: Final = 1 << 22
UNRELIABLE_DARK: Final = 1 << 23
UNRELIABLE_SLOPE: Final = 1 << 24
UNRELIABLE_FLAT: Final = 1 << 25
OPEN: Final = 1 << 26
ADJ_OPEN: Final = 1 << 27
FLUX_ESTIMATED: Final = 1 << 28
MSA_FAILED_OPEN: Final = 1 << 29
OTHER_BAD_PIXEL: Final = 1 << 30
REFERENCE_PIXEL: Final = 1 << 31

#: name -> value, in bit order; what DQ_DEF tables of reference files are translated to
BITS: Final[dict[str, int]] = {
    name: value
    for name, value in globals().items()
    if name.isupper() and isinstance(value, int) and value > 0
}

"""What travels between reader, operators and records: blocks of consecutive integrations.

A block has a leading axis of integrations; kernels loop over it one integration at a time, so results never
depend on how long a block is. ``first`` is the number of the first integration in the *exposure* (1-based).

======================  =========================================================================
`Raw`                   what the reader hands over: big-endian words of the file, not yet decoded
`Ramp`                  decoded groups           [integration, group, y, x]
`Rate`                  slopes                   [integration, y, x]
`Measurement`           light-curve columns and spectra, ready for the records
======================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["TIME_COLUMNS", "Measurement", "Ramp", "Rate", "Raw", "Times"]

Array = npt.NDArray

#: the six columns of INT_TIMES under our names, in table order
TIME_COLUMNS = (
    "time_mjd_utc_start",
    "time_mjd_utc_mid",
    "time_mjd_utc_end",
    "time_bmjd_tdb_start",
    "time_bmjd_tdb_mid",
    "time_bmjd_tdb_end",
)


@dataclass(frozen=True)
class Times:
    """Start, mid and end of each integration of a block.

    Parameters
    ----------
    values : float64 [integration, 6]
        Columns in the order of `TIME_COLUMNS` [d]; NaN where not known.
    flag : uint32 [integration]
        ``time_flag`` bits (0 = straight from INT_TIMES).
    """

    values: Array
    flag: Array

    def __len__(self) -> int:
        return len(self.flag)

    def __getitem__(self, index: slice) -> Times:
        return Times(self.values[index], self.flag[index])


@dataclass
class Raw:
    """Consecutive integrations as they stand in the file.

    Parameters
    ----------
    first, count
        Number of the first integration in the exposure, and how many follow each other.
    arrays
        Extension name -> array in *native* dtype whose bytes are still big-endian: ``SCI`` uint16
        [integration, group, y, x] for ramps, with ``ZEROFRAME`` uint16 [integration, y, x] where there is one;
        uint32 words of float32 or int32 [integration, y, x] for slopes
        (``SCI, ERR, DQ, VAR_POISSON, VAR_RNOISE, VAR_FLAT`` as far as the file has them). Empty when not present.
    times
        One row per integration.
    present
        False for integrations that no file holds (``--allow-gaps``) or that could not be read.
    failed
        True for integrations that a file should hold, but that could not be read (``--on-error flag``).
    release
        Gives the buffer back to the reader's pool; call once, after decoding.
    """

    first: int
    count: int
    arrays: Mapping[str, Array]
    times: Times
    present: bool = True
    failed: bool = False
    release: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def numbers(self) -> Array:
        """Integration numbers in the exposure, int64 [integration]."""
        return np.arange(self.first, self.first + self.count, dtype=np.int64)


@dataclass
class Ramp:
    """Decoded ramps.

    Parameters
    ----------
    first
        Number of the first integration in the exposure (1-based).
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Low eight DQ bits of each sample.
    pixeldq : uint32 [y, x]
        One plane for the exposure, complete once every step is bound; read-only.
    times
        One row per integration.
    zeroframe : float32 [integration, y, x], optional
        The first read of each integration [DN]; 0 where it is bad.
    """

    first: int
    data: Array
    groupdq: Array
    pixeldq: Array
    times: Times
    zeroframe: Array | None = None

    @property
    def count(self) -> int:
        """Integrations in the block."""
        return self.data.shape[0]


@dataclass
class Rate:
    """Slopes.

    Parameters
    ----------
    first
        Number of the first integration in the exposure (1-based).
    data, err : float32 [integration, y, x]
        Slope and its total error [DN/s or the unit of the file].
    var_poisson, var_rnoise : float32 [integration, y, x]
        Variances [unit squared].
    dq : uint32 [integration, y, x]
        DQ bits.
    times
        One row per integration.
    var_flat : float32 [integration, y, x], optional
        Flat-field variance, where a file carries it.
    """

    first: int
    data: Array
    err: Array
    var_poisson: Array
    var_rnoise: Array
    dq: Array
    times: Times
    var_flat: Array | None = None

    @property
    def count(self) -> int:
        """Integrations in the block."""
        return self.data.shape[0]


@dataclass
class Measurement:
    """Finished integrations: what becomes rows.

    Parameters
    ----------
    first
        Number of the first integration in the exposure (1-based).
    times
        One row per integration.
    keys
        ``(order, aperture)`` of each series measured in one pass.
    columns
        Light-curve column name -> array [integration, key] (names of design section 6).
    spectra
        Spectrum column name -> array [integration, key, wave]; empty for images. May hold more names than the rows
        show: products need them (see `tsostream.operators.spectral`).
    present : bool [integration]
        False for integrations that no file holds.
    bins
        Column name -> array [integration, key, bin], the spectra summed in wavelength bins; empty without bins.
    extras
        Column name -> array [integration, key]: what only the products show.
    """

    first: int
    times: Times
    keys: tuple[tuple[int, int], ...]
    columns: dict[str, Array]
    spectra: dict[str, Array]
    present: Array
    bins: dict[str, Array] = field(default_factory=dict)
    extras: dict[str, Array] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Integrations in the block."""
        return len(self.present)

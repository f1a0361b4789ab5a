"""A long series kept in constant memory: bins of as many rows as it takes, coarser as it grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Overview"]

Floats = npt.NDArray[np.float64]


class Overview:
    """Means over bins of consecutive rows; between ``capacity`` and twice as many bins once it is full.

    Bins hold 1, 2, 4, … rows: when there are too many, neighbours are merged. Which rows a bin
    holds does not depend on how they were cut into calls.

    Parameters
    ----------
    columns
        Values per row.
    capacity
        Bins that are kept at least, once so many rows have come.
    """

    def __init__(self, columns: int, capacity: int = 512):
        self.capacity = capacity
        self.rows = 0
        #: rows per bin
        self.size = 1
        self._sum = np.zeros((2 * capacity, columns))
        self._weight = np.zeros((2 * capacity, columns))
        self._x = np.zeros(2 * capacity)

    def add(self, x: Floats, values: npt.NDArray[np.floating]) -> None:
        """Add rows.

        Parameters
        ----------
        x
            Position of each row (time, or a number) [row].
        values
            What is averaged [row, column]; NaN does not count.
        """
        done = 0
        while done < len(x):
            if self.rows == len(self._x) * self.size:
                self._merge()
            room = len(self._x) * self.size - self.rows
            part = slice(done, done + min(room, len(x) - done))
            place = (self.rows + np.arange(part.stop - part.start)) // self.size
            good = np.isfinite(values[part])
            starts = np.flatnonzero(np.diff(place, prepend=-1))
            bins = slice(place[0], place[-1] + 1)
            self._sum[bins] += np.add.reduceat(np.where(good, values[part], 0.0), starts, axis=0)
            self._weight[bins] += np.add.reduceat(good.astype(np.float64), starts, axis=0)
            self._x[bins] += np.add.reduceat(x[part].astype(np.float64), starts)
            self.rows += part.stop - part.start
            done = part.stop

    def _merge(self) -> None:
        for array in (self._sum, self._weight, self._x):
            half = len(array) // 2
            array[:half] = array[0::2] + array[1::2]
            array[half:] = 0.0
        self.size *= 2

    @property
    def bins(self) -> int:
        """How many bins hold rows."""
        return -(-self.rows // self.size)

    @property
    def x(self) -> Floats:
        """Mean position of each bin [bin]."""
        count = np.full(self.bins, float(self.size))
        if self.bins:
            count[-1] = self.rows - (self.bins - 1) * self.size
        return self._x[: self.bins] / count

    @property
    def mean(self) -> Floats:
        """Mean of each bin [bin, column]; NaN where nothing is known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sum[: self.bins] / self._weight[: self.bins]

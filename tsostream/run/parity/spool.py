"""The ramps of a segment between the jump search and the fit, for steps that look at whole frames there.

Windows come in with all integrations, integrations go out with whole frames, and the other way round: the place
where a segment is transposed (design: a spool). Small ones stay in memory, others lie in an unnamed file.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.run.parity.scratch import map_scratch
from tsostream.run.parity.windows import Window

__all__ = ["SPOOL_BYTES", "RampSpool", "let_go", "make_room", "spool_bytes"]

#: ramps of a segment up to this size stay in memory
SPOOL_BYTES = 48 << 20


def spool_bytes(info: ExposureInfo, count: int) -> int:
    """Size of the ramps of ``count`` integrations, signal and flags [bytes]."""
    planes = 5 * info.ngroups + (4 if info.zeroframe else 0)
    return count * info.ny * info.nx * planes


def let_go(array: np.ndarray) -> None:
    """Give back the memory of a mapped array; the file keeps its pages."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)


def make_room(count: int, folder: Path | None) -> np.ndarray:
    """Make room for so many float32, in memory or in an unnamed file in ``folder``."""
    if 4 * count <= SPOOL_BYTES or not count:
        return np.empty(count, np.float32)
    return map_scratch(folder, [((count,), np.float32)])[0]


@dataclass
class RampSpool:
    """Ramps of all integrations of a segment, on their way or as a step left them.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Flags.
    zero : float32 [integration, y, x] or None
        Zero frames.
    pixeldq : uint32 [y, x]
        What the integrations added to the static DQ plane.
    complete
        Whether all windows are in.
    """

    data: np.ndarray
    groupdq: np.ndarray
    zero: np.ndarray | None
    pixeldq: np.ndarray
    complete: bool = False

    @classmethod
    def make(cls, info: ExposureInfo, count: int, folder: Path | None) -> RampSpool:
        """Make room for ``count`` integrations, in memory or in an unnamed file in ``folder``."""
        shape = (count, info.ngroups, *info.frame_shape)
        planes: list[tuple[tuple[int, ...], type]] = [(shape, np.float32), (shape, np.uint8)]
        if info.zeroframe:
            planes.append(((count, *info.frame_shape), np.float32))
        if spool_bytes(info, count) <= SPOOL_BYTES:
            arrays: list[np.ndarray] = [np.empty(*one) for one in planes]
        else:
            arrays = map_scratch(folder, planes)
        zero = arrays[2] if info.zeroframe else None
        return cls(arrays[0], arrays[1], zero, np.zeros(info.frame_shape, np.uint32))

    def put(
        self, window: Window, data: np.ndarray, groupdq: np.ndarray, zero: np.ndarray | None, bits: np.ndarray
    ) -> None:
        """Take the pixels a window keeps."""
        y0, y1, x0, x1 = window.core
        rows, columns = window.slices
        if self.zero is not None and zero is not None:
            self.zero[:, rows, columns] = zero[:, y0:y1, x0:x1]
        self.pixeldq[rows, columns] |= bits[y0:y1, x0:x1]
        self.put_ramps(window, data, groupdq)

    def put_ramps(self, window: Window, data: np.ndarray, groupdq: np.ndarray, start: int = 0) -> None:
        """Take the samples and flags a window keeps, of integrations from ``start`` on."""
        y0, y1, x0, x1 = window.core
        place = (slice(start, start + len(data)), slice(None), *window.slices)
        self.data[place] = data[:, :, y0:y1, x0:x1]
        self.groupdq[place] = groupdq[:, :, y0:y1, x0:x1]
        self.rest()

    def get(
        self, window: Window, data: np.ndarray, groupdq: np.ndarray, zero: np.ndarray | None, bits: np.ndarray
    ) -> None:
        """Give all pixels a window works on."""
        place = (slice(window.top, window.bottom), slice(window.left, window.right))
        data[...] = self.data[:, :, *place]
        groupdq[...] = self.groupdq[:, :, *place]
        if self.zero is not None and zero is not None:
            zero[...] = self.zero[:, *place]
        bits |= self.pixeldq[place]
        self.rest()

    def put_one(self, i: int, data: np.ndarray, groupdq: np.ndarray) -> None:
        """Take the ramps [group, y, x] of one integration."""
        self.data[i], self.groupdq[i] = data, groupdq
        self.rest()

    def copy(self, other: RampSpool) -> None:
        """Take all ramps of another one."""
        for i in range(len(self.data)):
            self.data[i], self.groupdq[i] = other.data[i], other.groupdq[i]
            self.rest()
            other.rest()

    def ramps(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Hand out the samples and flags of some integrations, in arrays of their own."""
        part = slice(start, start + count)
        taken = np.array(self.data[part]), np.array(self.groupdq[part])
        self.rest()
        return taken

    def rest(self) -> None:
        """Give back memory that the file can give again."""
        for one in (self.data, self.groupdq, self.zero):
            if one is not None:
                let_go(one)

"""Memory that is not needed any more, given back to the system before the rows begin."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.references import load_reference

__all__ = ["LARGE_PLANE", "give_back", "keep_apart", "let_references_go"]

#: planes of this size get memory of their own from the system [bytes]
LARGE_PLANE = 1 << 20
#: name of the threshold in mallopt(3)
_M_MMAP_THRESHOLD = -3


def _library() -> Any:
    """Give the C library, None where there is none that Python can ask."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to.

    What the scout used is of other sizes than what comes after it, and would stay beside it to the end of the run.
    """
    trim = getattr(_library(), "malloc_trim", None)  # other libraries than glibc have none
    if trim is not None:
        trim(0)


def keep_apart(plane: int) -> None:
    """Let arrays of large frames have memory of their own, which goes back to the system as soon as they are freed.

    Otherwise the C library, after the first of them, keeps what is freed for the next time, in pieces of other sizes.
    Small frames are not worth the calls.

    Parameters
    ----------
    plane
        Size of one plane [bytes].
    """
    option = getattr(_library(), "mallopt", None)
    if option is not None and plane >= LARGE_PLANE:
        option(_M_MMAP_THRESHOLD, LARGE_PLANE)


@dataclass(frozen=True)
class _Again(Mapping[str, Any]):
    """Arrays that are read from the file again when somebody asks for them."""

    reference: Reference
    info: ExposureInfo
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        own = self.reference
        return load_reference(own.path, own.reftype, self.info, notes=[]).arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def let_references_go(references: dict[str, Reference], info: ExposureInfo) -> None:
    """Forget the arrays of references: the bound steps have what they need of them.

    Parameters
    ----------
    references
        By type; changed. Whoever still asks for an array makes the file be read again.
    info
        The exposure they are cut to.
    """
    for name, one in references.items():
        if one.path and one.arrays:
            bare = replace(one, arrays={})
            references[name] = replace(one, arrays=_Again(bare, info, tuple(one.arrays)))

"""Arrays of a whole file in an unnamed file beside it, where they would not fit into memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from tsostream.errors import SinkError

__all__ = ["map_scratch", "scratch_file"]


def map_scratch(
    folder: Path | None, planes: Sequence[tuple[tuple[int, ...], npt.DTypeLike]]
) -> list[np.ndarray]:
    """Make arrays of zeros in a file that goes away with them.

    Parameters
    ----------
    folder
        Where; default the system's place for temporary files.
    planes
        Shape and type of each array.

    Raises
    ------
    SinkError
        There is no room. It is taken at once: a mapped page that finds none later would end the process without a word.
    """
    sizes = [int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in planes]
    starts = np.cumsum([0, *sizes]).tolist()
    with scratch_file(folder, sum(sizes)) as file:
        return [
            np.memmap(file, kind, "r+", start, shape)
            for (shape, kind), start in zip(planes, starts, strict=False)
        ]


@contextmanager
def scratch_file(folder: Path | None, size: int) -> Iterator[IO[bytes]]:
    """Make an unnamed file of ``size`` bytes, of zeros; what is made of it within the block may outlive it.

    Raises
    ------
    SinkError
        There is no room; it is taken at once.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        with tempfile.TemporaryFile(prefix="tsostream-", suffix=".scratch", dir=place) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            yield file
    except OSError as error:
        raise SinkError(
            f"{place}: no room for {size / 1e9:.1f} GB of scratch ({error.strerror or error}); "
            "give --scratch DIR with more room"
        ) from error

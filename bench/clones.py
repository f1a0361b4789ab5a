"""Long exposures from short ones: the pixels are copied in a cycle, headers and times are those of a long exposure.

Simulating ten thousand integrations takes minutes, copying them seconds; to a reader there is no difference but that
the pixels repeat.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits

from tsostream.files import open_segment

__all__ = ["clone"]

RECORD = 2880


def clone(
    source: Path, directory: Path, *, ints: int, segments: int = 1, ends: Sequence[int] | None = None
) -> list[Path]:
    """Write an exposure of any length with the pixels of a short one.

    Parameters
    ----------
    source
        An uncal file that begins with integration 1.
    directory
        Where the segments go; made when absent.
    ints, segments
        Integrations of the exposure, and files it is cut into.
    ends
        Last integration of each file, where they are not to be of one length.

    Returns
    -------
    list of Path
        The segments in order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    science = open_segment(source).extensions["SCI"]
    with fits.open(source) as hdus:
        primary, sci = hdus[0].header.copy(), hdus["SCI"].header.copy()
        times = hdus["INT_TIMES"].data
        after = hdus["ASDF"].copy() if "ASDF" in hdus else None
        template = np.array(times[:1])
        cadence = {
            name: float(times[name][1] - times[name][0]) if len(times) > 1 else 1e-4
            for name in times.names
            if name != "integration_number"
        }
    stem = source.name.split("-seg", 1)[0]
    tail = source.name.split("-seg", 1)[1][3:]
    edges = [0, *(ends or [ints * k // segments for k in range(1, segments + 1)])]
    paths = []
    for number, (before, last) in enumerate(pairwise(edges), 1):
        path = directory / f"{stem}-seg{number:03d}{tail}"
        primary.update(NINTS=ints, INTSTART=before + 1, INTEND=last, EXSEGNUM=number, EXSEGTOT=len(edges) - 1)
        primary["FILENAME"] = path.name
        sci["NAXIS4"] = last - before
        with path.open("wb") as file:
            file.write(_bytes(primary))
            file.write(_bytes(sci))
            _copy_cycle(
                source, file, science.offset, science.bytes_per_integration, science.shape[0], before, last
            )
            _pad(file)
            file.write(_times(template, cadence, before, last))
            if after is not None:
                file.write(_hdu_bytes(after))
        paths.append(path)
    return paths


def _bytes(header: fits.Header) -> bytes:
    return header.tostring(sep="", endcard=True, padding=True).encode("ascii")


def _pad(file: io.BufferedWriter) -> None:
    file.write(bytes(-file.tell() % RECORD))


def _copy_cycle(
    source: Path, file: io.BufferedWriter, offset: int, each: int, count: int, before: int, last: int
) -> None:
    """Copy integrations ``before+1..last``, beginning again where the source ends."""
    with source.open("rb") as pixels:
        number = before
        while number < last:
            start = number % count
            run = min(count - start, last - number)
            pixels.seek(offset + start * each)
            left = run * each
            while left:
                chunk = pixels.read(min(left, 1 << 22))
                if not chunk:
                    raise EOFError(f"{source} is shorter than its header says")
                file.write(chunk)
                left -= len(chunk)
            number += run


def _times(template: np.ndarray, cadence: dict[str, float], before: int, last: int) -> bytes:
    rows = np.repeat(template, last - before)
    numbers = np.arange(before + 1, last + 1)
    rows["integration_number"] = numbers
    for name, step in cadence.items():
        rows[name] = template[name][0] + (numbers - 1) * step
    return _hdu_bytes(fits.BinTableHDU(rows, name="INT_TIMES", ver=1))


def _hdu_bytes(hdu: fits.BinTableHDU) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    return buffer.getvalue()[RECORD:]

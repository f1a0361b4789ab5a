"""What the background step looks at besides the images: background exposures, and for parity the slopes themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.files import Exposure, load_association, read_sync
from tsostream.files.backgrounds import average_background
from tsostream.integration.payload import Rate
from tsostream.operators.bkg_subtract import BkgSubtract
from tsostream.run.config import Config
from tsostream.run.ramps import RateChain
from tsostream.run.request import Request

__all__ = ["background_files", "mean_background", "slopes_again"]


def background_files(request: Request, config: Config) -> list[Path]:
    """List the background exposures: those of the associations, and those of ``bkg_subtract.bkg_list``.

    Raises
    ------
    InputError
        With every file that does not exist.
    """
    step = config.operator("bkg_subtract")
    if not isinstance(step, BkgSubtract):
        return []
    files = [Path(name).expanduser() for name in step.bkg_list or ()]
    for given in request.inputs:
        path = Path(given)
        if path.suffix.lower() == ".json" and path.is_file():
            files += load_association(path).backgrounds
    missing = [Problem("the background exposure does not exist", str(path), "check the path", "not_found")
               for path in files if not path.exists()]  # fmt: skip
    if missing:
        raise InputError(missing)
    return list(dict.fromkeys(files))


def mean_background(request: Request, config: Config, exposure: Exposure) -> dict[str, Any]:
    """Average the background exposures, as the template ``background``; empty without any.

    Raises
    ------
    InputError
        With every file that cannot be used.
    """
    files = background_files(request, config)
    step = config.operator("bkg_subtract")
    if not files or not isinstance(step, BkgSubtract):
        return {}
    found = average_background(files, exposure.info, sigma=step.sigma, maxiters=step.maxiters)
    return {"background": found}


def slopes_again(
    exposure: Exposure, rates: RateChain, block_bytes: int
) -> Callable[[int, int], Iterator[Rate]]:
    """Give a function that reads the slopes of some integrations, block by block, as often as wanted.

    Parameters
    ----------
    exposure
        The exposure.
    rates
        The chain up to the slopes.
    block_bytes
        Size of a block.
    """

    def again(first: int, last: int) -> Iterator[Rate]:
        for raw in read_sync(exposure, [(first, last - first + 1)], block_bytes=block_bytes):
            if not raw.present:
                raw.release()
                continue
            with rates.rates(raw) as rate:
                yield rate

    return again

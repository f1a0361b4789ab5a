"""What the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tsostream.errors import ConfigError, Problem
from tsostream.files import OnError
from tsostream.integration.exposure_info import Level

__all__ = ["Request", "position_setting"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; the fields are the options of ``tsostream process``.

    Parameters
    ----------
    inputs
        Segment files, a directory, or an association.
    out
        The light curve to write; None to only look (``inspect``).
    config, settings, skip_steps, pars
        Parameters, see `tsostream.run.config.load_config`.
    refs_dir, overrides
        References: a directory, and ``type=FILE`` strings.
    lock
        Lock file whose references and parameters are used.
    crds_context
        Rules of CRDS.
    wavelengths
        File with wavelengths.
    scout
        ``auto``, ``spread:N``, ``head:N`` or a stored scout.
    level, allow_gaps
        See `tsostream.files.find_exposures`.
    workers
        Blocks worked on side by side; default the number of processors.
    max_memory
        Such as ``2GB``.
    overwrite, resume
        Replace an existing output, or go on with one that did not reach its end.
    follow, idle_timeout
        Begin before all segments are there, and take each as it becomes complete; give up when nothing new comes
        for so many seconds (default: never).
    on_error
        What an integration means that cannot be read: ``stop`` the run, or ``flag`` its row and go on.
    hash_inputs
        Record the sha256 of whole input files, not only of their headers.
    products, products_dir
        Products to make (``rate, rateints, ramp``; ``x1dints, whtlt, phot``), and where; default beside the light
        curve.
    save_steps, save_ints
        Steps whose results are saved, and of which integrations, such as ``1-10``; default all.
    bins
        Bins of wavelength for spectroscopic light curves: ``R=100``, ``N=20`` or a file.
    calibrated
        Run flat_field and photom, which relative light curves do without.
    block_bytes
        Size of a block; for tests, results do not depend on it.
    """

    inputs: tuple[str | Path, ...]
    out: Path | None = None
    config: str | Path | None = None
    settings: tuple[str, ...] = ()
    skip_steps: tuple[str, ...] = ()
    refs_dir: Path | None = None
    overrides: tuple[str, ...] = ()
    pars: tuple[str, ...] | None = None
    lock: Path | None = None
    crds_context: str | None = None
    wavelengths: Path | None = None
    scout: str = "auto"
    level: Level | None = None
    allow_gaps: bool = False
    workers: int | None = None
    max_memory: str | None = None
    overwrite: bool = False
    resume: bool = False
    follow: bool = False
    idle_timeout: float | None = None
    on_error: OnError = "stop"
    hash_inputs: bool = False
    products: tuple[str, ...] = ()
    products_dir: Path | None = None
    save_steps: tuple[str, ...] = ()
    save_ints: str | None = None
    parity: Literal["jwst"] | None = None
    scratch: Path | None = None
    calibrated: bool = False
    bins: str | None = None
    block_bytes: int | None = None


def position_setting(position: str | Sequence[float]) -> str:
    """``(20.0, 19.5)`` or ``20,19.5`` -> the setting that fixes where the source of an image is.

    Raises
    ------
    ConfigError
        When it is no pair of numbers.
    """
    parts = position.replace(",", " ").split() if isinstance(position, str) else list(position)
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        what = f"--position {position!r} is no pair of numbers"
        todo = "write x,y in 0-based pixels of the subarray, for example 20.0,19.5"
        raise ConfigError(Problem(what, todo=todo, code="parameter")) from None
    return f"tso_photometry.position=[{x!r}, {y!r}]"

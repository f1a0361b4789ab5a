"""The exposures that are measured: made with the simulator, copied to length, kept in a scratch folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from bench.clones import clone
from tsostream.simulate import simulate

__all__ = ["CASES", "Case", "Data", "make_data", "tiny"]


@dataclass(frozen=True)
class Case:
    """One exposure.

    Parameters
    ----------
    name
        Short name.
    exp_type, subarray
        As for `tsostream.simulate.simulate`.
    ints, groups, segments
        Length, and number of files.
    ny, nx
        Size of the subarray.
    official
        Integrations of it that the official pipeline gets: it is slow, and its memory grows with them.
    cropped
        Whether ``ny, nx`` are a cut-out.
    likelihood
        Integrations the official likelihood fit gets; 0: it is not measured.
    """

    name: str
    exp_type: str
    subarray: str
    ints: int
    groups: int
    ny: int
    nx: int
    segments: int = 2
    official: int = 20
    cropped: bool = False
    likelihood: int = 0

    @property
    def megabytes(self) -> float:
        """Pixels of the exposure [MB]."""
        return self.ints * self.groups * self.ny * self.nx * 2 / 1e6

    @property
    def samples(self) -> int:
        """Pixels times groups times integrations."""
        return self.ints * self.groups * self.ny * self.nx

    @property
    def shape(self) -> str:
        """``ints×groups×y×x``."""
        return f"{self.ints}×{self.groups}×{self.ny}×{self.nx}"


CASES = (
    Case("sub2048", "NRS_BRIGHTOBJ", "SUB2048", 100, 20, 32, 2048, segments=1, official=20, likelihood=10),
    Case("sub512", "NRS_BRIGHTOBJ", "SUB512", 2000, 5, 32, 512, official=200),
    Case("sub512s", "NRS_BRIGHTOBJ", "SUB512S", 5000, 3, 16, 512, official=500),
    Case("subgrism256", "NRC_TSGRISM", "SUBGRISM256", 40, 12, 256, 2048, official=8),
    Case("substrip256", "NIS_SOSS", "SUBSTRIP256", 40, 5, 256, 2048, official=8, likelihood=4),
    Case("slitlessprism", "MIR_LRS-SLITLESS", "SLITLESSPRISM", 100, 30, 416, 72, likelihood=10),
    Case("sub64p", "NRC_TSIMAGE", "SUB64P", 2000, 10, 64, 64, official=400),
    # more than 1 GB, and long enough to see whether an integration at the end costs what one at the beginning does
    Case("sub512s_long", "NRS_BRIGHTOBJ", "SUB512S", 21000, 3, 16, 512, segments=4, official=500),
    Case("longramp", "NRS_BRIGHTOBJ", "SUB2048", 30, 70, 32, 2048, official=6),
)


def tiny(case: Case) -> Case:
    """Cut a case to something that takes a second, to test the benchmark itself."""
    ny, nx = min(case.ny, 32), min(case.nx, 72 if case.nx == 72 else 64)
    if case.exp_type == "MIR_LRS-SLITLESS":
        ny = 96
    elif case.exp_type == "NIS_SOSS":
        ny = 256
    official = {"official": 4, "likelihood": min(case.likelihood, 4)}
    return replace(case, ints=24, groups=min(case.groups, 5), ny=ny, nx=nx, cropped=True, **official)


@dataclass(frozen=True)
class Data:
    """Files of a case.

    Parameters
    ----------
    segments
        The exposure.
    official, likelihood
        Shorter ones of a single file, with the same pixels; the latter None where it is not wanted.
    references
        Folder of the reference files.
    wavelengths
        Image with wavelengths, None for images.
    """

    segments: tuple[Path, ...]
    official: Path
    references: Path
    wavelengths: Path | None
    likelihood: Path | None = None


def make_data(case: Case, scratch: Path) -> Data:
    """Make the files of a case, or find them.

    Parameters
    ----------
    case
        What to make.
    scratch
        Folder for all cases; a case takes its `Case.megabytes`.
    """
    root = scratch / f"{case.name}_{case.groups}x{case.ny}x{case.nx}"
    short = 12 if case.megabytes / case.ints > 1 else 60
    short = min(short, case.ints)
    source = root / "source"
    if not (source / "truth.arrow").exists():
        shutil.rmtree(source, ignore_errors=True)
        size = {"ny": case.ny, "nx": case.nx} if case.cropped else {}
        simulate(
            case.exp_type,
            source,
            ints=short,
            groups=case.groups,
            subarray=case.subarray,
            transit_depth=0.0,
            **size,
        )
    (first,) = source.glob("*_uncal.fits")
    likely = None
    if case.likelihood:
        likely = _cloned(first, root / f"official{case.likelihood}", case.likelihood, 1)[0]
    wavelengths = sorted(source.glob("*wavelength*.fits"))
    return Data(
        segments=_cloned(first, root / f"ints{case.ints}x{case.segments}", case.ints, case.segments),
        official=_cloned(first, root / f"official{case.official}", case.official, 1)[0],
        references=source,
        wavelengths=wavelengths[0] if wavelengths else None,
        likelihood=likely,
    )


def _cloned(first: Path, directory: Path, ints: int, segments: int) -> tuple[Path, ...]:
    done = directory / "done"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        clone(first, directory, ints=ints, segments=segments)
        done.touch()
    return tuple(sorted(directory.glob("*_uncal.fits")))

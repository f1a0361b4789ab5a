"""Compare the parity scope with slopes the official pipeline made: ``python -m tsostream.testing.parity_table DIR…``.

A DIR holds uncal segments, reference files, and the official ``*_rateints``, ``*_rate`` and, for some segments,
``*_ramp`` (after the jump search) in a folder ``jwst``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

from tsostream.files import find_exposures
from tsostream.operators.rate_planes import RatePlanes
from tsostream.references import find_references, judge_missing, load_references
from tsostream.run.config import load_config
from tsostream.run.parity.light import DraftLight
from tsostream.run.parity.segment import SegmentRun
from tsostream.run.parity.spool import RampSpool
from tsostream.run.parity.steps import split_steps
from tsostream.run.parity.store import SegmentSlopes

__all__ = ["Row", "SegmentResult", "compare_case", "compare_planes", "main", "run_case", "table"]

#: relative to the value, and to the median error
TOLERANCE = 1e-5
#: DQ must be equal for this fraction of pixels
DQ_EQUAL = 0.99999
NAMES = ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE")


@dataclass
class SegmentResult:
    """One segment through our stage 1.

    Parameters
    ----------
    path
        The uncal file.
    slopes
        rateints and rate.
    ramps
        What the fit is given: signal [DN] and flags.
    seconds, samples
        Time it took, and samples (pixels times groups times integrations).
    """

    path: Path
    slopes: SegmentSlopes
    ramps: RampSpool
    seconds: float
    samples: int


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    case, product, plane
        What was compared.
    pixels
        How many values.
    worst
        Largest difference, in units of the tolerance (DQ: differing pixels).
    relative
        Largest difference relative to the value, among values above the median error.
    beyond
        Fraction beyond the tolerance.
    note
        What is worth saying.
    """

    case: str
    product: str
    plane: str
    pixels: int
    worst: float
    relative: float
    beyond: float
    note: str = field(default="")

    @property
    def passed(self) -> bool:
        """Whether the tolerance holds."""
        if self.plane in ("DQ", "GROUPDQ"):
            return self.beyond <= 1 - DQ_EQUAL
        return self.beyond == 0.0


def run_case(
    folder: Path,
    settings: Sequence[str] = (),
    *,
    window_bytes: int | None = None,
    workers: int = 1,
    light: DraftLight | None = None,
) -> Iterator[SegmentResult]:
    """Take every segment in a folder through stage 1."""
    (exposure,) = find_exposures([*sorted(folder.glob("*_uncal.fits*"))])
    info = exposure.info
    config = load_config(info, parity=True, settings=settings)
    wanted = {one.name: tuple(one.references) for one in config.operators}
    names = {name for one in config.operators for name in (*one.references, *one.optional_references)}
    found = find_references(info, wanted=sorted(names), refs_dir=folder)
    config = config.without(judge_missing(found, wanted, info.instrument).skipped)
    loaded = load_references(found.paths, info)
    steps = split_steps(config, info, loaded.references)
    with ThreadPoolExecutor(workers) as pool:
        for segment in exposure.segments:
            run = SegmentRun(segment, steps, pool, workers, light=light, keep=steps.ramp_order[-1:])
            if window_bytes is not None:
                run.window_bytes = window_bytes
            began = time.perf_counter()
            slopes = run.run()
            spent = time.perf_counter() - began
            (ramps,) = slopes.ramps.values()
            yield SegmentResult(segment.source_path, slopes, ramps, spent, ramps.data.size)


def compare_planes(case: str, product: str, ours: RatePlanes, path: Path) -> list[Row]:
    """Compare slopes with an official product."""
    rows = []
    mine = dict(
        zip((*NAMES, "DQ"), (ours.data, ours.err, ours.var_poisson, ours.var_rnoise, ours.dq), strict=True)
    )
    with fits.open(path) as hdus:
        error = hdus["ERR"].data.astype(np.float64)
        scale = float(np.median(error[error > 0])) if (error > 0).any() else 0.0
        for name in NAMES:
            theirs = hdus[name].data.astype(np.float64)
            size = scale if name in ("SCI", "ERR") else scale**2
            rows.append(_compare(case, product, name, mine[name].astype(np.float64), theirs, size))
        theirs = hdus["DQ"].data.astype(np.uint32)
        rows.append(_compare_bits(case, product, "DQ", mine["DQ"], theirs))
    return rows


def _compare(case: str, product: str, name: str, ours: np.ndarray, theirs: np.ndarray, scale: float) -> Row:
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    gap = np.where(same, 0.0, np.abs(ours - theirs))
    gap = np.where(np.isnan(gap), np.inf, gap)
    limit = TOLERANCE * np.nan_to_num(np.abs(theirs)) + TOLERANCE * scale
    with np.errstate(invalid="ignore", divide="ignore"):
        worst = np.where(gap > 0, gap / limit, 0.0)
        large = np.abs(theirs) > scale
        relative = np.where(large & (gap > 0), gap / np.abs(theirs), 0.0)
    note = ""
    if np.isinf(gap).any():
        note = f"{int(np.isinf(gap).sum())} values are NaN on one side"
    return Row(
        case,
        product,
        name,
        ours.size,
        float(worst.max()),
        float(relative.max()),
        float((worst > 1).mean()),
        note,
    )


def _compare_bits(case: str, product: str, name: str, ours: np.ndarray, theirs: np.ndarray) -> Row:
    differ = ours != theirs
    note = ""
    if differ.any():
        bits = np.bitwise_or.reduce(ours[differ] ^ theirs[differ])
        note = "bits " + " ".join(str(k) for k in range(32) if int(bits) >> k & 1)
    return Row(case, product, name, ours.size, float(differ.sum()), 0.0, float(differ.mean()), note)


def compare_case(folder: Path, result: SegmentResult, *, official: str = "jwst") -> list[Row]:
    """Compare one segment with what the official pipeline made of it."""
    stem = result.path.name.split("_uncal")[0]
    case = f"{folder.name} {stem.split('-')[-1].split('_')[0]}"
    rows: list[Row] = []
    for product in ("ramp", "rateints", "rate"):
        found = sorted((folder / official).glob(f"{stem}_{product}.fits*"))
        if not found:
            continue
        if product == "ramp":
            with fits.open(found[0]) as hdus:
                rows.append(
                    _compare_bits(
                        case, product, "GROUPDQ", result.ramps.groupdq, hdus["GROUPDQ"].data.astype(np.uint8)
                    )
                )
                theirs = hdus["SCI"].data.astype(np.float64)
                rows.append(_compare(case, product, "SCI", result.ramps.data.astype(np.float64), theirs, 1.0))
        else:
            planes = result.slopes.planes if product == "rateints" else result.slopes.mean
            rows += compare_planes(case, product, planes, found[0])
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Write rows as Markdown."""
    lines = [
        "| case | product | plane | values | largest / tolerance | largest relative | beyond | note |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        bits = row.plane in ("DQ", "GROUPDQ")
        worst = f"{row.worst:.0f} differ" if bits else f"{row.worst:.2g}"
        relative = "" if bits else f"{row.relative:.1e}"
        note = row.note + ("" if row.passed else " **beyond tolerance**")
        lines.append(
            f"| {row.case} | {row.product} | {row.plane} | {row.pixels} | {worst} | {relative} | "
            f"{row.beyond:.2g} | {note} |"
        )
    return lines


def main(folders: Sequence[str]) -> int:
    """Print the table of all folders; 1 when something is beyond tolerance."""
    rows: list[Row] = []
    speeds = ["| case | samples | ms | ns per sample |", "|---|---:|---:|---:|"]
    for name in folders:
        folder = Path(name)
        list(run_case(folder))  # compiled and read once, so that the times below are those of the work
        for result in run_case(folder, workers=os.cpu_count() or 1):
            rows += compare_case(folder, result)
            each = result.seconds / result.samples * 1e9
            speeds.append(f"| {rows[-1].case} | {result.samples} | {result.seconds * 1e3:.1f} | {each:.1f} |")
    sys.stdout.write("\n".join([*table(rows), "", *speeds]) + "\n")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

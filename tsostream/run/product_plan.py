"""``--products`` and ``--save-steps``: which files a run makes besides its light curve.

What is asked for is settled and checked before the run: names, sizes, space on the disk.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem
from tsostream.files import Exposure
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.run.config import Config
from tsostream.run.measured_plan import measured_bytes, product_name, wrong_measured
from tsostream.run.order import step_order
from tsostream.run.request import Request
from tsostream.sinks.products import (
    CHUNK_BYTES,
    EXPOSURE_PRODUCTS,
    ProductKind,
    part_path,
    product_bytes,
    sums_bytes,
)

__all__ = [
    "PRODUCTS",
    "SLOPES",
    "Planned",
    "ProductPlan",
    "asked_products",
    "plan_products",
    "plan_segment",
    "product_memory",
    "product_path",
    "split_names",
    "step_kind",
]

PRODUCTS: Final[tuple[str, ...]] = get_args(ProductKind)
#: steps whose results the official pipeline saves under another suffix than their name
_SUFFIX: Final = {
    "ramp_fit": "1_ramp_fit",
    "gain_scale": "gain_scaleints",
    "clean_flicker_noise.mask": "mask",
    "clean_flicker_noise.background": "flicker_bkg",
    "clean_flicker_noise.noise": "flicker_noise",
}
SLOPES: Final = ("ramp_fit", "gain_scale")


@dataclass(frozen=True)
class Planned:
    """One file to be: its name, what is in it, and which integrations of which segment.

    Parameters
    ----------
    path
        Final name.
    kind
        ``rateints``, ``rate``, ``ramp``, ``calints`` or ``crfints``; ``x1dints``, ``whtlt`` or ``phot``.
    step
        Step whose result it holds; empty for ``--products``.
    segment
        Index of the segment; 0 for products of the whole exposure.
    first, count
        Integrations.
    nbytes
        Size.
    """

    path: Path
    kind: Any
    step: str
    segment: int
    first: int
    count: int
    nbytes: int


@dataclass(frozen=True)
class ProductPlan:
    """All files a run makes besides its light curve.

    Parameters
    ----------
    directory
        Where they go.
    files
        Images and ramps, one file per segment.
    free
        Space on that disk before the run [bytes].
    measured
        Products of the whole exposure.
    """

    directory: Path
    files: tuple[Planned, ...] = ()
    free: int = 0
    measured: tuple[Planned, ...] = ()

    @property
    def all(self) -> tuple[Planned, ...]:
        """Every file."""
        return (*self.files, *self.measured)

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(one.nbytes for one in self.all)

    def lines(self) -> list[str]:
        """Say what is made, one line per product or step, with its size."""
        totals: dict[str, tuple[int, int]] = {}
        for one in self.all:
            name = one.step or one.kind
            files, size = totals.get(name, (0, 0))
            totals[name] = (files + 1, size + one.nbytes)
        lines = [
            f"{name}: {'1 file' if files == 1 else f'{files} files'}, {_size_text(size)}"
            for name, (files, size) in totals.items()
        ]
        return [*lines, f"in {self.directory} ({_size_text(self.free)} free)"]


def _size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def plan_products(
    request: Request, exposure: Exposure, out: Path | None, config: Config
) -> ProductPlan | None:
    """Settle what is made, and check that it can be.

    Returns
    -------
    ProductPlan or None
        None when no product is asked for.

    Raises
    ------
    InputError
        With everything wrong: unknown products or steps, names that are taken, a directory that is not there or
        cannot be written, a disk too small.
    """
    asked, steps = split_names(request.products), split_names(request.save_steps)
    kept = kept_results(config, exposure)
    if not asked and not steps and not kept and not request.save_ints:
        return None
    kinds = [name for name in asked if name not in EXPOSURE_PRODUCTS]
    whole = [name for name in EXPOSURE_PRODUCTS if name in asked]
    problems = [
        *_wrong_products(kinds, exposure, config),
        *wrong_measured(whole, exposure),
        *_wrong_steps(steps, config, exposure),
    ]
    span = _span(request.save_ints, exposure, steps, problems)
    directory = request.products_dir or (out.parent if out is not None else None)
    if directory is None:
        problems.append(
            Problem("nothing is written here, so there are no products", "--products", "", "parameter")
        )
    if problems or directory is None:
        raise _error(problems)
    count = exposure.last - exposure.first + 1
    measured = tuple(
        Planned(
            directory / product_name(exposure, kind, alone=out == request.out), kind, "", 0, exposure.first, count,
            measured_bytes(exposure, kind),
        )
        for kind in whole
    )  # fmt: skip
    plan = ProductPlan(
        directory, tuple(_files(exposure, directory, kinds, [*steps, *kept], span)), 0, measured
    )
    # whose files they are, a run that goes on knows when its journal is open
    problems = _wrong_files(plan, exposure, overwrite=request.overwrite or request.resume)
    if not problems:
        plan = replace(plan, free=shutil.disk_usage(directory).free)
        there = sum(part_path(one.path).stat().st_size for one in plan.all if part_path(one.path).exists())
        if plan.nbytes > plan.free + there:
            problems.append(
                Problem(
                    f"the products take {_size_text(plan.nbytes)}, but only {_size_text(plan.free)} are free",
                    str(directory),
                    "free some space, choose another --products-dir, or narrow --save-ints",
                    "space",
                )
            )
    if problems:
        raise _error(problems)
    return plan


def _error(problems: list[Problem]) -> InputError:
    codes = {problem.code for problem in problems}
    if codes == {"exists"}:
        return OutputExistsError(problems)
    return ConfigError(problems) if codes == {"parameter"} else InputError(problems)


def split_names(given: Sequence[str]) -> list[str]:
    """Split ``("rate,rateints", "ramp")`` at commas, each name once."""
    return list(dict.fromkeys(name for text in given for name in text.replace(",", " ").split()))


def asked_products(request: Request) -> list[str]:
    """List what is asked for, whatever the segments."""
    span = [f"integrations {request.save_ints}"] if request.save_ints else []
    return [*sorted(split_names(request.products)), *sorted(split_names(request.save_steps)), *span]


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"


def _wrong_products(kinds: list[str], exposure: Exposure, config: Config) -> Iterator[Problem]:
    level = exposure.info.level
    for name in kinds:
        if name not in PRODUCTS:
            known = (*PRODUCTS, *EXPOSURE_PRODUCTS)
            yield Problem(f"there is no product {name!r}", "--products", _near(name, known), "parameter")
        elif name == "crfints" and level != "crfints" and config.operator("outlier_detection") is None:
            what = "crfints are what outlier_detection makes, which is skipped"
            todo = "leave it out, or give --set outlier_detection.skip=false"
            yield Problem(what, "--products", todo, "parameter")
    stage_1 = [name for name in kinds if name in ("rate", "rateints", "ramp")]
    if stage_1 and not exposure.info.is_ramp:
        yield Problem(
            f"the input holds slopes ({level}): {', '.join(stage_1)} are made from uncal files",
            "--products",
            "leave it out, or give the uncal files",
            "parameter",
        )
    done = {"calints": ("calints", "crfints"), "crfints": ("crfints",)}
    for name in kinds:
        if level in done.get(name, ()):
            what = f"the input holds {level}: there are no {name} to make from it"
            yield Problem(what, "--products", "leave it out, or give files of a lower level", "parameter")


def _wrong_steps(steps: list[str], config: Config, exposure: Exposure) -> Iterator[Problem]:
    order = step_order(exposure.info)
    # all that stand before the measurement have images to save
    imaging = order[: next(i for i, name in enumerate(order) if name in ("extract_1d", "tso_photometry"))]
    saved = [one.name for one in config.operators if one.name in imaging]
    for name in steps:
        if name in saved:
            continue
        where = "--save-steps"
        if name in config.skipped:
            what = f"the step {name} is skipped, so there is no result to save"
            yield Problem(what, where, f"leave it out, or give --set {name}.skip=false", "parameter")
        elif config.operator(name) is not None:
            yield Problem(
                f"{name} makes no images; its results are in the output", where, "leave it out", "parameter"
            )
        elif name in (*MIRI_RAMPS, *NIR_RAMPS) and not exposure.info.is_ramp:
            what = f"{name} makes nothing to save: the input holds slopes ({exposure.info.level})"
            yield Problem(what, where, "leave it out, or give the uncal files", "parameter")
        else:
            yield Problem(f"there is no step {name!r} here", where, _near(name, saved), "parameter")


def _span(text: str | None, exposure: Exposure, steps: list[str], problems: list[Problem]) -> tuple[int, int]:
    """Integrations whose step results are saved."""
    whole = (exposure.first, exposure.last)
    if text is None:
        return whole
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    where = f"--save-ints {text}"
    if not match or not 1 <= first <= last:
        problems.append(Problem("expected integrations", where, "write for example 1-10", "parameter"))
    elif not steps:
        problems.append(
            Problem("says which results of --save-steps to keep", where, "give --save-steps", "parameter")
        )
    elif first > exposure.last or last < exposure.first:
        what = f"there are none of these: the input holds integrations {whole[0]}-{whole[1]}"
        problems.append(Problem(what, where, "choose some of them", "parameter"))
    return first, last


def product_path(directory: Path, source: Path, suffix: str) -> Path:
    """``…_nrs1_uncal.fits.gz`` -> ``…_nrs1_<suffix>.fits``."""
    root = re.sub(r"(\.fits?)?(\.gz)?$", "", source.name, flags=re.IGNORECASE)
    return directory / f"{re.sub(r'_(uncal|rateints|calints)$', '', root)}_{suffix}.fits"


def _files(
    exposure: Exposure, directory: Path, kinds: list[str], steps: list[str], span: tuple[int, int]
) -> Iterator[Planned]:
    """One file per segment and product; of steps only where their integrations are."""
    info = exposure.info
    ramps = (info.ngroups, *info.frame_shape)
    wanted: list[tuple[ProductKind, str, str]] = [(kind, "", kind) for kind in PRODUCTS if kind in kinds]  # type: ignore[misc]
    if exposure.asn_id:
        # as the official third stage names them
        named = {"crfints": f"{exposure.asn_id}_crfints"}
        wanted = [(kind, step, named.get(suffix, suffix)) for kind, step, suffix in wanted]
    wanted += [(step_kind(step), step, _SUFFIX.get(step, step)) for step in steps]
    for kind, step, suffix in wanted:
        for index, segment in enumerate(exposure.segments):
            low, high = segment.first, segment.last
            if step:
                low, high = max(low, span[0]), min(high, span[1])
            if low > high:
                continue
            path = product_path(directory, Path(segment.source_path), suffix)
            count = high - low + 1
            shape = ramps if kind == "ramp" else info.frame_shape
            yield Planned(path, kind, step, index, low, count, product_bytes(kind, shape, count))


def step_kind(step: str) -> ProductKind:
    """Tell what kind of file holds a step's result, or what it keeps besides (``step.name``)."""
    if "." in step:
        return "rateints" if step.endswith(".mask") else "ramp"
    if step in SLOPES:
        return "rateints"
    return "ramp" if step in (*MIRI_RAMPS, *NIR_RAMPS) else "calints"


def _wrong_files(plan: ProductPlan, exposure: Exposure, *, overwrite: bool) -> list[Problem]:
    """Report names that cannot be written."""
    directory = plan.directory
    if not directory.is_dir():
        what = "the directory does not exist"
        return [Problem(what, str(directory), "make it, or choose another --products-dir", "unwritable")]
    if not os.access(directory, os.W_OK):
        what = "the directory cannot be written"
        return [Problem(what, str(directory), "choose another --products-dir", "unwritable")]
    problems = []
    inputs = [Path(segment.source_path) for segment in exposure.segments]
    twice = [path for path, count in Counter(one.path for one in plan.all).items() if count > 1]
    for path in twice:
        what = "two inputs would make this product"
        problems.append(Problem(what, str(path), "give the files names of their own", "parameter"))
    todo = (
        "products have the names of the segments, so each run in a directory needs a --products-dir of its own; give "
        "one, or --overwrite to replace it"
    )
    for one in plan.all:
        for path in (one.path, part_path(one.path)):
            if not path.exists():
                continue
            if any(source.exists() and path.samefile(source) for source in inputs):
                what = "the product is an input"
                problems.append(Problem(what, str(path), "choose another --products-dir", "exists"))
            elif not overwrite:
                unfinished = "" if path == one.path else ", of a run that did not end or still goes on"
                problems.append(
                    Problem(f"the product is there already{unfinished}", str(path), todo, "exists")
                )
    return problems


def product_memory(plan: ProductPlan | None, frame: int, workers: int, length: int) -> int:
    """Memory for writing products: a buffer per worker, and the sums of ``rate`` [bytes]."""
    if plan is None:
        return 0
    mean = any(one.kind == "rate" for one in plan.files)
    return workers * CHUNK_BYTES + (sums_bytes(frame, (workers + 1) * length) if mean else 0)


def kept_results(config: Config, exposure: Exposure) -> list[str]:
    """List what clean_flicker_noise keeps besides its result, as ``step.name`` of its working arrays."""
    step = config.operator(CleanFlickerNoise.name)
    if not isinstance(step, CleanFlickerNoise) or not exposure.info.is_ramp or step.unsuited(exposure.info):
        return []
    wanted = {"mask": step.save_mask, "background": step.save_background, "noise": step.save_noise}
    return [f"{step.name}.{name}" for name, on in wanted.items() if on]


def plan_segment(request: Request, exposure: Exposure, directory: Path, config: Config) -> list[Planned]:
    """Plan the products of a segment that came while the run went on.

    Parameters
    ----------
    request
        What is wanted, and was checked when the run began.
    exposure
        With that segment alone.
    directory
        Where products go.
    config
        Steps and parameters.
    """
    kinds = [name for name in split_names(request.products) if name not in EXPOSURE_PRODUCTS]
    steps = split_names(request.save_steps)
    span = _span(request.save_ints, exposure, steps, [])
    return list(_files(exposure, directory, kinds, [*steps, *kept_results(config, exposure)], span))

"""``--products`` and ``--save-steps``: which files a run makes besides its light curve.

What is asked for is settled and checked before the run (`plan_products`): names, sizes, space on the disk. During the
run the chain hands its slopes and ramps to the writers while they lie in a worker's workspace (`attach_products`).
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem
from tsostream.files import Exposure
from tsostream.files.times import SegmentTimes
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS
from tsostream.references.crds_client import crds_version
from tsostream.run.config import Config
from tsostream.run.measured import measured_bytes, product_name, wrong_measured
from tsostream.run.order import STATUS
from tsostream.run.versions import package_versions
from tsostream.sinks.products import (
    CHUNK_BYTES,
    EXPOSURE_PRODUCTS,
    ProductKind,
    Products,
    ProductSpec,
    Resumed,
    Source,
    part_path,
    product_bytes,
    sums_bytes,
)

if TYPE_CHECKING:
    from tsostream.operators.base import BoundRampStep
    from tsostream.operators.tile import Tile
    from tsostream.run.chain import Chain
    from tsostream.run.setup import Prepared, Request

    Steps = Sequence[BoundRampStep]

__all__ = ["PRODUCTS", "Planned", "ProductPlan", "attach_products", "plan_products", "product_memory"]

PRODUCTS: Final[tuple[str, ...]] = get_args(ProductKind)
#: steps whose results the official pipeline saves under another suffix than their name
_SUFFIX: Final = {"ramp_fit": "1_ramp_fit", "gain_scale": "gain_scaleints"}
_SLOPES: Final = ("ramp_fit", "gain_scale")

#: reference type -> keyword of its name (``ref_file`` of the official data models)
_REFERENCE: Final = {
    "dark": "R_DARK", "emicorr": "R_MIREMI", "flat": "R_FLAT", "gain": "R_GAIN", "ipc": "R_IPC",
    "lastframe": "R_LASTFR", "linearity": "R_LINEAR", "mask": "R_MASK", "persat": "R_PERSAT",
    "readnoise": "R_READNO", "refpix": "R_REFPIX", "reset": "R_RESET", "rscd": "R_RSCD",
    "saturation": "R_SATURA", "sirskernel": "R_SIRSKL", "superbias": "R_SUPERB", "trapdensity": "R_TRPDEN",
    "trappars": "R_TRPPAR",
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One file to be: its name, what is in it, and which integrations of which segment.

    Parameters
    ----------
    path
        Final name.
    kind
        ``rateints``, ``rate`` or ``ramp``; ``x1dints``, ``whtlt`` or ``phot``.
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
    asked, steps = _names(request.products), _names(request.save_steps)
    if not asked and not steps and not request.save_ints:
        return None
    kinds = [name for name in asked if name not in EXPOSURE_PRODUCTS]
    whole = [name for name in EXPOSURE_PRODUCTS if name in asked]
    problems = [
        *_wrong_products(kinds, exposure),
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
    plan = ProductPlan(directory, tuple(_files(exposure, directory, kinds, steps, span)), 0, measured)
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


def _names(given: Sequence[str]) -> list[str]:
    """Split ``("rate,rateints", "ramp")`` at commas, each name once."""
    return list(dict.fromkeys(name for text in given for name in text.replace(",", " ").split()))


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"


def _wrong_products(kinds: list[str], exposure: Exposure) -> Iterator[Problem]:
    for name in kinds:
        if name not in PRODUCTS:
            known = (*PRODUCTS, *EXPOSURE_PRODUCTS)
            yield Problem(f"there is no product {name!r}", "--products", _near(name, known), "parameter")
    if kinds and not exposure.info.is_ramp:
        yield Problem(
            f"the input holds slopes ({exposure.info.level}): {', '.join(kinds)} are made from uncal files",
            "--products",
            "leave it out, or give the uncal files",
            "parameter",
        )


def _wrong_steps(steps: list[str], config: Config, exposure: Exposure) -> Iterator[Problem]:
    ramp_steps = [one.name for one in config.operators if one.name in (*MIRI_RAMPS, *NIR_RAMPS)]
    for name in steps:
        if name in ramp_steps and exposure.info.is_ramp:
            continue
        where = "--save-steps"
        if not exposure.info.is_ramp:
            what = f"{name} makes nothing to save: the input holds slopes ({exposure.info.level})"
            yield Problem(what, where, "leave it out, or give the uncal files", "parameter")
        elif name in config.skipped:
            what = f"the step {name} is skipped, so there is no result to save"
            yield Problem(what, where, f"leave it out, or give --set {name}.skip=false", "parameter")
        elif config.operator(name) is not None:
            yield Problem(
                f"{name} makes no images; its results are in the output", where, "leave it out", "parameter"
            )
        else:
            yield Problem(f"there is no step {name!r} here", where, _near(name, ramp_steps), "parameter")


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
    return directory / f"{re.sub(r'_uncal$', '', root)}_{suffix}.fits"


def _files(
    exposure: Exposure, directory: Path, kinds: list[str], steps: list[str], span: tuple[int, int]
) -> Iterator[Planned]:
    """One file per segment and product; of steps only where their integrations are."""
    info = exposure.info
    ramps = (info.ngroups, *info.frame_shape)
    wanted: list[tuple[ProductKind, str, str]] = [(kind, "", kind) for kind in PRODUCTS if kind in kinds]  # type: ignore[misc]
    wanted += [("rateints" if s in _SLOPES else "ramp", s, _SUFFIX.get(s, s)) for s in steps]
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
    todo = "choose another --products-dir, or give --overwrite to replace it"
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


@contextmanager
def attach_products(
    prepared: Prepared, chain: Chain, resumed: Resumed | None = None, *, overwrite: bool | None = None
) -> Iterator[Products]:
    """Let the chain write products as long as the block lasts.

    Parameters
    ----------
    prepared, chain
        The run.
    resumed
        Where a run goes on; None for one that begins.
    overwrite
        Replace products of an older run; default as requested.

    Yields
    ------
    Products
        To be published when the run is complete; otherwise the files stay as ``.part``.
    """
    plan = prepared.products
    specs = _specs(prepared, plan, chain) if plan is not None else []
    # parity products say what the official ones say of a pixel without a slope
    unusable = math.nan if prepared.request.parity is None else 0.0
    replace = prepared.request.overwrite if overwrite is None else overwrite
    products = Products(specs, overwrite=replace, unusable=unusable, resume=resumed)
    products.check_kept()

    def save_ramps(tile: Tile, step: str) -> None:
        products.add_ramps(tile.first, tile.data, tile.groupdq, step)

    def save_slopes(tile: Tile, step: str) -> None:
        if tile.rate is not None:
            products.add_rates(tile.rate, step)

    rates = chain.rates
    rates.taps = dict.fromkeys(products.ramp_steps, save_ramps)
    rates.taps |= dict.fromkeys(products.rate_steps - {""}, save_slopes)
    if "" in products.rate_steps:
        chain.taps = {**chain.taps, "slopes": (products.add_rates,)}
    chain.lost = products.add_lost
    try:
        yield products
    finally:
        rates.taps, chain.taps = {}, {}
        products.close()


def _specs(prepared: Prepared, plan: ProductPlan, chain: Chain) -> list[ProductSpec]:
    """Say of each file what stands in its headers."""
    exposure, info = prepared.exposure, prepared.exposure.info
    sources = [
        Source(
            segment.path,
            segment.first,
            segment.count,
            SegmentTimes(segment).rows if segment.time_table is not None else None,
        )
        for segment in exposure.segments
    ]
    # slopes that come ready-made (parity) bring no steps: what they would be is the same
    steps = chain.rates.steps or prepared.chain({}).steps
    ramp_steps = [step for step in steps if step.produces == "ramp"]
    last_ramp = ramp_steps[-1].name if ramp_steps else "decode"
    planes = {step.name: step.pixeldq for step in ramp_steps}
    keywords = {"CAL_VER": f"tsostream {package_versions()['tsostream']}", **_crds(prepared)}
    specs = []
    for one in plan.files:
        ramp = one.kind == "ramp"
        # the product named ramp holds what the fit is given; a step's result is of that step
        step = one.step or (last_ramp if ramp else "")
        reach = one.step or ("ramp_fit" if ramp else "")
        specs.append(
            ProductSpec(
                path=one.path,
                kind=one.kind,
                source=sources[one.segment],
                first=one.first,
                count=one.count,
                shape=(info.ngroups, *info.frame_shape) if ramp else info.frame_shape,
                step=step,
                unit="DN" if ramp else "DN/s",
                keywords=keywords,
                sections={
                    "Reference file information": _reference_names(prepared, steps, step),
                    "Reference file contents (sha256)": _reference_hashes(prepared, steps, step),
                    "Calibration step information": _step_status(prepared, steps, step, reach),
                },
                pixeldq=planes.get(step, chain.rates.pixeldq) if ramp else None,
            )
        )
    return specs


def _crds(prepared: Prepared) -> dict[str, Any]:
    if not prepared.crds_context:
        return {}
    return {"CRDS_VER": crds_version(), "CRDS_CTX": prepared.crds_context}


def _until(steps: Steps, step: str) -> list[str]:
    """Names of the steps up to one of them, all for an empty name; none for ``decode``."""
    names = [one.name for one in steps]
    if step == "decode":
        return []
    return names[: names.index(step) + 1] if step else names


def _step_status(prepared: Prepared, steps: Steps, step: str, reach: str) -> dict[str, str]:
    """Keyword -> COMPLETE or SKIPPED: steps that ran up to ``step``, and those left out before ``reach``."""
    done = _until(steps, step)
    status = {STATUS[one.name]: "SKIPPED" if one.skipped else "COMPLETE" for one in steps if one.name in done}
    order = MIRI_RAMPS if prepared.exposure.info.is_miri else NIR_RAMPS
    before = order[: order.index(reach)] if reach in order else order
    status |= {STATUS[name]: "SKIPPED" for name in before if name not in done}
    return status


def _used_references(prepared: Prepared, steps: Steps, step: str) -> list[str]:
    """Types of the references of the steps up to ``step`` that have a keyword."""
    done = {one.name for one in steps if not one.skipped} & {*_until(steps, step)}
    users = prepared.config.users(prepared.exposure.info)
    return [
        name for name in users if name in prepared.references and name in _REFERENCE and done & {*users[name]}
    ]


def _reference_names(prepared: Prepared, steps: Steps, step: str) -> dict[str, str]:
    """Keyword -> name, of the references of the steps up to ``step``."""
    names = {}
    for name in _used_references(prepared, steps, step):
        scheme = "crds://" if prepared.sources.get(name, "").startswith("CRDS") else ""
        names[_REFERENCE[name]] = scheme + prepared.references[name].name
    return names


def _reference_hashes(prepared: Prepared, steps: Steps, step: str) -> dict[str, str]:
    """Keyword (``H_DARK`` beside ``R_DARK``) -> sha256 of the file: a name alone does not tell its content."""
    used = _used_references(prepared, steps, step)
    return {"H" + _REFERENCE[name][1:]: prepared.references[name].sha256 for name in used}

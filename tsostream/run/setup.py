"""Everything that happens before the first byte of pixels: inputs, configuration, references, chain, plan.

All problems are collected here and raised together; `inspect` stops after this, `process` goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem, ReferenceMismatchError
from tsostream.files import Exposure, OnError, find_exposures
from tsostream.integration.exposure_info import ExposureInfo, Level
from tsostream.integration.reference import Reference
from tsostream.operators.base import Operator
from tsostream.operators.soss.models import OVERLAP_REFERENCES
from tsostream.references import load_references, parse_overrides
from tsostream.references.crds_client import Progress
from tsostream.run.background import background_files, mean_background
from tsostream.run.chain import RateChain, bind_measurement, bind_rates
from tsostream.run.choices import choose
from tsostream.run.config import Config
from tsostream.run.following import (
    Arrivals,
    follow_exposures,
    follow_problems,
    growing_scout,
    share_memory,
)
from tsostream.run.parity.photometry import shelf_bytes
from tsostream.run.parity.steps import check_parity
from tsostream.run.plan import MemoryPlan, make_plan, parse_bytes
from tsostream.run.products import ProductPlan, plan_products
from tsostream.run.resume import State, check_output, check_same_run
from tsostream.run.scout import ScoutPlan, parse_scout
from tsostream.run.slopes import SlopeSteps, bind_slopes, is_news
from tsostream.run.wavelengths import Wavelengths, find_wavelengths
from tsostream.sinks import open_output

__all__ = ["Prepared", "Request", "output_paths", "position_setting", "prepare", "prepare_all"]


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


@dataclass(frozen=True)
class Prepared:
    """One exposure, ready to run.

    Parameters
    ----------
    exposure
        Audited segments.
    out
        Light curve to write.
    config
        Steps and parameters.
    references
        Loaded references.
    sources
        Reference type -> ``override``, ``refs``, ``lock``, ``config`` or ``CRDS jwst_….pmap``.
    wavelengths
        Order -> image or table [µm]; empty when none is known.
    wavelength_source
        Where they came from.
    scout
        What the scout shall do.
    plan
        Memory and blocks.
    notes
        What is worth telling once.
    crds_context
        Rules of CRDS that chose references; empty when none did.
    products
        FITS products to make; None when none is asked for.
    state
        Whether the output begins, goes on, or is complete already.
    background
        Mean of the background exposures with its DQ, as the template ``background``; empty without any.
    wavelength_facts
        Window and source position that came with the wavelengths, by keyword (SLTSTRT1, SRCXPOS, …).
    """

    request: Request
    exposure: Exposure
    out: Path | None
    config: Config
    references: dict[str, Reference]
    sources: dict[str, str]
    wavelengths: dict[int, Any]
    wavelength_source: str
    scout: ScoutPlan
    plan: MemoryPlan
    notes: tuple[str, ...] = field(default=())
    crds_context: str = ""
    products: ProductPlan | None = None
    state: State = "new"
    arrivals: Arrivals | None = None
    wavelength_facts: dict[str, Any] = field(default_factory=dict)
    background: dict[str, Any] = field(default_factory=dict)

    def chain(self, templates: dict[str, Any]) -> RateChain:
        """Bind the steps up to the slopes."""
        return bind_rates(self.config, self.exposure.info, self.references, templates)

    def bind_slopes(self, rates: RateChain, templates: dict[str, Any]) -> SlopeSteps:
        """Bind the steps on slopes."""
        info = self.exposure.info
        return bind_slopes(
            self.config, info, rates.pixeldq, self.references, templates, segment_spans(self.exposure)
        )

    def bind_measurement(
        self, slopes: SlopeSteps, templates: dict[str, Any], names: tuple[str, ...]
    ) -> tuple[Any, ...]:
        """Bind the named steps that measure."""
        spans = segment_spans(self.exposure)
        return bind_measurement(self.config, slopes, self.references, templates, names, spans)


def segment_spans(exposure: Exposure) -> tuple[tuple[int, int], ...]:
    """First and last integration of each file."""
    return tuple((one.first, one.last) for one in exposure.segments)


def output_paths(out: Path, exposures: Sequence[Exposure], *, resume: bool = False) -> list[Path]:
    """One light curve per exposure and detector: ``lc.arrow``, or ``lc.nrs1.arrow, lc.nrs2.arrow`` and so on."""
    if len(exposures) == 1:
        return [out]
    detectors = [exposure.info.detector.lower() for exposure in exposures]
    unique = len(set(detectors)) == len(detectors)
    labels = detectors if unique else [exposure.label for exposure in exposures]
    paths = [out.with_name(f"{out.stem}.{label}{out.suffix}") for label in labels]
    if resume and out.exists():
        # a run that followed one detector, before another one came
        begun = open_output(out).metadata.get("exposure", {})
        for index, exposure in enumerate(exposures):
            same = begun.get("exposure_id") == exposure.exposure_id
            if same and begun.get("detector") == exposure.info.detector and not paths[index].exists():
                paths[index] = out
    return paths


def prepare_all(
    request: Request, *, progress: Progress | None = None, stop: threading.Event | None = None
) -> list[Prepared]:
    """Find and audit the exposures, and prepare each; with ``follow``, wait until the run can begin.

    Parameters
    ----------
    request
        What is wanted.
    progress
        Told how downloads get on.
    stop
        Ends the waiting when it is set; there is nothing to run then.

    Raises
    ------
    InputError
        With the problems of all exposures, configuration and references.
    """
    arrivals: list[Arrivals | None]
    try:
        if request.follow:
            if unfit := follow_problems(request):
                raise ConfigError(unfit)
            followed = follow_exposures(request, stop)
            exposures, arrivals = [one for one, _ in followed], [one for _, one in followed]
            request = share_memory(request, len(exposures))
        else:
            exposures = find_exposures(
                [Path(one) for one in request.inputs], level=request.level, allow_gaps=request.allow_gaps
            )
            arrivals = [None] * len(exposures)
    except InputError as error:
        raise type(error)([*error.problems, *_request_problems(request)]) from None
    outs: Sequence[Path | None] = [None] * len(exposures)
    if request.out is not None:
        outs = output_paths(request.out, exposures, resume=request.resume)
    prepared: list[Prepared] = []
    problems: list[Problem] = []
    kinds: set[type[InputError]] = set()
    for exposure, out, coming in zip(exposures, outs, arrivals, strict=True):
        try:
            prepared.append(prepare(request, exposure, out, progress=progress, arrivals=coming))
        except InputError as error:
            problems += error.problems
            kinds.add(type(error))
    if problems:
        kind = kinds.pop() if len(kinds) == 1 else InputError
        raise kind(list(dict.fromkeys(problems)))
    return prepared


def _request_problems(request: Request) -> list[Problem]:
    """Find what is wrong with a request whatever its exposures are, to tell it in the same breath."""
    problems: list[Problem] = []
    overrides: dict[str, Path] = {}
    checks: list[Callable[[], Any]] = [
        lambda: overrides.update(parse_overrides(request.overrides)),
        lambda: parse_scout(request.scout),
        lambda: parse_bytes(request.max_memory) if request.max_memory else None,
    ]
    for check in checks:
        try:
            check()
        except InputError as error:
            problems += error.problems
    files = {f"--override {name}": path for name, path in overrides.items()}
    if request.wavelengths is not None:
        files["--wavelengths"] = request.wavelengths
    problems += [
        Problem("there is no such file", f"{option} {path}", "check the path", "not_found")
        for option, path in files.items()
        if not path.exists()
    ]
    return problems


def prepare(
    request: Request,
    exposure: Exposure,
    out: Path | None,
    *,
    fetch: bool = True,
    progress: Progress | None = None,
    arrivals: Arrivals | None = None,
) -> Prepared:
    """Prepare one exposure; missing reference files are downloaded here, and never later.

    Raises
    ------
    InputError
        With every problem of its output, configuration and references.
    MemoryLimitError
        The plan does not fit into ``max_memory``.
    """
    info = exposure.info
    problems: list[Problem] = []

    def collect(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except InputError as error:
            problems.extend(error.problems)
            return None

    state: State | None = collect(
        lambda: check_output(out, exposure, overwrite=request.overwrite, resume=request.resume)
    )
    chosen = choose(request, info, problems, fetch=fetch, progress=progress)
    if chosen is not None:
        request = chosen.request
    if request.on_error not in get_args(OnError):
        what = f"expected stop or flag, not {request.on_error!r}"
        problems.append(Problem(what, "--on-error", "give one of them", "parameter"))
    if request.on_error == "flag" and request.parity is not None:
        what = "--parity works on whole segments, so an integration that cannot be read stops it"
        problems.append(Problem(what, "--on-error flag", "leave one of the two out", "parameter"))
    scout = collect(lambda: parse_scout(request.scout))
    if scout is not None and arrivals is not None:
        scout = growing_scout(scout)
    limit = request.max_memory
    memory = collect(lambda: parse_bytes(limit)) if limit else None
    if chosen is None or scout is None:
        raise _error(problems)
    selection, missing = chosen.selection, chosen.missing
    problems += missing.errors
    loaded = collect(lambda: load_references(selection.paths, info))
    held = loaded.references if loaded is not None else {}
    waves = collect(lambda: find_wavelengths(request, exposure, held, compute=fetch)) or Wavelengths({})
    config = chosen.config.without(missing.skipped)
    problems += _unknown_bins(config, waves)
    products = collect(lambda: plan_products(request, exposure, out, config))
    background: dict[str, Any] = collect(lambda: mean_background(request, config, exposure)) or {}
    if problems:
        raise _error(problems)
    rates = bind_rates(config, info, loaded.references, {})
    # without the scout: to see that the steps fit, and what windows will hold
    known: dict[str, Any] = {"wavelength": dict(waves.by_order)} if waves.by_order else {}
    known["slit"] = dict(waves.facts or {})
    known |= background
    slopes = bind_slopes(config, info, rates.pixeldq, loaded.references, known, segment_spans(exposure))
    if request.parity is not None:
        check_parity(request, config, info, loaded.references)
    workers = request.workers or os.cpu_count() or 1
    plan = make_plan(
        exposure,
        rates,
        slopes,
        scout,
        reference_bytes=loaded.nbytes,
        workers=workers,
        max_memory=memory,
        products=products,
        held=_held_bytes(request, info, config, loaded.references),
    )
    notes = [
        *exposure.notes,
        *map(str, chosen.notes),
        *map(str, loaded.notes),
        *map(str, missing.skipped.values()),
    ]
    if background:
        files = ", ".join(path.name for path in background_files(request, config))
        notes.append(f"bkg_subtract: the mean of {files} is subtracted")
    notes += [
        f"{step.name} is skipped: {step.skipped}" for step in (*rates.steps, *slopes.all) if is_news(step)
    ]
    notes += waves.notes
    if arrivals is not None:
        notes += arrivals.folder.reports
    if request.resume and state == "new" and out is not None:
        notes.append(f"{out} is not there yet: nothing to resume, the run begins at its beginning")
    prepared = Prepared(
        request=request,
        exposure=exposure,
        out=out,
        config=config,
        references=loaded.references,
        sources=chosen.sources,
        crds_context=chosen.context,
        wavelengths=dict(waves.by_order),
        wavelength_source=waves.source,
        wavelength_facts=dict(waves.facts or {}),
        background=background,
        scout=scout,
        plan=plan,
        products=products,
        notes=tuple(dict.fromkeys(notes)),
        state=state or "new",
        arrivals=arrivals,
    )
    check_same_run(prepared)
    return prepared


def _held_bytes(
    request: Request, info: ExposureInfo, config: Config, references: Mapping[str, Reference]
) -> int:
    """Memory that measuring steps hold besides their images [bytes]."""
    if takes_overlap_out(config.operator("extract_1d"), references):
        # the response of two orders to the sums of both, in float64 while it is calibrated, in float32 afterwards
        return 12 * (2 * info.nx) ** 2
    return 0 if request.parity is None or info.is_spectroscopy else shelf_bytes(info.ny * info.nx)


def takes_overlap_out(extract: Operator | None, references: Mapping[str, Reference]) -> bool:
    """Whether SOSS orders will be separated, which takes a calibration of its own."""
    return bool(getattr(extract, "soss_atoca", False)) and {*OVERLAP_REFERENCES} <= {*references}


def _unknown_bins(config: Config, waves: Wavelengths) -> list[Problem]:
    """Refuse bins of wavelength where no wavelengths are known: they would be laid over pixel numbers."""
    operator = config.operator("bin_spectra")
    bins = getattr(operator, "bins", None)
    if bins is None or waves.by_order or bins.strip().upper().startswith("N="):
        return []
    todo = "give --wavelengths FILE, or N=20 for bins of equal numbers of pixels"
    return [Problem("wavelengths are not known for this exposure", f"--bins {bins}", todo, "parameter")]


def _error(problems: list[Problem]) -> InputError:
    """One exception with everything found; of the narrower kind where all findings are of one."""
    codes = {problem.code for problem in problems}
    if codes == {"parameter"}:
        return ConfigError(problems)
    if codes <= {"exists", "output_exists", "locked"}:
        return OutputExistsError(problems)
    if codes == {"missing_reference"}:
        return ReferenceMismatchError(problems)
    return InputError(problems)

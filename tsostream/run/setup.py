"""Everything that happens before the first byte of pixels: inputs, configuration, references, chain, plan.

All problems are collected here and raised together; `inspect` stops after this, `process` goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem, ReferenceMismatchError
from tsostream.files import Exposure, OnError, find_exposures
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Operator
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.soss import OVERLAP_REFERENCES
from tsostream.operators.tso_photometry import TsoPhotometry
from tsostream.references import load_references, parse_overrides
from tsostream.references.crds_client import Progress
from tsostream.references.loading import LoadedReferences
from tsostream.run.background import background_files, mean_background
from tsostream.run.choices import Choices, choose
from tsostream.run.config import Config
from tsostream.run.following import (
    Arrivals,
    follow_exposures,
    follow_problems,
    growing_scout,
    share_memory,
)
from tsostream.run.parity.photometry import shelf_bytes
from tsostream.run.parity.steps import check_parity, check_scopes
from tsostream.run.plan import make_plan, parse_bytes
from tsostream.run.prepared import Prepared, State, segment_spans
from tsostream.run.problems import Problems
from tsostream.run.product_plan import ProductPlan, plan_products
from tsostream.run.ramps import RateChain, bind_rates
from tsostream.run.request import Request
from tsostream.run.resume import check_output, check_same_run
from tsostream.run.scout import ScoutPlan, parse_scout
from tsostream.run.slopes import SlopeSteps, bind_slopes, is_news
from tsostream.run.soss_files import grid_problems, soss_templates
from tsostream.run.user_files import open_windows, user_mask, with_user_flags
from tsostream.run.wavelengths import Wavelengths, find_wavelengths
from tsostream.sinks import open_output

__all__ = ["output_paths", "prepare", "prepare_all"]


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
    request: Request,
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda text: None,
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
    say
        Told what is waited for.

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
            followed = follow_exposures(request, stop, say)
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
    problems = Problems()
    overrides = problems.collect(lambda: parse_overrides(request.overrides)) or {}
    problems.collect(lambda: parse_scout(request.scout))
    problems.collect(lambda: parse_bytes(request.max_memory) if request.max_memory else None)
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
    found = _find(request, exposure, out, fetch=fetch, progress=progress, arrivals=arrivals)
    rates, slopes = _bind_without_scout(found, exposure)
    plan = make_plan(
        exposure,
        rates,
        slopes,
        found.scout,
        reference_bytes=found.loaded.nbytes,
        workers=found.request.workers or os.cpu_count() or 1,
        max_memory=found.memory,
        products=found.products,
        held=_held_bytes(found.request, exposure.info, found.config, found.loaded.references),
        # bound steps go on using a part of the arrays themselves
        freed=0 if found.request.parity is not None else found.loaded.nbytes * 3 // 4,
    )
    skipped = [step for step in (*rates.steps, *slopes.all) if is_news(step)]
    prepared = Prepared(
        request=found.request,
        exposure=exposure,
        out=out,
        config=found.config,
        references=found.loaded.references,
        sources=found.chosen.sources,
        crds_context=found.chosen.context,
        wavelengths=dict(found.waves.by_order),
        wavelength_source=found.waves.source,
        wavelength_facts=dict(found.waves.facts or {}),
        ramp_templates=found.told,
        wavelength_file=found.waves.file,
        background=found.background,
        scout=found.scout,
        plan=plan,
        products=found.products,
        notes=_notes(found, exposure, out, skipped, () if arrivals is None else arrivals.folder.reports),
        state=found.state,
        arrivals=arrivals,
    )
    note = check_same_run(prepared)
    return replace(prepared, notes=(*prepared.notes, note)) if note else prepared


@dataclass(frozen=True)
class _Found:
    """What a run is made of, read and without problems.

    Parameters
    ----------
    request
        With what a lock says.
    state
        Whether the output begins, goes on, or is complete.
    chosen
        Steps and files.
    config
        Without the steps whose optional references are missing.
    scout
        What the scout shall do.
    memory
        Limit [bytes].
    loaded
        References.
    waves
        Wavelengths.
    products
        FITS products to make.
    background
        Templates of the background.
    told
        What steps on ramps are told besides the scout's products.
    """

    request: Request
    state: State
    chosen: Choices
    config: Config
    scout: ScoutPlan
    memory: int | None
    loaded: LoadedReferences
    waves: Wavelengths
    products: ProductPlan | None
    background: dict[str, Any]
    told: dict[str, Any]


def _find(
    request: Request,
    exposure: Exposure,
    out: Path | None,
    *,
    fetch: bool,
    progress: Progress | None,
    arrivals: Arrivals | None,
) -> _Found:
    """Read everything a run needs, and raise with all that is wrong with it."""
    info = exposure.info
    problems = Problems()
    collect = problems.collect
    state = collect(lambda: check_output(out, exposure, overwrite=request.overwrite, resume=request.resume))
    chosen = choose(request, info, problems, fetch=fetch, progress=progress)
    if chosen is not None:
        request = chosen.request
    problems += _wrong_on_error(request)
    scout = collect(lambda: parse_scout(request.scout))
    if scout is not None and arrivals is not None:
        scout = growing_scout(scout)
    limit = request.max_memory
    memory = collect(lambda: parse_bytes(limit)) if limit else None
    if chosen is None:
        raise _error(problems)
    problems += chosen.missing.errors
    loaded = collect(lambda: load_references(chosen.selection.paths, info))
    held = loaded.references if loaded is not None else {}
    waves = collect(lambda: find_wavelengths(request, exposure, held, compute=fetch)) or Wavelengths({})
    config = chosen.config.without(chosen.missing.skipped)
    if (whole := loaded) is not None:
        loaded = collect(lambda: with_user_flags(config, whole))
    problems += _unknown_bins(config, waves)
    if isinstance(photometry := config.operator("tso_photometry"), TsoPhotometry):
        collect(lambda: photometry.checked_position(info))
    products = collect(lambda: plan_products(request, exposure, out, config))
    background: dict[str, Any] = collect(lambda: mean_background(request, config, exposure)) or {}
    if info.exp_type == "NIS_SOSS":
        background |= collect(lambda: soss_templates(config)) or {}
        problems += grid_problems(request, config)
    told: dict[str, Any] = {"slit": dict(waves.facts or {})}
    told |= collect(lambda: user_mask(config)) or {}
    told |= collect(lambda: open_windows(config, exposure)) or {}
    if problems or scout is None or loaded is None:
        raise _error(problems)
    return _Found(
        request, state or "new", chosen, config, scout, memory, loaded, waves, products, background, told
    )


def _bind_without_scout(found: _Found, exposure: Exposure) -> tuple[RateChain, SlopeSteps]:
    """Bind the steps on images, to see that they fit, and what windows will hold.

    Raises
    ------
    InputError
        When a step refuses the exposure or a reference.
    """
    request, config, references = found.request, found.config, found.loaded.references
    official = request.parity is not None
    rates = bind_rates(config, exposure.info, references, found.told, official=official)
    known: dict[str, Any] = {"wavelength": dict(found.waves.by_order)} if found.waves.by_order else {}
    known |= {"slit": dict(found.waves.facts or {}), **found.background}
    slopes = bind_slopes(config, exposure.info, rates.pixeldq, references, known, segment_spans(exposure))
    if official:
        check_parity(request, config, exposure.info, references, found.told)
    else:
        check_scopes(config)
    return rates, slopes


def _notes(
    found: _Found, exposure: Exposure, out: Path | None, skipped: Sequence[Any], arrived: Sequence[str]
) -> tuple[str, ...]:
    """Collect what is worth telling, each once."""
    chosen = found.chosen
    notes = [
        *exposure.notes,
        *map(str, (*chosen.notes, *found.loaded.notes, *chosen.missing.skipped.values())),
        *_background_note(found.request, found.config, found.background),
        *(f"{step.name} is skipped: {step.skipped}" for step in skipped),
        *found.waves.notes,
        *arrived,
    ]
    if found.request.resume and found.state == "new" and out is not None:
        notes.append(f"{out} is not there yet: nothing to resume, the run begins at its beginning")
    return tuple(dict.fromkeys(notes))


def _wrong_on_error(request: Request) -> list[Problem]:
    """Find what is wrong with --on-error."""
    problems = []
    if request.on_error not in get_args(OnError):
        what = f"expected stop or flag, not {request.on_error!r}"
        problems.append(Problem(what, "--on-error", "give one of them", "parameter"))
    if request.on_error == "flag" and request.parity is not None:
        what = "--parity works on whole segments, so an integration that cannot be read stops it"
        problems.append(Problem(what, "--on-error flag", "leave one of the two out", "parameter"))
    return problems


def _background_note(request: Request, config: Config, background: Mapping[str, Any]) -> list[str]:
    if not background:
        return []
    files = ", ".join(path.name for path in background_files(request, config))
    return [f"bkg_subtract: the mean of {files} is subtracted"]


def _held_bytes(
    request: Request, info: ExposureInfo, config: Config, references: Mapping[str, Reference]
) -> int:
    """Memory that measuring steps hold besides their images [bytes]."""
    extract = config.operator("extract_1d")
    if isinstance(extract, Extract1d) and takes_overlap_out(extract, references):
        # with what it stands on, it takes half as long to load as the rest of the program
        from tsostream.operators.soss.separation import held_bytes, official_bytes

        if request.parity is not None:
            return official_bytes(info.nx, info.ny, extract.soss_max_grid_size)
        return held_bytes(info.nx, info.ny, extract.soss_n_os)
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

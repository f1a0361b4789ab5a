"""What stands in the headers of images and ramps that a run makes: units, references, the status of every step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tsostream.files.times import SegmentTimes
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import BoundRampStep
from tsostream.operators.catalog import MIRI_RAMPS, NIR_RAMPS
from tsostream.references.crds_client import crds_version
from tsostream.run.chain import Chain
from tsostream.run.coordinates import carried_tree
from tsostream.run.order import STATUS, all_steps
from tsostream.run.prepared import Prepared
from tsostream.run.product_plan import Planned
from tsostream.run.versions import package_versions
from tsostream.sinks.products import ProductSpec, Source

Steps = Sequence[BoundRampStep]

__all__ = ["calibration_sections", "general_keywords", "product_specs"]

#: reference type -> keyword of its name (``ref_file`` of the official data models)
_REFERENCE: Final = {
    "dark": "R_DARK", "emicorr": "R_MIREMI", "flat": "R_FLAT", "gain": "R_GAIN", "ipc": "R_IPC",
    "lastframe": "R_LASTFR", "linearity": "R_LINEAR", "mask": "R_MASK", "persat": "R_PERSAT",
    "readnoise": "R_READNO", "refpix": "R_REFPIX", "reset": "R_RESET", "rscd": "R_RSCD",
    "saturation": "R_SATURA", "sirskernel": "R_SIRSKL", "superbias": "R_SUPERB", "trapdensity": "R_TRPDEN",
    "trappars": "R_TRPPAR", "photom": "R_PHOTOM", "area": "R_AREA", "fflat": "R_FFLAT", "sflat": "R_SFLAT",
    "dflat": "R_DFLAT", "wavecorr": "R_WAVCOR", "bkg": "R_BKG", "wavelengthrange": "R_WAVRAN",
}  # fmt: skip
#: modes whose calibrated slopes are spectra cut out of the frame (``SlitModel``)
_SLITS: Final = ("NRS_BRIGHTOBJ", "NRC_TSGRISM", "MIR_LRS-SLITLESS")
#: keywords of references and steps that slopes bring along
_EARLIER: Final = re.compile(r"[RS]_[A-Z0-9]{1,6}")


def product_specs(prepared: Prepared, files: Sequence[Planned], chain: Chain) -> list[ProductSpec]:
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
    keywords = general_keywords(prepared)
    specs = []
    for one in files:
        if one.kind in ("calints", "crfints"):
            specs.append(_calibrated(prepared, one, chain, sources[one.segment], steps, keywords))
            continue
        ramp = one.kind == "ramp"
        # the product named ramp holds what the fit is given; a step's result is of that step
        step = one.step.partition(".")[0] or (last_ramp if ramp else "")
        reach = step if one.step else ("ramp_fit" if ramp else "")
        names, hashes = _references_of(
            prepared, {done.name for done in steps if not done.skipped} & {*_until(steps, step)}
        )
        specs.append(
            ProductSpec(
                path=one.path,
                kind=one.kind,
                source=sources[one.segment],
                first=one.first,
                count=one.count,
                shape=(info.ngroups, *info.frame_shape) if ramp else info.frame_shape,
                step=one.step or step,
                unit="DN" if ramp else "DN/s",
                keywords=keywords,
                sections={
                    "Reference file information": names,
                    "Reference file contents (sha256)": hashes,
                    "Calibration step information": _step_status(prepared, steps, step, reach),
                },
                pixeldq={**planes, **chain.rates.ramp_flags(one.segment)}.get(step, chain.rates.pixeldq)
                if ramp
                else None,
                tree=carried_tree(prepared, sources[one.segment].path, info),
            )
        )
    return specs


def _calibrated(
    prepared: Prepared, one: Planned, chain: Chain, source: Source, stage_1: Steps, keywords: dict[str, Any]
) -> ProductSpec:
    """Say what stands in the headers of calibrated slopes: calints, crfints, results of single steps."""
    info, slopes = prepared.exposure.info, chain.slopes
    order = all_steps(info)
    last = one.step or "outlier_detection"
    reached = order[: order.index(last) + (one.kind == "crfints" or bool(one.step))]
    done = [step for step in slopes.all if step.name in reached]
    # what the last of these steps left; without any, what the slopes came with
    after = done[-1].info if done else replace(info, bunit="DN/s") if info.is_ramp else info
    running = {step.name for step in (*stage_1, *done) if not step.skipped}
    facts = {key: value for step in done for key, value in step.facts.items()}
    return ProductSpec(
        path=one.path,
        kind=one.kind,
        source=source,
        first=one.first,
        count=one.count,
        shape=after.frame_shape,
        step=one.step or one.kind,
        unit=after.bunit or "DN/s",
        keywords=keywords,
        sections=calibration_sections(prepared, [*stage_1, *done], reached),
        tree=carried_tree(prepared, source.path, after),
        science={key: value for key, value in facts.items() if isinstance(value, str | int | float)},
        slit=info.exp_type in _SLITS,
        has_flat="flat_field" in running or "VAR_FLAT" in prepared.exposure.segments[0].planes,
        planes=_planes(prepared, chain, after, running),
    )


def calibration_sections(
    prepared: Prepared, steps: Sequence[Any], reached: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Say which references and steps made something, also those that the input went through before.

    Parameters
    ----------
    prepared
        The run.
    steps
        Bound steps that made it.
    reached
        Names of the mode's steps up to there: those that are not bound were skipped.

    Returns
    -------
    dict
        Title -> keyword -> value.
    """
    info = prepared.exposure.info
    status = {
        STATUS[step.name]: "SKIPPED" if step.skipped else "COMPLETE" for step in steps if step.name in STATUS
    }
    ours = (
        {*status}
        if info.is_ramp
        else {STATUS[step.name] for step in steps if step.name in reached and step.name in STATUS}
    )
    status |= {STATUS[name]: "SKIPPED" for name in reached if name in STATUS and STATUS[name] not in status}
    names, hashes = _references_of(prepared, {step.name for step in steps if not step.skipped})
    if not info.is_ramp:
        kept = {key: str(value) for key, value in info.header.items() if _EARLIER.fullmatch(key)}
        names = {key: value for key, value in kept.items() if key.startswith("R_")} | names
        status |= {key: value for key, value in kept.items() if key.startswith("S_") and key not in ours}
    return {
        "Reference file information": names,
        "Reference file contents (sha256)": hashes,
        "Calibration step information": status,
    }


def _planes(prepared: Prepared, chain: Chain, info: ExposureInfo, running: set[str]) -> dict[str, np.ndarray]:
    """Wavelengths and pixel areas, as far as they are images of this frame."""
    planes: dict[str, Any] = {}
    if info.exp_type in _SLITS:
        known = chain.slopes.templates.get("wavelength") or {}
        planes["WAVELENGTH"] = known.get(1, known.get(0))
    if "photom" in running and "area" in prepared.references:
        planes["AREA"] = prepared.references["area"].within(info).arrays.get("SCI")
    return {
        name: np.asarray(plane, np.float32)
        for name, plane in planes.items()
        if np.shape(plane) == info.frame_shape
    }


def general_keywords(prepared: Prepared) -> dict[str, Any]:
    """Name the software, and the rules that chose references."""
    keywords = {"CAL_VER": f"tsostream {package_versions()['tsostream']}"}
    if prepared.crds_context:
        keywords |= {"CRDS_VER": crds_version(), "CRDS_CTX": prepared.crds_context}
    return keywords


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


def _references_of(prepared: Prepared, running: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Keyword -> name, and keyword (``H_DARK`` beside ``R_DARK``) -> sha256, of the references of some steps.

    A name alone does not tell a file's content.
    """
    names, hashes = {}, {}
    for name, users in prepared.config.users(prepared.exposure.info).items():
        if name not in prepared.references or name not in _REFERENCE or not running & {*users}:
            continue
        scheme = "crds://" if prepared.sources.get(name, "").startswith("CRDS") else ""
        names[_REFERENCE[name]] = scheme + prepared.references[name].name
        hashes["H" + _REFERENCE[name][1:]] = prepared.references[name].sha256
    return names, hashes

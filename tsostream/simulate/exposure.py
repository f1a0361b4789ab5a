"""Write a simulated exposure: segments, reference files, truth, integration by integration."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.errors import OutputExistsError, Problem, SinkError
from tsostream.simulate import headers
from tsostream.simulate.detector import build_detector
from tsostream.simulate.headers import Clock, Part
from tsostream.simulate.integrate import Effects, Integrator, Timing, saturate_some
from tsostream.simulate.lightcurve import Transit
from tsostream.simulate.modes import Mode, crop, find_mode, with_pupil
from tsostream.simulate.references import reference_file, reference_names, write_references
from tsostream.simulate.scene import Scene, build_scene, scene_centre
from tsostream.simulate.settings import Settings
from tsostream.simulate.truth import TruthWriter

__all__ = ["SimulatedExposure", "simulate"]

#: raw counts at which a typical pixel saturates
FULL_WELL: Final = 57000.0
#: MJD of the first integration's start
ORIGIN: Final = 59770.41
#: bytes gathered before they are written
BUFFER: Final = 4 << 20
#: FITS record length
RECORD: Final = 2880


@dataclass(frozen=True)
class SimulatedExposure:
    """Where everything is.

    Parameters
    ----------
    segments
        The uncal files, in order.
    references
        Reference type -> file.
    truth
        The Arrow file with what was injected.
    """

    segments: tuple[Path, ...]
    references: dict[str, Path]
    truth: Path
    directory: Path


def simulate(
    exp_type: str,
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> SimulatedExposure:
    """Simulate a transit: segment files in real format, matching reference files, and the truth.

    The same parameters give the same pixels, however the exposure is cut; memory does not depend on ``ints``.

    Parameters
    ----------
    exp_type
        One of :data:`tsostream.simulate.EXP_TYPES`.
    out
        Directory; made when absent.
    settings
        What is simulated, by default `Settings`.
    overwrite
        Replace a simulation that is there.
    progress
        Called with (integrations done, integrations): once before the first one, when nothing more can be refused, and
        then now and then.
    **changes
        Settings that are to be others: ``simulate("NRC_TSIMAGE", "sim", ints=100, seed=7)``; see `Settings`.

    Raises
    ------
    ConfigError
        Parameters make no sense, all problems at once.
    OutputExistsError
        Files are there already and ``overwrite`` is not set.
    SinkError
        The directory cannot be written.
    """
    chosen = replace(settings or Settings(), **changes)
    mode = find_mode(exp_type, chosen.subarray)
    if chosen.pupil is not None:
        mode = with_pupil(mode, chosen.pupil)
    groups = mode.groups if chosen.groups is None else chosen.groups
    chosen = replace(chosen, groups=groups)
    chosen.check()
    effects = chosen.effects(mode)
    if chosen.nx or chosen.ny:
        mode = crop(mode, chosen.nx, chosen.ny, scene_centre(mode))
    plan = _Plan(mode, Timing(mode.frame_time, groups, chosen.ints), effects, chosen)
    return _write(plan, _parts(chosen), Path(out), overwrite, progress)


def _parts(settings: Settings) -> list[Part]:
    ints, segments, bounds = settings.ints, settings.segments, settings.bounds
    ends = (
        [int(b) for b in bounds]
        if bounds is not None
        else [ints * (k + 1) // segments for k in range(segments)]
    )
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [Part(k + 1, len(ends), a, b) for k, (a, b) in enumerate(zip(starts, ends, strict=True))]


class _Plan:
    """Everything that is fixed before the first integration is drawn."""

    def __init__(self, mode: Mode, timing: Timing, effects: Effects, settings: Settings):
        depth, seed, peak = settings.transit_depth, settings.seed, settings.peak
        scene = None if settings.scene is None else Path(settings.scene)
        self.mode, self.timing, self.effects, self.seed = mode, timing, effects, seed
        self.clock = Clock(ORIGIN, timing)
        self.scene: Scene = build_scene(mode, depth, scene)
        tilted = build_scene(mode, depth, scene, effects.tilt[:2]) if any(effects.tilt[:2]) else self.scene
        if tilted is not self.scene:
            # both normalised to their own peak: put them on the brightness of the first
            tilted = self._same_light(tilted)
        detector = build_detector(mode, seed, self.scene.source, timing.integration)
        well = FULL_WELL - mode.bias
        well += 1.2e-6 * well**2 + (0 if mode.is_miri else 4e-12 * well**3)
        self.scale = peak * well * mode.gain / (timing.groups * timing.frame)
        self.detector = saturate_some(detector, self.scene.source * self.scale, timing.groups, seed)
        self.transit = Transit.centred(timing.length)
        self.integrator = Integrator(
            mode, self.detector, (self.scene, tilted), timing, self.transit, effects, self.scale, seed
        )
        self.settings = {"depth": depth, "scene": None if scene is None else scene.name, "peak": peak}

    def _same_light(self, tilted: Scene) -> Scene:
        factor = np.float32(tilted.peak / self.scene.peak)
        return dataclasses.replace(tilted, source=tilted.source * factor, shifts=tilted.shifts * factor)

    def metadata(self) -> dict[str, Any]:
        """Describe the whole exposure."""
        mode, timing, effects = self.mode, self.timing, self.effects
        return {
            "exp_type": mode.exp_type, "subarray": mode.subarray, "detector": mode.detector,
            "seed": self.seed,
            "nints": timing.ints, "ngroups": timing.groups, "frame_time_s": timing.frame,
            "cadence_s": timing.cadence, "transit_depth": self.settings["depth"],
            "scene": self.settings["scene"], "transit_contacts_s": list(dataclasses.astuple(self.transit)),
            "origin_mjd_utc": ORIGIN, "source_position": list(self.scene.position),
            "psf_sigma": self.scene.sigma,
            "peak_electron_per_s": self.scale, "background_electron_per_s": mode.background,
            "noise": {
                "photon_and_read": effects.noise, "readnoise_single_dn": mode.readnoise / 2**0.5,
                "gain": mode.gain, "ktc_dn": self.detector.ktc if effects.noise else 0.0,
                "oof_dn": effects.oof,
                "cosmic_per_pixel_s": effects.cosmic_rate, "jitter_px": effects.jitter,
                "drift_px": list(effects.drift), "tilt_at": effects.tilt_at, "tilt_px": list(effects.tilt),
            },
            "orders": {
                str(order): {"wavelength_um": wave.tolist(), "depth": depth.tolist(),
                             "electron_per_s": (flux * self.scale).tolist()}
                for order, (wave, depth, flux) in self.scene.spectra.items()
            },
        }  # fmt: skip


def _write(plan: _Plan, parts: list[Part], out: Path, overwrite: bool, progress) -> SimulatedExposure:
    detector = plan.mode.detector.lower()
    names = [f"{headers.ROOT}-seg{part.number:03d}_{detector}_uncal.fits" for part in parts]
    prefix = f"sim_{plan.mode.exp_type}_{plan.mode.subarray}".lower().replace("-", "")
    truth = out / "truth.arrow"
    modelled = plan.settings["scene"] is None
    kinds = reference_names(plan.mode, modelled=modelled)
    planned = [out / n for n in names] + [out / reference_file(prefix, k) for k in kinds] + [truth]
    try:
        out.mkdir(parents=True, exist_ok=True)
        # segments of an earlier, differently cut run would mix with ours
        present = sorted(
            {*out.glob(f"{headers.ROOT}-seg*_{detector}_uncal.fits"), *filter(Path.exists, planned)}
        )
        if present and not overwrite:
            raise OutputExistsError(
                Problem(
                    f"{len(present)} files of a simulation are there already, {present[0].name} the first",
                    where=str(out),
                    todo="choose another directory or say --overwrite",
                    code="exists",
                )
            )
        for old in present:
            old.unlink()
        references = write_references(
            out, prefix, plan.detector, plan.scene, plan.timing.groups, modelled=modelled
        )
        if progress is not None:
            progress(0, plan.timing.ints)
        part_truth = truth.with_name(truth.name + ".part")
        with TruthWriter(part_truth, plan.metadata()) as rows:
            for part, name in zip(parts, names, strict=True):
                _write_segment(plan, part, out / name, rows, progress)
        part_truth.replace(truth)
    except OutputExistsError:
        raise
    except OSError as error:
        raise SinkError(
            f"{out}: cannot be written ({error}); choose another --out or free some space"
        ) from error
    return SimulatedExposure(tuple(out / n for n in names), references, truth, out)


def _write_segment(plan: _Plan, part: Part, path: Path, truth: TruthWriter, progress) -> None:
    """Write one uncal file under a temporary name, then rename it."""
    mode, timing, clock = plan.mode, plan.timing, plan.clock
    ints = part.last - part.first + 1
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb", buffering=BUFFER) as file:
            file.write(_block(headers.primary_header(mode, clock, part, path.name)))
            file.write(_block(headers.sci_header(mode, clock, ints, plan.scene.position)))
            for number in range(part.first, part.last + 1):
                counts, row = plan.integrator.draw(number)
                # FITS has no unsigned integers: the offset of 2^15 (BZERO) flips the top bit
                file.write((counts ^ np.uint16(0x8000)).astype(">u2").data)
                truth.append(row, clock.utc(timing.start(number) + timing.integration / 2))
                if progress is not None:
                    progress(number, timing.ints)
            _pad(file)
            _table(file, "GROUP", headers.GROUP, ints * timing.groups)
            for numbers in _runs(part, timing.groups):
                file.write(headers.group_rows(clock, numbers, mode).tobytes())
            _pad(file)
            _table(file, "INT_TIMES", headers.INT_TIMES, ints)
            for numbers in _runs(part, timing.groups):
                file.write(headers.int_times_rows(clock, numbers).tobytes())
            _pad(file)
            file.write(_asdf(path.name))
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _asdf(filename: str) -> bytes:
    """Make the extension without which the official pipeline does not start; the keywords say the rest."""
    text = (
        "#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
        f"meta:\n  filename: {filename}\n  model_type: Level1bModel\n  telescope: JWST\n...\n"
    )
    row = np.zeros(1, [("ASDF_METADATA", "u1", (len(text),))])
    row["ASDF_METADATA"] = np.frombuffer(text.encode("ascii"), np.uint8)
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(row, name="ASDF", ver=1)]).writeto(buffer)
    return buffer.getvalue()[RECORD:]


def _runs(part: Part, groups: int) -> Iterator[NDArray[np.int64]]:
    """Yield a segment's integrations, a thousand groups at a time: tables must not fill memory either."""
    step = max(1, 1000 // groups)
    for first in range(part.first, part.last + 1, step):
        yield np.arange(first, min(first + step, part.last + 1))


def _block(header: fits.Header) -> bytes:
    return header.tostring(sep="", endcard=True, padding=True).encode("ascii")


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % RECORD))


def _table(file: BinaryIO, name: str, dtype: np.dtype, rows: int) -> None:
    """Write a binary table's header; astropy lays out the columns, we only set the number of rows."""
    buffer = io.BytesIO()
    fits.BinTableHDU(np.zeros(0, dtype), name=name, ver=1).writeto(buffer)
    buffer.seek(0)
    with fits.open(buffer) as hdus:
        header = hdus[1].header.copy()
    header["NAXIS2"] = rows
    file.write(_block(header))

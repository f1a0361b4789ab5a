"""Write a simulated exposure: segments, reference files, truth, integration by integration."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tsostream.errors import ConfigError, OutputExistsError, Problem, SinkError
from tsostream.simulate import headers
from tsostream.simulate.detector import build_detector
from tsostream.simulate.headers import Clock, Part
from tsostream.simulate.integrate import Effects, Integrator, Timing, saturate_some
from tsostream.simulate.lightcurve import Transit
from tsostream.simulate.modes import Mode, crop, find_mode
from tsostream.simulate.references import reference_file, reference_names, write_references
from tsostream.simulate.scene import Scene, build_scene, scene_centre
from tsostream.simulate.truth import TruthWriter

__all__ = ["SimulatedExposure", "simulate"]

#: cosmic rays at L2 [hits/pixel/s], for 18 µm pixels
COSMIC_RATE: Final = 1.6e-5
#: pointing jitter [pixel] and drift over the exposure (dx, dy) [pixel]
JITTER: Final = 0.005
DRIFT: Final = (0.004, -0.006)
#: a tilt event when only its integration is given: dx, dy, growth of sigma [pixel]
TILT: Final = (0.02, -0.03, 0.01)
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
    *,
    ints: int = 40,
    groups: int | None = None,
    segments: int = 1,
    seed: int = 1,
    subarray: str | None = None,
    transit_depth: float = 0.01,
    oof: float | None = None,
    cosmic_rays: float | None = None,
    noise: Literal["full", "none"] = "full",
    scene: str | os.PathLike[str] | None = None,
    jitter: float | None = None,
    drift: float | tuple[float, float] | None = None,
    tilt: int | tuple[int, float, float, float] | None = None,
    level: str = "uncal",
    bounds: Sequence[int] | None = None,
    ny: int | None = None,
    nx: int | None = None,
    peak: float = 0.75,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SimulatedExposure:
    """Simulate a transit: segment files in real format, matching reference files, and the truth.

    The same parameters give the same pixels, however the exposure is cut; memory does not depend on ``ints``.

    Parameters
    ----------
    exp_type
        One of :data:`tsostream.simulate.EXP_TYPES`.
    out
        Directory; made when absent.
    ints, groups
        Integrations of the exposure; groups of each (the mode's usual number when not given).
    segments, bounds
        Number of files, cut equally; or the last integration of each file, which overrides it.
    transit_depth
        Depth of the white light.
    oof
        1/f noise, RMS within one frame [DN]; None is the instrument's own, 0 none.
    cosmic_rays
        Hits per pixel and second; None is the rate at L2, 0 none.
    noise
        ``none`` gives rounded expectation values: no photon, read, reset or 1/f noise, no cosmic rays, no
        jitter, and drift or tilt only where asked for.
    scene
        FITS median image (MEDFLUX or SCI) to use as the source.
    jitter
        Standard deviation of the pointing per integration and axis [pixel].
    drift
        Movement over the exposure [pixel], (dx, dy), or one number for both.
    tilt
        Integration from which the telescope's mirror is tilted, or (integration, dx, dy, growth of sigma).
    ny, nx
        Cut the subarray to this size around the source, for small tests.
    peak
        Brightest pixel at the end of a ramp, relative to full well.
    progress
        Called with (integrations done, integrations) now and then.

    Raises
    ------
    ConfigError
        Parameters make no sense, all problems at once.
    OutputExistsError
        Files are there already and ``overwrite`` is not set.
    SinkError
        The directory cannot be written.
    """
    mode = find_mode(exp_type, subarray)
    groups = mode.groups if groups is None else groups
    _check(
        ints=ints, groups=groups, segments=segments, bounds=bounds, transit_depth=transit_depth, oof=oof,
        cosmic_rays=cosmic_rays, noise=noise, jitter=jitter, level=level, peak=peak, seed=seed,
    )  # fmt: skip
    effects = _effects(mode, ints, noise, oof, cosmic_rays, jitter, drift, tilt)
    if nx or ny:
        mode = crop(mode, nx, ny, scene_centre(mode))
    scene_path = None if scene is None else Path(scene)
    plan = _Plan(mode, Timing(mode.frame_time, groups, ints), effects, transit_depth, scene_path, seed, peak)
    parts = _parts(ints, segments, bounds)
    return _write(plan, parts, Path(out), overwrite, progress)


def _check(**given: Any) -> None:
    """Refuse parameters that make no sense; all complaints at once."""
    problems = []

    def need(ok: bool, what: str, todo: str) -> None:
        if not ok:
            problems.append(Problem(what, todo=todo, code="parameter"))

    ints, segments, bounds = given["ints"], given["segments"], given["bounds"]
    need(ints >= 1, f"ints={ints}: an exposure has at least one integration", "give --ints 1 or more")
    need(given["groups"] >= 1, f"groups={given['groups']}: an integration has at least one group",
         "give --groups 1 or more")  # fmt: skip
    need(given["seed"] >= 0, f"seed={given['seed']} is negative", "give --seed 0 or more")
    need(1 <= segments <= max(ints, 1), f"segments={segments} does not fit {ints} integrations",
         f"give 1 to {max(ints, 1)}")  # fmt: skip
    if bounds is not None:
        rising = len(bounds) > 0 and all(b > a for a, b in zip((0, *bounds[:-1]), bounds, strict=True))
        need(rising and bounds[-1] == ints, f"bounds={list(bounds)} must rise and end at ints={ints}",
             "list the last integration of each segment")  # fmt: skip
    need(0 <= given["transit_depth"] < 0.9, f"transit_depth={given['transit_depth']} is not in 0 to 0.9",
         "give a fraction, as in 0.01 for one per cent")  # fmt: skip
    for name in ("oof", "cosmic_rays", "jitter"):
        value = given[name]
        need(value is None or value >= 0, f"{name}={value} is negative", "give 0 to switch it off")
    need(given["noise"] in ("full", "none"), f"noise={given['noise']!r} is neither 'full' nor 'none'",
         "choose one of them")  # fmt: skip
    need(given["level"] == "uncal", f"level={given['level']!r}: only 'uncal' is simulated", "leave it out")
    need(0 < given["peak"] <= 3, f"peak={given['peak']} is not in 0 to 3", "0.75 is usual")
    if problems:
        raise ConfigError(problems)


def _effects(
    mode: Mode,
    ints: int,
    noise: str,
    oof: float | None,
    cosmic: float | None,
    jitter: float | None,
    drift: float | tuple[float, float] | None,
    tilt: int | tuple[int, float, float, float] | None,
) -> Effects:
    """Fill in what the mode usually has, and switch off what ``noise`` excludes."""
    full = noise == "full"
    if drift is None:
        dx, dy = DRIFT if full else (0.0, 0.0)
    else:
        dx, dy = drift if isinstance(drift, Sequence) else (drift, drift)
    tilt_at, step = None, (0.0, 0.0, 0.0)
    if tilt is not None:
        given = tuple(tilt) if isinstance(tilt, Sequence) else (tilt, *TILT)
        if len(given) != 4 or not 1 <= given[0] <= ints:
            what = f"tilt={tilt!r} is no integration from 1 to {ints}, nor (integration, dx, dy, width)"
            raise ConfigError(Problem(what, todo="change --tilt", code="parameter"))
        tilt_at, step = int(given[0]), (float(given[1]), float(given[2]), float(given[3]))
    return Effects(
        noise=full,
        oof=(mode.oof if oof is None else float(oof)) if full else 0.0,
        cosmic_rate=(COSMIC_RATE if cosmic is None else float(cosmic)) if full else 0.0,
        jitter=(JITTER if jitter is None else float(jitter)) if full else 0.0,
        drift=(float(dx), float(dy)),
        tilt_at=tilt_at,
        tilt=step,
    )


def _parts(ints: int, segments: int, bounds: Sequence[int] | None) -> list[Part]:
    ends = (
        [int(b) for b in bounds]
        if bounds is not None
        else [ints * (k + 1) // segments for k in range(segments)]
    )
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [Part(k + 1, len(ends), a, b) for k, (a, b) in enumerate(zip(starts, ends, strict=True))]


class _Plan:
    """Everything that is fixed before the first integration is drawn."""

    def __init__(
        self,
        mode: Mode,
        timing: Timing,
        effects: Effects,
        depth: float,
        scene: Path | None,
        seed: int,
        peak: float,
    ):
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

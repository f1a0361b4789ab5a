"""What is simulated: lengths, source, noise; and what makes no sense."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tsostream.errors import ConfigError, Problem
from tsostream.simulate.integrate import Effects
from tsostream.simulate.modes import Mode

__all__ = ["Settings"]

#: cosmic rays at L2 [hits/pixel/s], for 18 µm pixels
COSMIC_RATE: Final = 1.6e-5
#: pointing jitter [pixel] and drift over the exposure (dx, dy) [pixel]
JITTER: Final = 0.005
DRIFT: Final = (0.004, -0.006)
#: a tilt event when only its integration is given: dx, dy, growth of sigma [pixel]
TILT: Final = (0.02, -0.03, 0.01)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is simulated.

    Parameters
    ----------
    ints, groups
        Integrations of the exposure; groups of each (the mode's usual number when not given).
    segments, bounds
        Number of files, cut equally; or the last integration of each file, which overrides it.
    seed
        The same seed gives the same pixels.
    subarray
        One of the mode's, by default the usual one.
    pupil
        A weak lens in front of NIRCam's images: WLP4, WLP8 or WLM8.
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
    level
        ``uncal``.
    ny, nx
        Cut the subarray to this size around the source, for small tests.
    peak
        Brightest pixel at the end of a ramp, relative to full well.
    """

    ints: int = 40
    groups: int | None = None
    segments: int = 1
    seed: int = 1
    subarray: str | None = None
    pupil: str | None = None
    transit_depth: float = 0.01
    oof: float | None = None
    cosmic_rays: float | None = None
    noise: Literal["full", "none"] = "full"
    scene: str | os.PathLike[str] | None = None
    jitter: float | None = None
    drift: float | tuple[float, float] | None = None
    tilt: int | tuple[int, float, float, float] | None = None
    level: str = "uncal"
    bounds: Sequence[int] | None = None
    ny: int | None = None
    nx: int | None = None
    peak: float = 0.75

    def check(self) -> None:
        """Refuse parameters that make no sense.

        Raises
        ------
        ConfigError
            With all complaints at once.
        """
        problems = []

        def need(ok: bool, what: str, todo: str) -> None:
            if not ok:
                problems.append(Problem(what, todo=todo, code="parameter"))

        ints, segments, bounds = self.ints, self.segments, self.bounds
        need(ints >= 1, f"ints={ints}: an exposure has at least one integration", "give --ints 1 or more")
        need(self.groups is None or self.groups >= 1, f"groups={self.groups}: an integration has at least one group",
             "give --groups 1 or more")  # fmt: skip
        need(self.seed >= 0, f"seed={self.seed} is negative", "give --seed 0 or more")
        need(1 <= segments <= max(ints, 1), f"segments={segments} does not fit {ints} integrations",
             f"give 1 to {max(ints, 1)}")  # fmt: skip
        if bounds is not None:
            rising = len(bounds) > 0 and all(b > a for a, b in zip((0, *bounds[:-1]), bounds, strict=True))
            need(rising and bounds[-1] == ints, f"bounds={list(bounds)} must rise and end at ints={ints}",
                 "list the last integration of each segment")  # fmt: skip
        need(0 <= self.transit_depth < 0.9, f"transit_depth={self.transit_depth} is not in 0 to 0.9",
             "give a fraction, as in 0.01 for one per cent")  # fmt: skip
        for name in ("oof", "cosmic_rays", "jitter"):
            value = getattr(self, name)
            need(value is None or value >= 0, f"{name}={value} is negative", "give 0 to switch it off")
        need(self.noise in ("full", "none"), f"noise={self.noise!r} is neither 'full' nor 'none'",
             "choose one of them")  # fmt: skip
        need(self.level == "uncal", f"level={self.level!r}: only 'uncal' is simulated", "leave it out")
        need(0 < self.peak <= 3, f"peak={self.peak} is not in 0 to 3", "0.75 is usual")
        if problems:
            raise ConfigError(problems)

    def effects(self, mode: Mode) -> Effects:
        """Fill in what the mode usually has, and switch off what ``noise`` excludes.

        Raises
        ------
        ConfigError
            ``tilt`` is none.
        """
        full = self.noise == "full"
        if self.drift is None:
            dx, dy = DRIFT if full else (0.0, 0.0)
        else:
            dx, dy = self.drift if isinstance(self.drift, Sequence) else (self.drift, self.drift)
        tilt_at, step = None, (0.0, 0.0, 0.0)
        if self.tilt is not None:
            given = tuple(self.tilt) if isinstance(self.tilt, Sequence) else (self.tilt, *TILT)
            if len(given) != 4 or not 1 <= given[0] <= self.ints:
                what = f"tilt={self.tilt!r} is no integration from 1 to {self.ints}, nor (integration, dx, dy, width)"
                raise ConfigError(Problem(what, todo="change --tilt", code="parameter"))
            tilt_at, step = int(given[0]), (float(given[1]), float(given[2]), float(given[3]))
        return Effects(
            noise=full,
            oof=(mode.oof if self.oof is None else float(self.oof)) if full else 0.0,
            cosmic_rate=(COSMIC_RATE if self.cosmic_rays is None else float(self.cosmic_rays))
            if full
            else 0.0,
            jitter=(JITTER if self.jitter is None else float(self.jitter)) if full else 0.0,
            drift=(float(dx), float(dy)),
            tilt_at=tilt_at,
            tilt=step,
        )

"""One integration at a time: from the scene to raw counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tsostream.simulate.detector import Detector
from tsostream.simulate.lightcurve import Transit
from tsostream.simulate.modes import Mode
from tsostream.simulate.noise import OneOverF, cosmic_rays, stream
from tsostream.simulate.scene import Scene

__all__ = ["Effects", "Integrator", "Times", "Timing", "TruthRow", "saturate_some"]

#: one moment or many
Times = TypeVar("Times", float, NDArray)

#: raw counts a pixel goes on above its saturation threshold before it is full
HEADROOM = 400.0


@dataclass(frozen=True)
class Timing:
    """When integrations happen [s since the end of the first reset frame].

    Parameters
    ----------
    frame
        TFRAME; one frame per group, one reset frame between integrations.
    """

    frame: float
    groups: int
    ints: int

    @property
    def integration(self) -> float:
        """EFFINTTM: end of the reset frame to the end of the last frame."""
        return self.frame * self.groups

    @property
    def cadence(self) -> float:
        """From one integration to the next."""
        return self.integration + self.frame

    @property
    def length(self) -> float:
        """First start to last end."""
        return self.cadence * (self.ints - 1) + self.integration

    def start(self, number: Times) -> Times:
        """End of the reset frame of integration ``number`` (1-based)."""
        return (number - 1) * self.cadence


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What is switched on, in physical units.

    Parameters
    ----------
    noise
        Photon, read and reset noise, and the detector's drifts.
    oof
        1/f noise, RMS within a frame [DN].
    cosmic_rate
        Hits per pixel and second.
    jitter
        Standard deviation of the pointing per integration and axis [pixel].
    drift
        (dx, dy) over the whole exposure [pixel].
    tilt_at
        First integration after the tilt event, or None.
    tilt
        (dx, dy, growth of the point spread function's sigma) of the event [pixel].
    """

    noise: bool = True
    oof: float = 0.0
    cosmic_rate: float = 0.0
    jitter: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    tilt_at: int | None = None
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class TruthRow:
    """What was injected into one integration; see :mod:`tsostream.simulate.truth` for the columns."""

    integration: int
    flux_model: float
    transit: float
    dx: float
    dy: float
    dwidth: float
    pedestal: float
    n_cosmic: int
    cosmic_electrons: float
    tilt_event: bool


def saturate_some(detector: Detector, rate: NDArray, groups: int, seed: int) -> Detector:
    """Lower the threshold of a handful of bright pixels so that their last group, and only it, saturates.

    Real exposures of bright stars have such pixels; a tool that forgets them must not pass our tests.

    Parameters
    ----------
    rate
        ``[y, x]`` [electron/s] out of transit.
    """
    signal = rate / detector.gain * detector.mode.frame_time  # linear DN per group
    bright = np.flatnonzero((detector.mask == 0) & (signal > 0.3 * signal.max()))
    if detector.mode.dispaxis == 0 or groups < 3 or not bright.size:
        return detector
    rng = stream(seed, "references", 1)
    chosen = rng.choice(bright, max(1, min(6, bright.size // 200)), replace=False)
    linear = np.zeros(signal.shape, np.float32)
    linear.ravel()[chosen] = signal.ravel()[chosen] * (groups - 0.5)
    level = (detector.delinearise(linear) + detector.bias).ravel()
    saturation = detector.saturation.copy()
    saturation.ravel()[chosen] = np.minimum(saturation.ravel()[chosen], level[chosen])
    return replace(detector, saturation=saturation)


class Integrator:
    """Draws integrations of one exposure; each depends on its number only, not on the ones before it.

    Parameters
    ----------
    scenes
        The scene before and after the tilt event.
    scale
        Electrons per second of a pixel with relative brightness 1.
    """

    def __init__(
        self, mode: Mode, detector: Detector, scenes: tuple[Scene, Scene], timing: Timing, transit: Transit,
        effects: Effects, scale: float, seed: int,
    ):  # fmt: skip
        self.mode, self.detector, self.timing, self.transit = mode, detector, timing, transit
        self.effects, self.seed = effects, seed
        self._scenes = scenes
        light = detector.response.astype(np.float64) * scale
        self._source = [(scene.source * light).astype(np.float32) for scene in scenes]
        self._shifts = [(scene.shifts * light).astype(np.float32) for scene in scenes]
        # electrons per second that are there whatever the star does
        self._steady = (mode.background * detector.response + detector.dark * detector.gain).astype(
            np.float32
        )
        self._steady = np.maximum(self._steady, 0)
        self._tau = detector.readout.tau
        self._per_gain = (1 / detector.gain).astype(np.float32)
        self._ceiling = np.where(detector.live, detector.saturation + HEADROOM, 65535).astype(np.float32)
        readout = detector.readout
        self._oof = OneOverF(
            effects.oof, readout.frame_clocks, readout.frame_clocks * timing.groups, readout.nout
        )
        self._sample = readout.output * self._oof.samples + readout.clock
        self._weights()

    def _weights(self) -> None:
        """Light per read time: what the white light curve of the truth is averaged over."""
        scene = self._scenes[0]
        along = self.detector.readout.clock // max(self.detector.readout.frame_clocks // 4096, 1)
        keys, where = np.unique(along, return_inverse=True)
        flux = (scene.source.astype(np.float64) * (self.detector.response > 0)).ravel()
        absorbed = flux * scene.depth.ravel()
        self._white_absorbed = np.bincount(where.ravel(), absorbed, keys.size) / flux.sum()
        count = np.bincount(where.ravel(), minlength=keys.size)
        self._white_tau = np.bincount(where.ravel(), self._tau.ravel(), keys.size) / count

    def pointing(self, number: int) -> tuple[float, float, float, bool]:
        """(dx, dy, dwidth, after the tilt event) of an integration, from the nominal position [pixel]."""
        effects = self.effects
        after = effects.tilt_at is not None and number >= effects.tilt_at
        step = effects.tilt if after else (0.0, 0.0, 0.0)
        progress = (number - 0.5) / self.timing.ints - 0.5
        white = stream(self.seed, "pointing", number).standard_normal(2) * effects.jitter
        dx = effects.drift[0] * progress + white[0] + step[0]
        dy = effects.drift[1] * progress + white[1] + step[1]
        return float(dx), float(dy), step[2], after

    def _image(self, dx: float, dy: float, dwidth: float, after: bool) -> NDArray[np.float32]:
        """Star's electrons per second in each pixel, ``[y, x]``, out of transit."""
        tilt = self.effects.tilt if after else (0.0, 0.0, 0.0)
        dx, dy = dx - tilt[0], dy - tilt[1]  # the scene after the event already has the step
        image = self._source[int(after)]
        factors = (dx, dy, dx * dx, dy * dy, dx * dy, dwidth)
        if not any(factors):
            return image
        image = image.copy()
        for factor, term in zip(factors, self._shifts[int(after)], strict=True):
            if factor:
                image += np.float32(factor) * term
        return np.maximum(image, 0, out=image)

    def flux_model(self, number: int) -> float:
        """White flux between the first and the last read, relative to that out of transit."""
        first, last = self._reads(number)
        fixed = self.transit.constant(first, last + self.timing.frame)
        if fixed is not None:
            return 1.0 - fixed * float(self._white_absorbed.sum())
        inside = self.transit.integral(last + self._white_tau) - self.transit.integral(
            first + self._white_tau
        )
        return 1.0 - float((self._white_absorbed * inside).sum()) / (last - first)

    def _reads(self, number: int) -> tuple[float, float]:
        """Return the times of the first and last read at tau = 0 (one group: of its reset and its read)."""
        start = self.timing.start(number)
        first = start if self.timing.groups > 1 else start - self.timing.frame
        return first, start + (self.timing.groups - 1) * self.timing.frame

    def _expected(self, number: int, image: NDArray[np.float32]):
        """Yield, group by group, the electrons expected since the previous read (first: since reset)."""
        frame, groups = self.timing.frame, self.timing.groups
        start = self.timing.start(number)
        depth = self._scenes[0].depth
        fixed = self.transit.constant(start - frame, start + groups * frame)
        if fixed is not None:
            light = image * (np.float32(1) - depth * np.float32(fixed)) if fixed else image
            plane = (light + self._steady) * np.float32(frame)
            for _ in range(groups):
                yield plane
            return
        before = self.transit.integral(start - frame + self._tau)
        for group in range(groups):
            now = self.transit.integral(start + group * frame + self._tau)
            seconds = frame - depth * (now - before)
            yield (image * seconds + self._steady * frame).astype(np.float32)
            before = now

    def _drifts(self, number: int) -> tuple[float, NDArray[np.float32], NDArray[np.float32] | float]:
        """Pedestal of the integration, offset per group and column parity ``[group, 2]``, reset noise."""
        if not self.effects.noise:
            return 0.0, np.zeros((self.timing.groups, 2), np.float32), 0.0
        rng = stream(self.seed, "reset", number)
        slow = 6.0 * np.sin(2 * np.pi * float(self.timing.start(number)) / 9000.0)
        pedestal = slow + 8.0 * rng.standard_normal()
        # columns of either parity wander together with the amplifiers, of the same origin as the 1/f noise
        groups = 0.3 * self.effects.oof * rng.standard_normal((self.timing.groups, 2)).astype(np.float32)
        shape = self.detector.bias.shape
        return pedestal, groups, self.detector.ktc * rng.standard_normal(shape, dtype=np.float32)

    def draw(self, number: int) -> tuple[NDArray[np.uint16], TruthRow]:
        """Draw one integration.

        Parameters
        ----------
        number
            1-based in the exposure.

        Returns
        -------
        ``[group, y, x]`` uint16 counts, and what was injected.
        """
        detector, effects, groups = self.detector, self.effects, self.timing.groups
        dx, dy, dwidth, after = self.pointing(number)
        pedestal, wander, ktc = self._drifts(number)
        photons = stream(self.seed, "photons", number)
        read = stream(self.seed, "read", number)
        oof = None
        if effects.noise and effects.oof > 0:
            oof = self._oof.draw(stream(self.seed, "oof", number)).ravel()
        rays = cosmic_rays(
            stream(self.seed, "cosmic", number),
            effects.cosmic_rate,
            (groups, *detector.bias.shape),
            self.timing.frame,
        )
        zero = detector.bias + ktc + np.float32(pedestal)
        electrons = np.zeros(detector.bias.shape, np.float32)
        counts = np.empty((groups, *detector.bias.shape), np.uint16)
        for group, expected in enumerate(self._expected(number, self._image(dx, dy, dwidth, after))):
            electrons += photons.poisson(expected) if effects.noise else expected
            hit = rays.group == group
            if hit.any():
                np.add.at(electrons, (rays.y[hit], rays.x[hit]), rays.electrons[hit].astype(np.float32))
                electrons[~detector.live] = 0
            value = detector.delinearise(electrons * self._per_gain)
            value += zero
            if detector.reset is not None and group < detector.reset.shape[1]:
                value += detector.reset[min(number - 1, 1), group]
            if effects.noise:
                value += detector.readnoise * read.standard_normal(value.shape, dtype=np.float32)
                value += np.where(detector.odd, wander[group, 1], wander[group, 0])
            if oof is not None:
                value += oof.take(self._sample + group * detector.readout.frame_clocks)
            np.minimum(value, self._ceiling, out=value)
            np.clip(np.rint(value, out=value), 0, 65535, out=value)
            counts[group] = value
        row = TruthRow(
            integration=number, flux_model=self.flux_model(number), transit=self._covered(number),
            dx=dx, dy=dy, dwidth=dwidth, pedestal=float(pedestal), n_cosmic=rays.n_hits,
            cosmic_electrons=float(rays.electrons.sum()), tilt_event=number == effects.tilt_at,
        )  # fmt: skip
        return counts, row

    def _covered(self, number: int) -> float:
        middle = self.timing.start(number) + self.timing.integration / 2
        return float(self.transit.covered(np.array(middle)))

"""One detector: its pixels' properties, drawn from the seed, and how it turns electrons into counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsostream.integration import dq
from tsostream.simulate.modes import Mode
from tsostream.simulate.noise import stream
from tsostream.simulate.readout import Readout, dark_columns, fast_index, reference_pixels, to_dms

__all__ = ["Detector", "build_detector"]


@dataclass(frozen=True)
class Detector:
    """The truth about every pixel; the reference files say the same, so calibration can undo it.

    All arrays are ``[y, x]`` float32 unless said otherwise.

    Parameters
    ----------
    bias
        Level of a reset pixel, fixed pattern included [DN].
    gain
        [electron/DN]
    readnoise
        Noise of a *single* read [DN] (reference files hold sqrt(2) times that).
    ktc
        Reset noise [DN], scalar.
    saturation
        Raw count beyond which the pixel is unusable [DN].
    c2, c3
        Linear signal = d + c2·d² + c3·d³ for a bias-subtracted signal d [1/DN, 1/DN²].
    dark
        Dark current [DN/s].
    flat
        Relative response to light.
    response
        What light does to the pixel: ``flat``, but 0 for reference pixels and nearly 0 for dead ones.
    live
        bool: not a reference pixel.
    mask, saturation_dq, linearity_dq, bias_dq, dark_dq
        uint32 DQ of the reference files.
    reset
        ``[integration, group, y, x]`` [DN], MIRI: what the reset leaves behind; first integration, later.
    """

    mode: Mode
    readout: Readout
    bias: NDArray[np.float32]
    gain: NDArray[np.float32]
    readnoise: NDArray[np.float32]
    ktc: float
    saturation: NDArray[np.float32]
    c2: NDArray[np.float32]
    c3: NDArray[np.float32]
    dark: NDArray[np.float32]
    flat: NDArray[np.float32]
    response: NDArray[np.float32]
    live: NDArray[np.bool_]
    odd: NDArray[np.bool_]
    mask: NDArray[np.uint32]
    saturation_dq: NDArray[np.uint32]
    linearity_dq: NDArray[np.uint32]
    bias_dq: NDArray[np.uint32]
    dark_dq: NDArray[np.uint32]
    reset: NDArray[np.float32] | None

    def delinearise(self, linear: NDArray[np.float32]) -> NDArray[np.float32]:
        """Solve d + c2·d² + c3·d³ = linear for d, the signal as the pixel's electronics see it [DN].

        Two Newton steps from a second-order start leave less than 0.01 DN up to full well.
        """
        d = linear / (np.float32(1) + self.c2 * np.maximum(linear, np.float32(0)))
        for _ in range(2):
            cubic = self.c3 * d
            value = d * (np.float32(1) + d * (self.c2 + cubic)) - linear
            d -= value / (np.float32(1) + d * (np.float32(2) * self.c2 + np.float32(3) * cubic))
        return d


def _bad_pixels(mode: Mode, rng: np.random.Generator, source: NDArray, live: NDArray) -> dict[str, NDArray]:
    """Choose bad pixels; in images none on the star's core, where a single one would decide everything."""
    allowed = np.flatnonzero(live & (source < 0.25) if mode.dispaxis == 0 else live)

    def pick(fraction: float) -> NDArray[np.bool_]:
        out = np.zeros(live.size, bool)
        if allowed.size:
            out[rng.choice(allowed, max(1, int(fraction * live.size)))] = True
        return out.reshape(live.shape)

    return {
        "dead": pick(6e-4), "hot": pick(1.2e-3), "very_hot": pick(2e-4), "no_sat": pick(1e-4),
        "no_lin": pick(1e-4), "bad_bias": pick(1e-4), "bad_dark": pick(1e-4),
    }  # fmt: skip


def build_detector(mode: Mode, seed: int, source: NDArray[np.float32], ramp: float) -> Detector:
    """Draw a detector's properties from the seed.

    Parameters
    ----------
    source
        ``[y, x]``: relative brightness of the scene; steers bad pixels away from an image's core.
    ramp
        Length of an integration [s]; the hottest pixels saturate at its end.
    """
    rng = stream(seed, "references")
    shape = (mode.ny, mode.nx)
    blind = reference_pixels(mode)
    live = ~blind
    odd = fast_index(mode) % 2 == 1

    def normal() -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    bias = mode.bias + 40 * normal() + np.where(odd, 60.0, -60.0)
    line = to_dms(
        np.broadcast_to(15 * rng.standard_normal(mode.n_slow)[:, None], (mode.n_slow, mode.n_fast)), mode
    )
    bias += line
    gain = mode.gain * (1 + 0.005 * normal())
    readnoise = mode.readnoise / np.sqrt(2) * np.exp(0.1 * normal())
    readnoise[blind] *= 0.8
    saturation = 57000 + 1200 * normal()
    c2 = 1.2e-6 * (1 + 0.1 * normal())
    c3 = np.zeros(shape) if mode.is_miri else 4e-12 * (1 + 0.1 * normal())
    dark = (0.05 if mode.is_miri else 0.008) * np.exp(0.3 * normal())
    flat = 1 + 0.006 * normal()

    bad = _bad_pixels(mode, rng, source, live)
    dark[bad["hot"]] += 12.0
    dark[bad["very_hot"]] += 60_000.0 / ramp
    response = np.where(live & ~dark_columns(mode), flat, 0.0)
    response[bad["dead"]] *= 0.02
    dark[blind] = 0
    c2[blind] = c3[blind] = 0

    def bits(*pairs: tuple[NDArray, int]) -> NDArray[np.uint32]:
        plane = np.zeros(shape, np.uint32)
        for where, value in pairs:
            plane[where] |= np.uint32(value)
        return plane

    reset = None
    if mode.is_miri:
        decay = 35 * np.exp(-np.arange(10) / 2.0)[:, None, None] * (1 + 0.1 * normal())
        share = np.where(live, 1.0, 0.2)
        reset = np.stack([decay * share, 0.6 * decay * share]).astype(np.float32)
    return Detector(
        mode=mode, readout=Readout.of(mode), bias=bias.astype(np.float32), gain=gain.astype(np.float32),
        readnoise=readnoise.astype(np.float32), ktc=4.0 if mode.is_miri else 12.0,
        saturation=saturation.astype(np.float32), c2=c2.astype(np.float32), c3=c3.astype(np.float32),
        dark=dark.astype(np.float32), flat=flat.astype(np.float32), response=response.astype(np.float32),
        live=live, odd=odd,
        mask=bits((blind, dq.REFERENCE_PIXEL), (bad["dead"], dq.DO_NOT_USE | dq.DEAD), (bad["hot"], dq.HOT),
                  (bad["very_hot"], dq.HOT | dq.DO_NOT_USE)),
        saturation_dq=bits((blind, dq.NO_SAT_CHECK), (bad["no_sat"], dq.NO_SAT_CHECK)),
        linearity_dq=bits((blind, dq.NO_LIN_CORR), (bad["no_lin"], dq.NO_LIN_CORR)),
        bias_dq=bits((bad["bad_bias"], dq.UNRELIABLE_BIAS)),
        dark_dq=bits((bad["bad_dark"], dq.UNRELIABLE_DARK)),
        reset=reset,
    )  # fmt: skip

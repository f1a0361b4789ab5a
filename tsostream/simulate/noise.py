"""Noise with a memory: 1/f along the read order, cosmic rays, and the random streams behind everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CosmicRays", "OneOverF", "cosmic_rays", "stream"]

#: what a random stream is for; each has its own, so that switching one effect off leaves the others alone
PURPOSES: Final = {"references": 1, "pointing": 2, "photons": 3, "read": 4, "oof": 5, "cosmic": 6, "reset": 7}

#: longest piece of 1/f noise made by one transform [samples]; longer ramps are made in overlapping pieces
PIECE: Final = 1 << 21

#: relative to the electrons of a hit: what its four and its diagonal neighbours get
SPILL: Final = 0.03
DIAGONAL: Final = 0.008


def stream(seed: int, purpose: str, integration: int = 0) -> np.random.Generator:
    """Random numbers that depend on seed, purpose and the absolute integration number only.

    Parameters
    ----------
    integration
        1-based number in the exposure; 0 for what all integrations share.
    """
    key = np.random.SeedSequence([int(seed), PURPOSES[purpose], int(integration)])
    return np.random.Generator(np.random.SFC64(key))


def _fast_length(n: int) -> int:
    """Smallest 2^a 3^b 5^c >= n, even, which the transform does quickly."""
    best = 1 << max(n - 1, 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 2
            while three * two < n:
                two *= 2
            best = min(best, three * two)
            three *= 3
        five *= 5
    return best


@dataclass
class OneOverF:
    """1/f noise of the detector's outputs, continuous over the samples and frames of one integration.

    Its power spectrum is A²/f, with A such that the RMS between one cycle per frame and the Nyquist
    frequency, what one sees within a frame, is ``level``. Slower drifts within the
    integration follow the same law.

    Parameters
    ----------
    level
        RMS within one frame [DN].
    frame
        Samples of one frame, overheads included: the clock runs on while nothing is converted.
    samples
        Samples of one integration.
    outputs
        Detector outputs, each with noise of its own.
    """

    level: float
    frame: int
    samples: int
    outputs: int
    _amplitude: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw ``[output, sample]`` [DN] for one integration."""
        out = np.empty((self.outputs, self.samples), np.float32)
        for k in range(self.outputs):
            self._fill(rng, out[k])
        return out

    def _periodic(self, rng: np.random.Generator, n: int, lowest: int = 1) -> NDArray[np.float32]:
        """One period of ``n`` samples; harmonics below ``lowest`` left out."""
        if n not in self._amplitude:
            harmonic = np.arange(n // 2 + 1, dtype=np.float64)
            harmonic[0] = np.inf
            unit = self.level / np.sqrt(np.log(self.frame / 2))
            self._amplitude[n] = (unit * n / 2 / np.sqrt(harmonic)).astype(np.float32)
        amplitude = self._amplitude[n]
        spectrum = rng.standard_normal(2 * amplitude.size, dtype=np.float32).view(np.complex64)
        spectrum *= amplitude
        spectrum[:lowest] = 0
        return np.asarray(np.fft.irfft(spectrum, n), np.float32)

    def _fill(self, rng: np.random.Generator, out: NDArray[np.float32]) -> None:
        n = out.size
        if n <= PIECE:
            # half as long again: the end of a period joins its beginning, and an integration's must not
            out[:] = self._periodic(rng, _fast_length(n + n // 2))[:n]
            return
        # slow part: one sample in 64, up to the frequency at which the pieces take over, joined by lines
        step, lowest = 64, 64
        coarse = _fast_length((n + n // 2) // step + 2)
        slow = self._slow(rng, coarse, step, lowest / PIECE)
        for start in range(0, n, PIECE):
            t = np.arange(start, min(start + PIECE, n)) / step
            out[start : start + PIECE] = np.interp(t, np.arange(coarse), slow)
        # fast part: pieces that fade into each other with constant power
        half = PIECE // 2
        fade = np.sin(np.pi / 2 * (np.arange(half, dtype=np.float32) + 0.5) / half)
        for start in range(-half, n, half):
            piece = self._periodic(rng, PIECE, lowest)
            piece[:half] *= fade
            piece[half:] *= fade[::-1]
            a, b = max(start, 0), min(start + PIECE, n)
            out[a:b] += piece[a - start : b - start]

    def _slow(self, rng: np.random.Generator, n: int, step: int, cut: float) -> NDArray[np.float64]:
        """Draw the part of the noise below ``cut`` [cycles/sample], one value per ``step`` samples."""
        harmonic = np.arange(n // 2 + 1, dtype=np.float64)
        harmonic[0] = np.inf
        unit = self.level / np.sqrt(np.log(self.frame / 2))
        amplitude = unit * n / 2 / np.sqrt(harmonic)
        amplitude[harmonic / (n * step) >= cut] = 0
        return np.fft.irfft(rng.standard_normal(2 * amplitude.size).view(np.complex128) * amplitude, n)


@dataclass(frozen=True)
class CosmicRays:
    """Hits of one integration, spill included.

    Parameters
    ----------
    group, y, x
        ``[hit]`` int64: first group whose read holds the charge (0-based), and the pixel.
    electrons
        ``[hit]`` float64: charge collected in that pixel.
    n_hits
        Number of particles (each may have given several entries).
    """

    group: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    electrons: NDArray[np.float64]
    n_hits: int


def cosmic_rays(
    rng: np.random.Generator, rate: float, shape: tuple[int, int, int], group_time: float
) -> CosmicRays:
    """Draw the cosmic rays of one integration.

    Deposited charge follows a power law, dN/dE ~ E^-1.7 between 150 and 150,000 electrons; arrivals are
    uniform over the time a pixel collects light, reset to last read, so some come before the first read.

    Parameters
    ----------
    rate
        Hits per pixel and second.
    shape
        (group, y, x).
    group_time
        [s]
    """
    n_groups, ny, nx = shape
    n = int(rng.poisson(rate * ny * nx * n_groups * group_time))
    group = rng.integers(0, n_groups, n)
    y, x = rng.integers(0, ny, n), rng.integers(0, nx, n)
    low, high, slope = 150.0, 150_000.0, -0.7
    energy = (low**slope + rng.uniform(size=n) * (high**slope - low**slope)) ** (1 / slope)
    parts = [(group, y, x, energy)]
    big = energy > 3000
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                share = DIAGONAL if dy and dx else SPILL
                parts.append((group[big], y[big] + dy, x[big] + dx, energy[big] * share))
    g, yy, xx, e = (np.concatenate(column) for column in zip(*parts, strict=True))
    inside = (yy >= 0) & (yy < ny) & (xx >= 0) & (xx < nx)
    return CosmicRays(g[inside], yy[inside], xx[inside], e[inside], n)

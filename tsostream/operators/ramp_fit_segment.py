"""ramp_fit over all integrations of a segment file, as the official OLS_C fitter does it (spec stage 1, section 21).

The weights come from each ramp's own signal, and the Poisson variance from the mean of the integrations' median
rates: both depend on where the archive cut the exposure, which is why only the parity scope uses this. Arithmetic is
in double precision, the weights' power in single precision, results are stored in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.operators.ramp_fit_charge_loss import charge_loss_weights, replace_read_variance
from tsostream.operators.ramp_fit_tables import fit_tables
from tsostream.operators.ramp_fit_walks import Pixels, Planes, Ramps, Setting, fit_segment
from tsostream.operators.rate_planes import RatePlanes, pixels_in_line
from tsostream.operators.window_fit import WindowFit

__all__ = ["SegmentFit"]

#: what stands for zero frames where there are none
NO_ZERO = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class SegmentFit(WindowFit):
    """The OLS_C fit, joined to a window of an exposure.

    Parameters
    ----------
    info, gain, read, dark
        As `WindowFit`.
    suppress_one_group
        As the step's parameter; ramps of one group are never suppressed.
    charge_loss
        Whether charge migration may have taken groups (21.8).
    """

    suppress_one_group: bool = True
    charge_loss: bool = False

    def run(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        pixeldq: np.ndarray,
        out: RatePlanes,
        rate: RatePlanes,
        window: tuple[int, int, int, int],
        groups: tuple[int, int] | None = None,
        zero: np.ndarray | None = None,
    ) -> None:
        """Fit a window as `WindowFit.run`; of several rows the pixels between ``x1`` and ``x0`` are fitted along."""
        ngroups, (y0, y1, x0, x1) = data.shape[1], window
        setting, noise = self._setting(ngroups, groups or (0, ngroups)), self._noise()
        ramps = Ramps(
            pixels_in_line(data), pixels_in_line(groupdq), NO_ZERO if zero is None else pixels_in_line(zero)
        )
        pixels = Pixels(*(pixels_in_line(one) for one in (pixeldq, self.gain, noise, self.dark)))
        results, mean = (Planes(*(pixels_in_line(one) for one in planes.arrays())) for planes in (out, rate))
        nx = data.shape[3]
        span = (y0 * nx + x0, (y1 - 1) * nx + x1)
        if not self.charge_loss:
            fit_segment(ramps, pixels, setting, results, mean, *span)
            return
        lost = np.empty((len(data), y1 - y0, x1 - x0))
        charge_loss_weights(
            groupdq, self.gain, noise, setting.times, setting.suppress, setting.g0, setting.g1, lost, *window
        )
        fit_segment(ramps, pixels, setting, results, mean, *span)
        replace_read_variance(lost, out.var_rnoise, rate.var_rnoise, *window)

    def _noise(self) -> np.ndarray:
        """Noise of one group; float32 [y, x] [e-]."""
        scale = self.gain.astype(np.float64) / np.sqrt(2.0 * self.info.nframes)
        return np.asarray((self.read * scale).astype(np.float32))

    def _setting(self, ngroups: int, groups: tuple[int, int]) -> Setting:
        """Tables and times for the groups in use."""
        info = self.info
        tgroup, tframe = float(np.float32(info.group_time)), float(np.float32(info.frame_time))
        times = np.array([tgroup, (info.nframes + 1.0) * tframe / 2.0, tframe])
        # a ramp of one group is never suppressed, whatever was discarded later
        suppress = self.suppress_one_group and ngroups > 1
        return Setting(*fit_tables(groups[1] - groups[0]), times, suppress, *groups)

"""What clean_flicker_noise looks at in all integrations of a file: the official scope (stage 1, 17.1, 17.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.operators.base import Binding
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.flicker import Cleaner, Work
from tsostream.operators.flicker_mask import scene_mask

__all__ = ["SegmentFlicker", "bind_segment"]


@dataclass(frozen=True)
class SegmentFlicker:
    """The step, joined to the whole frames of a file.

    Parameters
    ----------
    operator
        Its parameters.
    cleaner
        How one integration is cleaned.
    allowed : bool [y, x]
        What can be background as far as known regions tell.
    user : bool [y, x] or [integration, y, x]
        The user's mask instead of any other.
    """

    operator: CleanFlickerNoise
    cleaner: Cleaner
    allowed: np.ndarray
    user: np.ndarray | None = None

    @property
    def single_mask(self) -> bool:
        """Whether one mask serves all integrations."""
        return self.operator.single_mask and not self.against_median

    @property
    def against_median(self) -> bool:
        """Whether the median of the file's ramps is taken out first."""
        return self.operator.background_method == "median_image"

    def scene(self, slopes: np.ndarray) -> np.ndarray:
        """Background by draft slopes, float32 [y, x], of the file or of an integration; bool [y, x]."""
        return scene_mask(
            slopes / self.cleaner.flat,
            self.operator.n_sigma,
            self.allowed,
            fit_histogram=self.operator.fit_histogram,
        )

    def working_arrays(self) -> Work:
        """Make working arrays of an integration."""
        shapes = self.cleaner.scratch().items()
        arrays = {name: np.empty((1, *shape), kind) for name, (shape, kind) in shapes}
        return self.cleaner.work(arrays, 0)

    def clean(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        scene: np.ndarray,
        work: Work,
        expected: Callable[[int], np.ndarray] | None = None,
        background: np.ndarray | None = None,
    ) -> bool:
        """Clean one integration.

        Parameters
        ----------
        data, groupdq : float32, uint8 [group, y, x]
            Ramp after the jump search; the signal is changed in place.
        scene : bool [y, x]
            Background.
        work
            Working arrays.
        expected
            With the median of the file: what group g should be, float64 [y, x].
        background : float32 [group, y, x]
            The backgrounds are written here, if it is given.

        Returns
        -------
        bool
            False where the official step gives the file back as it came.
        """
        if expected is not None:
            return self.cleaner.clean_against(data, expected, scene, work, background)
        return self.cleaner.clean(data, groupdq, scene, work, background)


def bind_segment(operator: CleanFlickerNoise, binding: Binding) -> SegmentFlicker | str:
    """Join the step to an exposure, or say why it does nothing.

    Raises
    ------
    ConfigError
        For what is not supported or not known.
    """
    info = binding.info
    if reason := operator.unsuited(info):
        return reason
    user = binding.templates.get("user_mask")
    if user is not None:
        if user.shape[-2:] != info.frame_shape or user.ndim > 3:
            what = f"user_mask has shape {user.shape}, the exposure {info.frame_shape}"
            raise ConfigError(
                Problem(what, str(operator.user_mask), "give a mask of this subarray", "parameter")
            )
        user = np.ascontiguousarray(user.astype(bool))
    return SegmentFlicker(
        operator, operator.cleaner(info, binding.references), operator.allowed(binding), user
    )

"""Naive twins of the kernels: the specification's words in double precision, one pixel after the other.

They share no code with the kernels, have no fast path and no tricks, and are far too slow for anything but
tests. `TWINS` says which twin answers for which kernel; a test looks that none is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsostream.testing.naive.aperture import measure_columns, solve_system
from tsostream.testing.naive.corrections import CORRECTION_TWINS
from tsostream.testing.naive.jumps import flag_jumps
from tsostream.testing.naive.ramps import (
    decode_words,
    evaluate_polynomial,
    flag_last_group,
    flag_mask,
    saturate,
    subtract_numbered,
    subtract_static,
)
from tsostream.testing.naive.slopes import fit_all, flux_ratio, poisson_and_error, scale_slopes
from tsostream.testing.naive.statistics import (
    circle_overlap,
    middle_value,
    robust_stack,
    sort_columns,
)

__all__ = ["TWINS"]

#: ``module.kernel`` below ``tsostream.operators`` -> the twin that answers for it
TWINS: dict[str, Callable[..., Any]] = {
    **CORRECTION_TWINS,
    "decode.decode_samples": decode_words,
    "dq_init.flag_masked": flag_mask,
    "saturation.find_first_saturated": saturate,
    "saturation.grow_saturated": saturate,
    "saturation.find_spilled": saturate,
    "saturation.flag_spilled": saturate,
    "saturation.flag_second_group": saturate,
    "superbias.subtract_plane": subtract_static,
    "linearity.linearize": evaluate_polynomial,
    "group_planes.subtract_groups": subtract_numbered,
    "lastframe.flag_group": flag_last_group,
    "jump._difference": flag_jumps,
    "sorting.short_median": middle_value,
    "jump._robust_level": flag_jumps,
    "jump._flag_pixel": flag_jumps,
    "jump.find_jumps": flag_jumps,
    "jump.flag_neighbours": flag_jumps,
    "jump.flag_after_jumps": flag_jumps,
    "ramp_fit.weight_power": fit_all,
    "ramp_fit.choose_weights": fit_all,
    "ramp_fit._fit_segment": fit_all,
    "ramp_fit._next_segment": fit_all,
    "ramp_fit._fit_flagged": fit_all,
    "ramp_fit.fit_ramps": fit_all,
    "ramp_fit.flux_scale": flux_ratio,
    "ramp_fit.finish_variance": poisson_and_error,
    "gain_scale.scale_rate": scale_slopes,
    "sorting.sort_lanes": sort_columns,
    "sorting._quantile": robust_stack,
    "sorting.stack_statistics": robust_stack,
    "circle._segment_area": circle_overlap,
    "circle._quadrant_overlap": circle_overlap,
    "circle.circle_weights": circle_overlap,
    "aperture.measure.solve_symmetric": solve_system,
    "aperture.measure._usable": measure_columns,
    "aperture.measure._measure_ground": measure_columns,
    "aperture.measure._fit_template": measure_columns,
    "aperture.measure.measure": measure_columns,
}

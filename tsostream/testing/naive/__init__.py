"""Naive twins of the kernels: the specification's words in double precision, one pixel after the other.

They share no code with the kernels, have no fast path and no tricks, and are far too slow for anything but
tests. `TWINS` says which twin answers for which kernel; a test looks that none is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsostream.testing.naive.aperture import measure_columns, solve_system
from tsostream.testing.naive.calibration import CALIBRATION_TWINS
from tsostream.testing.naive.corrections import CORRECTION_TWINS
from tsostream.testing.naive.events import EVENT_TWINS
from tsostream.testing.naive.extraction import fit_column, sum_of_columns
from tsostream.testing.naive.jumps import flag_jumps
from tsostream.testing.naive.likelihood import fit_likelihood
from tsostream.testing.naive.outliers import OUTLIER_TWINS
from tsostream.testing.naive.photometry import aperture_image, centre_of_mass, gaussian_in_box
from tsostream.testing.naive.ramps import (
    decode_words,
    evaluate_polynomial,
    flag_last_group,
    flag_mask,
    saturate,
    subtract_numbered,
    subtract_static,
)
from tsostream.testing.naive.segments import (
    charge_loss_variance,
    clip_list,
    fit_pixel,
    flag_segment,
    planes_alive,
)
from tsostream.testing.naive.slopes import fit_all, flux_ratio, poisson_and_error, scale_slopes
from tsostream.testing.naive.soss import SOSS_TWINS
from tsostream.testing.naive.statistics import (
    circle_overlap,
    middle_value,
    robust_stack,
    sort_columns,
)
from tsostream.testing.naive.waves import WAVE_TWINS

__all__ = ["TWINS"]

#: ``module.kernel`` below ``tsostream.operators`` -> the twin that answers for it
TWINS: dict[str, Callable[..., Any]] = {
    **CALIBRATION_TWINS,
    **CORRECTION_TWINS,
    **EVENT_TWINS,
    **OUTLIER_TWINS,
    **SOSS_TWINS,
    **WAVE_TWINS,
    "decode.decode_plane": decode_words,
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
    "jump_screen.fill_ramp_differences": flag_jumps,
    "jump_screen.find_extremes": flag_jumps,
    "jump_screen.screen_span": flag_jumps,
    "jump_screen.count_bracket": flag_jumps,
    "jump_screen.screen_bracket": flag_jumps,
    "jump.flag_neighbours": flag_jumps,
    "jump.flag_after_jumps": flag_jumps,
    "jump_marks.electrons": flag_segment,
    "jump_marks.fill_differences": flag_segment,
    "jump_marks.list_moments": flag_segment,
    "jump_marks.bracket_median": flag_segment,
    "jump_marks._select": flag_segment,
    "jump_marks.median_of": flag_segment,
    "jump_clip._bounds": clip_list,
    "jump_clip._suspects": clip_list,
    "jump_clip._flag_batch": clip_list,
    "jump_clip.clip_integrations": flag_segment,
    "jump_clip._joint_median": flag_segment,
    "jump_clip._set_flags": flag_segment,
    "jump_within._sorted_sizes": flag_segment,
    "jump_within._middle": flag_segment,
    "jump_within._distance": flag_segment,
    "jump_within._lane_median": flag_segment,
    "jump_within._flag_lane": flag_segment,
    "jump_within._search": flag_segment,
    "jump_within._single_pass": flag_segment,
    "jump_within._suspects": flag_segment,
    "jump_within.flag_within": flag_segment,
    "jump_segment.spread_seeds": flag_segment,
    "jump_segment.clear_seeds": flag_segment,
    "jump_segment.flag_after_segment": flag_segment,
    "jump_segment.living_planes": planes_alive,
    "ramp_fit_charge_loss._segment_weights": charge_loss_variance,
    "ramp_fit_charge_loss.charge_loss_weights": charge_loss_variance,
    "ramp_fit_charge_loss.replace_read_variance": charge_loss_variance,
    "ramp_fit_segment.read_variance": fit_pixel,
    "ramp_fit_segment._weighted_slope": fit_pixel,
    "ramp_fit_segment._segment_from": fit_pixel,
    "ramp_fit_segment._longest_segment": fit_pixel,
    "ramp_fit_segment._median_rate": fit_pixel,
    "ramp_fit_segment._fit_flagged": fit_pixel,
    "ramp_fit_segment._error_variance": fit_pixel,
    "ramp_fit_segment._fit_clean_row": fit_pixel,
    "ramp_fit_segment._fit_flagged_pixel": fit_pixel,
    "ramp_fit_segment._prepare_row": fit_pixel,
    "ramp_fit_segment._add_plain": fit_pixel,
    "ramp_fit_segment.fit_segment": fit_pixel,
    "ramp_fit_segment._photon_level": fit_pixel,
    "ramp_fit_segment._finish_row": fit_pixel,
    "likelihood._differences": fit_likelihood,
    "likelihood._middle_rate": fit_likelihood,
    "likelihood_solve.solve_lanes": fit_likelihood,
    "likelihood_solve._invert": fit_likelihood,
    "likelihood_solve._drop_worst": fit_likelihood,
    "likelihood_solve._screen": fit_likelihood,
    "likelihood_solve.has_no_root": fit_likelihood,
    "likelihood_solve.search_drops": fit_likelihood,
    "likelihood_solve.slope_noise": fit_likelihood,
    "likelihood._row_bits": fit_likelihood,
    "likelihood.fit_likely": fit_likelihood,
    "ramp_slopes.weight_power": fit_all,
    "ramp_slopes.choose_classes": fit_all,
    "ramp_slopes._common_groups": fit_all,
    "ramp_slopes._collect_flags": fit_all,
    "ramp_slopes._rise_of_row": fit_all,
    "ramp_slopes._fit_segment": fit_all,
    "ramp_slopes._next_segment": fit_all,
    "ramp_slopes._fit_flagged": fit_all,
    "ramp_slopes.fit_ramps": fit_all,
    "flux.flux_scale": flux_ratio,
    "ramp_slopes.finish_variance": poisson_and_error,
    "gain_scale.scale_rate": scale_slopes,
    "sorting.sort_lanes": sort_columns,
    "sorting._quantile": robust_stack,
    "sorting.stack_statistics": robust_stack,
    "circle._segment_area": circle_overlap,
    "circle._quadrant_overlap": circle_overlap,
    "circle.circle_weights": circle_overlap,
    "circle.pixel_weight": circle_overlap,
    "photometry.official._box": centre_of_mass,
    "photometry.official._ground_level": centre_of_mass,
    "photometry.official.centroids": centre_of_mass,
    "photometry.official._profile": gaussian_in_box,
    "photometry.official._residuals": gaussian_in_box,
    "photometry.official._fit": gaussian_in_box,
    "photometry.official.fit_gaussians": gaussian_in_box,
    "photometry.official.aperture_sums": aperture_image,
    "aperture.solving.solve_symmetric": solve_system,
    **dict.fromkeys(
        (
            "aperture.measure.robust_level",
            "aperture.measure._measure_ground",
            "aperture.measure._sum_column",
            "aperture.measure.measure",
        ),
        measure_columns,
    ),
    **dict.fromkeys(
        (
            "aperture.closing.take_ratios",
            "aperture.closing.note_flags",
            "aperture.closing.close_columns",
        ),
        measure_columns,
    ),
    **dict.fromkeys(
        (
            "aperture.solving.is_usable",
            "aperture.solving.add_pixel",
            "aperture.solving.solve_template",
            "aperture.solving.gather_template",
            "aperture.solving.pixel_is_far",
            "aperture.solving.write_fit",
            "aperture.solving.fit_template",
        ),
        measure_columns,
    ),
    **dict.fromkeys(
        (
            "aperture.strip_sums._make_work",
            "aperture.strip_sums._turn",
            "aperture.strip_sums._sample_run",
            "aperture.strip_sums._set_starts",
            "aperture.strip_sums._add_ground",
            "aperture.strip_sums._measure_ground",
            "aperture.strip_sums._add_source",
            "aperture.strip_sums._add_flat",
            "aperture.strip_sums._add_terms",
            "aperture.strip_sums._sum_source",
            "aperture.strip_sums._note_pixels",
            "aperture.strip_sums._start_equations",
            "aperture.strip_sums._any_far",
            "aperture.strip_sums._drop_far",
            "aperture.strip_sums._fit_strips",
            "aperture.strip_sums._start_columns",
            "aperture.strip_sums._finish_columns",
            "aperture.strip_sums.measure_strips",
        ),
        measure_columns,
    ),
    "spectral.fitting._take_pixel": fit_column,
    "spectral.fitting._set_terms": fit_column,
    "spectral.fitting.fit_columns": fit_column,
    "spectral.columns.sum_bins": sum_of_columns,
}

"""refpix: subtract what the reference pixels see, group by group (spec stage 1, section 9).

Which pixels are read, which list they belong to and which columns a list corrects never change during an
exposure, so all of it is worked out once: the pass over whole frames reads nothing but reference pixels and
leaves two short profiles per group, one along x and one along y, which the pass over rows subtracts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator, Part, RowPass
from tsostream.operators.refpix_layout import FULL, Layout, Sides, edge_layout, pooled_layout, side_tables
from tsostream.operators.refpix_levels import mean_levels, side_levels, spread_levels, subtract_profiles
from tsostream.operators.tile import Tile
from tsostream.operators.zeroframe import restore_zeros, zero_scratch

__all__ = ["Refpix"]


@dataclass(frozen=True, kw_only=True)
class Refpix(Operator):
    """Subtract the level of the reference pixels from each group of near-infrared ramps.

    With one output: one level per parity of the detector columns. With four: one per output and parity, then
    row by row a running median of the side pixels. Nothing is done to MIRI: the official step leaves its
    subarrays alone and the official time-series configuration its full frames.

    Parameters
    ----------
    odd_even_columns
        Separate levels for odd and even detector columns.
    use_side_ref_pixels
        Four outputs: also correct each row.
    side_smoothing_length
        Rows in the running median; an even number looks one row further back than ahead.
    side_gain
        Factor of the row correction.
    siglimit
        Reference pixels further from their mean are left out [sigma].
    refpix_algorithm
        Only matters for full frames, where ``sirs`` is refused.
    odd_even_rows, ovr_corr_mitigation_ftr, preserve_irs2_refpix, irs2_mean_subtraction, sigreject,
    gaussmooth, halfwidth
        Of readouts that time series do not use; accepted so that parameter files load, without effect.
    """

    name: ClassVar[str] = "refpix"

    odd_even_columns: bool = True
    use_side_ref_pixels: bool = True
    side_smoothing_length: Annotated[int, msgspec.Meta(ge=1, le=2047)] = 11
    side_gain: float = 1.0
    odd_even_rows: bool = True
    ovr_corr_mitigation_ftr: float = 3.0
    preserve_irs2_refpix: bool = False
    irs2_mean_subtraction: bool = False
    refpix_algorithm: Literal["median", "sirs"] = "median"
    sigreject: float = 4.0
    gaussmooth: float = 1.0
    halfwidth: int = 30
    siglimit: Annotated[float, msgspec.Meta(gt=0)] = 3.0

    def bind(self, binding: Binding) -> BoundRampStep:
        """Find the reference pixels in the mask and decide what each corrects."""
        info, plane = binding.info, binding.dq_plane
        reason = self._unsuited(info)
        if reason:
            return BoundRampStep(self.name, plane, skipped=reason)
        four = info.noutputs == 4 or (info.nx, info.ny) == (FULL, FULL)
        choose = edge_layout if four else pooled_layout
        layout = choose(info, plane, odd_even=self.odd_even_columns)
        sides = None
        if four and self.use_side_ref_pixels:
            sides = side_tables(info, plane, layout, self.side_smoothing_length, self.side_gain)
        if sides is None and not layout.halves.size:
            return BoundRampStep(self.name, plane, skipped="no usable reference pixels")
        find = partial(
            _find,
            layout=layout,
            sides=sides,
            limit=float(self.siglimit),
            swapped=abs(info.fastaxis) == 2,
            single=not four and binding.official_rounding,
        )
        # four outputs: the official step subtracts in double precision
        dtype = np.float64 if four else np.float32
        scratch: dict[str, Any] = {
            "refpix.along_x": ((info.ngroups, info.nx), dtype),
            "refpix.along_y": ((info.ngroups, info.ny), dtype),
            "refpix.levels": ((info.ngroups, max(1, len(layout.halves))), np.float64),
        }
        passes = [
            RowPass(find, frame=True, part=Part("levels", {"pixels": _pixels_read(layout, sides)})),
            RowPass(_subtract, part=Part("profiles")),
        ]
        if info.zeroframe:
            scratch |= {
                **zero_scratch(info),
                "refpix.zero_x": ((1, info.nx), dtype),
                "refpix.zero_y": ((1, info.ny), dtype),
                "refpix.zero_levels": ((1, max(1, len(layout.halves))), np.float64),
                "refpix.zero": (info.frame_shape, np.float32),
            }
            passes[:1] = [RowPass(partial(_find_all, find=find), frame=True)]
            passes.append(RowPass(_subtract_from_zero))
        return BoundRampStep(self.name, plane, tuple(passes), scratch)

    def _unsuited(self, info: ExposureInfo) -> str:
        """Say why the step does nothing; raise when it should do something that is not supported."""
        if info.is_miri:
            return "not used for MIRI time series"
        if info.header.get("MSTR_RD1") or "IRS2" in info.readpatt.upper():
            what = "refpix does not support multistripe and IRS2 readouts"
            raise ConfigError(Problem(what, todo="skip refpix", code="unsupported"))
        if self.refpix_algorithm == "sirs" and "FULL" in info.subarray.upper():
            raise ConfigError(
                Problem("refpix_algorithm 'sirs' is not supported", todo="use 'median'", code="unsupported")
            )
        low_x, low_y = info.xstart - 1, info.ystart - 1
        if low_x < 0 or low_y < 0 or low_x + info.nx > FULL or low_y + info.ny > FULL:
            return "the subarray does not lie on the detector"
        return ""


def _pixels_read(layout: Layout, sides: Sides | None) -> np.ndarray:
    """(y, x) of all pixels that are looked at; int [pixel, 2]."""
    pixels = [np.stack([layout.rows, layout.columns], axis=1).astype(np.int64)]
    if sides is not None:
        pixels.append(sides.pixels[sides.pixels[..., 0] >= 0].astype(np.int64))
    return np.unique(np.concatenate(pixels), axis=0)


def _find(
    tile: Tile,
    y0: int,
    y1: int,
    *,
    layout: Layout,
    sides: Sides | None,
    limit: float,
    swapped: bool,
    single: bool,
    zero: bool = False,
) -> None:
    name = "refpix.zero_" if zero else "refpix."
    levels = tile.scratch[f"{name}levels"]
    along_fast, along_slow = (
        tile.scratch[f"{name}{axis}"] for axis in (("x", "y") if zero else ("along_x", "along_y"))
    )
    if swapped:
        along_fast, along_slow = along_slow, along_fast
    data = tile.scratch["zeroframe"][:, None] if zero else tile.data
    mean_levels(data, layout.rows, layout.columns, layout.bounds, layout.halves, limit, single, levels)
    spread_levels(levels, layout.level_of, along_fast)
    if sides is None:
        along_slow[:] = 0.0
        return
    side_levels(
        data, levels, sides.pixels, sides.level_of, sides.windows, sides.pairs, sides.gain, along_slow
    )


def _find_all(tile: Tile, y0: int, y1: int, *, find: Callable[..., None]) -> None:
    find(tile, y0, y1)
    find(tile, y0, y1, zero=True)


def _subtract(tile: Tile, y0: int, y1: int) -> None:
    subtract_profiles(tile.data, tile.scratch["refpix.along_x"], tile.scratch["refpix.along_y"], y0, y1)


def _subtract_from_zero(tile: Tile, y0: int, y1: int) -> None:
    zero, before = tile.scratch["zeroframe"], tile.scratch["refpix.zero"]
    before[:, y0:y1] = zero[:, y0:y1]
    subtract_profiles(zero[:, None], tile.scratch["refpix.zero_x"], tile.scratch["refpix.zero_y"], y0, y1)
    restore_zeros(zero, before, y0, y1)

"""Several steps in one walk give the same bits as the steps one after the other.

The steps themselves are tested against their twins (`decode_words`, `flag_mask`, `saturate`, `subtract_static`,
`subtract_numbered`, `evaluate_polynomial`) where they stand; here a chain is the twin of the walk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.banded import band
from tsostream.operators.base import BoundRampStep, RowPass
from tsostream.operators.dark_current import DarkCurrent
from tsostream.operators.decode import decode_pass
from tsostream.operators.dq_init import DqInit
from tsostream.operators.fused import fuse, fuse_levels
from tsostream.operators.group_scale import GroupScale
from tsostream.operators.jump import Jump
from tsostream.operators.lastframe import Lastframe
from tsostream.operators.linearity import Linearity
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.refpix import Refpix
from tsostream.operators.reset import Reset
from tsostream.operators.saturation import Saturation
from tsostream.operators.superbias import Superbias
from tsostream.operators.tile import Tile, empty_rate, make_scratch, run_passes
from tsostream.testing.builders import make_binding, make_info, make_times

NEAR = (DqInit, Saturation, Superbias, Refpix, Linearity, DarkCurrent)
MIRI = (DqInit, Saturation, Lastframe, Reset, Linearity, DarkCurrent)
Named = list[tuple[str, RowPass]]


def bind(kinds: tuple[Any, ...], info: ExposureInfo, rng: np.random.Generator) -> list[BoundRampStep]:
    return [kind().bind(make_binding(kind, info, rng, share=0.02)) for kind in kinds]


def chain(steps: list[BoundRampStep]) -> Named:
    return [("decode", decode_pass), *((step.name, one) for step in steps for one in step.passes)]


def words(
    info: ExposureInfo, rng: np.random.Generator, count: int, light: np.ndarray | float = 1.0
) -> np.ndarray:
    """Ramps that rise, some until they saturate, some with samples at the floor; as they stand in a file."""
    shape = (count, info.ngroups, *info.frame_shape)
    slope = np.where(rng.random(shape[2:]) < 0.05, 30000.0, rng.uniform(0, 2000, shape[2:]))
    level = 1000 + slope * (light * np.arange(info.ngroups))[:, None, None] + rng.normal(0, 20, shape)
    level[rng.random(shape) < 0.003] = 0
    samples = np.clip(level, 0, 65535).astype(np.uint16)
    return (samples ^ np.uint16(0x8000)).byteswap()


def with_hits(raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cosmic rays large enough to spread to neighbours, at the edges of bands too."""
    samples = raw.byteswap() ^ np.uint16(0x8000)
    for _ in range(samples[0, 0].size // 20):
        i, g = rng.integers(samples.shape[0]), rng.integers(samples.shape[1])
        y, x = rng.integers(samples.shape[2]), rng.integers(samples.shape[3])
        later = samples[i, g:, y, x].astype(np.int64) + rng.integers(200, 5000)
        samples[i, g:, y, x] = np.clip(later, 0, 65535)
    return (samples ^ np.uint16(0x8000)).byteswap()


def walk(raw: np.ndarray, steps: list[BoundRampStep], named: Named, rows: int, first: int) -> Tile:
    data, groupdq = np.full(raw.shape, np.nan, np.float32), np.full(raw.shape, 255, np.uint8)
    rate = empty_rate((len(raw), *raw.shape[2:]), first, make_times(len(raw)))
    tile = Tile(first, raw, data, groupdq, rate, make_scratch(steps, len(raw)))
    run_passes(tile, [one for _, one in named], raw.shape[2], rows)
    return tile


@pytest.mark.parametrize("miri", [False, True], ids=["near", "miri"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(1, 6),
    nx=st.sampled_from([9, 72, 515]),
    rows=st.integers(1, 8),
    first=st.integers(1, 3),
)
def test_same_bits_as_step_by_step(
    miri: bool, seed: int, ngroups: int, nx: int, rows: int, first: int
) -> None:
    rng = np.random.default_rng(seed)
    mode = "MIR_LRS-SLITLESS" if miri else "NRS_BRIGHTOBJ"
    info = make_info(mode, ny=8, nx=nx, ngroups=ngroups)
    steps = bind(MIRI if miri else NEAR, info, rng)
    named, raw = chain(steps), words(info, rng, 2)
    together = fuse(named)
    assert len(together) < len(named) - 3
    one, other = walk(raw, steps, named, rows, first), walk(raw, steps, together, rows, first)
    np.testing.assert_array_equal(one.groupdq, other.groupdq)
    np.testing.assert_array_equal(one.data.view(np.uint32), other.data.view(np.uint32))


@pytest.mark.parametrize("miri", [False, True], ids=["near", "miri"])
@pytest.mark.parametrize("spread", [False, True])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.sampled_from([2, 3, 4, 5, 7, 13]),
    rows=st.integers(1, 8),
    suppress=st.booleans(),
    fades=st.booleans(),
)
def test_slopes_of_bands_have_the_same_bits(
    miri: bool, spread: bool, seed: int, ngroups: int, rows: int, suppress: bool, fades: bool
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("MIR_LRS-SLITLESS" if miri else "NRS_BRIGHTOBJ", ny=8, nx=72, ngroups=ngroups)
    steps = bind(MIRI if miri else NEAR, info, rng)
    steps.append(Jump(flag_4_neighbors=spread).bind(make_binding(Jump, info, rng)))
    steps.append(RampFit(suppress_one_group=suppress).bind(make_binding(RampFit, info, rng)))
    light = 1.0 - fades * np.linspace(0.0, 0.4, ngroups)
    named, raw = chain(steps), with_hits(words(info, rng, 2, light), rng)
    together = band(fuse(named))
    assert "band" in [name for name, _ in together]
    one, other = walk(raw, steps, named, rows, 1), walk(raw, steps, together, rows, 1)
    assert one.rate is not None
    assert other.rate is not None
    for name in ("data", "err", "var_poisson", "var_rnoise", "dq"):
        bits, found = (getattr(rate, name).view(np.uint32) for rate in (one.rate, other.rate))
        np.testing.assert_array_equal(bits, found, err_msg=name)
    if ngroups > 2:
        for name in ("jump.samples", "jump.light", "jump.changes"):
            np.testing.assert_array_equal(one.scratch[name], other.scratch[name], err_msg=name)
        assert one.scratch["jump.changes"].any() or not fades or ngroups < 5


def test_groups_that_are_left_out_are_fitted_step_by_step() -> None:
    info, rng = make_info(ny=8, nx=16, ngroups=6), np.random.default_rng(1)
    steps = bind((*NEAR, Jump), info, rng)
    steps.append(RampFit(firstgroup=1, lastgroup=4).bind(make_binding(RampFit, info, rng)))
    together = fuse(chain(steps))
    assert band(together) == together


def test_what_cannot_be_done_together_stays_as_it_is() -> None:
    info, rng = make_info(ny=8, nx=16, ngroups=4), np.random.default_rng(1)
    named = chain(bind(NEAR, info, rng))
    # another step in between, a pass of its own before them, a level of saturation that is no level
    odd = [*named[:3], ("odd", RowPass(lambda tile, y0, y1: None)), *named[3:]]
    assert fuse(odd) == odd
    several = make_info(ny=8, nx=16, ngroups=4, nframes=4)
    scaled = chain(bind((GroupScale, *NEAR), several, rng))
    assert fuse(scaled) == scaled
    part = named[2][1].part
    assert part is not None
    part.arrays["threshold"][3, 3] = -5.0
    assert fuse(named) == named


def test_levels_of_reference_pixels_alone() -> None:
    info, rng = make_info(ny=8, nx=64, ngroups=4), np.random.default_rng(2)
    steps = bind((DqInit, Saturation, Superbias, Refpix), info, rng)
    passes = [one for _, one in chain(steps)]
    until = next(number for number, one in enumerate(passes) if one.frame) + 1
    raw = words(info, rng, 3)
    alone = fuse_levels(passes[:until])
    assert len(alone) == 1
    tables = []
    for chosen in (passes[:until], alone):
        tile = walk(raw, steps, [("", one) for one in chosen], 3, 1)
        tables.append((tile.scratch["refpix.along_x"], tile.scratch["refpix.along_y"]))
    for one, other in zip(*tables, strict=True):
        np.testing.assert_array_equal(one, other)

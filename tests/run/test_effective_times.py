"""dt_eff_s: read times across the detector, and ramps that do not use all of their groups."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tsostream.integration import dq
from tsostream.run.readout import _middle, effective_times
from tsostream.testing.builders import make_info


def extract(ny: int, nx: int, rows: slice) -> SimpleNamespace:
    """An aperture of some rows in every column, all weights one."""
    y, x = np.mgrid[:ny, :nx]
    pixel = np.concatenate([(y * nx + x)[rows, c] for c in range(nx)])
    count = len(range(*rows.indices(ny)))
    aperture = SimpleNamespace(
        start=np.arange(nx + 1) * count,
        pixel=pixel,
        weight=np.ones(pixel.size),
        shape=np.ones((pixel.size, 5)),
    )
    return SimpleNamespace(aperture=aperture, keys=((1, 0),))


def test_soss_reads_the_blue_end_first() -> None:
    """FASTAXIS -2, SLOWAXIS -1: column 2047 at once, column 0 after 2047 columns of 268 samples."""
    info = make_info(
        "NIS_SOSS",
        ny=256,
        nx=2048,
        subarray="SUBSTRIP256",
        xstart=1,
        ystart=1793,
        frame_time=5.494,
        noutputs=1,
    )
    (times,) = effective_times(info, extract(256, 2048, slice(100, 101)))
    assert times[2047] == pytest.approx(155e-5 - 5.494 / 2, abs=1e-9)
    assert times[0] - times[2047] == pytest.approx(2047 * 268e-5, abs=1e-9)


def test_shortened_ramps_are_earlier_and_those_without_first_groups_later() -> None:
    groups = np.zeros((6, 1, 5), np.uint8)
    groups[4:, 0, 1] = dq.SATURATED  # two groups lost at the end
    groups[0, 0, 2] = dq.DO_NOT_USE  # one at the beginning
    groups[0, 0, 3] = groups[5, 0, 3] = dq.DO_NOT_USE  # both: MIRI's first and last frame
    groups[:, 0, 4] = dq.SATURATED
    np.testing.assert_array_equal(_middle(groups)[0], [0.0, -1.0, 0.5, 0.0, 0.0])


def test_a_cosmic_ray_does_not_shift_the_time() -> None:
    groups = np.zeros((6, 1, 1), np.uint8)
    groups[5] = dq.JUMP_DET
    assert _middle(groups)[0, 0] == 0.0


def test_shift_of_ramps_adds_to_the_read_time() -> None:
    info = make_info("NRS_BRIGHTOBJ", ny=8, nx=20)
    late = np.zeros((8, 20))
    late[:, 5] = -0.25
    plain, shifted = (
        effective_times(info, extract(8, 20, slice(2, 6)), None, one)[0] for one in (None, late)
    )
    np.testing.assert_allclose(shifted - plain, np.where(np.arange(20) == 5, -0.25, 0.0), atol=1e-12)

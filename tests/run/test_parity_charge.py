"""charge_migration in the segment scope: reachable, and the same however the segment is cut into windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import reduce

from tsostream.run.parity import segment as parity_segment
from tsostream.simulate import SimulatedExposure


def planes(folder: Path) -> dict[str, np.ndarray]:
    (path,) = folder.glob("*rateints.fits")
    names = ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE", "DQ")
    return {name: np.array(fits.getdata(path, name)) for name in names}


def test_takes_groups_whatever_the_windows(
    simulated: Callable[..., SimulatedExposure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposure = simulated("NRC_TSIMAGE", nx=40, ny=40, groups=5, ints=6)
    options = {"parity": "jwst", "products": ("rateints",)}
    settings = ("charge_migration.skip=false", "charge_migration.signal_threshold=2000")
    made = {}
    for name, more in (("plain", ()), ("whole", settings), ("cut", settings)):
        (tmp_path / name).mkdir()
        if name == "cut":
            made_windows = parity_segment.plan_windows

            def plan(count, info, halo, budget, make=made_windows):
                windows = make(count, info, halo, 60_000)
                assert len(windows) > 2
                return windows

            monkeypatch.setattr(parity_segment, "plan_windows", plan)
        reduce(exposure, tmp_path / name / "lc.arrow", settings=more, **options)
        made[name] = planes(tmp_path / name)
    for plane, whole in made["whole"].items():
        np.testing.assert_array_equal(whole, made["cut"][plane], err_msg=plane)
    changed = made["whole"]["SCI"] != made["plain"]["SCI"]
    changed &= np.isfinite(made["whole"]["SCI"]) & np.isfinite(made["plain"]["SCI"])
    assert changed.any()
    # the variance told is that of the whole ramp
    same_flags = changed & (made["whole"]["DQ"] == made["plain"]["DQ"]) & (made["plain"]["DQ"] == 0)
    assert same_flags.any()
    np.testing.assert_allclose(
        made["whole"]["VAR_RNOISE"][same_flags], made["plain"]["VAR_RNOISE"][same_flags], rtol=1e-6
    )
    assert (made["whole"]["ERR"][same_flags] > made["plain"]["ERR"][same_flags]).any()

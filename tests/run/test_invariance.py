"""P2: where the archive cut the exposure, the order of the files, blocks and workers leave no trace in the rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from run_helpers import Simulated, bytes_per_integration, differences, make_rateints, reduce

from tsostream.run.scout import scout_path

#: enough hits that the jump step has work in many integrations
HITS = 3e-3
#: (files, integrations per block, workers)
CASES = ((1, 80, 4), (3, 7, 4), (3, 1, 1), (24, 80, 1), (24, 7, 4))


def shuffled(paths: list[Path] | tuple[Path, ...], seed: int) -> list[Path]:
    paths = list(paths)
    random.Random(seed).shuffle(paths)
    return paths


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NIS_SOSS", "MIR_LRS-SLITLESS", "NRC_TSIMAGE"])
def test_ramps(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    ints = 90
    cut = {
        files: simulated(exp_type, ints=ints, segments=files, seed=2, cosmic_rays=HITS)
        for files in (1, 3, 24)
    }
    each = bytes_per_integration(cut[1].segments[0])
    reference = reduce(cut[1], tmp_path / "reference.arrow", workers=1, block_bytes=each)
    templates = scout_path(reference).read_bytes()
    for files, block, workers in CASES:
        out = tmp_path / f"{files}_{block}_{workers}.arrow"
        inputs = shuffled(cut[files].segments, files)
        assert len(inputs) == files
        # references of the first one, so that nothing but the cut differs
        reduce(cut[1], out, inputs, workers=workers, block_bytes=each * block)
        assert differences(reference, out) == []
        assert scout_path(out).read_bytes() == templates


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "MIR_IMAGE"])
def test_slopes(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    """The same for files that hold slopes already."""
    exposure = simulated(exp_type, ints=90, seed=2)
    whole = make_rateints(exposure, tmp_path / "whole", bounds=[90])
    reference = reduce(exposure, tmp_path / "reference.arrow", whole, workers=1)
    templates = scout_path(reference).read_bytes()
    each = bytes_per_integration(whole[0])
    cuts = {1: [90], 3: [11, 50, 90], 24: [*range(3, 70, 3), 90]}
    for files, block, workers in CASES:
        directory = tmp_path / f"{files}_{block}"
        paths = make_rateints(exposure, directory, bounds=cuts[files])
        assert len(paths) == files
        out = directory / "lc.arrow"
        reduce(exposure, out, shuffled(paths, 3), workers=workers, block_bytes=each * block)
        assert differences(reference, out) == []
        assert scout_path(out).read_bytes() == templates


def test_a_directory_gives_the_rows_of_its_files(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=20, segments=3, seed=4)
    one = reduce(exposure, tmp_path / "a.arrow")
    other = reduce(exposure, tmp_path / "b.arrow", [exposure.directory])
    assert differences(one, other) == []


def test_the_comparison_sees_what_differs(simulated: Simulated, tmp_path: Path) -> None:
    """Another scout makes other weights, and one bit of one pixel another row."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=90, seed=2, segments=1, cosmic_rays=HITS)
    one = reduce(exposure, tmp_path / "one.arrow")
    other = reduce(exposure, tmp_path / "other.arrow", scout="head:9")
    found = differences(one, other)
    assert "flux" in found
    assert "spectra.flux" in found
    assert scout_path(one).read_bytes() != scout_path(other).read_bytes()
    assert not {"integration", "time_mjd_utc_mid"} & set(found)


def test_rows_stand_in_order_once_each(simulated: Simulated, tmp_path: Path) -> None:
    from run_helpers import light_curve

    exposure = simulated("NIS_SOSS", ints=90, segments=24, seed=2, cosmic_rays=HITS)
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow", shuffled(exposure.segments, 9)))
    np.testing.assert_array_equal(rows["integration"], np.arange(1, 91))
    assert rows["present"].all()
    assert (np.diff(rows["time_mjd_utc_mid"]) > 0).all()

"""Steps that know of earlier ramps, in whole runs: rows and products leave no trace of cuts, workers or a stop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import Simulated, bytes_per_integration, differences, reduce

from tsostream.errors import ConfigError
from tsostream.files.open_windows import read_open_windows, write_open_windows
from tsostream.integration import dq
from tsostream.records import RowPair
from tsostream.run.parity import segment as parity_segment
from tsostream.run.setup import Request, prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import SimulatedExposure

SETTINGS = (
    "jump.expand_large_events=true", "jump.edge_size=2", "persistence.skip=false", "persistence.persistence_time=9",
)  # fmt: skip


def hit(exposure: SimulatedExposure, every: int = 3) -> None:
    """Let a snowball fall on every third integration, elsewhere each time."""
    number = 0
    for path in exposure.segments:
        with fits.open(path, mode="update") as hdus:
            words = hdus["SCI"].data
            y, x = np.mgrid[: words.shape[2], : words.shape[3]]
            for ramp in words:
                number += 1
                if number % every:
                    continue
                group = 1 + number % (words.shape[1] - 1)
                distance = np.hypot(y - (7 * number) % words.shape[2], x - (11 * number) % words.shape[3])
                light = np.where(distance < 3.5, 65535, np.where(distance < 7, 3000, 0))
                ramp[group:] = np.minimum(ramp[group:].astype(int) + light, 65535).astype(np.uint16)


def flags(folder: Path) -> np.ndarray:
    return np.concatenate([fits.getdata(path, "DQ") for path in sorted(folder.glob("*rateints.fits"))])


def test_rows_and_products_leave_no_trace(simulated: Simulated, tmp_path: Path) -> None:
    made = {}
    for files in (1, 3):
        exposure = simulated("NRC_TSIMAGE", ints=40, segments=files, seed=8, cosmic_rays=1e-3)
        hit(exposure)
        each = bytes_per_integration(exposure.segments[0])
        for block, workers in ((1, 3), (40, 1), (7, 2)):
            folder = tmp_path / f"{files}_{block}"
            folder.mkdir()
            options: dict[str, Any] = {
                "workers": workers,
                "block_bytes": each * block,
                "products": ("rateints",),
            }
            out = reduce(exposure, folder / "lc.arrow", settings=SETTINGS, **options)
            made[files, block] = (out, flags(folder))
    first, bits = made[1, 1]
    for out, others in made.values():
        assert differences(first, out) == []
        np.testing.assert_array_equal(bits, others)
    assert (bits & dq.PERSISTENCE).any()
    alone = tmp_path / "alone"
    alone.mkdir()
    reduce(exposure, alone / "lc.arrow", settings=SETTINGS[:1], products=("rateints",))
    assert (flags(alone) & dq.JUMP_DET != bits & dq.JUMP_DET).any() or (flags(alone) != bits).any()


def test_a_run_goes_on_as_if_it_had_not_stopped(simulated: Simulated, tmp_path: Path) -> None:
    """What came before the stop is looked at again; its slopes, half of which it would get wrong, are not written."""
    exposure = simulated("NRC_TSIMAGE", ints=30, segments=2, seed=9)
    hit(exposure)

    class StopError(Exception):
        pass

    def stop(pair: RowPair) -> None:
        if pair.last_integration >= 16:
            raise StopError

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        wanted = Request(
            inputs=tuple(exposure.segments), out=tmp_path / name / "lc.arrow", refs_dir=exposure.directory,
            block_bytes=1, settings=SETTINGS, products=("rateints",),
        )  # fmt: skip
        (prepared,) = prepare_all(wanted)
        if name == "whole":
            asyncio.run(run_exposure(prepared))
            continue
        with pytest.raises(StopError):
            asyncio.run(run_exposure(prepared, on_rows=stop))
        (prepared,) = prepare_all(replace(wanted, resume=True))
        asyncio.run(run_exposure(prepared))
    assert differences(tmp_path / "whole" / "lc.arrow", tmp_path / "stopped" / "lc.arrow") == []
    np.testing.assert_array_equal(flags(tmp_path / "whole"), flags(tmp_path / "stopped"))


def test_segment_scope_leaves_no_trace_of_windows(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=8, seed=10)
    hit(exposure)
    plan, found = parity_segment.plan_windows, {}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        if name == "cut":
            monkeypatch.setattr(
                parity_segment, "plan_windows", lambda n, info, halo, _budget: plan(n, info, halo, 90_000)
            )
        options: dict[str, Any] = {"parity": "jwst", "products": ("rateints",)}
        settings = (*SETTINGS, "persistence.dn_threshold=20000")
        reduce(exposure, tmp_path / name / "lc.arrow", settings=settings, **options)
        found[name] = flags(tmp_path / name)
    np.testing.assert_array_equal(found["whole"], found["cut"])
    assert (found["whole"] & dq.PERSISTENCE).any()


def test_streaming_does_not_take_what_has_no_end(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=8, seed=10)
    with pytest.raises(ConfigError, match="dn_threshold"):
        reduce(exposure, tmp_path / "lc.arrow", settings=(*SETTINGS, "persistence.dn_threshold=20000"))


def test_windows_that_another_exposure_left_open(simulated: Simulated, tmp_path: Path) -> None:
    """The parity scope saves them file by file; both scopes take them."""
    exposure = simulated("NRC_TSIMAGE", ints=6, segments=2, seed=11)
    hit(exposure)
    path, made = tmp_path / "open.asdf", {}
    detector = fits.getval(exposure.segments[0], "DETECTOR")
    chain = (f"persistence.save_persistence={path}", f"persistence.persistence_array_file={path}")
    runs: dict[str, tuple[str | None, tuple[str, ...]]] = {
        "saved": ("jwst", chain), "streamed": (None, ()), "later": (None, chain[1:]), "official": ("jwst", chain[1:]),
    }  # fmt: skip
    for name, (parity, more) in runs.items():
        (tmp_path / name).mkdir()
        if name == "later":
            # what the exposure left open, moved to when it began
            begin = (
                fits.getdata(exposure.segments[0], "INT_TIMES")["int_start_MJD_UTC"][0] - 40587.0
            ) * 86400.0
            until, _ = read_open_windows(path, detector, 9.0, (40, 40))
            assert until.any()
            moved = np.where(until > 0, begin + 5.0, 0.0)
            moved[0, 0] = begin + 1000.0
            write_open_windows(path, detector, "earlier_uncal.fits", 9, moved)
        reduce(
            exposure,
            tmp_path / name / "lc.arrow",
            settings=(*SETTINGS[2:], *more),
            parity=parity,
            products=("rateints",),
        )
        made[name] = flags(tmp_path / name) & dq.PERSISTENCE
    # files that take what the one before left leave no trace of the cut
    np.testing.assert_array_equal(made["saved"], made["streamed"])
    np.testing.assert_array_equal(made["later"], made["official"])
    assert (made["later"][0][moved > 0] > 0).any()
    assert made["later"][0, 0, 0] == 0

"""Slopes of the parity scope, where the run expects those of the streaming chain."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.integration.payload import Rate, Raw
from tsostream.operators.emicorr import Emicorr
from tsostream.operators.memory import Carry
from tsostream.operators.tile import Tile, plan_tile
from tsostream.references.small_files import write_emicorr
from tsostream.run.observer import Observer
from tsostream.run.parity.light import draft_light
from tsostream.run.parity.segment import SegmentRun
from tsostream.run.parity.spool import SPOOL_BYTES
from tsostream.run.parity.steps import split_steps
from tsostream.run.parity.store import STORE_BYTES, SegmentSlopes
from tsostream.run.prepared import Prepared
from tsostream.run.product_plan import product_path
from tsostream.run.ramps import Lent, RateChain

__all__ = ["ParityRates", "parity_rates"]

logger = logging.getLogger("tsostream")

#: how jumps are found -> in words
_METHODS = {"clip": "sigma clipping", "clip_all": "sigma clipping of all groups"}


@dataclass
class ParityRates(RateChain):
    """Slopes that were made segment by segment, before the rows; see `RateChain`.

    Parameters
    ----------
    stores
        One per segment, in order.
    """

    stores: tuple[SegmentSlopes, ...] = ()

    def lend(self, raw: Raw, carry: Carry | None = None) -> Lent:
        """Give the buffer of a block back, and hand out its slopes, in arrays of their own."""
        raw.release()
        (store,) = (one for one in self.stores if one.first <= raw.first < one.first + len(one.times))
        rate = store.rate(raw.first, raw.times)
        for step, tap in self.taps.items():
            tap(_tile(store, rate, step), step)
        return Lent(rate)

    @property
    def means(self) -> Mapping[int, Mapping[str, np.ndarray]]:
        """The official means; see `RateChain.means`."""
        names = ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE", "DQ")
        return {one.first: dict(zip(names, one.mean.arrays(), strict=True)) for one in self.stores}

    def ramp_flags(self, segment: int) -> dict[str, np.ndarray]:
        """Step -> DQ plane uint32 [y, x] of the ramps it left of a segment."""
        return {step: spool.pixeldq for step, spool in self.stores[segment].ramps.items()}


def _tile(store: SegmentSlopes, rate: Rate, step: str) -> Tile:
    """Show a step's result: its ramps, or the slopes."""
    start = rate.first - store.first
    besides = {name: one for name, one in store.ramps.items() if name.startswith(f"{step}.")}
    if besides:
        taken = {name: one.ramps(start, rate.count) for name, one in besides.items()}
        own = store.ramps.get(step)
        ramps = (
            max(taken.values(), key=lambda one: one[1].shape[1])
            if own is None
            else own.ramps(start, rate.count)
        )
        arrays = {name: data[:, 0] if name.endswith(".mask") else data for name, (data, _) in taken.items()}
        return Tile(rate.first, None, *ramps, None, arrays)
    if (spool := store.ramps.get(step)) is None:
        none = np.empty((rate.count, 0, *rate.data.shape[1:]), np.float32)
        return Tile(rate.first, None, none, none.astype(np.uint8), rate)
    return Tile(rate.first, None, *spool.ramps(start, rate.count), None)


def kept_steps(prepared: Prepared) -> tuple[str, ...]:
    """List the steps whose ramps go to products; the product without a step holds what the fit is given."""
    files = () if prepared.products is None else prepared.products.files
    names = [one.name for one in prepared.config.operators if one.produces == "ramp"]
    return tuple(
        dict.fromkeys(one.step or names[-1] for one in files if one.kind == "ramp" or "." in one.step)
    )


def save_waves(prepared: Prepared, run: SegmentRun) -> None:
    """Write the waves emicorr found on the fly in a segment, if that is asked for."""
    step, found = prepared.config.operator(Emicorr.name), run.steps.corrections
    folder = prepared.request.products_dir or (prepared.out.parent if prepared.out is not None else None)
    if not isinstance(step, Emicorr) or not step.save_intermediate_results or folder is None:
        return
    if found is None or not found.waves or run.steps.interference is None:
        return
    setting, info = run.steps.interference.setting, run.steps.info
    speed = "SLOW" if "SLOW" in info.readpatt.upper() else "FAST"
    names: Any = list(found.waves) if speed == "FAST" else {info.detector: list(found.waves)}
    subarray = f"{info.subarray}_{speed}" if "FULL" in info.subarray else info.subarray
    case = {subarray: {"rowclocks": setting.row, "frameclocks": setting.frame, "freqs": {speed: names}}}
    path = product_path(folder, Path(run.segment.source_path), "emi_ref_waves").with_suffix(".asdf")
    write_emicorr(path, found.waves, case)


def parity_rates(prepared: Prepared, pool: Executor, observer: Observer) -> ParityRates:
    """Take all segments of an exposure through the official stage 1.

    Parameters
    ----------
    prepared
        The run.
    pool
        Where the work is done.
    observer
        Told the size of the store.
    """
    info = prepared.exposure.info
    steps = split_steps(prepared.config, info, prepared.references, prepared.ramp_templates)
    keep, light = kept_steps(prepared), draft_light(prepared, steps.pixeldq)
    runs = [
        SegmentRun(
            segment,
            steps,
            pool,
            prepared.plan.workers,
            scratch=prepared.request.scratch,
            light=light,
            keep=keep,
        )
        for segment in prepared.exposure.segments
    ]
    on_disk = sum(run.store_bytes for run in runs if run.store_bytes > STORE_BYTES)
    if on_disk:
        where = prepared.request.scratch or "the system's temporary folder"
        observer.message(f"parity: the slopes take {on_disk / 1e6:.0f} MB in {where} until the run ends")
    spool = max((run.spool_bytes for run in runs), default=0)
    if spool > SPOOL_BYTES:
        where = prepared.request.scratch or "the system's temporary folder"
        observer.message(
            f"parity: the ramps of a segment take {spool / 1e6:.0f} MB in {where} while whole frames are looked at"
        )
    if kept := sum(run.kept_bytes for run in runs):
        where = prepared.request.scratch or "the system's temporary folder"
        observer.message(
            f"parity: the ramps of {', '.join(keep)} take {kept / 1e6:.0f} MB in {where} until the run ends"
        )
    stores = []
    began = time.perf_counter()
    for run in runs:
        stores.append(run.run())
        save_waves(prepared, run)
        method = stores[-1].method
        logger.info("parity: %s, jumps by %s", run.segment.source_path, _METHODS.get(method, method))
    seconds = {"stage 1": time.perf_counter() - began}
    return ParityRates(
        info, (), steps.pixeldq, plan_tile(info, steps.bound), seconds=seconds, stores=tuple(stores)
    )

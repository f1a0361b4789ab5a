"""The writers of ``--products`` and ``--save-steps``, fed by the chain.

While a run goes on, its slopes and ramps are handed to them as they lie in a worker's workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tsostream.files import SegmentFile
from tsostream.integration.payload import Rate, Times
from tsostream.operators.tile import Tile
from tsostream.run.chain import Chain
from tsostream.run.prepared import Prepared
from tsostream.run.product_headers import product_specs
from tsostream.run.product_plan import SLOPES, Planned, kept_results, plan_segment, split_names, step_kind
from tsostream.sinks.products import Products, Resumed

__all__ = ["attach_products"]


@contextmanager
def attach_products(
    prepared: Prepared, chain: Chain, resumed: Resumed | None = None, *, overwrite: bool | None = None
) -> Iterator[Products]:
    """Let the chain write products as long as the block lasts.

    Parameters
    ----------
    prepared, chain
        The run.
    resumed
        Where a run goes on; None for one that begins.
    overwrite
        Replace products of an older run; default as requested.

    Yields
    ------
    Products
        To be published when the run is complete; otherwise the files stay as ``.part``.
    """
    plan = prepared.products
    specs = product_specs(prepared, plan.files, chain) if plan is not None else []
    # parity products say what the official ones say of a pixel without a slope
    unusable = math.nan if prepared.request.parity is None else 0.0
    replace = prepared.request.overwrite if overwrite is None else overwrite
    means = chain.rates.means
    products = Products(specs, overwrite=replace, unusable=unusable, means=means, resume=resumed)
    products.check_kept()

    def save_ramps(tile: Tile, step: str) -> None:
        products.add_ramps(tile.first, tile.data, tile.groupdq, step)

    def save_slopes(tile: Tile, step: str) -> None:
        if tile.rate is not None:
            products.add_rates(tile.rate, step)

    rates = chain.rates
    ramp_steps, rate_steps = products.ramp_steps, products.rate_steps
    if prepared.arrivals is not None:
        # the integrations to be saved may all be in segments that are still to come
        kept = kept_results(prepared.config, prepared.exposure)
        for step in (*split_names(prepared.request.save_steps), *kept):
            (ramp_steps if step_kind(step) == "ramp" else rate_steps).add(step)

    def save_kept(tile: Tile, step: str) -> None:
        if step in ramp_steps:
            save_ramps(tile, step)
        for name in besides:
            array = tile.scratch[name]
            if name in ramp_steps:
                products.add_ramps(tile.first, array, tile.groupdq, name)
            else:
                products.add_rates(_as_slopes(tile.first, array), name)

    besides = sorted(name for name in ramp_steps | rate_steps if "." in name)
    rates.taps = dict.fromkeys(ramp_steps - {*besides}, save_ramps)
    rates.taps |= dict.fromkeys(rate_steps & {*SLOPES}, save_slopes)
    rates.taps |= {name.partition(".")[0]: save_kept for name in besides}
    for step in rate_steps - {*SLOPES, *besides}:
        # the product without a step is of the slopes as stage 1 leaves them
        place = step or "slopes"
        chain.taps = {
            **chain.taps,
            place: (*chain.taps.get(place, ()), partial(products.add_rates, step=step)),
        }
    chain.lost = products.add_lost
    if prepared.arrivals is not None and plan is not None:
        products.more = lambda segment: product_specs(*_of_segment(prepared, segment), chain)
    try:
        yield products
    finally:
        rates.taps, chain.taps = {}, {}
        products.close()


def _as_slopes(first: int, mask: np.ndarray) -> Rate:
    """Put masks where slopes stand: 1 and 0, without errors or flags."""
    none = np.zeros(mask.shape, np.float32)
    times = Times(np.zeros((len(mask), 6)), np.zeros(len(mask), np.uint32))
    return Rate(first, mask.astype(np.float32), none, none, none, np.zeros(mask.shape, np.uint32), times)


def _of_segment(prepared: Prepared, segment: SegmentFile) -> tuple[Prepared, list[Planned]]:
    """Plan the products of a segment that came while the run went on."""
    exposure = replace(prepared.exposure, segments=(segment,))
    directory = prepared.products.directory if prepared.products is not None else Path()
    return replace(prepared, exposure=exposure), plan_segment(
        prepared.request, exposure, directory, prepared.config
    )

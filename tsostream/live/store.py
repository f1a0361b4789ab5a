"""Everything a page shows of a run, kept up to date."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError
from tsostream.live.columns import Series
from tsostream.live.figures import Figures
from tsostream.live.follow import Follower
from tsostream.live.picture import Picture, spectra_of
from tsostream.records.metadata import decode_metadata
from tsostream.sinks import Tail, spectra_path

__all__ = ["Key", "Store"]

Key = tuple[int, int]
Floats = npt.NDArray[np.float64]

#: batches taken at once, so that requests are answered meanwhile
BATCHES: Final = 8
_FACTS: Final = ("exposure_id", "detector", "exp_type", "subarray", "filter", "pupil", "grating", "level")


class Store:
    """Rows and spectra of a run as they come.

    Parameters
    ----------
    path
        The light curve; it need not be there yet.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.follower = Follower(path)
        self.figures = Figures()
        self._clear()

    def _clear(self) -> None:
        self._runs = self.follower.runs
        self.figures.clear()
        self.series: dict[Key, Series] = {}
        self.pictures: dict[Key, Picture] = {}
        self._spectra = Tail(spectra_path(self.path))
        self._spectra_runs = 0

    def poll(self) -> bool:
        """Take in what has come; True when there may be more at once.

        Raises
        ------
        InputError
            The light curve cannot be read.
        """
        found = self.follower.poll(BATCHES)
        if self.follower.runs != self._runs:
            self._clear()
        for batch in found:
            self.figures.add(batch)
            order, aperture = batch.column("order").to_numpy(), batch.column("aperture").to_numpy()
            for key in sorted(set(zip(order.tolist(), aperture.tolist(), strict=True))):
                rows = np.flatnonzero((order == key[0]) & (aperture == key[1]))
                part = batch if len(rows) == batch.num_rows else batch.take(rows)
                self.series.setdefault(key, Series()).add(part)
        if not found and self.follower.state == "growing":
            self.figures.mark()
        return self._poll_spectra() or bool(found)

    def _poll_spectra(self) -> bool:
        try:
            found = self._spectra.poll(BATCHES)
        except InputError:  # the light curve is what counts; its own state tells that something is wrong
            return False
        if self._spectra.runs != self._spectra_runs:
            self._spectra_runs = self._spectra.runs
            self.pictures = {}
        for batch in found:
            order, aperture = batch.column("order").to_numpy(), batch.column("aperture").to_numpy()
            for key in sorted(set(zip(order.tolist(), aperture.tolist(), strict=True))):
                if key not in self.pictures:
                    self.pictures[key] = self._new_picture(key, batch.column("flux").type.list_size)
                self.pictures[key].add(*spectra_of(batch, key))
        return bool(found)

    def _new_picture(self, key: Key, n_wave: int) -> Picture:
        schema = self._spectra.schema
        facts = decode_metadata(schema.metadata) if schema is not None else {}
        edges = _per_order(facts.get("wavelength_edges"), key[0], n_wave + 1)
        limits = self.follower.metadata.get("white_light_range")
        use = np.ones(n_wave, dtype=bool)
        pixels = np.arange(n_wave + 1, dtype=np.float64) - 0.5
        if edges is None:
            edges = pixels
        elif isinstance(limits, list) and len(limits) == 2 and None not in limits:
            middle = 0.5 * (edges[1:] + edges[:-1])
            use = (middle >= limits[0]) & (middle <= limits[1])
        use &= np.isfinite(edges[1:]) & np.isfinite(edges[:-1])
        if not use.any():
            use[:], edges = True, pixels
        return Picture(spectra_path(self.path), key, edges, use)

    def status(self) -> dict[str, Any]:
        """How the run is doing; plain values."""
        follower, figures = self.follower, self.figures
        facts = follower.metadata
        exposure = facts.get("exposure", {})
        found, expected = figures.scatter
        first = next(iter(self.series.values()), None)
        return {
            "state": follower.state,
            "error": follower.error,
            "begun": follower.begun,
            "run": self._runs,
            "rows": figures.rows,
            "spectra": max((one.rows for one in self.pictures.values()), default=0),
            "total": follower.total,
            "rate": _known(figures.rate) if follower.state == "growing" else None,
            "left": _known(figures.left(follower.last)) if follower.state == "growing" else None,
            "scatter": _known(found),
            "expected": _known(expected),
            "counts": figures.counts,
            "keys": [list(key) for key in self.series],
            "pictures": [list(key) for key in self.pictures],
            "file": self.path.name,
            "target": facts.get("target", ""),
            "exposure": {name: exposure.get(name, "") for name in _FACTS},
            "flux_unit": facts.get("flux_unit", ""),
            "wavelength_unit": facts.get("wavelength_unit", "pixel"),
            "clock": first.clock if first else "",
            "origin": first.origin if first else 0.0,
            "notes": [*facts.get("notes", ()), *facts.get("warnings", ())],
        }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _per_order(values: Any, order: int, size: int) -> Floats | None:
    """Values of an order out of the metadata; None when they are not there."""
    if isinstance(values, dict):
        values = values.get(str(order))
    if not isinstance(values, list) or len(values) != size:
        return None
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

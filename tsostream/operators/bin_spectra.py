"""bin_spectra: spectroscopic light curves in bins of wavelength; the official pipeline has no such step.

The columns of a bin are fixed for the run, whole columns by their wavelength; lost ones are filled as in the white
light. The error holds the columns' own noise, their backgrounds' included, and what they share (1/f).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.coupling import Coupling, PerIntegration, Template
from tsostream.integration.payload import Measurement
from tsostream.operators.base import Binding, Operator
from tsostream.operators.spectral.columns import ColumnBins, bin_columns, shared_variance

__all__ = ["BinSpectra", "BoundBinSpectra"]

#: what is measured of a bin, NaN where it has no columns
COLUMNS = (
    "flux", "flux_err", "flux_var_poisson", "flux_var_rnoise", "background", "background_err", "frac_filled",
)  # fmt: skip
#: more bins than this are a slip of the pen
MOST_BINS = 100_000


@dataclass(frozen=True)
class BoundBinSpectra:
    """Bins of one exposure.

    Parameters
    ----------
    edges
        Order -> float64 [bin, 2], first and last wavelength of each bin (or pixels).
    bins
        Members, one for each (order, aperture).
    excess : float64 [key, bin]
        Variance that shared noise adds.
    count
        Bins of the order that has most; the others are padded with NaN.
    """

    name: str
    pixeldq: np.ndarray
    edges: dict[int, np.ndarray]
    bins: tuple[ColumnBins, ...]
    excess: np.ndarray
    count: int
    notes: tuple[str, ...] = ()
    skipped: str = ""

    def push(self, block: Measurement) -> list[Measurement]:
        """Add the bins to a block of spectra."""
        shape = (block.count, len(self.bins), self.count)
        names = (
            "flux",
            "flux_err",
            "flux_var_poisson",
            "flux_var_rnoise",
            "background",
            "background_err",
            "frac_filled",
        )
        out: dict[str, np.ndarray] = {name: np.full(shape, np.nan) for name in names}
        out["dq"] = np.zeros(shape, np.uint32)
        for key, members in enumerate(self.bins):
            sums = bin_columns(block.spectra, key, members)
            here = (slice(None), key, slice(0, members.start.size - 1))
            out["flux"][here] = sums.flux
            out["flux_err"][here] = np.sqrt(sums.variance + self.excess[key, : members.start.size - 1])
            out["flux_var_poisson"][here], out["flux_var_rnoise"][here] = sums.var_poisson, sums.var_rnoise
            out["background"][here], out["background_err"][here] = sums.ground, sums.ground_error
            out["frac_filled"][here], out["dq"][here] = sums.lost, sums.dq
        return [replace(block, bins=out)]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []

    def column_means(self, key: int, values: np.ndarray) -> np.ndarray:
        """Mean of a quantity of the columns in each bin, weighted by the scout's spectrum; float64 [count]."""
        members = self.bins[key]
        out = np.full(self.count, np.nan)
        for b in range(members.start.size - 1):
            part = slice(members.start[b], members.start[b + 1])
            column, share = members.column[part], members.spectrum[part]
            known = np.isfinite(values[column])
            if known.any():
                weight = share[known] if share[known].sum() > 0 else np.ones(int(known.sum()))
                out[b] = np.average(values[column][known], weights=weight)
        return out


@dataclass(frozen=True, kw_only=True)
class BinSpectra(Operator):
    """Sum each spectrum in bins of wavelength.

    Parameters
    ----------
    bins
        ``R=100``: bins of this resolving power; ``N=20``: so many bins of equal width; or a text file with one bin a
        line (first and last wavelength [µm]), or one edge a line. Not set: no bins.
    min_wavelength, max_wavelength
        Range that ``R=`` and ``N=`` divide [µm, or pixels where no wavelength is known].
    min_snr
        Without a range: from the first to the last column whose flux in the scout's spectrum is at least this many
        times its error in one integration.
    max_lost
        Bins that miss more than this fraction of their light become NaN.
    """

    name: ClassVar[str] = "bin_spectra"
    accepts: ClassVar[str] = "measurement"
    produces: ClassVar[str] = "measurement"

    bins: str | None = None
    min_wavelength: float | None = None
    max_wavelength: float | None = None
    min_snr: Annotated[float, msgspec.Meta(ge=0)] = 3.0
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins is not None:
            self._parse()

    @property
    def coupling(self) -> Coupling:
        """The scout's spectrum says where there is light, and fills lost columns."""
        if self.bins is None:
            return PerIntegration()
        return Template(
            ("keys", "spectrum", "spectrum_error", "columns_wavelength", "sum_weights", "column_covariance")
        )

    def bind(self, binding: Binding) -> BoundBinSpectra:
        """Choose the columns of every bin; templates as `tsostream.operators.white_light.WhiteLight.bind`."""
        templates = binding.templates
        if self.bins is None:
            return BoundBinSpectra(
                self.name, binding.dq_plane, {}, (), np.empty((0, 0)), 0, (), "no bins are asked for"
            )
        spectrum, error, wavelength = (
            np.atleast_2d(np.asarray(templates[name], np.float64))
            for name in ("spectrum", "spectrum_error", "columns_wavelength")
        )
        keys = tuple(templates.get("keys") or ((1, 0),) * len(spectrum))
        weights = templates["sum_weights"]
        weights = [weights] if isinstance(weights, np.ndarray) and weights.ndim == 2 else list(weights)
        covariance = np.asarray(templates["column_covariance"])
        edges: dict[int, np.ndarray] = {}
        for key, (order, _) in enumerate(keys):
            if order not in edges:
                edges[order] = self._edges(wavelength[key], spectrum[key], error[key])
        count = max(len(one) for one in edges.values())
        excess = np.zeros((len(keys), count))
        members = []
        for key, (order, _) in enumerate(keys):
            known = np.isfinite(wavelength[key]) & np.isfinite(spectrum[key]) & (error[key] > 0)
            chosen = [known & _inside(wavelength[key], low, high) for low, high in edges[order]]
            excess[key, : len(chosen)] = [shared_variance(weights[key], one, covariance) for one in chosen]
            members.append(_members(chosen, spectrum[key], self.max_lost))
        # apertures of an order share its bins
        first = {order: number for number, (order, _) in reversed(list(enumerate(keys)))}
        empty = sum(int((np.diff(members[number].start) == 0).sum()) for number in first.values())
        if all(one.column.size == 0 for one in members):
            raise ConfigError(
                Problem(
                    f"no column of the spectrum lies in any of the bins of bin_spectra.bins = {self.bins}",
                    todo="give bins within the wavelengths of the exposure",
                    code="parameter",
                )
            )
        notes = (
            (f"{empty} of the wavelength bins hold no column of the spectrum and stay NaN",) if empty else ()
        )
        return BoundBinSpectra(self.name, binding.dq_plane, edges, tuple(members), excess, count, notes)

    def _parse(self) -> tuple[str, Any]:
        """Kind of the bins (``R``, ``N`` or ``FILE``) and their number or edges.

        Raises
        ------
        ConfigError
            When it is none of the three.
        """
        text = str(self.bins).strip()
        kind, equals, number = text.partition("=")
        if equals and kind.strip().upper() in ("R", "N"):
            try:
                value = float(number)
            except ValueError:
                value = 0.0
            whole = kind.strip().upper() == "R" or value == int(value)
            if 0 < value <= MOST_BINS and whole:
                return kind.strip().upper(), value
            raise _refusal(text, "expected a positive number")
        return "FILE", read_edges(Path(text).expanduser())

    def _edges(self, wavelength: np.ndarray, spectrum: np.ndarray, error: np.ndarray) -> np.ndarray:
        kind, value = self._parse()
        if kind == "FILE":
            return np.asarray(value)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(wavelength) & np.isfinite(spectrum) & (error > 0)
            bright = known & (spectrum > self.min_snr * error)
        use = bright if bright.any() else known
        if not use.any():
            return np.empty((0, 2))
        half = np.nanmedian(np.abs(np.diff(wavelength))) / 2
        low = self.min_wavelength if self.min_wavelength is not None else wavelength[use].min() - half
        high = self.max_wavelength if self.max_wavelength is not None else wavelength[use].max() + half
        if not low < high:
            raise _refusal(str(self.bins), f"the range {low:g} to {high:g} is empty")
        if kind == "N":
            borders = np.linspace(low, high, int(value) + 1)
        else:
            if not low > 0:
                raise _refusal(
                    str(self.bins),
                    f"a resolving power needs wavelengths above 0, the range begins at {low:g}",
                )
            steps = int(np.ceil(np.log(high / low) / np.log1p(1 / value)))
            borders = low * (1 + 1 / value) ** np.arange(min(steps, MOST_BINS) + 1)
            borders[-1] = max(high, borders[-2])
        return np.stack([borders[:-1], borders[1:]], axis=1)


def _refusal(text: str, why: str) -> ConfigError:
    return ConfigError(
        Problem(
            f"bin_spectra.bins = {text}: {why}",
            todo="give R=100 (resolving power), N=20 (number of bins) or a file with two wavelengths a line",
            code="parameter",
        )
    )


def read_edges(path: Path) -> np.ndarray:
    """Read a file of bins.

    Parameters
    ----------
    path
        Text, one bin a line (first and last wavelength), or one edge a line; ``#`` begins a comment.

    Returns
    -------
    float64 [bin, 2]

    Raises
    ------
    ConfigError
        When there is no such file, or a line is something else; names it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise _refusal(str(path), f"the file cannot be read ({reason})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        parts = line.split("#")[0].replace(",", " ").split()
        if not parts:
            continue
        try:
            rows.append([float(part) for part in parts])
        except ValueError:
            raise _refusal(str(path), f"line {number} ({line.strip()!r}) is not numbers") from None
    widths = {len(row) for row in rows}
    if widths == {1} and len(rows) > 1:
        borders = np.array(rows)[:, 0]
        edges = np.stack([borders[:-1], borders[1:]], axis=1)
    elif widths == {2}:
        edges = np.array(rows)
    else:
        raise _refusal(str(path), "expected two wavelengths a line, or one edge a line (two at least)")
    if not (np.isfinite(edges).all() and (edges[:, 0] < edges[:, 1]).all()):
        raise _refusal(
            str(path), "the first wavelength of a bin must be below the last one, and edges must grow"
        )
    return edges


def _inside(wavelength: np.ndarray, low: float, high: float) -> np.ndarray:
    """Columns whose middle lies in a bin; its lower edge belongs to it."""
    with np.errstate(invalid="ignore"):
        return (wavelength >= low) & (wavelength < high)


def _members(chosen: list[np.ndarray], spectrum: np.ndarray, max_lost: float) -> ColumnBins:
    column = [np.flatnonzero(one) for one in chosen]
    start = np.concatenate([[0], np.cumsum([one.size for one in column])]).astype(np.int32)
    flat = np.concatenate(column).astype(np.int32) if column else np.empty(0, np.int32)
    return ColumnBins(start, flat, np.nan_to_num(np.clip(spectrum[flat], 0.0, None)), max_lost)


def describe_bins(bound: BoundBinSpectra, keys: tuple[tuple[int, int], ...], dt: Any) -> Mapping[str, Any]:
    """Describe edges and effective times of the bins by order, for the metadata.

    Parameters
    ----------
    bound
        The bins.
    keys
        (order, aperture) of the series.
    dt : float64 [column] or [key, column]
        Effective time of each column [s].
    """
    times = np.atleast_2d(np.asarray(dt, np.float64))
    facts: dict[str, dict[str, Any]] = {"bin_edges": {}, "bin_dt_eff_s": {}}
    for key, (order, _) in enumerate(keys):
        if str(order) in facts["bin_edges"]:
            continue
        edges = np.full((bound.count, 2), np.nan)
        edges[: len(bound.edges[order])] = bound.edges[order]
        facts["bin_edges"][str(order)] = edges
        facts["bin_dt_eff_s"][str(order)] = bound.column_means(key, times[min(key, len(times) - 1)])
    return facts

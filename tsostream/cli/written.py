"""A light curve that was written, as ``inspect`` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsostream.cli.report import emit, facts_table
from tsostream.live.figures import COUNTS, noise
from tsostream.records.quality import QUALITY_BITS
from tsostream.sinks import open_output

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_output"]


def print_output(console: Console, path: Path) -> None:
    """Print status, rows, noise and provenance of a light curve.

    Raises
    ------
    InputError
        When tsostream did not write it, or it is damaged.
    """
    lc = open_output(path)
    facts: dict[str, Any] = lc.metadata
    table = lc.table
    exposure = facts.get("exposure", {})
    config = facts.get("config", {})
    scout = facts.get("scout", {})
    expected = facts.get("last_integration", 0) - facts.get("first_integration", 1) + 1
    versions = facts.get("versions", {})
    numbers = table.column("integration").to_numpy()
    span = f" (integrations {numbers[0]}-{numbers[-1]})" if len(numbers) else ""
    console.print(f"{path}: {lc.status}", style="bold green" if lc.status == "complete" else "bold yellow")
    modes = (exposure.get(name, "") for name in ("exposure_id", "detector", "exp_type", "subarray", "level"))
    rows = [
        ("exposure", " · ".join(str(part) for part in modes if part)),
        ("rows", f"{table.num_rows} of {expected}{span}"),
        ("flux", _flux_text(lc)),
        ("counts", ", ".join(f"{name} {int(table.column(name).to_numpy().sum())}" for name in COUNTS)),
        ("quality", _quality_text(table.column("quality").to_numpy())),
        (
            "steps",
            " → ".join(config.get("order") or config.get("steps", {})) + _skipped(config.get("skipped", ())),
        ),
        ("parameters", str(config.get("source", ""))),
        (
            "references",
            "\n".join(f"{kind}  {one.get('file')}" for kind, one in facts.get("references", {}).items()),
        ),
        ("wavelengths", str(facts.get("wavelength_source", ""))),
        ("scout", f"{scout.get('kind', '')}, {len(scout.get('integrations', ()))} integrations"),
        ("inputs", "\n".join(str(one.get("path", "")) for one in facts.get("inputs", ()))),
        ("made with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("warnings", "\n".join(facts.get("warnings", ()))),
        ("spectra", str(lc.spectra.path) if lc.spectra is not None else ""),
    ]
    emit(console, facts_table(rows))


def _flux_text(lc: Any) -> str:
    flux, error = lc.table.column("flux").to_numpy(), lc.table.column("flux_err").to_numpy()
    if not np.isfinite(flux).any():
        return "none"
    scatter, own = noise(flux, error)
    middle = float(np.nanmedian(flux))
    level = f"median {middle:.6g} {lc.units().get('flux', '')}"
    return f"{level}, scatter {scatter:.0f} ppm (own errors {own:.0f})"


def _quality_text(quality: np.ndarray) -> str:
    if not quality.any():
        return "no remarks"
    found = {
        name: int(np.count_nonzero(quality & np.uint32(entry["bit"]))) for name, entry in QUALITY_BITS.items()
    }
    return ", ".join(f"{name} {count}" for name, count in found.items() if count)


def _skipped(names: Any) -> str:
    return f"\nleft out: {', '.join(names)}" if names else ""

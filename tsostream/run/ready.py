"""A run whose scout is done, and what is told of one that is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsostream.integration.payload import Measurement
from tsostream.run.chain import Chain
from tsostream.run.prepared import Prepared
from tsostream.run.scout import Scout

__all__ = ["Ready", "Result"]


@dataclass
class Ready:
    """A run whose scout is done.

    Parameters
    ----------
    prepared, scout, chain
        What was prepared, the templates, the bound steps.
    start
        Metadata known at the start.
    lc_schema, spectra_schema, bins_schema
        Of the tables; None for those the run does not have.
    late
        Steps on measurements that need them in order.
    taps
        Functions that are shown what is measured, in order, before it becomes rows.
    """

    prepared: Prepared
    scout: Scout
    chain: Chain
    start: dict[str, Any]
    lc_schema: Any
    spectra_schema: Any
    bins_schema: Any = None
    late: tuple[Any, ...] = ()
    taps: list[Callable[[Measurement], None]] = field(default_factory=list)

    @property
    def schemas(self) -> tuple[Any, ...]:
        """Of the tables, in their order."""
        return (self.lc_schema, self.spectra_schema, self.bins_schema)


@dataclass
class Result:
    """What a finished run did.

    Parameters
    ----------
    out
        The light curve.
    integrations
        Rows of integrations written.
    status
        ``complete``.
    seconds
        Stage -> wall time.
    metadata
        What the output says about itself.
    products
        FITS products made beside it.
    """

    out: Path
    integrations: int
    status: str
    seconds: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    products: list[Path] = field(default_factory=list)

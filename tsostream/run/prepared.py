"""One exposure, ready to run: what every later stage of a run is handed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tsostream.files import Exposure
from tsostream.integration.reference import Reference
from tsostream.run.chain import bind_measurement
from tsostream.run.config import Config
from tsostream.run.following import Arrivals
from tsostream.run.plan import MemoryPlan
from tsostream.run.product_plan import ProductPlan
from tsostream.run.ramps import RateChain, bind_rates
from tsostream.run.request import Request
from tsostream.run.scout import ScoutPlan
from tsostream.run.slopes import SlopeSteps, bind_slopes

__all__ = ["Prepared", "State", "segment_spans"]

#: ``new``: nothing is there, or may be replaced; ``unfinished``: a run to go on with; ``complete``: nothing to do
State = Literal["new", "unfinished", "complete"]


@dataclass(frozen=True)
class Prepared:
    """One exposure, ready to run.

    Parameters
    ----------
    exposure
        Audited segments.
    out
        Light curve to write.
    config
        Steps and parameters.
    references
        Loaded references.
    sources
        Reference type -> ``override``, ``refs``, ``lock``, ``config`` or ``CRDS jwst_….pmap``.
    wavelengths
        Order -> image or table [µm]; empty when none is known.
    wavelength_source
        Where they came from.
    scout
        What the scout shall do.
    plan
        Memory and blocks.
    notes
        What is worth telling once.
    crds_context
        Rules of CRDS that chose references; empty when none did.
    products
        FITS products to make; None when none is asked for.
    state
        Whether the output begins, goes on, or is complete already.
    background
        Mean of the background exposures with its DQ, as the template ``background``; empty without any.
    wavelength_facts
        Window and source position that came with the wavelengths, by keyword (SLTSTRT1, SRCXPOS, …).
    ramp_templates
        What steps on ramps are told besides the scout's products: ``slit``, ``user_mask``.
    wavelength_file
        File they came from, if it is another one than the input.
    """

    request: Request
    exposure: Exposure
    out: Path | None
    config: Config
    references: dict[str, Reference]
    sources: dict[str, str]
    wavelengths: dict[int, Any]
    wavelength_source: str
    scout: ScoutPlan
    plan: MemoryPlan
    notes: tuple[str, ...] = field(default=())
    crds_context: str = ""
    products: ProductPlan | None = None
    state: State = "new"
    arrivals: Arrivals | None = None
    wavelength_facts: dict[str, Any] = field(default_factory=dict)
    ramp_templates: dict[str, Any] = field(default_factory=dict)
    wavelength_file: Path | None = None
    background: dict[str, Any] = field(default_factory=dict)

    def chain(self, templates: dict[str, Any]) -> RateChain:
        """Bind the steps up to the slopes."""
        told = {**self.ramp_templates, **templates}
        official = self.request.parity is not None
        return bind_rates(self.config, self.exposure.info, self.references, told, official=official)

    def bind_slopes(self, rates: RateChain, templates: dict[str, Any]) -> SlopeSteps:
        """Bind the steps on slopes."""
        info = self.exposure.info
        return bind_slopes(
            self.config, info, rates.pixeldq, self.references, templates, segment_spans(self.exposure)
        )

    def bind_measurement(
        self, slopes: SlopeSteps, templates: dict[str, Any], names: tuple[str, ...]
    ) -> tuple[Any, ...]:
        """Bind the named steps that measure."""
        spans = segment_spans(self.exposure)
        return bind_measurement(self.config, slopes, self.references, templates, names, spans)


def segment_spans(exposure: Exposure) -> tuple[tuple[int, int], ...]:
    """First and last integration of each file."""
    return tuple((one.first, one.last) for one in exposure.segments)

"""JWST time-series exposures, one integration at a time.

::

    segment files ─► reader ─► integration ─► operators ─► record batches ─► sinks
      files/                   integration/   operators/    records/         sinks/

`process` reduces exposures into a light curve and spectra, `stream` hands out their record batches while they are made,
and `open` reads what was written, finished or not. `tsostream.simulate` makes exposures with known truth.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsostream.run.api import process, stream
    from tsostream.sinks import open_output as open  # noqa: A004 - tsostream.open reads like the command

__version__ = "0.1.0"

__all__ = ["__version__", "open", "process", "stream"]

#: public name -> (module, name there); imported when first used, so that `import tsostream` costs nothing
_LAZY = {
    "open": ("tsostream.sinks", "open_output"),
    "process": ("tsostream.run.api", "process"),
    "stream": ("tsostream.run.api", "stream"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        value = getattr(import_module(module), attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tsostream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

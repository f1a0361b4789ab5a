"""What a run will hold in memory, computed before it starts.

Nothing in it depends on the number of integrations or on the size of the files: buffers of the reader, workspaces of
the workers, blocks in flight, the scout's stack, the references.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tsostream.errors import ConfigError, MemoryLimitError, Problem
from tsostream.files import BLOCK_BYTES, Exposure, block_length, buffer_bytes
from tsostream.operators.jit import is_cold
from tsostream.operators.memory import memories_of
from tsostream.operators.window import ring_bytes
from tsostream.run.flow import blocks_in_flight, frames_waiting, ring_capacity
from tsostream.run.product_plan import ProductPlan, product_memory
from tsostream.run.ramps import RateChain
from tsostream.run.scout import COVARIANCE_PIXELS, ScoutPlan, stack_size
from tsostream.run.slopes import SlopeSteps

__all__ = ["MemoryPlan", "make_plan", "parse_bytes", "resident_bytes"]

#: what the interpreter takes with all libraries imported (160 MB) and kernels loaded (90 MB), without any data
#: [bytes]; measured on exposures of a few pixels with ``python -m bench.memory --tiny``
PROGRAM_BYTES = 240 << 20
#: what SciPy takes, which only the extraction of overlapping orders loads [bytes]
SCIPY_BYTES = 36 << 20
#: SCI, ERR, two variances, DQ, and what is made of them on the way [bytes per pixel]
SLOPES = 24
#: slopes of a block do not take more than this, if it holds several integrations; of short ramps they take more than
#: the words of the file, and several blocks are held at the same time [bytes]
SLOPE_BYTES = 6 << 20
#: what compiling the kernels takes on top, the first time [bytes]
COMPILER_BYTES = 100 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes of a run.

    Parameters
    ----------
    workers
        Blocks worked on side by side.
    block_bytes
        Size of a block as read.
    block_integrations
        Integrations per block.
    read_ahead
        Blocks read before they are asked for.
    program, buffers, references, workspaces, blocks, window, scout, rows, products
        Parts of the total [bytes].
    freed
        What of the references is given back when the scout is done [bytes].
    """

    workers: int
    block_bytes: int
    block_integrations: int
    read_ahead: int
    program: int
    buffers: int
    references: int
    workspaces: int
    blocks: int
    scout: int
    rows: int
    products: int = 0
    window: int = 0
    freed: int = 0

    @property
    def total(self) -> int:
        """Peak memory of the run [bytes]: scout and stream follow each other."""
        return (
            self.program
            + self.buffers
            + self.references
            + self.workspaces
            + self.blocks
            + max(self.window + self.rows + self.products - self.freed, self.scout)
        )

    def lines(self) -> list[str]:
        """List the parts, one line each."""
        parts = (
            "program", "buffers", "references", "workspaces", "blocks", "window", "scout", "rows", "products",
        )  # fmt: skip
        return [f"{name:<12}{getattr(self, name) / 1e6:9.1f} MB" for name in parts]


def resident_bytes() -> int:
    """Resident memory of this process now, 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match.group(1)) * 1024 if match else 0


def parse_bytes(text: str) -> int:
    """Read ``2GB``, ``500 MB``, ``1.5GiB`` or a plain number of bytes.

    Raises
    ------
    ConfigError
        When it is none of them.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    try:
        number = float(match.group(1)) if match else 0.0
    except ValueError:
        number = 0.0
    if not match or number <= 0:
        raise ConfigError(
            Problem("expected an amount of memory", f"--max-memory {text}", "write for example 2GB", "memory")
        )
    power = " kmgt".index(match.group(2).lower() or " ")
    return int(number * (1024 if match.group(3) else 1000) ** power)


def make_plan(
    exposure: Exposure,
    rates: RateChain,
    slopes: SlopeSteps,
    scout: ScoutPlan,
    *,
    reference_bytes: int,
    workers: int,
    max_memory: int | None = None,
    products: ProductPlan | None = None,
    held: int = 0,
    freed: int = 0,
) -> MemoryPlan:
    """Choose block size and workers, shrinking them until the run fits.

    ``held`` is what a step keeps besides, ``freed`` what goes when the scout is done [bytes].

    Raises
    ------
    MemoryLimitError
        When even the smallest plan needs more than ``max_memory``.
    """
    block_bytes = _first_size(exposure)
    # reading a large integration takes no time beside the work on it, and one is asked for while others are worked on
    read_ahead = 0 if exposure.segments[0].bytes_per_integration() >= 2 * BLOCK_BYTES else 2
    while True:
        plan = _size(
            exposure, rates, slopes, scout, reference_bytes, workers, block_bytes, read_ahead, products
        )
        plan = replace(plan, rows=plan.rows + held, freed=freed)
        if max_memory is None or plan.total <= max_memory:
            return plan
        if block_bytes > (1 << 20):
            block_bytes //= 2
        elif workers > 1:
            workers -= 1
        elif read_ahead > 0:
            read_ahead -= 1
        elif block_bytes > 1:
            block_bytes = 1  # one integration
        else:
            raise MemoryLimitError(
                f"{exposure.label}: the smallest plan takes {plan.total / 1e6:.0f} MB, more than the "
                f"{max_memory / 1e6:.0f} MB allowed; raise --max-memory\n  " + "\n  ".join(plan.lines())
            )


def _first_size(exposure: Exposure) -> int:
    """Bytes of a block of which neither words nor slopes take much memory."""
    info = exposure.info
    if not info.is_ramp:
        return BLOCK_BYTES
    length = max(1, SLOPE_BYTES // (SLOPES * int(np.prod(info.frame_shape))))
    return min(BLOCK_BYTES, length * exposure.segments[0].bytes_per_integration())


def _size(
    exposure: Exposure,
    rates: RateChain,
    slopes: SlopeSteps,
    scout: ScoutPlan,
    reference_bytes: int,
    workers: int,
    block_bytes: int,
    read_ahead: int,
    products: ProductPlan | None,
) -> MemoryPlan:
    info = exposure.info
    frame = int(np.prod(info.frame_shape))
    length = min(block_length(exposure, block_bytes=block_bytes), max(exposure.count, 1))
    # slopes from files may bring a flat-field variance and pass through a copy
    rate = length * frame * (SLOPES if info.is_ramp else SLOPES + 4)
    columns = max(info.frame_shape) if info.is_spectroscopy else 1
    measurement = length * columns * 120
    in_flight = blocks_in_flight(workers, length) + 1
    window = slopes.window
    held = 0
    if window is not None and not window.skipped:
        before, after = window.before, window.after
        waiting = frames_waiting(after, length, workers) - in_flight * length
        kept = int(np.prod(window.info.frame_shape))
        held = max(waiting, 0) * (rate // length * min(kept, frame) // frame)
        held += ring_bytes(window, ring_capacity(before, after, length, workers))
    images = 0 if scout.kind == "file" else stack_size(scout, exposure)
    # the stack and the statistics' planes; then one block's variance, or residuals and transforms of the covariance
    followed = 0 if scout.kind == "file" else min(images, max(4, COVARIANCE_PIXELS // frame))
    stack = (images + min(images, 9)) * frame * 4 + frame * 40
    stack += max(length * frame * 9, followed * frame * 4 + 48 * frame)
    return MemoryPlan(
        workers=workers,
        block_bytes=block_bytes,
        block_integrations=length,
        read_ahead=read_ahead,
        program=PROGRAM_BYTES
        + (SCIPY_BYTES if exposure.info.exp_type == "NIS_SOSS" else 0)
        + (COMPILER_BYTES if is_cold() else 0),
        buffers=buffer_bytes(exposure, block_bytes=block_bytes, read_ahead=read_ahead, in_use=in_flight),
        references=reference_bytes + sum(_step_bytes(rates, frame)),
        workspaces=workers * rates.plan.bytes + _carried_bytes(rates, frame, length, workers)
        if info.is_ramp
        else 0,
        blocks=in_flight * (rate + measurement),
        scout=stack,
        rows=64 * columns * 60 * 4,
        products=product_memory(products, frame, workers, length),
        window=held,
    )


def _carried_bytes(rates: RateChain, frame: int, length: int, workers: int) -> int:
    """Estimate what ramp steps know of earlier integrations: a plane per integration in hand, and what is carried."""
    sizes = [np.dtype(one.dtype).itemsize for one in memories_of(rates.steps)]
    return (workers * length + 3) * frame * sum(sizes)


def _step_bytes(rates: RateChain, frame: int) -> list[int]:
    """Estimate the prepared copies of references that bound steps keep: two planes each, the dark once more."""
    return [2 * 4 * frame for _ in rates.steps] + [4 * frame * rates.info.ngroups if rates.steps else 0]

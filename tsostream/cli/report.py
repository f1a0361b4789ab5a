"""What a run is going to do, as tables: exposure, steps, references, memory, and what is worth knowing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tsostream.files import Exposure
from tsostream.integration.coupling import Numbered, Template, Window
from tsostream.operators.catalog import OPERATORS
from tsostream.run.config import Config
from tsostream.run.plan import MemoryPlan
from tsostream.run.prepared import Prepared
from tsostream.run.scout import ScoutPlan, first_numbers, scout_numbers

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "changed_parameters",
    "emit",
    "facts_table",
    "heading",
    "print_notes",
    "print_plan",
    "save_configs",
    "size_text",
    "title",
]


def size_text(size: float) -> str:
    """Write bytes for people."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 2)):
        if size < 1000 or unit == "GB":
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return ""


def emit(console: Console, *things: RenderableType) -> None:
    """Print; where nobody sees the right edge (files, pipes) without filling lines up to it."""
    if console.is_terminal:
        console.print(*things)
        return
    with console.capture() as captured:
        console.print(*things)
    console.print("\n".join(line.rstrip() for line in captured.get().splitlines()), soft_wrap=True)


def title(exposure: Exposure) -> Text:
    """Say which exposure this is, in one line."""
    info = exposure.info
    optics = " ".join(part for part in (info.filter, info.pupil, info.grating) if part and part != "N/A")
    target = str(info.header.get("TARGNAME") or info.header.get("TARGPROP") or "")
    facts = [
        f"{info.instrument} {info.detector}",
        info.exp_type,
        optics,
        f"{info.subarray} {info.nx}×{info.ny}",
        info.level,
        target,
    ]
    line = Text(f"{info.exposure_id} ", style="bold cyan")
    return line.append(" · ".join(fact for fact in facts if fact), style="default")


def heading(text: str) -> Text:
    """Make a section's headline."""
    return Text(text, style="bold")


def facts_table(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Lay facts out: what on the left, the fact on the right; empty facts are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(f"  {name}", value)
    return table


def integrations_text(exposure: Exposure) -> str:
    """Say which integrations there are, and how they were read out."""
    info = exposure.info
    size = sum(segment.size for segment in exposure.segments)
    files = "1 file" if len(exposure.segments) == 1 else f"{len(exposure.segments)} files"
    groups = f", {info.ngroups} groups every {info.group_time:g} s" if info.is_ramp else ""
    missing = sum(last - first + 1 for first, last in exposure.gaps)
    gaps = f", {missing} missing" if missing else ""
    pattern = f" ({info.readpatt})" if info.readpatt else ""
    span = f"{exposure.first}-{exposure.last} of {info.nints}"
    return f"{span} in {files} ({size_text(size)}){gaps}{groups}{pattern}"


def changed_parameters(config: Config) -> list[str]:
    """``step.parameter = value`` of everything that is not the code's default."""
    lines = []
    for operator in config.operators:
        defaults = type(operator)().parameters()
        lines += [
            f"{operator.name}.{name} = {value} (default {defaults.get(name)})"
            for name, value in operator.parameters().items()
            if value != defaults.get(name)
        ]
    return lines


def steps_text(config: Config) -> Text:
    """List the steps in order, then those left out."""
    text = Text(" → ".join(operator.name for operator in config.operators))
    # steps that are off unless somebody asks for them are no news
    chosen = [name for name in config.skipped if not OPERATORS[name].skip]
    if chosen:
        text.append(f"\nleft out: {', '.join(chosen)}", style="yellow")
    return text


def couplings(config: Config) -> list[str]:
    """Which steps look beyond the integration in hand."""
    lines = []
    for operator in config.operators:
        match operator.coupling:
            case Window(before, after, edge):
                lines.append(
                    f"{operator.name}: {before} integrations before, {after} after ({edge} at the ends)"
                )
            case Template(what):
                lines.append(f"{operator.name}: the scout's {', '.join(what)}")
            case Numbered():
                lines.append(f"{operator.name}: the number of the integration")
    return lines


def references_text(names: Mapping[str, str], sources: Mapping[str, str]) -> str:
    """One reference per line: type, file, source."""
    flag = {"override": "--override", "refs": "--refs", "lock": "--lock", "config": "--config"}
    width = max(map(len, names), default=0)
    return "\n".join(
        f"{kind:<{width}}  {name}  ({flag.get(sources.get(kind, ''), sources.get(kind, ''))})"
        for kind, name in names.items()
    )


def scout_text(scout: ScoutPlan, exposure: Exposure, *, parity: bool = False) -> str:
    """Say what the templates are made from; of ramps some are read once more, for the first image."""
    if scout.kind == "file":
        return f"stored: {scout.path}"
    numbers = scout_numbers(scout, exposure)
    again = len(first_numbers(numbers)) if exposure.info.is_ramp and not parity else 0
    where = "spread over the exposure" if scout.kind == "spread" else "from its beginning"
    return f"{len(numbers)} integrations {where}" + (f", {again} of them twice" if again else "")


def memory_text(plan: MemoryPlan) -> str:
    """Say how much memory the run takes, and for what."""
    parts = ("program", "buffers", "references", "workspaces", "blocks", "scout", "rows", "products")
    shares = ", ".join(
        f"{name} {getattr(plan, name) / 1e6:.0f}" for name in parts if getattr(plan, name) >= 5e5
    )
    return f"{plan.total / 1e6:.0f} MB at most ({shares})"


def blocks_text(plan: MemoryPlan) -> str:
    """Say how the work is cut."""
    integrations = (
        "1 integration" if plan.block_integrations == 1 else f"{plan.block_integrations} integrations"
    )
    workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    return f"{workers}, blocks of {integrations}, {plan.read_ahead} read ahead"


def plan_rows(prepared: Prepared) -> list[tuple[str, str | Text]]:
    """Facts about a run that is ready to go."""
    config = prepared.config
    wavelengths = prepared.wavelength_source if prepared.exposure.info.is_spectroscopy else ""
    return [
        ("steps", steps_text(config)),
        ("parameters", f"{config.source}" + "".join(f"\n{line}" for line in changed_parameters(config))),
        ("windows", "\n".join(couplings(config))),
        (
            "references",
            references_text({k: r.name for k, r in prepared.references.items()}, prepared.sources),
        ),
        ("wavelengths", wavelengths),
        ("scout", scout_text(prepared.scout, prepared.exposure, parity=prepared.request.parity is not None)),
        ("blocks", blocks_text(prepared.plan)),
        ("memory", memory_text(prepared.plan)),
        ("products", "\n".join(prepared.products.lines()) if prepared.products is not None else ""),
    ]


def print_plan(console: Console, prepared: Prepared) -> None:
    """Print what ``process`` is going to do with an exposure."""
    emit(console, title(prepared.exposure))
    rows = [row for row in plan_rows(prepared) if row[0] not in ("windows",)]
    emit(
        console,
        facts_table(
            [("integrations", integrations_text(prepared.exposure)), *rows, ("output", str(prepared.out))]
        ),
    )


def print_notes(console: Console, notes: Sequence[str], said: set[str] | None = None) -> None:
    """Print notes, each once; those that change the result stand out."""
    said = set() if said is None else said
    for note in notes:
        if note in said:
            continue
        said.add(note)
        loud = "NO WAVELENGTHS" in note or "SKIPPED" in note
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True, style="bold yellow" if loud else "dim")
        line.add_column(overflow="fold", style="bold yellow" if loud else "")
        line.add_row("  !" if loud else "  note:", note)
        emit(console, line)


def save_configs(settled: Sequence[tuple[Exposure, Config]], path: Path, *, overwrite: bool = False) -> None:
    """Write the resolved configuration of each exposure; several go into files of their own, as outputs do."""
    from tsostream.run.config import save_config
    from tsostream.run.setup import output_paths

    paths = output_paths(path, [exposure for exposure, _ in settled])
    for (exposure, config), one in zip(settled, paths, strict=True):
        save_config(config, one, exposure.info, overwrite=overwrite)

"""Options that commands share, and a help page that groups them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import click

from tsostream.cli.logs import LEVELS
from tsostream.cli.usage import once
from tsostream.integration.exposure_info import Level

if TYPE_CHECKING:
    from tsostream.run.request import Request

__all__ = [
    "HELP_SETTINGS",
    "Grouped",
    "GroupedOption",
    "apply_options",
    "grouped",
    "inputs_argument",
    "level_option",
    "make_request",
    "options",
    "overwrite_option",
    "product_options",
    "quiet_option",
    "save_config_option",
]

F = TypeVar("F", bound=Callable[..., Any])

HELP_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class GroupedOption(click.Option):
    """An option that stands under a heading of the help page."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group


class Grouped(click.Command):
    """A command whose help page has a section per group of options, then its examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group, in the order the groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Help"), []).append(record)
        # the page ends with --help itself
        rest = groups.pop("Help", [])
        for name, records in {**groups, "Help": rest}.items():
            with formatter.section(name):
                formatter.write_dl(records, col_max=28)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip("\n").splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n" if line else "\n")


def grouped(group: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option of a group."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)


def inputs_argument(function: F) -> F:
    """Take segment files, directories or associations."""
    return click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())(function)


_PATH = click.Path(path_type=Path)


def level_option(group: str = "Input") -> Callable[[F], F]:
    """Choose among the products of a directory."""
    names = get_args(Level)
    text = f"Product level to use where a directory holds several: {', '.join(names)}."
    return grouped(group, "--level", type=click.Choice(names), metavar="LEVEL", help=text)


def overwrite_option(text: str, group: str = "Output") -> Callable[[F], F]:
    """Replace what is there."""
    return grouped(group, "--overwrite", is_flag=True, help=text)


def quiet_option(text: str = "Nothing but errors.") -> Callable[[F], F]:
    """Say less."""
    return grouped("What is said", "--quiet", "-q", is_flag=True, help=text)


_SELECTION = (
    level_option(),
    grouped(
        "Input",
        "--allow-gaps",
        is_flag=True,
        help="Go on over missing integrations between segments; their rows have present = false.",
    ),
    grouped(
        "Steps and parameters",
        "--config",
        metavar="FILE|none",
        help="YAML file with steps and parameters [default: the mode's own; none: the code defaults].",
    ),
    grouped(
        "Steps and parameters",
        "--pars",
        multiple=True,
        metavar="FILE|DIR|crds|none",
        help="Parameter files of the official pipeline (pars-*.asdf), below --config [default: crds, where a "
        "cache or server is set up]. May be repeated.",
    ),
    grouped(
        "Steps and parameters",
        "--set",
        "settings",
        multiple=True,
        metavar="STEP.PAR=VALUE",
        help="Set one parameter, e.g. jump.rejection_threshold=8. May be repeated, and wins over --config.",
    ),
    grouped(
        "Steps and parameters",
        "--skip-step",
        "skip_steps",
        multiple=True,
        metavar="STEP",
        help="Leave a step out. May be repeated.",
    ),
    grouped(
        "Steps and parameters",
        "--scout",
        default="auto",
        show_default=True,
        metavar="HOW",
        help="Integrations the templates are made from before the run: auto, spread:N (over the exposure), "
        "head:N (the first ones), or the stored scout of another run (a file).",
    ),
    grouped(
        "Steps and parameters",
        "--position",
        metavar="X,Y",
        help="Where the source of an image is, 0-based pixels of the subarray [default: XREF_SCI and YREF_SCI of the "
        "header, the brightest source near it].",
    ),
    grouped(
        "Steps and parameters",
        "--wavelengths",
        type=_PATH,
        metavar="FILE",
        help="Wavelengths, where the input has none: a WAVELENGTH image, a calints product, or a table.",
    ),
    grouped(
        "References",
        "--refs",
        "refs_dir",
        type=_PATH,
        multiple=True,
        callback=once,
        metavar="DIR",
        help="Directory of reference files (FITS, ASDF, JSON), chosen by their keywords. One: single files that are "
        "elsewhere are named with --override.",
    ),
    grouped(
        "References",
        "--lock",
        type=_PATH,
        metavar="FILE",
        help="Use exactly the references and parameters of a lock (tsostream refs lock); --refs tells where the "
        "files are now.",
    ),
    grouped(
        "References",
        "--crds-context",
        metavar="jwst_NNNN.pmap",
        help="Rules CRDS chooses references by [default: CRDS_CONTEXT, or the latest].",
    ),
    grouped(
        "References",
        "--override",
        "overrides",
        multiple=True,
        metavar="TYPE=FILE",
        help="Use this file for a reference type, e.g. superbias=mine.fits. May be repeated.",
    ),
    grouped(
        "Resources",
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Blocks worked on side by side [default: one per processor]; results do not depend on it.",
    ),
    grouped(
        "Resources",
        "--max-memory",
        metavar="SIZE",
        help="Plan to stay below this, e.g. 2GB; the plan shrinks, and refuses when it cannot.",
    ),
)

save_config_option = grouped(
    "Steps and parameters",
    "--save-config",
    type=_PATH,
    metavar="FILE",
    help="Write every parameter of every step, as resolved, to a YAML file that --config takes.",
)

_PRODUCTS = (
    grouped(
        "Output",
        "--products",
        multiple=True,
        metavar="NAME[,NAME]",
        help="Products to make in the official layout: rate, rateints, ramp, calints, crfints (one FITS per input "
        "segment), x1dints, whtlt, phot (one per exposure). May be repeated.",
    ),
    grouped(
        "Output",
        "--products-dir",
        type=_PATH,
        metavar="DIR",
        help="Where products go [default: beside the light curve].",
    ),
    grouped(
        "Output",
        "--save-steps",
        multiple=True,
        metavar="STEP[,STEP]",
        help="Save what these steps make, as FITS, one file per input segment. May be repeated.",
    ),
    grouped(
        "Output",
        "--save-ints",
        metavar="FIRST-LAST",
        help="Integrations that --save-steps keeps, such as 1-10 [default: all].",
    ),
)

_PARITY = (
    grouped(
        "Steps and parameters",
        "--bins",
        metavar="R=100|N=20|FILE",
        help="Spectroscopic light curves in bins of wavelength, as a third table (lc.bins.arrow): by resolving "
        "power, by number, or from a file with the first and last wavelength [um] of a bin on each line.",
    ),
    grouped(
        "Steps and parameters",
        "--calibrated",
        is_flag=True,
        default=None,
        help="Absolute units: run flat_field and photom, which relative light curves do without.",
    ),
    grouped(
        "Steps and parameters",
        "--parity",
        type=click.Choice(("jwst",)),
        help="Reproduce the official pipeline for each segment file: statistics over all integrations of "
        "a file, the official time-series steps and the code's default parameters (unless --config or --set say "
        "otherwise).",
    ),
    grouped(
        "Resources",
        "--scratch",
        type=_PATH,
        metavar="DIR",
        help="Where --parity keeps the slopes of large segments until the run ends [default: the system's "
        "temporary folder].",
    ),
)

_TALK = (
    grouped(
        "What is said",
        "--log-file",
        type=_PATH,
        metavar="FILE",
        help="Append a log: parameters, counts and seconds of each step.",
    ),
    grouped(
        "What is said",
        "--log-level",
        type=click.Choice(LEVELS),
        metavar="LEVEL",
        help=f"How much is logged, to the log file, or without one to the terminal: {', '.join(LEVELS)}. "
        "debug adds tracebacks.",
    ),
)


def apply_options(function: F, decorators: Sequence[Callable[[F], F]]) -> F:
    """Declare options, in this order on the help page."""
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def product_options(function: F) -> F:
    """Add what ``process`` can make besides rows."""
    return apply_options(function, _PRODUCTS)


def options(function: F) -> F:
    """Add what ``process`` and ``inspect`` share."""
    return apply_options(function, (*_SELECTION, *_PARITY, *_TALK))


def make_request(inputs: tuple[str, ...], out: Path | None = None, **chosen: Any) -> Request:
    """Turn option values into a request; whatever the runner does not know is left out."""
    from dataclasses import fields

    from tsostream.run.request import Request, position_setting

    if position := chosen.get("position"):
        chosen["settings"] = (*(chosen.get("settings") or ()), position_setting(position))
    # without --pars it is for the runner to say where parameters come from
    chosen["pars"] = chosen.get("pars") or None
    known = {field.name for field in fields(Request)}
    given = {name: value for name, value in chosen.items() if name in known and value is not None}
    for name in ("refs_dir", "wavelengths", "lock", "products_dir", "scratch"):
        if name in given:
            given[name] = given[name].expanduser()
    return Request(inputs=tuple(inputs), out=out, **given)

"""The command ``tsostream``: its subcommands, and the one place where failures become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from tsostream import __version__
from tsostream.cli.demo import demo
from tsostream.cli.export import export_command
from tsostream.cli.failures import explain
from tsostream.cli.inspection import inspect_command
from tsostream.cli.living import live
from tsostream.cli.options import HELP_SETTINGS
from tsostream.cli.processing import process
from tsostream.cli.references import refs
from tsostream.cli.replaying import replay
from tsostream.cli.simulation import simulate_command
from tsostream.cli.tailing import tail

__all__ = ["tsostream"]


class _Application(click.Group):
    """A group whose failures are messages and exit codes, never tracebacks; commands stay in their order."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            code = result if isinstance(result, int) else 0
            # a reader that went away (`| head`) is noticed here, not while the interpreter shuts down
            sys.stdout.flush()
        except Exception as error:
            code = explain(error)
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Application, context_settings=HELP_SETTINGS, no_args_is_help=True)
@click.version_option(__version__, "--version", message="tsostream %(version)s")
def tsostream() -> None:
    """JWST time-series exposures, one integration at a time.

    Segment files go in; a light curve and spectra grow on disk, row by row, readable by other programs while
    the run goes on.

    \b
    Try it without any data:      tsostream demo
    What do I have here?          tsostream inspect jw*_uncal.fits --refs references/
    Reduce it:                    tsostream process jw*_uncal.fits --refs references/ --out lc.arrow
    Watch it grow:                tsostream tail lc.arrow    (live: as a page)
    Hand it to another tool:      tsostream export lc.arrow --to whtlt
    Read it in Python:            tsostream.open("lc.arrow").to_pandas()

    Every command explains itself: tsostream process --help.
    """  # noqa: D301 - click looks for the backspace itself


for _command in (process, inspect_command, tail, live, replay, simulate_command, refs, export_command, demo):
    tsostream.add_command(_command)

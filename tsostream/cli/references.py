"""``tsostream refs``: which reference files an exposure needs; fetch, lock and verify them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tsostream.cli.options import Grouped, grouped, inputs_argument, make_request, options

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.files import Exposure
    from tsostream.run.choices import Choices
    from tsostream.run.lock import Lock
    from tsostream.run.request import Request

__all__ = ["refs"]

EXAMPLES: Final = """
tsostream refs list jw*_uncal.fits
tsostream refs fetch jw*_uncal.fits --crds-context jwst_1364.pmap
tsostream refs lock jw*_uncal.fits --refs references/ -o run.lock
tsostream refs lock --from lc.arrow -o run.lock
tsostream refs verify run.lock
"""


class _Family(click.Group):
    """A group of commands whose help page ends with examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line in EXAMPLES.strip("\n").splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("refs", cls=_Family)
def refs() -> None:
    """List, fetch, lock and verify the reference files of an exposure.

    Files come from --override, --refs DIR, a lock, the configuration, or CRDS, in this order. For CRDS set
    CRDS_PATH to a cache (the official pipeline's will do) and CRDS_SERVER_URL=https://jwst-crds.stsci.edu to
    download what it lacks; without a server, nothing is ever asked of the network.
    """


_OUT = click.Path(path_type=Path)


@refs.command("list", cls=Grouped, examples="tsostream refs list jw*_uncal.fits --refs references/\n")
@inputs_argument
@options
def list_command(
    inputs: tuple[str, ...], log_file: Path | None, log_level: str | None, **chosen: Any
) -> None:
    """List which reference files a run would use, and where each comes from.

    Exit codes: 0 all are there; 2 some are missing.
    """
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    with logging_to(log_file, log_level):
        console = make_console(stderr=False)
        _show(console, make_request(inputs, None, **chosen), fetch=False)


@refs.command(
    "fetch", cls=Grouped, examples="tsostream refs fetch jw*_uncal.fits --crds-context jwst_1364.pmap\n"
)
@inputs_argument
@options
def fetch_command(
    inputs: tuple[str, ...], log_file: Path | None, log_level: str | None, **chosen: Any
) -> None:
    """Download the reference and parameter files a run would use into the CRDS cache.

    Process does this by itself before it starts; this is for preparing a machine that has no network later.
    """
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    with logging_to(log_file, log_level):
        console = make_console(stderr=False)
        _show(console, make_request(inputs, None, **chosen), fetch=True)


def _choices(request: Request, *, fetch: bool) -> list[tuple[Exposure, Choices]]:
    """Settle what each exposure would be reduced with.

    Raises
    ------
    InputError
        With everything but missing references.
    """
    from tsostream.cli.downloads import download_bar
    from tsostream.cli.watching import make_console
    from tsostream.errors import InputError
    from tsostream.files import find_exposures
    from tsostream.run.choices import choose
    from tsostream.run.problems import Problems

    problems = Problems()
    settled = []
    with download_bar(make_console()) as progress:
        for exposure in find_exposures(
            [Path(one) for one in request.inputs], level=request.level, allow_gaps=request.allow_gaps
        ):
            chosen = choose(request, exposure.info, problems, fetch=fetch, progress=progress)
            if chosen is not None:
                settled.append((exposure, chosen))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return settled


def _show(console: Console, request: Request, *, fetch: bool) -> None:
    """Print a table per exposure, then raise what is missing."""
    from rich.table import Table

    from tsostream.cli.report import emit, print_notes, title
    from tsostream.errors import ReferenceMismatchError

    missing = []
    for exposure, chosen in _choices(request, fetch=fetch):
        emit(console, title(exposure))
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("type", "file", "from", "for"):
            table.add_column(name, overflow="fold", no_wrap=name in ("type", "from"))
        for kind, users in chosen.config.users(exposure.info).items():
            path = chosen.selection.paths.get(kind)
            waiting = chosen.selection.not_cached.get(kind)
            file = path.name if path else waiting or "-"
            source = chosen.sources.get(kind, "not in the cache" if waiting else "missing")
            table.add_row(kind, file, source, ", ".join(users))
        emit(console, table)
        print_notes(console, [str(note) for note in chosen.notes])
        missing += list(chosen.missing.errors)
    if missing:
        raise ReferenceMismatchError(list(dict.fromkeys(missing)))


@refs.command(
    "lock",
    cls=Grouped,
    examples="tsostream refs lock jw*_uncal.fits -o run.lock\n"
    "tsostream refs lock --from lc.arrow -o run.lock\n",
)
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path())
@grouped(
    "Output", "-o", "--output", "output", required=True, type=_OUT, metavar="FILE", help="Lock file to write."
)
@grouped("Output", "--overwrite", is_flag=True, help="Replace a lock that is there already.")
@grouped("Input", "--from", "written", type=_OUT, metavar="lc.arrow",
         help="Lock what this light curve was made with, from its own metadata; no INPUT then.")  # fmt: skip
@options
def lock_command(
    inputs: tuple[str, ...],
    output: Path,
    overwrite: bool,
    written: Path | None,
    log_file: Path | None,
    log_level: str | None,
    **chosen: Any,
) -> None:
    """Write down which reference files (with their sha256) and parameters a run uses.

    Used with process --lock, now or next year, here or in another place: the same files are found by their
    content, and a file that has changed is refused.
    """
    from tsostream.cli.logs import logging_to
    from tsostream.errors import InputError, Problem
    from tsostream.run.lock_file import write_lock

    if bool(inputs) == (written is not None):
        todo = "give either segment files, or --from lc.arrow"
        raise InputError(
            Problem("nothing to lock" if not inputs else "INPUT and --from together", "refs lock", todo)
        )
    with logging_to(log_file, log_level):
        if written is not None:
            lock = _written_lock(written.expanduser())
        else:
            lock = _lock_inputs(make_request(inputs, None, **chosen))
        write_lock(lock, output.expanduser(), overwrite=overwrite)
    files = sum(len(entry.files()) for entry in lock.entries)
    exposures = "1 exposure" if len(lock.entries) == 1 else f"{len(lock.entries)} exposures"
    click.echo(f"{output}: {files} files, {exposures}")


def _lock_inputs(request: Request) -> Lock:
    from tsostream.cli.downloads import download_bar
    from tsostream.cli.watching import make_console
    from tsostream.references.crds_client import crds_version
    from tsostream.run.locking import lock_of
    from tsostream.run.setup import prepare_all
    from tsostream.run.versions import package_versions

    with download_bar(make_console()) as progress:
        runs = prepare_all(request, progress=progress)
    return lock_of(runs, package_versions(), crds_version())


def _written_lock(path: Path) -> Lock:
    from tsostream.run.locking import lock_of_output
    from tsostream.sinks import open_output

    return lock_of_output(open_output(path).metadata, str(path))


@refs.command(
    "verify",
    cls=Grouped,
    examples="tsostream refs verify run.lock\ntsostream refs verify lc.arrow --refs moved/\n",
)
@click.argument("locks", nargs=-1, required=True, metavar="LOCK|lc.arrow...", type=_OUT)
@grouped(
    "References",
    "--refs",
    "refs_dir",
    type=_OUT,
    metavar="DIR",
    help="Where the files are now, if they have moved.",
)
def verify_command(locks: tuple[Path, ...], refs_dir: Path | None) -> None:
    """Check that the files of a lock (or of what a light curve was made with) are there and unchanged.

    Exit codes: 0 all are; 2 some have changed or are missing.
    """
    from tsostream.errors import InputError, Problem
    from tsostream.run.lock import locate
    from tsostream.run.lock_file import read_lock

    problems: list[Problem] = []
    for path in locks:
        lock = _written_lock(path.expanduser()) if path.suffix == ".arrow" else read_lock(path.expanduser())
        good = 0
        for entry in lock.entries:
            for name in entry.files():
                others = [other for other in entry.files() if other != name]
                try:
                    good += len(locate(entry, refs_dir=refs_dir, skip=others))
                except InputError as error:
                    problems += error.problems
        total = sum(len(entry.files()) for entry in lock.entries)
        click.echo(f"{path}: {good} of {total} files are there and unchanged")
    if problems:
        raise InputError(list(dict.fromkeys(problems)))

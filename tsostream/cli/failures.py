"""Exceptions become one message on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback

import click

from tsostream.cli.logs import FILE_ONLY, is_debugging
from tsostream.cli.usage import usage_line
from tsostream.errors import TsoStreamError

__all__ = ["FAILED", "INTERRUPTED", "USAGE", "explain"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

logger = logging.getLogger("tsostream")
# without it, a failure before the log is set up would be said twice
logger.addHandler(logging.NullHandler())


def explain(error: Exception) -> int:
    """Say what went wrong.

    A mistake of the user never shows a traceback. What we did not expect is a defect of ours: one line, and
    the traceback in the log file, or on the terminal with ``--log-level debug``.

    Returns
    -------
    int
        The exit code.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.UsageError):
        with contextlib.suppress(OSError):
            click.echo(usage_line(error), err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    if isinstance(error, TsoStreamError):
        logger.error("%s", error, exc_info=is_debugging(), extra=FILE_ONLY)
        _say(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE:
        _forget_output()
        return FAILED
    logger.error("%s", error, exc_info=True, extra=FILE_ONLY)
    if isinstance(error, MemoryError):
        _say("the memory is used up; give a smaller --max-memory, fewer --workers or --scout spread:8")
        return FAILED
    what = f"{type(error).__name__}: {error} ({_place(error)})"
    _say(f"internal error: {what}; please report this, with the --log-file of a run that shows it")
    if is_debugging():
        click.echo("".join(traceback.format_exception(error)), err=True)
    return FAILED


def _say(text: str) -> None:
    # nobody may be listening; the exit code still tells
    with contextlib.suppress(OSError):
        click.echo(f"tsostream: {text}", err=True)


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown place"
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"  # noqa: PTH119 - may be no path at all


def _forget_output() -> None:
    """Point stdout away from the closed pipe, so that the interpreter does not complain at its end."""
    try:
        hole = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hole, sys.stdout.fileno())
        os.close(hole)
    except (OSError, ValueError):
        pass

"""Mistakes in the command line are told in one line, with the word that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import click

__all__ = ["once", "usage_line"]


def usage_line(error: click.UsageError) -> str:
    """Say what is wrong with a command line.

    Parameters
    ----------
    error
        What click found.

    Returns
    -------
    str
        ``tsostream process: no such option --ouut; did you mean --out? (tsostream process --help)``
    """
    command = error.ctx.command_path if error.ctx is not None else "tsostream"
    what, word, known = _finding(error)
    near = get_close_matches(word, list(known), 1, 0.6) if word else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{command}: {what}{hint} ({command} --help)"


def _finding(error: click.UsageError) -> tuple[str, str, Iterable[str]]:
    """Find what is wrong, the word that is not known, and those that are."""
    context = error.ctx
    if isinstance(error, click.NoSuchOption):
        options = (
            [name for one in context.command.get_params(context) for name in one.opts] if context else []
        )
        return f"no such option {error.option_name}", error.option_name, options
    text = error.format_message()
    if context is not None and isinstance(context.command, click.Group):
        unknown = re.match(r"No such command '([^']*)'", text)
        if unknown:
            return f"no such command {unknown[1]}", unknown[1], context.command.list_commands(context)
    text = text.rstrip(".")
    text = text[:1].lower() + text[1:]
    if isinstance(error, click.BadParameter) and error.param is not None:
        kind = error.param.type
        given = re.search(r": '([^']*)' is not one of", text)
        if isinstance(kind, click.Choice) and given:
            return text, given[1], [str(one) for one in kind.choices]
    return text, "", ()


def once(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Take an option that is given once; a second one is refused, not preferred in silence."""
    if len(values) > 1:
        name = parameter.opts[0]
        raise click.BadParameter(
            f"given {len(values)} times: put the files into one directory, or name single ones with --override",
            context,
            parameter,
            param_hint=name,
        )
    return values[0] if values else None

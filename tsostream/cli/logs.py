"""What is logged, and where to.

The log file gets everything from ``--log-level`` on (default info), tracebacks included. The terminal gets
what the user asked for with ``--log-level`` when there is no log file, else warnings.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tsostream import __version__
from tsostream.errors import ConfigError, Problem

__all__ = ["FILE_ONLY", "LEVELS", "is_debugging", "logging_to"]

LEVELS: Final = ("debug", "info", "warning", "error")
#: ``extra`` of a record the user sees in another way
FILE_ONLY: Final = {"file_only": True}

logger = logging.getLogger("tsostream")


def is_debugging() -> bool:
    """Whether ``--log-level debug`` was given."""
    return logger.isEnabledFor(logging.DEBUG)


class _Terminal(logging.StreamHandler):
    """Writes to whatever stderr is at the moment: a progress bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def _for_terminal(record: logging.LogRecord) -> bool:
    return not getattr(record, "file_only", False)


@contextmanager
def logging_to(log_file: Path | None, level: str | None, *, quiet: bool = False) -> Iterator[None]:
    """Send the log of a command where the options say, until the process ends.

    Handlers stay when the command fails, so that the failure is logged, too; a further command replaces them.

    Raises
    ------
    ConfigError
        When the log file cannot be written.
    """
    handlers: list[logging.Handler] = []
    terminal = _Terminal(sys.stderr)
    shown = level if log_file is None and level is not None else "warning"
    terminal.setLevel("ERROR" if quiet else shown.upper())
    terminal.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    terminal.addFilter(_for_terminal)
    handlers.append(terminal)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                Problem(
                    f"cannot be written ({error.strerror})",
                    f"--log-file {log_file}",
                    "choose another place",
                    "log",
                )
            ) from None
        file.setLevel((level or "info").upper())
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        handlers.append(file)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(min(handler.level for handler in handlers))
    logger.propagate = False
    _divert_warnings(handlers)
    logger.info("tsostream %s: %s", __version__, shlex.join(sys.argv[1:]))
    yield
    for handler in handlers:
        handler.flush()


def _divert_warnings(handlers: list[logging.Handler]) -> None:
    """Warnings of libraries are for the log file; on the terminal they would only puzzle."""
    logging.captureWarnings(True)
    other = logging.getLogger("py.warnings")
    other.handlers = [handler for handler in handlers if isinstance(handler, logging.FileHandler)]
    if not other.handlers:
        other.addHandler(logging.NullHandler())
    other.propagate = False

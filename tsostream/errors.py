"""Every failure tsostream raises on purpose.

::

    TsoStreamError
    ├── InputError            (ValueError)         exit 2   found before the first byte is processed
    │   ├── ConfigError                            exit 2   parameters, configuration, command line
    │   ├── ReferenceMismatchError                 exit 2   a reference file is missing or does not fit
    │   └── OutputExistsError (FileExistsError)    exit 2   refuses to write over something
    ├── ReadError             (OSError)            exit 1   an input could not be read during the run
    │   └── IdleTimeoutError                       exit 1   an input did not come within ``--idle-timeout``
    ├── SinkError             (OSError)            exit 1   an output could not be written during the run
    ├── OperatorError         (RuntimeError)       exit 1   a step failed; says which, at which integration
    └── MemoryLimitError      (MemoryError)        exit 2   the plan does not fit into ``--max-memory``

A message says what is wrong, what was found and expected, where (file, extension, integration) and what to do.
All problems with inputs are collected and raised once, as an `InputError` whose ``problems`` lists them.

Bad *data* is never an exception: it becomes DQ bits, NaN, counts and a larger error.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ConfigError",
    "IdleTimeoutError",
    "InputError",
    "MemoryLimitError",
    "OperatorError",
    "OutputExistsError",
    "Problem",
    "ReadError",
    "ReferenceMismatchError",
    "SinkError",
    "TsoStreamError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: what is wrong, where, and what to do about it.

    Parameters
    ----------
    what
        What was found and what was expected, one sentence without a full stop.
    where
        File, extension, integration; empty when the finding is about the whole request.
    todo
        What the user can do, one imperative clause.
    code
        Short machine-readable name (``gap``, ``truncated``, ``foreign``, ...), stable across versions.
    """

    what: str
    where: str = ""
    todo: str = ""
    code: str = "problem"

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.todo}" if self.todo else text


class TsoStreamError(Exception):
    """Base of everything tsostream raises on purpose."""

    exit_code = 1


class InputError(TsoStreamError, ValueError):
    """Raised once with every problem found in the inputs, before anything is processed."""

    exit_code = 2

    def __init__(self, problems: str | Problem | list[Problem] | tuple[Problem, ...]):
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"{len(self.problems)} problems:"]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type, tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class ConfigError(InputError):
    """Raised when a parameter, a configuration file or a command line makes no sense."""


class ReferenceMismatchError(InputError):
    """Raised when a reference file is missing, ambiguous, unreadable, or of another detector or shape."""


class OutputExistsError(InputError, FileExistsError):
    """Raised when an output is already there, or is an input."""


class MemoryLimitError(TsoStreamError, MemoryError):
    """Raised when the smallest possible plan needs more than ``--max-memory``."""

    exit_code = 2


class ReadError(TsoStreamError, OSError):
    """Raised when an input cannot be read during the run."""


class IdleTimeoutError(ReadError):
    """Raised when nothing new has come into a followed directory for too long; the output is resumable."""


class SinkError(TsoStreamError, OSError):
    """Raised when an output cannot be written during the run."""


class OperatorError(TsoStreamError, RuntimeError):
    """Raised when a step fails; names the step and the integration."""

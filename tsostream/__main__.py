"""``tsostream`` and ``python -m tsostream``."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import NoReturn

__all__ = ["BETWEEN_COLLECTIONS", "main"]

#: new containers after which the interpreter looks for cycles that nobody needs: after its 700, a tenth of the time to
#: import what a run needs would go into looking
BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    """Run the command line; leaves the process with its exit code."""
    gc.set_threshold(BETWEEN_COLLECTIONS)
    from tsostream.cli.app import tsostream

    code = 1
    try:
        tsostream.main(prog_name="tsostream")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if sys.flags.interactive:
        sys.exit(code)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart.

    Threads of libraries that are still alive then may want the interpreter: pyarrow's, which let go of a file they have
    read, are ended by it in the middle of C++ code, and take the process with them ("terminate called without an active
    exception", exit code 134), after everything is done and said.
    """
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

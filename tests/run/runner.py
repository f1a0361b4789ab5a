# ruff: noqa: T201
"""A run in a process of its own: ``runner.py OUT REFS SEGMENT... [--pause S] [--block BYTES] [--hold] ...``.

Prints the last integration after each commit, so that the test knows what must be on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from pathlib import Path

from tsostream.errors import TsoStreamError
from tsostream.records import RowPair
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("refs", type=Path)
    parser.add_argument("segments", type=Path, nargs="+")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each batch")
    parser.add_argument("--block", type=int)
    parser.add_argument("--step", action="store_true", help="wait for a line after each batch")
    parser.add_argument("--limit", type=int, help="no file may become larger than this")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--hold", action="store_true", help="wait for a line after the first batch")
    options = parser.parse_args()
    if options.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.limit, options.limit))
    held = False

    def told(pair: RowPair) -> None:
        nonlocal held
        print(pair.light_curve["integration"][-1].as_py(), flush=True)
        if options.step or (options.hold and not held):
            held = True
            sys.stdin.readline()
        time.sleep(options.pause)

    try:
        (prepared,) = prepare_all(
            Request(
                inputs=tuple(options.segments),
                out=options.out,
                refs_dir=options.refs,
                block_bytes=options.block,
                overwrite=options.overwrite,
            )
        )
        asyncio.run(run_exposure(prepared, on_rows=told))
    except TsoStreamError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

# ruff: noqa: T201
"""A run in a process of its own: ``writer.py OUT LAST [--resume] [--overwrite] [--rows 7] ...``.

Prints the number of the last integration after each commit, so that the test knows what must be there.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "records"))

from row_builders import batches, schemas

from tsostream.errors import TsoStreamError
from tsostream.sinks import Output

FINGERPRINT = {"config": "a"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("last", type=int)
    parser.add_argument("--rows", type=int, default=7)
    parser.add_argument("--wave", type=int, default=16)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--limit", type=int, help="no file may become larger than this")
    parser.add_argument("--hold", action="store_true", help="wait for a line before the end")
    parser.add_argument("--step", action="store_true", help="wait for a line before each batch")
    parser.add_argument("--user", type=int, help="become this user first")
    options = parser.parse_args()
    if options.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.limit, options.limit))
    if options.user:
        os.setuid(options.user)
    try:
        run(options)
    except TsoStreamError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)


def run(options):
    lc, spectra = schemas(n_wave=options.wave)
    number = 1
    if options.resume:
        output, number = Output.resume(options.out, lc, spectra, fingerprint=FINGERPRINT)
        number = number or 1
    else:
        output = Output.create(
            options.out, lc, spectra, fingerprint=FINGERPRINT, overwrite=options.overwrite, sync_seconds=0.05
        )
    with output:
        print("begin", number, flush=True)
        while number <= options.last:
            if options.step:
                sys.stdin.readline()
            count = min(options.rows, options.last + 1 - number)
            output.commit(*batches(number, count, n_wave=options.wave))
            number += count
            print(number - 1, flush=True)
            time.sleep(options.pause)
        if options.hold:
            sys.stdin.readline()
        output.finish("complete", {"rows": options.last})


if __name__ == "__main__":
    main()

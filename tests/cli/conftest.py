"""A small exposure, and ways to run the command line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tsostream.cli.app import tsostream
from tsostream.simulate import simulate

#: runs the command line with blocks of one integration, each of which takes a while
SLOW = """
import sys, time
import tsostream.run.plan, tsostream.run.chain as chain
tsostream.run.plan.BLOCK_BYTES = 1
work = chain.{what}
def slow(self, *given):
    time.sleep({seconds})
    return work(self, *given)
chain.{what} = slow
from tsostream.__main__ import main
main()
"""


@pytest.fixture(scope="session")
def exposure(tmp_path_factory):
    """Forty integrations in two segments, with references."""
    return simulate(
        "NRS_BRIGHTOBJ",
        tmp_path_factory.mktemp("exposure"),
        ints=40,
        groups=4,
        segments=2,
        seed=3,
        nx=96,
        ny=16,
    )


@pytest.fixture(scope="session")
def arguments(exposure):
    """What ``process`` needs to reduce it, but for ``--out``."""
    return [
        "process",
        *map(str, exposure.segments),
        "--refs",
        str(exposure.directory),
        "--wavelengths",
        str(exposure.references["wavelength"]),
    ]


@pytest.fixture
def cli():
    """Run in this process; the result has exit_code, stdout, stderr."""

    def run(*given):
        return CliRunner().invoke(tsostream, [str(one) for one in given], prog_name="tsostream")

    return run


@pytest.fixture
def heeded():
    """Heed signals that whoever started the tests ignores (``nohup``, ``&``): processes inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def spawn(heeded):
    """Start a process; ends it when the test ends."""
    running = []

    def start(*given, slow=None, seconds=0.1, **options):
        how = ["-m", "tsostream"] if slow is None else ["-c", SLOW.format(what=slow, seconds=seconds)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen([sys.executable, *how, *map(str, given)], **options)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def written(cli, arguments, tmp_path) -> Path:
    """A light curve that ``process`` wrote."""
    out = tmp_path / "written.arrow"
    result = cli(*arguments, "--out", out, "-q")
    assert result.exit_code == 0, result.stderr
    return out

"""Tiny exposures, made once per session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_helpers import SMALL, Simulated, reduce

from tsostream.simulate import SimulatedExposure, simulate


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Simulate the tiny version of a mode; the same arguments give the same files."""
    made: dict[str, SimulatedExposure] = {}

    def make(exp_type: str, **options: Any) -> SimulatedExposure:
        key = repr((exp_type, sorted(options.items())))
        if key not in made:
            directory = tmp_path_factory.mktemp(exp_type.lower())
            made[key] = simulate(exp_type, directory, **{**SMALL[exp_type], **options})
        return made[key]

    return make


@pytest.fixture(scope="session")
def bots(simulated: Simulated) -> SimulatedExposure:
    """Forty integrations of NIRSpec in two files."""
    return simulated("NRS_BRIGHTOBJ", ints=40, segments=2, seed=5, oof=0)


@pytest.fixture(scope="session")
def bots_rows(bots: SimulatedExposure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes out of it; not to be changed."""
    return reduce(bots, tmp_path_factory.mktemp("bots") / "lc.arrow")


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process; it does not outlive the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*given: object, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen([sys.executable, *map(str, given)], **options)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "records"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "lc.arrow"


@pytest.fixture
def spawn():
    """Start tests/sinks/writer.py in a process of its own; whatever still runs at the end is killed."""
    started = []

    def start(*arguments, **options):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path[:1]])}
        command = [sys.executable, str(HERE / "writer.py"), *map(str, arguments)]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()

"""Baselines that a test may spoil."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "run"))


@pytest.fixture(scope="session")
def cases_folder() -> Path:
    """Folder of the cases of this repository."""
    return ROOT / "replay"

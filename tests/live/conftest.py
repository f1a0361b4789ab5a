"""Outputs whose every number follows from its integration, as the tests of records/ and sinks/ make them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "records"))


@pytest.fixture
def out(tmp_path) -> Path:
    """Where a light curve goes."""
    return tmp_path / "lc.arrow"

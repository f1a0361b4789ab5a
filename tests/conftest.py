"""For all tests: the repository's own packages (`bench`) can be imported, and the shared exposures be found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of exposures that are not part of the repository; the test is skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the shared exposures are not here")
    return folder

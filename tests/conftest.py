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


@pytest.fixture(autouse=True)
def _no_crds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own CRDS cache out of the tests; those that want one make it."""
    # not all that begin with CRDS_: the package keeps its own defaults there
    for name in ("PATH", "PATH_SINGLE", "MAPPATH", "REFPATH", "CFGPATH", "SERVER_URL", "CONTEXT"):
        monkeypatch.delenv(f"CRDS_{name}", raising=False)
    monkeypatch.setenv("CRDS_DEFAULT_CACHE", str(ROOT / "no-such-crds-cache"))

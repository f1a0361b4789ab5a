"""Versions of everything that can change a number."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_versions"]


def package_versions() -> dict[str, str]:
    """Package -> version."""
    versions = {"python": platform.python_version()}
    for name in ("tsostream", "numpy", "scipy", "numba", "pyarrow", "astropy", "aiofiles"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions

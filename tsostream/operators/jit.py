"""How every kernel is compiled, and where the machine code is kept.

Numba's cache notices an edit of the file a kernel stands in, but not of a kernel it imports. So the cache directory
is keyed by a hash of *all* kernel sources (and of the Python and Numba that compiled them): an edit anywhere starts a
fresh directory, and stale code cannot be loaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
import platformdirs

__all__ = ["cache_directory", "is_cold", "kernel"]

F = TypeVar("F", bound=Callable)


def _source_hash() -> str:
    digest = hashlib.sha256(f"{sys.version_info[:3]} {numba.__version__}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _writable_directory() -> Path:
    base = os.environ.get("TSOSTREAM_CACHE_DIR") or platformdirs.user_cache_dir("tsostream")
    path = Path(base) / "kernels" / _source_hash()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass  # a read-only home: compile again in every session rather than fail
    return Path(tempfile.mkdtemp(prefix="tsostream-kernels-"))


#: where this version's machine code lives
cache_directory: Path = _writable_directory()
numba.config.CACHE_DIR = str(cache_directory)


def is_cold() -> bool:
    """Whether no kernel of this version has been compiled on this machine yet."""
    return next(cache_directory.rglob("*.nbi"), None) is None


def kernel(function: F) -> F:
    """Compile a kernel: no Python objects, no GIL, no raising on division, no re-ordered sums, cached on disk.

    Kernels read arrays and scalars and write into arrays the caller passes. ``fastmath`` and ``parallel`` stay off:
    both make a sum depend on how the compiler or the thread count cut it.
    """
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=False)(function)

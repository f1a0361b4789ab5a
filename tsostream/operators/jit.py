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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import platformdirs
from numba.core import event

__all__ = ["cache_directory", "is_cold", "kernel", "on_compile"]


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
setattr(numba.config, "CACHE_DIR", str(cache_directory))  # noqa: B010 - numba declares it at run time


def is_cold() -> bool:
    """Whether no kernel of this version has been compiled on this machine yet."""
    return next(cache_directory.rglob("*.nbi"), None) is None


class _FirstCompilation(event.Listener):
    """Calls back once, when a kernel is compiled rather than loaded."""

    def __init__(self, callback: Callable[[], None]):
        self._callback = callback
        self._told = False

    def on_start(self, event: event.Event) -> None:
        """Tell, the first time."""
        if not self._told:
            self._told = True
            self._callback()

    def on_end(self, event: event.Event) -> None:
        """Nothing to tell."""


@contextmanager
def on_compile(callback: Callable[[], None]) -> Iterator[None]:
    """Within the block, call back when the first kernel has to be compiled: it is not in the cache yet."""
    with event.install_listener("numba:compile", _FirstCompilation(callback)):
        yield


def kernel(function: Callable) -> Any:
    """Compile a kernel: no Python objects, no GIL, no raising on division, no re-ordered sums, cached on disk.

    Kernels read arrays and scalars and write into arrays the caller passes. ``fastmath`` and ``parallel`` stay off:
    both make a sum depend on how the compiler or the thread count cut it.
    """
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=False)(function)

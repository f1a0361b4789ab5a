"""How every kernel is compiled, and where the machine code is kept.

Numba's cache notices an edit of the file a kernel stands in, but not of a kernel or a constant it imports. So the
machine code of a kernel lives in a directory keyed by a hash of all it was made from: its file, the kernels it calls
(and theirs), the constants it names, the Python and the Numba that compiled it. Stale code cannot be loaded, and an
edit costs only the kernels that can have changed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numba
import numpy as np
import platformdirs
from numba.core import event
from numba.core.runtime import rtsys
from numba.extending import typeof_impl

__all__ = ["Kernel", "cache_directory", "is_cold", "kernel", "on_compile"]


def _writable_directory() -> Path:
    base = os.environ.get("TSOSTREAM_CACHE_DIR") or platformdirs.user_cache_dir("tsostream")
    path = Path(base) / "kernels"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass  # a read-only home: compile again in every session rather than fail
    return Path(tempfile.mkdtemp(prefix="tsostream-kernels-"))


#: where machine code lives
cache_directory: Path = _writable_directory()


#: every kernel that was imported
_kernels: list[Kernel] = []
#: Numba's configuration is the process's
_decorating = threading.RLock()


@cache
def _file_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _names(code: CodeType) -> set[str]:
    """Names that a function and those defined in it look up."""
    inner = (_names(one) for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*inner)


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


def _keep_if_possible(save: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Compile again next time, rather than fail, where machine code cannot be kept: on a full disk, say."""

    def save_overload(signature: Any, data: Any) -> None:
        with suppress(OSError):
            save(signature, data)

    return save_overload


def _import_array_functions() -> None:
    """Import Numba's array functions without SciPy's linear algebra, which takes a quarter of a second.

    Numba imports it to see that ``np.dot`` could be compiled. No kernel uses it; machine code that did would import it
    when it is called.
    """
    blas = "scipy.linalg.cython_blas"
    if blas in sys.modules:
        return
    sys.modules[blas] = ModuleType(blas)
    try:
        with suppress(ImportError):
            importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[blas]


_import_array_functions()


def _load_alone(load: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Load machine code without what only a compilation needs.

    Numba would first import all it can compile, 0.2 s, and look for new declarations before each kernel. A compilation
    does so by itself when it begins.
    """

    def load_overload(signature: Any, target: Any) -> Any:
        # Numba holds its compiler lock here: nobody compiles meanwhile
        rtsys.initialize(target)
        target.refresh = lambda: None
        try:
            return load(signature, target)
        finally:
            del target.refresh

    return load_overload


class Kernel:
    """A function whose machine code is made, or loaded, when it is first called.

    A run calls two dozen of several hundred kernels: to import the others must cost next to nothing.

    Parameters
    ----------
    function
        Reads arrays and scalars and writes into arrays the caller passes.
    """

    def __init__(self, function: Callable):
        update_wrapper(self, function)
        self.py_func = function
        self._compiled: Any = None
        _kernels.append(self)

    def __call__(self, *arguments: Any) -> Any:
        """Run the machine code."""
        return (self._compiled or self.compiled)(*arguments)

    @cached_property
    def digest(self) -> bytes:
        """Hash of everything the machine code depends on."""
        code = self.py_func.__code__
        digest = hashlib.sha256(f"{sys.version_info[:3]} {numba.__version__}".encode())
        digest.update(_file_bytes(code.co_filename))
        for name in sorted(_names(code)):
            value = self.py_func.__globals__.get(name)
            if isinstance(value, Kernel):
                part = value.digest
            elif isinstance(value, ModuleType):
                # a constant such as dq.DO_NOT_USE; libraries are covered by their versions
                ours = value.__name__.partition(".")[0] == __name__.partition(".")[0]
                part = _file_bytes(str(value.__file__)) if ours else value.__name__.encode()
            elif isinstance(value, np.ndarray):
                part = value.tobytes()
            else:
                part = (
                    repr(value).encode() if isinstance(value, int | float | str | tuple | np.generic) else b""
                )
            digest.update(name.encode() + b"=" + part)
        return digest.digest()

    @cached_property
    def place(self) -> Path:
        """Directory of its machine code."""
        return cache_directory / f"{Path(self.py_func.__code__.co_filename).stem}-{self.digest.hex()[:16]}"

    @property
    def compiled(self) -> Any:
        """Numba's dispatcher."""
        with _decorating:
            if self._compiled is None:
                # Numba asks for the directory while it decorates
                setattr(numba.config, "CACHE_DIR", str(self.place))  # noqa: B010 - numba declares it at run time
                decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=False)
                compiled: Any = decorate(self.py_func)
                store = compiled._cache
                store.save_overload = _keep_if_possible(store.save_overload)
                store.load_overload = _load_alone(store.load_overload)
                self._compiled = compiled
        return self._compiled


@typeof_impl.register(Kernel)
def _type_of_kernel(value: Kernel, _context: Any) -> Any:
    """Let kernels call each other: to Numba a kernel is its dispatcher."""
    return typeof_impl(value.compiled, _context)


def is_cold() -> bool:
    """Whether none of the imported kernels has been compiled on this machine yet."""
    return not any(True for one in _kernels for _ in one.place.rglob("*.nbi"))


def kernel(function: Callable) -> Any:
    """Make a kernel: no Python objects, no GIL, no raising on division, no re-ordered sums, cached on disk.

    Kernels read arrays and scalars and write into arrays the caller passes. ``fastmath`` and ``parallel`` stay off:
    both make a sum depend on how the compiler or the thread count cut it.
    """
    return Kernel(function)

"""The names users and neighbours may rely on exist, are sorted, and importing the package costs nothing."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import tsostream

HEAVY = ("aiofiles", "astropy", "matplotlib", "numba", "numpy", "pyarrow", "rich", "scipy")


def all_modules() -> list[str]:
    return [
        one.name
        for one in pkgutil.walk_packages(tsostream.__path__, "tsostream.")
        if not one.name.endswith("__main__") and not one.name.startswith("tsostream.testing")
    ]


def test_top_level_names_are_sorted_and_importable() -> None:
    assert list(tsostream.__all__) == sorted(tsostream.__all__)
    assert set(dir(tsostream)) == set(tsostream.__all__)
    for name in tsostream.__all__:
        assert getattr(tsostream, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'proces'"):
        _ = tsostream.proces


@pytest.mark.parametrize("first", ["tsostream", "tsostream.simulate", "tsostream.simulate.exposure"])
def test_entry_points_are_callable_whatever_was_imported_first(first: str) -> None:
    """A subpackage of the same name must not take the place of the function."""
    code = (
        f"import {first}, tsostream;"
        "print(*[name for name in ('open', 'process', 'stream')"
        " if not (callable(getattr(tsostream, name)) and getattr(tsostream, name).__doc__)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", all_modules())
def test_names_in_all_exist(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    missing = [one for one in names if not hasattr(module, one)]
    assert not missing, f"{name}.__all__ names what is not there: {missing}"
    assert len(set(names)) == len(names)
    assert module.__doc__, f"{name} has no docstring"


def test_import_is_cheap() -> None:
    code = f"import sys, tsostream; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


def test_running_never_imports_the_testing_helpers() -> None:
    code = (
        "import sys, tsostream.run.api, tsostream.simulate, tsostream.sinks;"
        "print('tsostream.testing' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"

"""Every kernel has a naive twin, and the twins are what they say: no kernel code in them."""

from __future__ import annotations

import ast
from pathlib import Path

import tsostream.operators
import tsostream.testing
from tsostream.testing.naive import TWINS

OPERATORS = Path(tsostream.operators.__file__).parent
NAIVE = Path(tsostream.testing.__file__).parent / "naive"


def kernels() -> set[str]:
    """Kernels of all modules, also of those that are loaded only when they are needed."""
    found = set()
    for path in OPERATORS.rglob("*.py"):
        module = ".".join(path.relative_to(OPERATORS).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "kernel" for d in node.decorator_list
            ):
                found.add(f"{module}.{node.name}")
    return found


def test_every_kernel_has_a_twin() -> None:
    found = kernels()
    assert len(found) > 300
    assert found - set(TWINS) == set(), "write a twin in tsostream/testing/naive and list it in TWINS"
    assert set(TWINS) - found == set(), "these kernels are gone"


def test_twins_do_not_use_the_kernels() -> None:
    for path in NAIVE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("tsostream.operators", "numba")), path.name


def test_every_twin_is_used_in_a_test() -> None:
    text = "\n".join(
        path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)
    )
    unused = {twin.__name__ for twin in TWINS.values() if twin.__name__ not in text}
    assert unused == set()

"""Every kernel has a naive twin, and the twins are what they say: no kernel code in them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import tsostream.operators
import tsostream.testing
from tsostream.testing.naive import TWINS

OPERATORS = Path(tsostream.operators.__file__).parent
NAIVE = Path(tsostream.testing.__file__).parent / "naive"


def modules_in_use() -> set[str]:
    """Modules of operators/ that a run imports: the catalogue, the chain and the scout."""
    code = (
        "import sys, tsostream.operators.catalog, tsostream.run.chain, tsostream.run.scouting;"
        "print(*[name for name in sys.modules if name.startswith('tsostream.operators.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return {name.removeprefix("tsostream.operators.") for name in done.stdout.split()}


def kernels(used: set[str] | None = None) -> set[str]:
    """Kernels of the modules in use, or of all modules."""
    found = set()
    for path in OPERATORS.rglob("*.py"):
        module = ".".join(path.relative_to(OPERATORS).with_suffix("").parts)
        if used is not None and module not in used:
            continue  # not in the catalogue yet
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "kernel" for d in node.decorator_list
            ):
                found.add(f"{module}.{node.name}")
    return found


def test_every_kernel_has_a_twin() -> None:
    in_use = kernels(modules_in_use())
    assert len(in_use) > 30
    assert in_use - set(TWINS) == set(), "write a twin in tsostream/testing/naive and list it in TWINS"
    assert set(TWINS) - kernels() == set(), "these kernels are gone"


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

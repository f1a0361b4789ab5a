"""Who may import whom: an import that points upwards, or a heavy library away from home, fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tsostream

PACKAGE = Path(tsostream.__file__).parent
RANK = {
    name: rank
    for rank, names in enumerate(
        (
            ("errors",),
            ("integration",),
            ("files", "operators", "records", "references"),
            ("sinks",),
            ("run",),
            ("live", "replay", "simulate"),
            ("cli",),
            ("__init__", "__main__"),
        )
    )
    for name in names
}
#: library -> packages that may import it
HOMES = {
    "numba": {"operators"},
    "pyarrow": {"records", "sinks", "simulate", "live", "replay"},
    "aiofiles": {"files"},
    "starlette": {"live"},
}
#: library -> packages that must not
STRANGERS = {"astropy": {"operators", "records", "integration"}}


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether it is only for the type checker."""
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield node.module, id(node) in guarded
            yield from ((f"{node.module}.{alias.name}", id(node) in guarded) for alias in node.names)


def violations(module: str, source: str, steps: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with the imports of one module (``package.sub.module`` below tsostream)."""
    own = module.partition(".")[0]
    found, libraries = [], set()
    for target, type_only in imports(ast.parse(source)):
        library, _, rest = target.partition(".")
        libraries.add(library)
        if library != "tsostream":
            if library in HOMES and own not in HOMES[library] | {"testing"}:
                found.append(f"{module} imports {library}")
            if own in STRANGERS.get(library, ()):
                found.append(f"{module} imports {library}")
            continue
        other = rest.partition(".")[0]
        if other == "testing" and own != "testing":
            found.append(f"{module} imports {target}")
        if own != "testing" and other in RANK and other != own and not type_only:
            if own not in RANK:
                found.append(f"{own} has no layer")
            elif RANK[other] >= RANK[own]:
                found.append(f"{module} imports {target}")
        # operators.<step>… must not import operators.<another step>…
        mine, theirs = module.split(".")[1:2], rest.split(".")[1:2]
        if own == other == "operators" and mine != theirs and {*mine, *theirs} <= steps and mine and theirs:
            found.append(f"step {module} imports step {target}")
    if {"numba", "asyncio"} <= libraries:
        found.append(f"{module} has both numba and asyncio")
    return found


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path.read_text()


@cache
def step_modules() -> frozenset[str]:
    """Modules (or folders) of operators/ that define a step: a class that derives from Operator."""
    return frozenset(
        module.split(".")[1]
        for module, source in modules()
        if module.startswith("operators.")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Operator" for base in node.bases)
    )


@pytest.mark.parametrize(("module", "source"), [pytest.param(*one, id=one[0]) for one in modules()])
def test_imports_point_downwards(module: str, source: str) -> None:
    assert violations(module, source, step_modules()) == []


def test_modules_of_run_form_no_circle() -> None:
    """Neither at run time nor for the type checker: what a run is handed knows nothing of who handles it."""
    own = {module: tree for module, tree in modules() if module.startswith("run.")}
    uses = {
        module: {target.removeprefix("tsostream.") for target, _ in imports(ast.parse(source))} & own.keys()
        for module, source in own.items()
    }
    assert len(uses) > 20
    TopologicalSorter(uses).prepare()


def test_steps_are_recognised() -> None:
    assert {"jump", "ramp_fit", "extract_1d"} <= step_modules()
    assert not {"base", "tile", "aperture", "group_planes", "sorting"} & step_modules()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("integration.payload", "from tsostream.operators import jit"),
        ("errors", "import tsostream.integration.dq"),
        ("files.reader", "from tsostream.records.schema import x"),
        ("records.rows", "from tsostream import references"),
        ("sinks.output", "import tsostream.run.api"),
        ("run.stream", "def f():\n    from tsostream.cli import app"),
        ("simulate.noise", "from tsostream.replay import pace"),
        ("newcomer.module", "from tsostream.errors import ConfigError"),
        ("run.scout", "import numba"),
        ("files.exposure", "import pyarrow as pa"),
        ("run.stream", "import aiofiles.os"),
        ("operators.jump", "from astropy.io import fits"),
        ("operators.jit", "import numba, asyncio"),
        ("operators.jump", "from tsostream.operators.ramp_fit import RampFit"),
        ("operators.jump.inner", "from tsostream.operators import ramp_fit"),
        ("run.api", "from tsostream.testing.builders import make_info"),
        ("run.api", "if TYPE_CHECKING:\n    from tsostream.testing import naive"),
    ],
)
def test_planted_violations_are_found(module: str, source: str) -> None:
    assert violations(module, source, frozenset({"jump", "ramp_fit"}))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("operators.jump", "from tsostream.operators.base import Operator\nimport numba"),
        ("operators.ramp_fit.kernels", "from tsostream.operators.ramp_fit.segments import x"),
        ("sinks.output", "from tsostream.records import x\nimport pyarrow"),
        ("testing.builders", "from tsostream.operators.base import Binding\nimport numba"),
        (
            "files.reader",
            "if TYPE_CHECKING:\n    from tsostream.sinks import x\nimport astropy, asyncio, aiofiles",
        ),
    ],
)
def test_legal_imports_pass(module: str, source: str) -> None:
    assert violations(module, source, frozenset({"jump", "ramp_fit"})) == []


def test_test_files_have_names_of_their_own() -> None:
    """Two of one name in different folders cannot be collected together."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) > 100
    assert sorted(names) == sorted({*names})

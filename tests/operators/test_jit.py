"""Machine code is found again only while everything it was made from is the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tsostream

PROGRAM = """
from tsostream.operators import {module}
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): compiled.append(str(event.data["dispatcher"]))
    def on_end(self, event): pass
with event.install_listener("numba:compile", Listener()):
    print("value", {module}.run())
print("compiled", len(compiled))
"""


def run_copy(tree: Path, cache: Path, module: str = "probe") -> str:
    code = PROGRAM.format(module=module)
    environment = {**os.environ, "PYTHONPATH": str(tree), "TSOSTREAM_CACHE_DIR": str(cache)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tree, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return " ".join(answer.stdout.split())


def test_an_edit_of_a_called_kernel_or_a_named_constant_compiles_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(Path(tsostream.__file__).parent, tree / "tsostream")
    rooms = tree / "tsostream" / "operators"
    (rooms / "probe_low.py").write_text("from tsostream.operators.jit import kernel\nFACTOR = 2\n"
                "@kernel\ndef low(x):\n    return x + 1\n")  # fmt: skip
    (rooms / "probe.py").write_text("from tsostream.operators.jit import kernel\n"
                "from tsostream.operators.probe_low import FACTOR, low\n"
                "@kernel\ndef high(x):\n    return FACTOR * low(x)\n"
                "def run():\n    return high(10)\n")  # fmt: skip
    cache = tmp_path / "cache"
    assert run_copy(tree, cache) == "value 22 compiled 2"
    assert run_copy(tree, cache) == "value 22 compiled 0"
    low = (rooms / "probe_low.py").read_text()
    (rooms / "probe_low.py").write_text(low.replace("x + 1", "x + 2"))
    assert run_copy(tree, cache) == "value 24 compiled 2"
    (rooms / "probe_low.py").write_text(low.replace("FACTOR = 2", "FACTOR = 3"))
    assert run_copy(tree, cache).startswith("value 33 ")
    # an edit elsewhere costs nothing
    (rooms / "superbias.py").write_text((rooms / "superbias.py").read_text() + "\n# a remark\n")
    assert run_copy(tree, cache) == "value 33 compiled 0"


def test_machine_code_that_cannot_be_kept_is_compiled_again(tmp_path: Path) -> None:
    """A kernel that compiles while the disk is full works; it is not the run's business."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(tsostream.__file__).parent, tree / "tsostream")
    (tree / "tsostream" / "operators" / "probe.py").write_text(
        "import resource, signal\nfrom tsostream.operators.jit import kernel\n@kernel\ndef high(x):\n    return x + 1\n"
        "def run():\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n    return high(10)\n"
    )
    assert run_copy(tree, tmp_path / "cache") == "value 11 compiled 1"
    assert run_copy(tree, tmp_path / "cache") == "value 11 compiled 1"


def test_loading_needs_neither_scipy_nor_what_compiles(tmp_path: Path) -> None:
    """Kernels that use array functions run, and can be linked into new ones, without what takes long to import."""
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    shutil.copytree(Path(tsostream.__file__).parent, tree / "tsostream")
    probe = tree / "tsostream" / "operators" / "probe.py"
    text = ("import sys\nimport numpy as np\nfrom tsostream.operators.jit import kernel\n"
            "HEAVY = ('scipy.linalg', 'scipy.linalg.cython_blas', 'numba.np.npyimpl')\n"
            "@kernel\ndef low(x):\n    return np.median(x) + np.sum(np.sort(x))\n"
            "def run():\n    x = np.arange(3.0)\n    found = low(x)\n"
            "    loaded = [name for name in HEAVY if name in sys.modules]\n"
            "    return found, loaded")  # fmt: skip
    probe.write_text(text + "\n")
    assert run_copy(tree, cache).startswith("value (4.0, ['numba.np.npyimpl']) ")
    assert run_copy(tree, cache) == "value (4.0, []) compiled 0"
    # the digest of a kernel holds its file: give the loaded one a caller in another file
    (tree / "tsostream" / "operators" / "probe_high.py").write_text(
        "import numpy as np\nfrom tsostream.operators.jit import kernel\n"
        "from tsostream.operators.probe import low, run as first\n"
        "@kernel\ndef high(x):\n    return 2.0 * low(x) + np.nanmedian(x)\n"
        "def run():\n    return first()[0], high(np.arange(3.0))\n"
    )
    assert not run_copy(tree, cache, "probe_high").endswith("compiled 0")
    assert run_copy(tree, cache, "probe_high") == "value (4.0, 9.0) compiled 0"

"""Parameter files and the table of official steps, checked against the official pipeline itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from exposures_of_modes import mode_info

from tsostream.references.official import by_alias, by_class, common_parameters
from tsostream.run.config import load_config

INFO = mode_info("NRS_BRIGHTOBJ")

_EXPORT = """
import sys
from pathlib import Path
from jwst.jump import JumpStep
from jwst.pipeline import Detector1Pipeline, Tso3Pipeline
from jwst.saturation import SaturationStep
from jwst.tso_photometry import TSOPhotometryStep
folder = Path(sys.argv[1])
jump = JumpStep(rejection_threshold=5.5, flag_4_neighbors=False, maximum_cores="half", find_showers=True)
jump.export_config(folder / "jump.asdf", include_metadata=True)
SaturationStep(n_pix_grow_sat=3).export_config(folder / "saturation.asdf")
JumpStep().export_config(folder / "plain_jump.asdf")
steps = {"jump": {"rejection_threshold": 8.25, "after_jump_flag_dn1": 500.0}, "ramp_fit": {"suppress_one_group": False},
         "linearity": {"skip": True}}
Detector1Pipeline(steps=steps).export_config(folder / "detector1.asdf")
Tso3Pipeline(steps={"white_light": {"min_wavelength": 1.5}}).export_config(folder / "tso3.asdf")
TSOPhotometryStep(radius=7.0, radius_inner=12.0, radius_outer=17.0).export_config(folder / "photometry.asdf")
"""

_EFFECTIVE = """
import json, sys
from stpipe import Step
from stpipe.config_parser import load_config_file
def pars(step):
    return {k: v for k, v in step.get_pars().items() if k != "steps"}
out = {}
for path in sys.argv[1:]:
    config = load_config_file(path)
    cls, name = Step._parse_class_and_name(config, config_file=path)
    step = cls.from_config_file(path)
    names = getattr(step, "step_defs", {})
    out[path] = {n: pars(getattr(step, n)) for n in names} or {cls.class_alias or name: pars(step)}
json.dump(out, open(sys.argv[1] + ".json", "w"), default=str)
"""

_TABLE = """
import json, sys
from stpipe import config_parser
from jwst import __version__
from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Spec2Pipeline, Tso3Pipeline
out = {"version": __version__}
for pipe in (Detector1Pipeline, Spec2Pipeline, Image2Pipeline, Tso3Pipeline):
    for alias, cls in pipe.step_defs.items():
        step = cls()
        out[cls.__name__] = [alias, {k: getattr(step, k, None) for k in config_parser.get_merged_spec_file(cls)}]
json.dump(out, open(sys.argv[1], "w"), default=str)
"""


@pytest.fixture(scope="session")
def jwst_python() -> str:
    """Interpreter of an installed official pipeline; the test is skipped where none is named."""
    python = os.environ.get("TSOSTREAM_JWST_PYTHON", "")
    if not python:
        pytest.skip("set TSOSTREAM_JWST_PYTHON to the python of an environment with jwst")
    return python


def _run(python: str, code: str, *arguments: object) -> None:
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _notes(path: Path) -> list[str]:
    return [str(note) for note in load_config(INFO, config="none", pars=[str(path)]).notes]


@pytest.mark.oracle
def test_exported_files_mean_what_stpipe_takes_them_for(jwst_python, tmp_path):
    """Step.export_config writes; stpipe and we read: every parameter we have has the same value."""
    _run(jwst_python, _EXPORT, tmp_path)
    files = sorted(tmp_path.glob("*.asdf"))
    assert len(files) == 6
    _run(jwst_python, _EFFECTIVE, *files)
    effective = json.loads(Path(f"{files[0]}.json").read_text())
    compared = set()
    for path in files:
        info = mode_info("NRC_TSIMAGE") if path.name == "photometry.asdf" else INFO
        loaded = load_config(info, config="none", pars=[str(path)])
        ours = {one.name: one.parameters() for one in (*loaded.operators, *loaded.left_out)}
        for step, theirs in effective[str(path)].items():
            official = by_alias().get(step)
            for name, value in ours.get(step, {}).items():
                if name in theirs and not (value != theirs[name] and theirs[name] == official.default(name)):
                    assert value == theirs[name], (path.name, step, name)
                    compared.add((path.name, step, name, str(value)))
    assert ("jump.asdf", "jump", "rejection_threshold", "5.5") in compared
    assert ("jump.asdf", "jump", "flag_4_neighbors", "False") in compared
    assert ("detector1.asdf", "jump", "rejection_threshold", "8.25") in compared
    assert ("detector1.asdf", "ramp_fit", "suppress_one_group", "False") in compared
    assert ("detector1.asdf", "linearity", "skip", "True") in compared
    assert ("tso3.asdf", "white_light", "min_wavelength", "1.5") in compared
    assert ("photometry.asdf", "tso_photometry", "radius", "7.0") in compared
    assert len(compared) > 40
    assert "maximum_cores = 'half'" in str(_notes(tmp_path / "jump.asdf"))
    assert _notes(tmp_path / "plain_jump.asdf") == []


@pytest.mark.oracle
def test_the_table_is_that_of_the_installed_pipeline(jwst_python, tmp_path):
    _run(jwst_python, _TABLE, tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    if table.pop("version") != "3.0.0":
        pytest.skip("the table is of jwst 3.0.0")
    for cls, official in by_class().items():
        alias, theirs = table[cls]
        assert official.alias == alias
        assert {name: official.default(name) for name in theirs} == theirs, cls
        assert set(theirs) == {*official.parameters, *common_parameters()}

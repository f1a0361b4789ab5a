"""P8: the output alone tells how to make it again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from run_helpers import differences, reduce

import tsostream
from tsostream.files import TIME_FLAGS
from tsostream.simulate import SimulatedExposure


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_everything_is_there(bots: SimulatedExposure, bots_rows: Path) -> None:
    facts = tsostream.open(bots_rows).metadata
    assert facts["exposure"]["exp_type"] == "NRS_BRIGHTOBJ"
    assert facts["exposure"]["ngroups"] == 5
    assert [(s["segment"], s["intstart"], s["intend"]) for s in facts["segments"]] == [
        (1, 1, 20),
        (2, 21, 40),
    ]
    assert [s["file"] for s in facts["segments"]] == [path.name for path in bots.segments]
    for entry, path in zip(facts["inputs"], bots.segments, strict=True):
        stat = path.stat()
        assert entry["path"] == str(path)
        assert (entry["size"], entry["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        assert len(entry["header_sha256"]) == 64
        assert "sha256" not in entry
    steps = facts["config"]["steps"]
    assert {"dq_init", "saturation", "jump", "ramp_fit", "extract_1d", "white_light"} <= set(steps)
    assert steps["jump"]["rejection_threshold"] > 0
    assert "nirspec_bots" in facts["config"]["source"]
    for name in ("tsostream", "numpy", "numba", "pyarrow", "astropy", "python"):
        assert facts["versions"][name][0].isdigit(), name
    assert facts["time_flag_bits"] == TIME_FLAGS
    assert facts["wavelength_source"] == str(bots.references["wavelength"])


def test_references_by_content(bots: SimulatedExposure, bots_rows: Path) -> None:
    used = tsostream.open(bots_rows).metadata["references"]
    assert {"mask", "saturation", "superbias", "linearity", "dark", "gain", "readnoise"} <= set(used)
    for name, entry in used.items():
        assert Path(entry["path"]) == bots.references[name]
        assert entry["file"] == bots.references[name].name
        assert entry["sha256"] == sha256(bots.references[name])
        assert entry["source"] == "refs"


def test_hash_inputs(bots: SimulatedExposure, tmp_path: Path) -> None:
    out = reduce(bots, tmp_path / "lc.arrow", hash_inputs=True)
    entries = tsostream.open(out).metadata["inputs"]
    assert [entry["sha256"] for entry in entries] == [sha256(path) for path in bots.segments]


def test_the_scout_is_the_one_on_disk(bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    facts = tsostream.open(bots_rows).metadata["scout"]
    with np.load(bots_rows.with_name("lc.scout.npz")) as stored:
        numbers = stored["numbers"].tolist()
    assert facts["kind"] == "spread"
    assert facts["integrations"] == numbers
    again = reduce(bots, tmp_path / "lc.arrow", scout=str(bots_rows.with_name("lc.scout.npz")))
    other = tsostream.open(again).metadata["scout"]
    assert other["kind"] == "file"
    assert other["sha256"] == facts["sha256"]
    assert differences(again, bots_rows) == []


def test_it_can_be_made_again_from_the_output_alone(bots_rows: Path, tmp_path: Path) -> None:
    """Inputs, parameters, references and wavelengths as the metadata say, nothing else."""
    facts = tsostream.open(bots_rows).metadata
    settings = [
        f"{step}.{name}={json.dumps(value)}"
        for step, parameters in facts["config"]["steps"].items()
        for name, value in parameters.items()
    ]
    (again,) = tsostream.process(
        [entry["path"] for entry in reversed(facts["inputs"])],
        tmp_path / "lc.arrow",
        config="none",
        settings=settings,
        skip_steps=list(facts["config"]["skipped"]) if facts["config"]["source"] == "code defaults" else [],
        overrides=[f"{name}={entry['path']}" for name, entry in facts["references"].items()],
        wavelengths=facts["wavelength_source"],
    )
    assert differences(again, bots_rows) == []
    assert tsostream.open(again).metadata["config"]["steps"] == facts["config"]["steps"]


def test_start_and_end_are_merged(bots_rows: Path) -> None:
    """What was known at the start stands in the schema, the rest in the footer; open() shows both."""
    with pa.ipc.open_file(bots_rows) as reader:
        start = json.loads(reader.schema.metadata[b"tsostream"])
        end = json.loads(reader.metadata[b"tsostream"])
    facts = tsostream.open(bots_rows).metadata
    assert "config" in start
    assert "step_seconds" not in start
    assert end["rows"] == 40
    assert end["status"] == "complete"
    for name in ("rows", "seconds", "step_seconds", "missing_integrations", "warnings"):
        assert facts[name] == end[name]
    assert facts["config"] == start["config"]
    assert facts["seconds"]["scout"] > 0
    assert facts["step_seconds"]["extract_1d"] > 0


def test_both_tables_carry_it(bots_rows: Path) -> None:
    lc = tsostream.open(bots_rows)
    assert lc.spectra is not None
    for name in ("config", "references", "inputs", "segments", "scout", "versions", "rows"):
        assert lc.spectra.metadata[name] == lc.metadata[name]
    wave = lc.spectra.wavelength()
    assert wave.shape == (160,)
    assert 0.5 < np.nanmin(wave) < np.nanmax(wave) < 5.5
    assert len(lc.metadata["wavelength_edges"]) == 161


@pytest.mark.parametrize("what", ["config.steps", "references", "scout"])
def test_other_choices_show(what: str, bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    """A record that never changes would prove nothing."""
    options = {
        "config.steps": {"settings": ["jump.rejection_threshold=9"]},
        "references": {"skip_steps": ["dark_current"]},
        "scout": {"scout": "spread:12"},
    }[what]
    facts = tsostream.open(reduce(bots, tmp_path / "lc.arrow", **options)).metadata
    reference = tsostream.open(bots_rows).metadata
    for part in what.split("."):
        facts, reference = facts[part], reference[part]
    assert facts != reference

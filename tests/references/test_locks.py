"""Locks: the same references and parameters, found by content; what has changed is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from crds_cache import CONTEXT, PARKEYS, CrdsCache

import tsostream
from tsostream.cli.app import tsostream as command
from tsostream.errors import ConfigError, InputError, OutputExistsError, ReferenceMismatchError
from tsostream.run.lock import locate
from tsostream.run.lock_file import read_lock, write_lock
from tsostream.run.locking import lock_of, lock_of_output
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.versions import package_versions
from tsostream.simulate import simulate

OPTIONS = {"scout": "spread:8", "workers": 1, "settings": ("jump.rejection_threshold=5.5",)}


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    """Twelve small integrations, with references."""
    folder = tmp_path_factory.mktemp("locked")
    return simulate("NRS_BRIGHTOBJ", folder, ints=12, groups=4, seed=3, nx=96, ny=16)


@pytest.fixture(scope="module")
def written(exposure, tmp_path_factory) -> Path:
    """A light curve of it."""
    out = tmp_path_factory.mktemp("out") / "lc.arrow"
    waves = exposure.references["wavelength"]
    tsostream.process(exposure.segments, out, refs_dir=exposure.directory, wavelengths=waves, **OPTIONS)
    return out


@pytest.fixture
def lock(exposure, tmp_path) -> Path:
    request = Request(inputs=tuple(exposure.segments), refs_dir=exposure.directory, **OPTIONS)
    path = tmp_path / "run.lock"
    write_lock(lock_of(prepare_all(request), package_versions(), "14.0"), path)
    return path


@pytest.fixture
def moved(exposure, tmp_path) -> Path:
    """The references in another place, under other names."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for number, path in enumerate(exposure.references.values()):
        shutil.copyfile(path, folder / f"file{number}{path.suffix}")
    return folder


def forget_paths(lock: Path) -> None:
    """Make the recorded paths useless, as they are on another machine."""
    tree = yaml.safe_load(lock.read_text())
    for entry in tree["exposures"]:
        extra = filter(None, [entry.get("wavelengths"), entry.get("scout_file")])
        for file in (*entry["references"].values(), *extra):
            file["path"] = "/on/another/machine/" + file["file"]
    lock.write_text(yaml.safe_dump(tree))


def rows(path: Path) -> list[pa.Table]:
    lc = tsostream.open(path)
    return [lc.table, lc.spectra.table]


def same_rows(first: Path, second: Path) -> bool:
    """Bit for bit, NaN being equal to itself."""
    for one, other in zip(rows(first), rows(second), strict=True):
        assert one.schema.names == other.schema.names
        for name in one.schema.names:
            left, right = one.column(name).combine_chunks(), other.column(name).combine_chunks()
            if pa.types.is_fixed_size_list(left.type):
                left, right = left.flatten(), right.flatten()
            a, b = left.to_numpy(zero_copy_only=False), right.to_numpy(zero_copy_only=False)
            if a.dtype.kind == "f":
                a, b = a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}")
            if not np.array_equal(a, b):
                return False
    return True


def test_a_lock_can_be_read_by_people_and_by_us(lock, exposure):
    text = lock.read_text()
    assert text.startswith("# A tsostream lock")
    tree = yaml.safe_load(text)
    assert tree["tsostream_lock"] == 1
    (entry,) = tree["exposures"]
    assert entry["references"]["gain"]["file"] == exposure.references["gain"].name
    assert {"jump", "ramp_fit"} <= set(entry["references"]["gain"]["steps"])
    assert len(entry["references"]["gain"]["sha256"]) == 64
    assert entry["steps"]["jump"]["rejection_threshold"] == 5.5
    assert entry["scout"] == "spread:8"
    again = read_lock(lock)
    assert again.versions == package_versions()
    assert again.entries[0].steps == entry["steps"]


def test_the_same_steps_parameters_and_files(lock, exposure):
    """Without --refs, the recorded paths; everything else comes from the lock, too."""
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), lock=lock))
    assert set(run.sources.values()) == {"lock"}
    assert run.config.operator("jump").rejection_threshold == 5.5
    assert run.request.scout == "spread:8"
    assert run.config.source == str(lock)
    assert not [note for note in run.notes if "lock" in note]


def test_a_run_from_a_lock_elsewhere_gives_the_same_bits(written, exposure, moved, tmp_path):
    """The lock is made from the output alone; inputs and references lie under other paths and names."""
    result = CliRunner().invoke(
        command, ["refs", "lock", "--from", str(written), "-o", str(tmp_path / "run.lock")]
    )
    assert result.exit_code == 0, result.output
    forget_paths(tmp_path / "run.lock")
    segments = [shutil.copyfile(path, tmp_path / path.name) for path in exposure.segments]
    out = tmp_path / "again.arrow"
    tsostream.process(segments, out, lock=tmp_path / "run.lock", refs_dir=moved, workers=2)
    assert same_rows(written, out)
    first, second = tsostream.open(written).metadata, tsostream.open(out).metadata
    assert first["config"]["steps"] == second["config"]["steps"]
    assert {k: v["sha256"] for k, v in first["references"].items()} == {
        k: v["sha256"] for k, v in second["references"].items()
    }
    assert second["lock"] == str(tmp_path / "run.lock")


def test_a_lock_of_an_output_knows_which_step_uses_what(written):
    lock = lock_of_output(tsostream.open(written).metadata, str(written))
    assert lock.entries[0].references["gain"].steps == ("jump", "ramp_fit", "gain_scale", "extract_1d")
    assert lock.entries[0].references["mask"].steps == ("dq_init",)


def test_parity_is_locked(exposure, lock, tmp_path):
    """A run from the lock of a parity run is a parity run; one from a streaming lock is none."""
    inputs = tuple(exposure.segments)
    (streaming,) = prepare_all(Request(inputs=inputs, lock=lock))
    assert streaming.request.parity is None
    request = Request(inputs=inputs, refs_dir=exposure.directory, parity="jwst", **OPTIONS)
    write_lock(lock_of(prepare_all(request), package_versions(), "14.0"), tmp_path / "parity.lock")
    assert yaml.safe_load((tmp_path / "parity.lock").read_text())["exposures"][0]["parity"] == "jwst"
    (run,) = prepare_all(Request(inputs=inputs, lock=tmp_path / "parity.lock"))
    assert run.request.parity == "jwst"
    assert run.config.operator("ipc") is None
    out = tmp_path / "lc.arrow"
    tsostream.process(inputs, out, lock=tmp_path / "parity.lock")
    metadata = tsostream.open(out).metadata
    assert metadata["config"]["scope"] == "segment"
    assert lock_of_output(metadata, "lc.arrow").entries[0].parity == "jwst"


def test_a_stored_scout_is_locked_by_content(exposure, written, tmp_path):
    stored = shutil.copyfile(written.with_name("lc.scout.npz"), tmp_path / "mine.scout.npz")
    inputs = tuple(exposure.segments)
    request = Request(inputs=inputs, refs_dir=exposure.directory, scout=str(stored))
    path = tmp_path / "run.lock"
    write_lock(lock_of(prepare_all(request), package_versions(), "14.0"), path)
    (run,) = prepare_all(Request(inputs=inputs, lock=path))
    assert run.scout.path == stored
    # moved: found by its content
    moved = tmp_path / "moved"
    moved.mkdir()
    Path(stored).rename(moved / "renamed.npz")
    forget_paths(path)
    with pytest.raises(InputError, match=r"the scout file mine.scout.npz of the lock .* is not at"):
        prepare_all(Request(inputs=inputs, lock=path))
    for reference in exposure.references.values():
        shutil.copyfile(reference, moved / reference.name)
    (run,) = prepare_all(Request(inputs=inputs, lock=path, refs_dir=moved))
    assert run.scout.path == moved / "renamed.npz"
    # another one, on purpose
    (run,) = prepare_all(Request(inputs=inputs, lock=path, refs_dir=moved, scout="spread:6"))
    assert (run.scout.kind, run.scout.integrations) == ("spread", 6)
    # changed: refused
    (moved / "mine.scout.npz").write_bytes(b"another")
    (moved / "renamed.npz").unlink()
    with pytest.raises(InputError, match="depart from the lock with --scout FILE"):
        prepare_all(Request(inputs=inputs, lock=path, refs_dir=moved))


def test_a_lock_of_an_output_with_a_stored_scout(exposure, written, tmp_path):
    out = tmp_path / "lc.arrow"
    stored = written.with_name("lc.scout.npz")
    tsostream.process(exposure.segments, out, refs_dir=exposure.directory, scout=str(stored))
    (entry,) = lock_of_output(tsostream.open(out).metadata, str(out)).entries
    assert entry.scout_file is not None
    assert (entry.scout_file.file, entry.scout_file.path) == ("lc.scout.npz", str(stored))
    assert locate(entry)["scout"] == stored


def test_a_changed_file_is_refused_by_name(lock, exposure, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exposure.directory, folder)
    dark = folder / exposure.references["dark"].name
    data = bytearray(dark.read_bytes())
    data[-3000] ^= 1
    dark.write_bytes(data)
    forget_paths(lock)
    with pytest.raises(ReferenceMismatchError) as caught:
        locate(read_lock(lock).entries[0], refs_dir=folder)
    (problem,) = caught.value.problems
    assert problem.where == str(dark)
    assert f"the dark file has changed since the lock {lock} was made: its sha256 is" in problem.what
    assert "--override dark=FILE, or lock again" in problem.todo
    # the untouched one at the recorded path is found in spite of it
    with pytest.raises(ValueError, match="has changed since the lock"):
        prepare_all(Request(inputs=tuple(exposure.segments), lock=lock, refs_dir=folder))


def test_a_good_file_anywhere_is_better_than_a_changed_one(lock, exposure, tmp_path):
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / exposure.references["dark"].name).write_bytes(b"something else")
    found = locate(read_lock(lock).entries[0], refs_dir=folder)
    assert found["dark"] == exposure.references["dark"].absolute()


def test_files_that_are_gone(lock, exposure, moved):
    forget_paths(lock)
    entry = read_lock(lock).entries[0]
    with pytest.raises(ReferenceMismatchError) as caught:
        locate(entry)
    assert len(caught.value.problems) == len(entry.references)
    assert "give --refs DIR with the directory it is in now" in str(caught.value)
    assert {path.parent for path in locate(entry, refs_dir=moved).values()} == {moved}


def test_an_override_departs_from_the_lock(lock, exposure, tmp_path):
    mine = tmp_path / "mine.fits"
    shutil.copyfile(exposure.references["dark"], mine)
    request = Request(inputs=tuple(exposure.segments), lock=lock, overrides=(f"dark={mine}",))
    (run,) = prepare_all(replace(request, settings=("jump.rejection_threshold=6",)))
    assert run.sources["dark"] == "override"
    assert run.sources["gain"] == "lock"
    assert run.config.operator("jump").rejection_threshold == 6.0


def test_a_configuration_beside_a_lock_is_told(lock, exposure):
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), lock=lock, config="nowhere.yaml"))
    assert any(
        "the parameters come from the lock; --config and --pars are not used" in note for note in run.notes
    )


def test_other_versions_are_told(lock, exposure):
    lock.write_text(lock.read_text().replace("numpy: ", "numpy: 0."))
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), lock=lock))
    assert any("was made with numpy 0." in note for note in run.notes)


def test_steps_the_lock_does_not_know_do_not_run(lock, exposure):
    """A step that a later version brings would change the numbers."""
    tree = yaml.safe_load(lock.read_text())
    del tree["exposures"][0]["steps"]["linearity"]
    lock.write_text(yaml.safe_dump(tree))
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), lock=lock))
    assert "linearity" in run.config.skipped
    assert any("the steps linearity are not in the lock and do not run" in note for note in run.notes)


def test_another_exposure_of_the_kind_may_use_it_another_kind_not(lock, exposure):
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), refs_dir=exposure.directory))
    info, stored = run.exposure.info, read_lock(lock)
    assert stored.entry_for(replace(info, exposure_id="jw00001001001_04101_00001")).exposure["nints"] == 12
    with pytest.raises(ConfigError, match=r"holds nothing for NIRSPEC NRS2 .*; it is for NIRSPEC NRS1"):
        stored.entry_for(replace(info, detector="NRS2"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "is not valid YAML"),
        ("steps: {}", "is no lock: expected the key tsostream_lock"),
        ("tsostream_lock: 99", "has the format 99, this version reads 1"),
        ("tsostream_lock: 1\nexposures: [{}]\nversions: {}", "is damaged: KeyError 'exposure'"),
    ],
)
def test_what_is_no_lock(tmp_path, text, expected):
    path = tmp_path / "run.lock"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_lock(path)
    assert expected in str(caught.value)


def test_a_lock_is_not_overwritten(lock):
    with pytest.raises(OutputExistsError):
        write_lock(read_lock(lock), lock)


def test_metadata_of_something_else():
    with pytest.raises(ValueError, match="its metadata do not tell how it was made"):
        lock_of_output({"config": {}}, "x.arrow")


@pytest.fixture
def crds_of(exposure, tmp_path, monkeypatch) -> CrdsCache:
    """A CRDS cache that holds the exposure's references."""
    cache = CrdsCache(tmp_path / "crds")
    values = {
        "META.INSTRUMENT.DETECTOR": "NRS1",
        "META.SUBARRAY.NAME": "SUB512",
        "META.EXPOSURE.READPATT": "NRSRAPID",
    }
    for kind, path in exposure.references.items():
        if kind in PARKEYS and kind != "flat":
            cache.add("NIRSPEC", kind, tuple(values[key] for key in PARKEYS[kind]), path)
    monkeypatch.setenv("CRDS_PATH", str(cache.root))
    return cache.write()


def test_locked_files_are_found_in_the_crds_cache(lock, exposure, crds_of):
    forget_paths(lock)
    entry = read_lock(lock).entries[0]
    # the cache of the tests holds the types of stage 1
    found = locate(entry, skip=[kind for kind in entry.references if kind not in PARKEYS])
    assert {"gain", "dark"} <= set(found)
    assert {path.parent for path in found.values()} == {crds_of.references("NIRSPEC")}


def test_a_run_on_crds_alone_records_its_rules(exposure, crds_of, tmp_path):
    """One command, no options: references by CRDS; output, inspect and lock name the context."""
    run = CliRunner().invoke
    inputs = [str(path) for path in exposure.segments]
    looked = run(command, ["inspect", *inputs])
    assert looked.exit_code == 0, looked.output
    assert f"(CRDS {CONTEXT})" in looked.output
    out = tmp_path / "lc.arrow"
    done = run(command, ["process", *inputs, "--out", str(out), "-q", "--scout", "spread:8"])
    assert done.exit_code == 0, done.output
    metadata = tsostream.open(out).metadata
    assert metadata["crds"]["context"] == CONTEXT
    assert metadata["references"]["gain"]["source"] == f"CRDS {CONTEXT}"
    assert lock_of_output(metadata, str(out)).entries[0].context == CONTEXT


def test_the_commands(exposure, tmp_path):
    """list, lock, verify, fetch; missing references and changed files end with 2."""
    run, inputs = CliRunner().invoke, [str(path) for path in exposure.segments]
    listed = run(command, ["refs", "list", *inputs, "--refs", str(exposure.directory)])
    assert listed.exit_code == 0, listed.output
    assert exposure.references["gain"].name in listed.stdout
    bare = run(command, ["refs", "list", *inputs])
    assert bare.exit_code == 2
    assert "supply them in one of three ways" in bare.stderr
    assert run(command, ["refs", "fetch", *inputs]).exit_code == 2
    folder = tmp_path / "refs"
    shutil.copytree(exposure.directory, folder)
    lock = tmp_path / "run.lock"
    made = run(command, ["refs", "lock", *inputs, "--refs", str(folder), "-o", str(lock)])
    assert made.exit_code == 0, made.output
    assert "files, 1 exposure" in made.stdout
    assert "unchanged" in run(command, ["refs", "verify", str(lock)]).stdout
    (folder / exposure.references["gain"].name).write_bytes(b"x")
    (folder / exposure.references["dark"].name).unlink()
    bad = run(command, ["refs", "verify", str(lock)])
    assert bad.exit_code == 2
    assert "the gain file has changed" in bad.stderr
    assert "the dark file" in bad.stderr
    refused = run(command, ["process", *inputs, "--lock", str(lock), "--out", str(tmp_path / "x.arrow")])
    assert refused.exit_code == 2
    assert not (tmp_path / "x.arrow").exists()
    assert run(command, ["refs", "lock", "-o", str(tmp_path / "y.lock")]).exit_code == 2


def test_save_config_on_the_command_line(exposure, tmp_path):
    run, inputs = CliRunner().invoke, [str(path) for path in exposure.segments]
    saved = tmp_path / "saved.yaml"
    looked = run(
        command, ["inspect", *inputs, "--set", "jump.rejection_threshold=7.5", "--save-config", str(saved)]
    )
    assert looked.exit_code == 0, looked.output
    again = run(command, ["inspect", *inputs, "--config", str(saved)])
    assert "jump.rejection_threshold = 7.5" in again.output

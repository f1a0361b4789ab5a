"""Configuration files: the six that come with the package, extends, references, and saving the resolved one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from exposures_of_modes import EXP_TYPES, mode_info

from tsostream.errors import ConfigError, OutputExistsError
from tsostream.operators.catalog import OPERATORS
from tsostream.run.config import MODE_FILES, load_config, mode_file, save_config, step_order

INFO = mode_info("NRS_BRIGHTOBJ")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("exp_type", EXP_TYPES)
def test_every_mode_has_a_file_that_loads(exp_type):
    """It names its mode, changes something, explains it, and holds nothing that does not apply."""
    path = mode_file(exp_type)
    text = path.read_text()
    content = yaml.safe_load(text)
    assert content["mode"] == exp_type
    info = mode_info(exp_type)
    assert set(content["steps"]) <= set(step_order(info))
    config = load_config(info)
    assert config.source == MODE_FILES[exp_type]
    assert config.notes == ()
    for step, parameters in content["steps"].items():
        for name, value in parameters.items():
            if step not in config.skipped:
                loaded = config.operator(step).parameters()[name]
                assert (list(loaded) if isinstance(loaded, tuple) else loaded) == value
                assert config.origins[step][name] == str(path)
    assert text.count("#") >= 6, "a configuration says what it sets and why"


def test_all_shipped_files_are_known():
    assert sorted(path.name for path in mode_file("NIS_SOSS").parent.glob("*.yaml")) == sorted(
        MODE_FILES.values()
    )


def test_extends_a_file_beside_it(tmp_path):
    write(
        tmp_path / "base.yaml", "steps: {jump: {rejection_threshold: 5, four_group_rejection_threshold: 5}}"
    )
    top = write(tmp_path / "top.yaml", "extends: base.yaml\nsteps: {jump: {rejection_threshold: 9}}")
    config = load_config(INFO, config=top)
    jump = config.operator("jump")
    assert (jump.rejection_threshold, jump.four_group_rejection_threshold) == (9.0, 5.0)
    assert config.source == f"{top}, over {tmp_path / 'base.yaml'}"
    assert config.origins["jump"]["four_group_rejection_threshold"] == str(tmp_path / "base.yaml")


@pytest.mark.parametrize("name", ["nirspec_bots.yaml", "nirspec_bots", "mode"])
def test_extends_a_shipped_file(tmp_path, name):
    top = write(tmp_path / "top.yaml", f"extends: {name}\nsteps: {{jump: {{min_diffs_single_pass: 20}}}}")
    ours, shipped = load_config(INFO, config=top), load_config(INFO)
    assert ours.operator("jump").min_diffs_single_pass == 20
    assert ours.operator("jump").rejection_threshold == shipped.operator("jump").rejection_threshold
    assert ours.operator("extract_1d") == shipped.operator("extract_1d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "extends: nirspec_bot.yaml",
            "extends 'nirspec_bot.yaml', which does not exist; did you mean nirspec_bots.yaml?",
        ),
        ("extends: top.yaml", "extends itself"),
        ("step: {}", "expected the keys extends, mode, references, steps, found ['step']"),
        ("- 1", "found list"),
        ("a: [", "is not valid YAML"),
        ("steps: [jump]", "'steps' must map step names to parameters"),
        ("steps: {jump: {rejection_treshold: 1}}", "did you mean rejection_threshold?"),
        ("steps: {jump: {rejection_threshold: -1}}", "jump.rejection_threshold = -1: Expected"),
        ("steps: {jmp: {}}", "did you mean jump?"),
        ("steps: {jump: {maximum_cores: half}}", "use instead: --workers"),
        ("references: {drak: x.fits}", "unknown reference type 'drak'"),
        ("references: {dark: 3}", "references.dark is 3, expected a path"),
        ("references: [dark]", "'references' must map reference types to files"),
        ("steps: {extract_1d: {skip: true}}", "the step extract_1d cannot be skipped"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, text, expected):
    path = write(tmp_path / "top.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(INFO, config=path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_everything_wrong_is_said_at_once(tmp_path):
    path = write(tmp_path / "top.yaml", "steps: {jump: {nope: 1}, jmp: {}}")
    with pytest.raises(ConfigError) as caught:
        load_config(
            INFO, config=path, settings=["jump.alsonope=1", "x"], skip_steps=["jumpp"], pars=["none", "a"]
        )
    assert len(caught.value.problems) == 7


def test_references_of_a_configuration_count_from_its_folder(tmp_path):
    text = "extends: base.yaml\nreferences: {dark_current: files/dark.fits}"
    write(tmp_path / "base.yaml", "references: {gain: /somewhere/gain.fits, dark: other.fits}")
    config = load_config(INFO, config=write(tmp_path / "top.yaml", text))
    assert config.references == {"gain": Path("/somewhere/gain.fits"), "dark": tmp_path / "files/dark.fits"}


def test_a_configuration_for_another_mode_is_told(tmp_path):
    config = load_config(INFO, config=mode_file("NRC_TSGRISM"))
    assert "is made for NRC_TSGRISM, the exposure is NRS_BRIGHTOBJ; used all the same" in str(config.notes[0])


@pytest.mark.parametrize("exp_type", EXP_TYPES)
def test_saving_and_loading_gives_the_same(exp_type, tmp_path):
    info = mode_info(exp_type)
    base = write(tmp_path / "base.yaml", "extends: mode\nreferences: {dark: dark.fits}")
    before = load_config(
        info, config=base, settings=["jump.rejection_threshold=7.125"], skip_steps=["linearity"]
    )
    path = tmp_path / "saved.yaml"
    save_config(before, path, info)
    after = load_config(info, config=path)
    assert after.operators == before.operators
    assert after.left_out == before.left_out
    assert after.references == {"dark": tmp_path / "dark.fits"}
    text = path.read_text()
    assert "rejection_threshold: 7.125  # --set jump.rejection_threshold=7.125" in text
    assert "skip: true  # --skip-step linearity" in text
    names = {name for name in step_order(info) if name in OPERATORS}
    assert set(yaml.safe_load(text)["steps"]) == names


def test_saving_does_not_overwrite(tmp_path):
    config, path = load_config(INFO), tmp_path / "saved.yaml"
    save_config(config, path, INFO)
    with pytest.raises(OutputExistsError, match="choose another --save-config, or give --overwrite"):
        save_config(config, path, INFO)
    save_config(config, path, INFO, overwrite=True)


def test_a_step_without_its_reference_is_saved_as_skipped(tmp_path):
    config = load_config(INFO).without({"linearity": None})
    save_config(config, tmp_path / "saved.yaml", INFO)
    assert "skip: true  # it had no reference file" in (tmp_path / "saved.yaml").read_text()
    assert "linearity" in load_config(INFO, config=tmp_path / "saved.yaml").skipped

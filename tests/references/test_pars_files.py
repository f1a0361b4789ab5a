"""Parameter files of the official pipeline: both layouts, selectors, and what becomes of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asdf
import pytest
from crds_cache import CONTEXT, CrdsCache
from exposures_of_modes import mode_info

from tsostream.errors import ConfigError, Problem
from tsostream.references import CrdsWish
from tsostream.references.official import by_alias, by_class, common_parameters, hint
from tsostream.references.pars import choose_pars, read_pars
from tsostream.run.config import load_config

INFO = mode_info("NRS_BRIGHTOBJ")
MIRI = mode_info("MIR_LRS-SLITLESS")
JUMP = "jwst.jump.jump_step.JumpStep"


def meta(**selectors: Any) -> dict[str, Any]:
    """What stands beside the parameters in a file from CRDS."""
    plain = {"author": "a test", "reftype": "pars-jumpstep", "pedigree": "GROUND", "telescope": "JWST",
             "useafter": "2020-01-01T00:00:00", "instrument": {"name": "NIRSPEC"}}  # fmt: skip
    return plain | selectors


def step_file(
    path: Path, parameters: dict[str, Any], cls: str = JUMP, name: str = "jump", **more: Any
) -> Path:
    """A file in the current layout."""
    asdf.AsdfFile({"class": cls, "name": name, "parameters": parameters, **more}).write_to(path)
    return path


def legacy_file(path: Path, parameters: dict[str, Any], **more: Any) -> Path:
    """A file in the layout where everything stands below ``parameters``."""
    asdf.AsdfFile({"parameters": parameters, **more}).write_to(path)
    return path


def pipeline(*steps: tuple[str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"class": cls, "name": name, "parameters": values} for cls, name, values in steps]


def config_of(*pars: Path, info=INFO, **options: Any):
    return load_config(info, config="none", pars=[str(one) for one in pars], **options)


def texts(notes: tuple[Problem, ...]) -> str:
    return "\n".join(map(str, notes))


def test_a_step_in_the_current_layout(tmp_path):
    path = step_file(tmp_path / "jump.asdf", {"rejection_threshold": 7.5, "skip": False}, meta=meta())
    pars = read_pars(path)
    assert (pars.root.cls, pars.root.name) == ("JumpStep", "jump")
    assert pars.keywords["INSTRUME"] == "NIRSPEC"
    config = config_of(path)
    assert config.operator("jump").rejection_threshold == 7.5
    assert config.origins["jump"]["rejection_threshold"] == str(path)
    assert config.source == str(path)


def test_a_step_in_the_legacy_layout(tmp_path):
    values = {"class": JUMP, "name": "jump", "rejection_threshold": 7.5}
    path = legacy_file(tmp_path / "jump.asdf", values, meta=meta())
    assert config_of(path).operator("jump").rejection_threshold == 7.5


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_a_pipeline_with_its_steps(tmp_path, layout):
    cls = "jwst.pipeline.Detector1Pipeline"
    if layout == "current":
        steps = pipeline(
            (JUMP, "jump", {"rejection_threshold": 9}),
            ("jwst.saturation.SaturationStep", "saturation", {"n_pix_grow_sat": 2}),
            ("jwst.ipc.IPCStep", "ipc", {"skip": True}),
        )
        parameters = {"save_calibrated_ramp": False}
        path = step_file(tmp_path / "d1.asdf", parameters, cls, "Detector1Pipeline", steps=steps)
    else:
        nested = {
            "jump": {"rejection_threshold": 9},
            "saturation": {"n_pix_grow_sat": 2},
            "ipc": {"skip": True},
        }
        path = legacy_file(tmp_path / "d1.asdf", {"class": cls, "name": "Detector1Pipeline", "steps": nested})
    config = config_of(path)
    assert config.operator("jump").rejection_threshold == 9.0
    assert config.operator("saturation").n_pix_grow_sat == 2
    assert config.notes == ()


def test_a_pipeline_wins_over_its_steps_as_in_stpipe(tmp_path):
    """Whatever the order on the command line or in the folder: steps first, the pipeline over them."""
    step_file(
        tmp_path / "z_step.asdf", {"rejection_threshold": 5, "min_jump_to_flag_neighbors": 11}, meta=meta()
    )
    steps = pipeline((JUMP, "jump", {"rejection_threshold": 9}))
    step_file(tmp_path / "a_pipe.asdf", {}, "jwst.pipeline.Detector1Pipeline", "d", steps=steps, meta=meta())
    jump = config_of(tmp_path).operator("jump")
    assert (jump.rejection_threshold, jump.min_jump_to_flag_neighbors) == (9, 11)


def test_layers_lie_as_in_stpipe(tmp_path):
    """defaults < pars < configuration < --set, parameter by parameter."""
    pars = step_file(tmp_path / "jump.asdf", dict.fromkeys(THRESHOLDS, 7.0))
    config = tmp_path / "mine.yaml"
    config.write_text(
        "steps: {jump: {three_group_rejection_threshold: 8, four_group_rejection_threshold: 8}}"
    )
    loaded = load_config(
        INFO, config=config, pars=[str(pars)], settings=["jump.four_group_rejection_threshold=9"]
    )
    jump = loaded.operator("jump")
    assert [getattr(jump, name) for name in THRESHOLDS] == [7.0, 8.0, 9.0]
    assert jump.max_jump_to_flag_neighbors == 1000.0
    assert loaded.source == f"{config}, over {pars}"


THRESHOLDS = ("rejection_threshold", "three_group_rejection_threshold", "four_group_rejection_threshold")


def test_a_named_file_wins_over_the_configuration_that_comes_with_the_mode(tmp_path):
    pars = step_file(tmp_path / "jump.asdf", {"rejection_threshold": 11.0})
    loaded = load_config(INFO, pars=[str(pars)])
    assert loaded.operator("jump").rejection_threshold == 11.0
    assert loaded.source == f"{pars}, over nirspec_bots.yaml"


def test_official_parameters_we_lack_are_told_once(tmp_path):
    values = {"maximum_cores": "half", "find_showers": True, "save_results": True, "expand_large_events": False,
              "minimum_groups": 3, "rejection_threshold": 5.0, "pre_hooks": [], "override_gain": None}  # fmt: skip
    config = config_of(step_file(tmp_path / "jump.asdf", values))
    (note,) = config.notes
    assert str(note) == (
        f"{tmp_path / 'jump.asdf'}: jump: find_showers = True (showers are not "
        "supported: the search is one for faint extended events of MIRI, and off by default in the official step, "
        "too; leave it out), maximum_cores = 'half' (--workers), save_results = "
        "True (light curve and spectra are written where --out says) of the official step are ignored, as ours "
        "has no such parameter (and 3 more at the official default)"
    )
    assert config.operator("jump").rejection_threshold == 5.0


def test_what_is_unknown_to_both_is_an_error(tmp_path):
    path = step_file(tmp_path / "jump.asdf", {"rejction_threshold": 5.0})
    with pytest.raises(ConfigError) as caught:
        config_of(path)
    assert (
        str(caught.value)
        == f"{path}: jump has no parameter 'rejction_threshold'; did you mean rejection_threshold?"
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("jump.maximum_cores=4", "the official step has, ours does not; use instead: --workers"),
        (
            "jump.find_showers=true",
            "the official step has, ours does not; showers are not supported: the search is one for faint extended",
        ),
        ("jump.extend_min_area=9", "the official step has, ours does not; it has skip, rejection_threshold"),
        ("ramp_fit.algorithm=OLS", "the default is 'OLS_C'; OLS_C is the weighted least-squares fit that"),
        ("extract_1d.bkg_sigma_clip=4", "use instead: bkg_clip"),
        ("tso_photometry.fit_box_width=9", "is no step of NRS_BRIGHTOBJ uncal exposures"),
        ("jump.flag_4_neighbours=false", "did you mean flag_4_neighbors?"),
        ("jumb.skip=true", "there is no step 'jumb'; did you mean jump?"),
        (
            "assign_wcs.skip=true",
            "assign_wcs is a step of the official pipeline that tsostream does not have; wavelengths",
        ),
    ],
)
def test_typed_parameters_must_be_ours(setting, expected):
    """What somebody types or writes into a configuration is never left out; the message maps it to ours."""
    with pytest.raises(ConfigError) as caught:
        load_config(INFO, config="none", settings=[setting])
    assert expected in str(caught.value)
    assert f"--set {setting}" in str(caught.value)


def test_a_step_that_is_not_ours_is_told_when_it_would_do_something(tmp_path):
    steps = pipeline(
        (
            "jwst.charge_migration.ChargeMigrationStep",
            "charge_migration",
            {"skip": False, "signal_threshold": 9e3},
        ),
        ("jwst.persistence.PersistenceStep", "persistence", {"skip": True, "dn_threshold": 4.0}),
        ("jwst.fringe.FringeStep", "fringe", {"skip": False}),
    )
    path = step_file(tmp_path / "d1.asdf", {}, "jwst.pipeline.Detector1Pipeline", "d", steps=steps)
    notes = config_of(path).notes
    if "charge_migration" not in config_of(path).parameters():
        assert texts(notes).startswith(f"{path}: charge_migration (skip, signal_threshold) is ignored")
    assert "persistence" not in texts(notes)
    assert "fringe" not in texts(notes)


def test_skipping_what_makes_the_rows_is_not_followed(tmp_path):
    path = step_file(tmp_path / "x.asdf", {"skip": True}, "jwst.extract_1d.Extract1dStep", "extract_1d")
    config = config_of(path)
    assert config.operator("extract_1d") is not None
    assert "would skip extract_1d" in texts(config.notes)


def test_a_step_of_another_instrument_is_no_matter(tmp_path):
    steps = pipeline(
        ("jwst.reset.ResetStep", "reset", {"skip": True}), (JUMP, "jump", {"rejection_threshold": 6})
    )
    path = step_file(tmp_path / "d1.asdf", {}, "jwst.pipeline.Detector1Pipeline", "d", steps=steps)
    assert "reset" not in config_of(path).skipped
    assert "reset" in config_of(path, info=MIRI).skipped


def test_a_folder_is_searched_by_selectors(tmp_path):
    """Instrument, exposure type, TSOVISIT, date; the more specific file, then the later one."""

    def add(name: str, threshold: float, **selectors: Any) -> None:
        step_file(tmp_path / name, {"rejection_threshold": threshold}, meta=meta(**selectors))

    add("any.asdf", 1)
    add("tso.asdf", 2, visit={"tsovisit": True})
    add("not_tso.asdf", 3, visit={"tsovisit": False}, exposure={"type": "NRS_BRIGHTOBJ"})
    add("older.asdf", 4, visit={"tsovisit": True}, exposure={"type": "NRS_BRIGHTOBJ"})
    add(
        "newer.asdf",
        5,
        visit={"tsovisit": True},
        exposure={"type": "NRS_BRIGHTOBJ"},
        useafter="2022-01-01T00:00:00",
    )
    add(
        "future.asdf",
        6,
        visit={"tsovisit": True},
        exposure={"type": "NRS_BRIGHTOBJ"},
        useafter="2030-01-01T00:00:00",
    )
    add("miri.asdf", 7, instrument={"name": "MIRI"})
    asdf.AsdfFile({"meta": {"reftype": "pastasoss"}, "data": 1}).write_to(tmp_path / "other.asdf")
    chosen = choose_pars(tmp_path, INFO, [])
    assert [one.path.name for one in chosen] == ["newer.asdf"]
    assert [one.path.name for one in choose_pars(tmp_path, MIRI, [])] == ["miri.asdf"]
    notes: list[Problem] = []
    assert choose_pars(tmp_path, mode_info("NIS_SOSS"), notes) == []
    assert "holds no parameter file for this exposure" in str(notes[0])


def test_two_that_fit_equally_are_named(tmp_path):
    for name in ("a.asdf", "b.asdf"):
        step_file(tmp_path / name, {}, meta=meta())
    with pytest.raises(
        ConfigError, match=r"2 parameter files for JumpStep fit equally well: .*a\.asdf, .*b\.asdf"
    ):
        choose_pars(tmp_path, INFO, [])


def test_a_named_file_for_another_mode_is_used_with_a_note(tmp_path):
    path = step_file(
        tmp_path / "jump.asdf", {"rejection_threshold": 9.0}, meta=meta(instrument={"name": "MIRI"})
    )
    config = config_of(path)
    assert config.operator("jump").rejection_threshold == 9.0
    assert "is not made for this exposure (INSTRUME 'MIRI' instead of 'NIRSPEC'); used all the same" in texts(
        config.notes
    )


def test_placeholders_say_nothing(tmp_path):
    """Step.export_config(include_metadata=True) leaves <SPECIFY> for people to fill in."""
    blank = meta(instrument={"name": "<SPECIFY>"}, useafter="<SPECIFY>")
    path = step_file(tmp_path / "jump.asdf", {"rejection_threshold": 9.0}, meta=blank)
    assert config_of(path).notes == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[jump]\nskip = True\n", "cannot be read as ASDF (it does not begin with #ASDF)"),
        (b"#ASDF 1.0.0\n--- {a: [}\n...\n", "cannot be read as ASDF (its tree is not YAML"),
        (b"#ASDF 1.0.0\n---\nmeta: {reftype: pastasoss}\n...\n", "holds no step parameters"),
        (b"#ASDF 1.0.0\n---\nclass: x.JumpStp\nname: j\nparameters: {}\n...\n", "did you mean JumpStep?"),
    ],
)
def test_what_is_no_parameter_file(tmp_path, content, expected):
    path = tmp_path / "x.asdf"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config_of(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_place_that_does_not_exist():
    with pytest.raises(ConfigError, match="does not exist; give a file, a folder, crds or none"):
        load_config(INFO, pars=["nowhere"])


@pytest.fixture
def pars_in_crds(tmp_path, monkeypatch) -> CrdsCache:
    cache = CrdsCache(tmp_path / "crds")
    step = {"rejection_threshold": 6.5, "after_jump_flag_dn1": 500.0, "after_jump_flag_time1": 15.0}
    path = step_file(tmp_path / "jwst_nirspec_pars-jumpstep_0001.asdf", step, meta=meta())
    cache.add("NIRSPEC", "pars-jumpstep", ("NRS_BRIGHTOBJ", "T"), path)
    steps = pipeline((JUMP, "jump", {"after_jump_flag_time1": 20.0}))
    path = step_file(
        tmp_path / "jwst_nirspec_pars-detector1pipeline_0001.asdf",
        {},
        "jwst.pipeline.Detector1Pipeline",
        "d",
        steps=steps,
    )
    cache.add("NIRSPEC", "pars-detector1pipeline", ("T",), path)
    monkeypatch.setenv("CRDS_PATH", str(cache.root))
    return cache.write()


@pytest.mark.usefixtures("pars_in_crds")
def test_parameters_from_crds(monkeypatch):
    """CRDS lies below the mode's file; --config none and --pars none do without."""
    config = load_config(INFO, crds=CrdsWish())
    jump = config.operator("jump")
    assert (jump.after_jump_flag_dn1, jump.after_jump_flag_time1) == (500.0, 20.0)
    assert jump.rejection_threshold == load_config(INFO).operator("jump").rejection_threshold
    assert f"jwst_nirspec_pars-jumpstep_0001.asdf (CRDS {CONTEXT})" in config.source
    asked = load_config(INFO, config="none", pars=["crds"], crds=CrdsWish()).operator("jump")
    assert asked.rejection_threshold == 6.5
    for options in ({"pars": ["none"]}, {"config": "none"}):
        assert load_config(INFO, crds=CrdsWish(), **options).operator("jump").after_jump_flag_dn1 == 0.0
    monkeypatch.setenv("STPIPE_DISABLE_CRDS_STEPPARS", "true")
    assert load_config(INFO, crds=CrdsWish()).operator("jump").after_jump_flag_dn1 == 0.0


def test_the_table_of_official_steps_is_whole():
    assert by_class()["JumpStep"].alias == "jump"
    assert by_alias()["tso_photometry"].reftype == "pars-tsophotometrystep"
    assert by_alias()["emicorr"].skip
    assert common_parameters()["save_results"] is False
    assert (
        hint("dq_init", "override_mask")
        == "give --override TYPE=FILE, or a references section in the configuration"
    )

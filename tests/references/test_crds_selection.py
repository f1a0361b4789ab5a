"""The files CRDS would choose: six modes on rules made here, checked against crds.getreferences itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from crds_cache import CONTEXT, INSTRUMENTS, CrdsCache
from exposures_of_modes import EXP_TYPES, mode_info

from tsostream.errors import ReferenceMismatchError
from tsostream.references import CrdsWish, find_references
from tsostream.references.crds_client import Answer, Trouble, ask_crds, crds_is_configured
from tsostream.references.crds_parameters import crds_parameters

KINDS = ("mask", "saturation", "superbias", "linearity", "dark", "gain", "readnoise", "flat", "reset", "rscd")
DETECTORS = {
    "MIRI": ("MIRIMAGE", "MIRIFULONG"),
    "NIRCAM": ("NRCALONG", "NRCB1"),
    "NIRISS": ("NIS",),
    "NIRSPEC": ("NRS1", "NRS2"),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrdsCache:
    """Rules for four instruments, by detector, subarray, readout, filter, exposure type and date."""
    made = CrdsCache(tmp_path / "crds")
    for instrument in INSTRUMENTS:
        number = 0
        for kind in KINDS:
            if (kind == "superbias") == (instrument == "MIRI") and kind in ("superbias", "reset", "rscd"):
                made.rule(instrument, kind, "N/A")
                continue
            if kind in ("reset", "rscd") and instrument != "MIRI":
                made.rule(instrument, kind, "N/A")
                continue
            for detector in DETECTORS[instrument]:
                for values in _values(kind, detector):
                    for date in ("2020-01-01 00:00:00", "2023-01-01 00:00:00", "2024-01-01 00:00:00"):
                        number += 1
                        path = tmp_path / f"jwst_{instrument.lower()}_{kind}_{number:04d}.fits"
                        path.write_bytes(b"x")
                        made.add(instrument, kind, values, path, date)
    made.write()
    monkeypatch.setenv("CRDS_PATH", str(made.root))
    monkeypatch.setenv("CRDS_CONTEXT", CONTEXT)
    return made


def _values(kind: str, detector: str) -> list[tuple[str, ...]]:
    subarrays = ("SUB512|SUB512S|SUBSTRIP96", "SUBGRISM64|SUB64P|SUB64", "SLITLESSPRISM", "FULL")
    filters = ("CLEAR", "F444W", "F290LP|F322W2", "P750L|F1500W|F210M")
    readouts = ("NRSRAPID|NISRAPID|RAPID|FASTR1", "NRS|NIS|BRIGHT2|SLOWR1")
    return {
        "mask": [(detector, name) for name in subarrays],
        "saturation": [(detector, "N/A")],
        "superbias": [(detector, r, name) for r in readouts for name in subarrays],
        "dark": [(detector, r, name) for r in readouts for name in subarrays],
        "readnoise": [(detector, r) for r in readouts],
        "flat": [(detector, f, e) for f in filters for e in ("|".join(EXP_TYPES), "NRS_FIXEDSLIT")],
        "reset": [(detector, name, r) for r in readouts for name in subarrays],
    }.get(kind, [(detector,)])


def _official(info, kinds) -> dict[str, str]:
    """What crds.getreferences says: type -> file name, or N/A."""
    import crds

    parameters = crds_parameters(info)
    try:
        found = crds.getreferences(parameters, reftypes=list(kinds), context=CONTEXT, observatory="jwst")
    except crds.core.exceptions.CrdsLookupError:
        found = crds.getrecommendations(parameters, reftypes=list(kinds), context=CONTEXT, observatory="jwst")
    return {kind: "N/A" if "NOT FOUND" in path else Path(path).name for kind, path in found.items()}


def _ours(info, kinds) -> dict[str, str]:
    answer = ask_crds(crds_parameters(info), kinds)
    assert isinstance(answer, Answer)
    assert answer.context == CONTEXT
    assert all(path.is_file() and path.name == answer.files[kind] for kind, path in answer.cached.items())
    assert {*answer.files, *answer.absent} == set(kinds)
    return answer.files | dict.fromkeys(answer.absent, "N/A")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("exp_type", EXP_TYPES)
def test_all_modes_agree_with_crds(exp_type):
    info = mode_info(exp_type)
    ours = _ours(info, KINDS)
    assert ours == _official(info, KINDS)
    assert ours["reset" if not info.is_miri else "superbias"] == "N/A"
    assert sum(name != "N/A" for name in ours.values()) >= 7


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("exp_type", "change"),
    [
        ("NRS_BRIGHTOBJ", {"detector": "NRS2"}),
        ("NRS_BRIGHTOBJ", {"subarray": "FULL"}),
        ("NRS_BRIGHTOBJ", {"subarray": "ALLSLITS"}),
        ("NRS_BRIGHTOBJ", {"readpatt": "NRS"}),
        ("NRS_BRIGHTOBJ", {"filter": "F290LP"}),
        ("NRS_BRIGHTOBJ", {"exp_type": "NRS_FIXEDSLIT"}),
        ("NRC_TSGRISM", {"detector": "NRCB1"}),
        ("NRC_TSGRISM", {"filter": "F322W2"}),
        ("MIR_LRS-SLITLESS", {"subarray": "FULL"}),
        ("MIR_IMAGE", {"readpatt": "SLOWR1"}),
        ("NIS_SOSS", {"date": "2021-06-01"}),
        ("NIS_SOSS", {"date": "2025-06-01"}),
        ("NIS_SOSS", {"date": "2019-06-01"}),
    ],
)
def test_every_selector_counts(exp_type, change):
    """Detector, subarray, readout, filter, exposure type and date: the same as crds, and not what it was."""
    changed = mode_info(exp_type, **change)
    assert _ours(changed, KINDS) == _official(changed, KINDS)
    assert _ours(changed, KINDS) != _ours(mode_info(exp_type), KINDS)


@pytest.mark.usefixtures("cache")
def test_selection_says_where_from(tmp_path):
    info = mode_info("NRS_BRIGHTOBJ")
    mine = tmp_path / "mine.fits"
    mine.write_bytes(b"x")
    configured = tmp_path / "configured.fits"
    configured.write_bytes(b"x")
    chosen = find_references(
        info,
        wanted=["dark", "gain", "readnoise", "reset"],
        overrides={"dark": mine},
        config={"gain": configured, "dark": configured},
        crds=CrdsWish(),
    )
    assert chosen.source == {"dark": "override", "gain": "config", "readnoise": "crds"}
    assert chosen.label("readnoise") == f"CRDS {CONTEXT}"
    assert chosen.context == CONTEXT
    assert chosen.missing == {"reset": (f"{CONTEXT} has none for this mode (N/A)",)}


@pytest.mark.usefixtures("cache")
def test_the_context_that_was_asked_for(cache, monkeypatch):
    """--crds-context beats CRDS_CONTEXT; a number is enough; without either, the cache's last one."""
    other = CrdsCache(cache.root, context="jwst_0099.pmap")
    other.rule("NIRSPEC", "gain", {("NRS1",): {"2020-01-01 00:00:00": "other.fits"}})
    other.write()
    parameters = crds_parameters(mode_info("NRS_BRIGHTOBJ"))
    assert ask_crds(parameters, ["gain"], context="jwst_0099.pmap").files == {"gain": "other.fits"}
    assert ask_crds(parameters, ["gain"], context="99").context == "jwst_0099.pmap"
    assert ask_crds(parameters, ["gain"]).context == CONTEXT
    monkeypatch.delenv("CRDS_CONTEXT")
    assert ask_crds(parameters, ["gain"]).context == "jwst_0099.pmap"
    monkeypatch.setenv("CRDS_CONTEXT", "latest")
    assert ask_crds(parameters, ["gain"]).context == "jwst_0099.pmap"


@pytest.mark.usefixtures("cache")
def test_a_context_that_is_not_there():
    trouble = ask_crds(crds_parameters(mode_info("NIS_SOSS")), ["dark"], context="jwst_7777.pmap")
    assert isinstance(trouble, Trouble)
    assert "jwst_7777.pmap are not complete in the CRDS cache" in trouble.why
    assert "CRDS_SERVER_URL=https://jwst-crds.stsci.edu" in trouble.why


def test_a_damaged_rule_is_a_message(cache):
    rule = next(cache.mappings.glob("jwst_nirspec_dark_*.rmap"))
    rule.write_text(rule.read_text().replace("2024-01-01", "2024-01-02"))
    answer = ask_crds(crds_parameters(mode_info("NRS_BRIGHTOBJ")), ["dark"])
    assert "sha1sum mismatch" in (answer.why if isinstance(answer, Trouble) else answer.absent["dark"])


def test_a_lost_rule_is_noticed(cache):
    """One rmap is gone: nothing is chosen by the rest as if there were no such type."""
    next(cache.mappings.glob("jwst_nirspec_dark_*.rmap")).unlink()
    trouble = ask_crds(crds_parameters(mode_info("NRS_BRIGHTOBJ")), ["dark", "gain"])
    assert isinstance(trouble, Trouble)
    assert "not complete" in trouble.why


def test_a_file_crds_has_withdrawn_is_told(cache):
    info = mode_info("NRS_BRIGHTOBJ")
    name = _ours(info, ["gain"])["gain"]
    (cache.root / "config" / "jwst" / "bad_files.txt").write_text(f"{name}\n")
    answer = ask_crds(crds_parameters(info), ["gain"])
    assert f"CRDS marks {name} as scientifically invalid" in str(answer.notes[0])


def test_a_readonly_or_flat_cache(cache, monkeypatch):
    """The two layouts of the cache, and one nobody may write to."""
    info = mode_info("NRS_BRIGHTOBJ")
    flat = cache.root / "references" / "jwst"
    for path in flat.glob("nirspec/*"):
        path.rename(flat / path.name)
    (cache.root / "config" / "jwst" / "ref_cache_subdir_mode").write_text("flat")
    monkeypatch.setenv("CRDS_READONLY_CACHE", "1")
    answer = ask_crds(crds_parameters(info), ["gain", "dark"])
    assert {path.parent for path in answer.cached.values()} == {flat}


def test_crds_is_not_asked_unless_somebody_set_it_up(monkeypatch):
    assert not crds_is_configured()
    chosen = find_references(mode_info("NIS_SOSS"), wanted=["dark"], crds=CrdsWish())
    assert "neither a cache (CRDS_PATH) nor a server" in chosen.trouble
    monkeypatch.setenv("CRDS_PATH", os.devnull)
    assert crds_is_configured()


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(
        ReferenceMismatchError, match="the dark reference of the configuration does not exist"
    ):
        find_references(mode_info("NIS_SOSS"), wanted=["dark"], config={"dark": tmp_path / "no.fits"})

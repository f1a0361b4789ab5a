"""The parity scope against the official pipeline itself, on exposures made for the purpose (minutes)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import pytest

from tsostream.testing.oracle import official_python
from tsostream.testing.parity_table import compare_case, run_case, table

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst"),
]


@dataclass(frozen=True)
class Case:
    """One exposure: how it is made, the steps' parameters that differ from the code's defaults, and how many tolerances
    rounding may come to."""

    mode: str
    ints: int
    groups: int
    make: str = ""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounding: float = 1.0


ON = {"skip": False}
AFTER = {
    "after_jump_flag_dn1": 10.0, "after_jump_flag_time1": 12.0,
    "after_jump_flag_dn2": 500.0, "after_jump_flag_time2": 30.0,
}  # fmt: skip
FEW = {"min_jump_to_flag_neighbors": 50, "max_jump_to_flag_neighbors": 90}
HITS = "--cr-rate 1e-3"
CASES = {
    "one group": Case("nrc_sub64p", 6, 1, "--ny 16"),
    "one group, saturated": Case("miri_sub64", 5, 1, "--ny 16 --peak 400000"),
    "two groups": Case("nrs_sub512", 12, 2, HITS),
    "three groups, one integration": Case("nrc_sub64p", 1, 3, "--ny 20 --cr-rate 3e-3"),
    "four groups, clipped": Case("nrs_sub512s", 101, 4, HITS),
    "clipped at 3 sigma": Case(
        "miri_sub64", 120, 6, f"--ny 16 {HITS}", {"jump": {"rejection_threshold": 3.0}}
    ),
    "just not clipped": Case("nrc_sub64p", 99, 5, f"--ny 12 {HITS}"),
    "clipped early": Case(
        "nis_substrip96", 9, 5, "--nx 96", {"jump": {"minimum_sigclip_groups": 8, "rejection_threshold": 2.0}}
    ),
    "many groups": Case("nrs_sub2048", 2, 70, "--ny 4 --cr-rate 2e-4"),
    "many groups, iterative": Case(
        "nrc_sub64p", 3, 40, f"--ny 12 {HITS}", {"jump": {"min_diffs_single_pass": 50}}
    ),
    "four frames": Case("nrc_subgrism64", 3, 8, "--ny 8 --trace-y 4 --nframes 4 --groupgap 1 --cr-rate 5e-4"),
    "eight frames": Case(
        "nrc_subgrism256", 2, 6, "--ny 8 --trace-y 4 --nframes 8 --groupgap 2 --peak 300000"
    ),
    "after the jump": Case("nis_substrip256", 4, 9, f"--nx 48 {HITS}", {"jump": AFTER}),
    "after the jump, clipped": Case("nrc_sub64p", 100, 7, f"--ny 12 {HITS}", {"jump": AFTER}),
    "no neighbours": Case(
        "nrc_sub64p", 5, 7, "--ny 16 --cr-rate 2e-3", {"jump": {"flag_4_neighbors": False}}
    ),
    "few neighbours": Case("nrc_sub64p", 5, 7, "--ny 16 --cr-rate 2e-3", {"jump": FEW}),
    "last group out": Case("miri_slitless", 4, 11, f"--ny 48 {HITS}", {"lastframe": ON}),
    "first groups out": Case("miri_slitless", 4, 12, f"--ny 48 {HITS} --peak 200000", {"rscd": ON}),
    "first and last group out": Case(
        "miri_sub64", 6, 9, "--ny 24 --cr-rate 2e-3 --peak 150000", {"firstframe": ON, "lastframe": ON}
    ),
    "all of MIRI, clipped": Case(
        "miri_sub64", 104, 6, f"--ny 12 {HITS}", {"firstframe": ON, "lastframe": ON, "rscd": ON}
    ),
    "one good group kept": Case(
        "nrc_sub64p",
        5,
        5,
        "--ny 16 --cr-rate 2e-3 --peak 900000",
        {"ramp_fit": {"suppress_one_group": False}},
    ),
    "groups chosen": Case("nrs_sub512", 4, 9, HITS, {"ramp_fit": {"firstgroup": 1, "lastgroup": 6}}),
    "gain factor": Case("nrs_sub2048", 3, 5, "--ny 6 --gain-factor 2.0 --seed 99"),
    "no jump step": Case("nrc_sub64p", 5, 6, f"--ny 12 {HITS}", {"jump": {"skip": True}}),
    "lines cleaned, NIRSpec": Case("nrs_sub512", 6, 6, HITS, {"clean_flicker_noise": ON}),
    "lines cleaned, grism": Case(
        "nrc_subgrism64",
        3,
        5,
        "--ny 16 --trace-y 8 --cr-rate 5e-4",
        {"clean_flicker_noise": {**ON, "single_mask": False, "fit_histogram": True}},
        # reference pixels of four outputs round differently by one digit of a sample, which short ramps show
        rounding=10.0,
    ),
    "lines cleaned, SOSS": Case(
        "nis_substrip96",
        7,
        6,
        f"--nx 64 --segments 2 {HITS}",
        {"clean_flicker_noise": {**ON, "background_method": "model"}},
    ),
    "lines cleaned, MIRI": Case(
        "miri_sub64", 6, 7, f"--ny 40 {HITS}", {"clean_flicker_noise": {**ON, "background_method": None}}
    ),
    "waves cleaned": Case("nrs_sub512", 4, 5, HITS, {"clean_flicker_noise": {**ON, "fit_method": "fft"}}),
    "interference": Case("miri_slitless", 3, 6, f"--ny 48 {HITS}", {"emicorr": ON}),
    "interference, sequential, each file by itself": Case(
        "miri_sub64", 4, 11, "--ny 16 --segments 2", {"emicorr": {**ON, "algorithm": "sequential"}}
    ),
    "two files": Case("nis_substrip96", 7, 6, f"--nx 64 --segments 2 --seed 5 {HITS}"),
}


def write_waves(folder: Path) -> Path:
    """A reference with two waves for the two MIRI subarrays, and a wave on top of the ramps."""
    turn = 2 * np.pi * (np.arange(64) + 0.5) / 64
    waves = {
        "Hz390": {"frequency": 390.625, "phase_amplitudes": np.sin(turn) + 0.3 * np.cos(3 * turn)},
        "Hz218": {"frequency": 218.52055, "phase_amplitudes": np.cos(turn[:50])},
    }
    freqs = {"FAST": [*waves]}
    cases = {
        name: {"rowclocks": 28, "frameclocks": clocks, "freqs": freqs}
        for name, clocks in (("SLITLESSPRISM", 15904), ("SUB64", 8512))
    }
    meta = {
        "reftype": "emicorr", "instrument": {"name": "MIRI", "detector": "MIRIMAGE"}, "author": "test",
        "description": "test", "pedigree": "GROUND", "useafter": "2020-01-01T00:00:00",
    }  # fmt: skip
    path = folder / "waves_ref_emicorr.asdf"
    asdf.AsdfFile({"meta": meta, "frequencies": waves, "subarray_cases": cases}).write_to(path)
    return path


def official(case: Case, shared: Path, folder: Path) -> Path:
    """Make the exposure and let the official pipeline reduce every segment; the folder that holds both."""
    tools = folder / "tools"
    shutil.copytree(shared / "oracle", tools)
    place = folder / "exposure"

    def run(*words: str) -> None:
        done = subprocess.run(
            [official_python(), *words], cwd=tools, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run(
        "make_tso.py", "--mode", case.mode, "--out", str(place), "--ints", str(case.ints),
        "--groups", str(case.groups), *case.make.split(),
    )  # fmt: skip
    steps = case.steps
    if "emicorr" in steps:
        steps = {"emicorr": {**steps["emicorr"], "override_emicorr": str(write_waves(place))}}
    for number in range(1, len(list(place.glob("*_uncal.fits"))) + 1):
        run(
            "run_jwst.py", str(place), "--seg", str(number), "--outdir", str(place / "jwst"), "--quiet",
            "--save-ramp", "--extra", json.dumps(steps),
            # the draft slopes of clean_flicker_noise know no overrides
            *(["--patch-refs"] if "clean_flicker_noise" in case.steps else []),
        )  # fmt: skip
    return place


@pytest.mark.parametrize("name", CASES)
def test_equals_the_official_pipeline(name: str, shared: Path, tmp_path: Path) -> None:
    case = CASES[name]
    place = official(case, shared, tmp_path)
    settings = [
        f"{step}.{key}={value}" for step, values in case.steps.items() for key, value in values.items()
    ]
    rows = [row for result in run_case(place, settings) for row in compare_case(place, result)]
    assert {row.product for row in rows} == {"ramp", "rateints", "rate"}
    failed = [row for row in rows if not row.passed and (row.worst > case.rounding or row.beyond > 1e-4)]
    assert not failed, "\n".join(table(failed))

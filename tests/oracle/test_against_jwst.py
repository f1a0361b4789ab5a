"""The parity scope against the official pipeline itself, on exposures made for the purpose (minutes).

``pytest -m slow tests/oracle/test_against_jwst.py -rP | grep "^|"`` prints the table of docs/parity.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import pytest
from astropy.io import fits

from tsostream.integration import dq
from tsostream.run.parity.light import DraftLight
from tsostream.testing.oracle import official_python
from tsostream.testing.parity_table import Row, SegmentResult, compare_case, run_case, table

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst"),
]


@dataclass(frozen=True)
class Case:
    """One exposure: how it is made, the steps' parameters that differ from the code's defaults, how many tolerances
    rounding may come to, and whether snowballs fall on it."""

    mode: str
    ints: int
    groups: int
    make: str = ""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounding: float = 1.0
    snowballs: bool = False


ON = {"skip": False}
AFTER = {
    "after_jump_flag_dn1": 10.0, "after_jump_flag_time1": 12.0,
    "after_jump_flag_dn2": 500.0, "after_jump_flag_time2": 30.0,
}  # fmt: skip
FEW = {"min_jump_to_flag_neighbors": 50, "max_jump_to_flag_neighbors": 90}
HITS = "--cr-rate 1e-3"
SNOWBALLS = {"jump": {"expand_large_events": True, "edge_size": 6}}
MEDIAN_IMAGE = {"clean_flicker_noise": {**ON, "background_method": "median_image"}}
LIKELY = {"ramp_fit": {"algorithm": "LIKELY"}}
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
    "clipped among all": Case(
        "nrs_sub512", 30, 5, f"--ny 10 {HITS}", {"jump": {"only_use_ints": False, "rejection_threshold": 3.5}}
    ),
    "too few for all": Case("nrc_sub64p", 6, 6, f"--ny 16 {HITS}", {"jump": {"only_use_ints": False}}),
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
    # the official fit of waves is in single precision, which samples near zero show
    "waves cleaned": Case(
        "nrs_sub512", 4, 5, HITS, {"clean_flicker_noise": {**ON, "fit_method": "fft"}}, rounding=100.0
    ),
    "median image, NIRSpec": Case("nrs_sub512", 7, 5, HITS, MEDIAN_IMAGE),
    "median image, grism": Case(
        "nrc_subgrism64", 4, 5, "--ny 16 --trace-y 8 --cr-rate 5e-4", MEDIAN_IMAGE, rounding=10.0
    ),
    "median image, SOSS": Case("nis_substrip96", 6, 5, f"--nx 64 {HITS}", MEDIAN_IMAGE),
    "median image, NIRCam": Case("nrc_sub64p", 8, 5, f"--ny 24 {HITS}", MEDIAN_IMAGE),
    "median image, MIRI": Case("miri_sub64", 6, 7, f"--ny 40 --segments 2 {HITS}", MEDIAN_IMAGE),
    "interference": Case("miri_slitless", 3, 6, f"--ny 48 {HITS}", {"emicorr": ON}),
    "interference, sequential, each file by itself": Case(
        "miri_sub64", 4, 11, "--ny 16 --segments 2", {"emicorr": {**ON, "algorithm": "sequential"}}
    ),
    "two files": Case("nis_substrip96", 7, 6, f"--nx 64 --segments 2 --seed 5 {HITS}"),
    "a third over full": Case("nrs_sub512", 5, 8, f"--ny 8 --peak 1.4 --seed 11 {HITS}"),
    "filled in half": Case("nis_substrip96", 4, 7, f"--nx 64 --peak 2.2 --seed 12 {HITS}"),
    "filled at once": Case("nrc_sub64p", 6, 6, f"--ny 24 --peak 6 --seed 13 {HITS}"),
    "filled, averaged": Case(
        "nrc_subgrism64", 3, 6, "--ny 8 --trace-y 4 --nframes 8 --groupgap 2 --peak 5 --seed 14"
    ),
    "filled, MIRI": Case("miri_slitless", 3, 10, "--ny 48 --peak 3 --seed 15", {"rscd": ON, "lastframe": ON}),
    "a storm": Case("nis_substrip256", 3, 6, "--nx 40 --cr-rate 1e-2 --seed 16"),
    "columns alike": Case("nrc_sub64p", 4, 5, f"--ny 16 {HITS}", {"refpix": {"odd_even_columns": False}}),
    "no side pixels": Case(
        "nrc_subgrism64", 3, 5, "--ny 8 --trace-y 4 --seed 17", {"refpix": {"use_side_ref_pixels": False}}
    ),
    "charge migrates": Case(
        "nis_substrip96",
        4,
        8,
        f"--nx 48 --peak 1.2 {HITS}",
        {"charge_migration": {**ON, "signal_threshold": 20000.0}},
    ),
    "snowballs": Case("nrc_sub64p", 7, 6, HITS, SNOWBALLS, snowballs=True),
    "snowballs, clipped": Case("nrc_sub64p", 100, 4, "--ny 40 --nx 40", SNOWBALLS, snowballs=True),
    "snowballs on a spectrum": Case(
        "nrs_sub2048", 4, 5, "--ny 16", {"jump": {"expand_large_events": True}}, snowballs=True
    ),
    "snowballs without a core": Case(
        "nis_substrip96",
        5,
        5,
        f"--nx 80 {HITS}",
        {"jump": {"expand_large_events": True, "sat_required_snowball": False, "expand_factor": 1.6}},
        snowballs=True,
    ),
    "snowballs, lines cleaned": Case(
        "nrc_sub64p", 4, 5, HITS, {**SNOWBALLS, "clean_flicker_noise": ON}, snowballs=True
    ),
    "what persists": Case(
        "nrc_sub64p",
        9,
        5,
        "--ny 24 --peak 1.3",
        {**SNOWBALLS, "persistence": {**ON, "persistence_time": 4}},
        snowballs=True,
    ),
    "what persists, by brightness": Case(
        "nrs_sub512",
        9,
        5,
        "--ny 12 --peak 1.2",
        {"persistence": {**ON, "persistence_time": 2, "dn_threshold": 30000.0, "persistence_dnu": True}},
    ),
    "likely": Case("nrs_sub512", 5, 9, f"--ny 10 --seed 18 {HITS}", LIKELY),
    "likely, averaged": Case(
        "nrc_subgrism64", 3, 7, "--ny 8 --trace-y 4 --nframes 4 --groupgap 1 --peak 1.3 --seed 19", LIKELY
    ),
    "likely, MIRI": Case(
        "miri_sub64", 4, 12, f"--ny 16 --peak 1.5 {HITS}", {**LIKELY, "firstframe": ON, "lastframe": ON}
    ),
}


def write_waves(folder: Path) -> Path:
    """A reference with two waves for the two MIRI subarrays, and a wave on top of the ramps."""
    turn = 2 * np.pi * (np.arange(64) + 0.5) / 64
    waves = {
        "Hz390": {"frequency": 390.625, "phase_amplitudes": np.sin(turn) + 0.3 * np.cos(3 * turn)},
        "Hz218": {"frequency": 218.52055, "phase_amplitudes": np.cos(turn[:48])},
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


def drop_snowballs(place: Path) -> None:
    """Let snowballs fall on two thirds of all integrations: a saturated core, jumps around it."""
    rng = np.random.default_rng(7)
    for path in sorted(place.glob("*_uncal.fits")):
        with fits.open(path, mode="update") as hdus:
            words = hdus["SCI"].data
            y, x = np.mgrid[: words.shape[2], : words.shape[3]]
            for ramp in words:
                if rng.random() > 0.67:
                    continue
                group, at = rng.integers(1, len(ramp)), rng.uniform((0, 0), words.shape[2:])
                distance = np.hypot(y - at[0], (x - at[1]) * rng.uniform(0.7, 1.2))
                core = rng.uniform(1.5, 5)
                light = np.where(distance < core, 65535, np.where(distance < 2.2 * core, 4000, 0))
                # the rim of the core saturates only in the next group
                soon = np.where((distance > 0.8 * core) & (distance < core), 4000, light)
                for number in range(group, len(ramp)):
                    more = soon if number == group else light
                    ramp[number] = np.minimum(ramp[number].astype(int) + more, 65535)


def light_of(count: int) -> np.ndarray:
    """Light of each integration that both sides are told: how it is measured, other tests compare."""
    light = 1e4 * (1 + 0.1 * np.sin(np.arange(count)))
    light[1] = np.nan
    return light


def soss_background(ny: int, nx: int) -> np.ndarray:
    """Background in the slopes of SOSS that both sides are told [DN/s], float32 [y, x]."""
    return np.add.outer(np.linspace(1, 2, ny), np.linspace(0, 1, nx)).astype(np.float32)


#: run_jwst.py with the parts of the median image that need coordinates and traces replaced by what is known
TOLD = """
import sys
from types import SimpleNamespace
import run_jwst
run_jwst.offline_env()
import numpy as np
from jwst.clean_flicker_noise import clean_flicker_noise as noise, tso_median_image as median
from jwst.clean_flicker_noise.clean_flicker_noise_step import CleanFlickerNoiseStep
def light(count):
    values = 1e4 * (1 + 0.1 * np.sin(np.arange(count)))
    values[1] = np.nan
    return SimpleNamespace(value=values)
class Spectra:
    spec = [1]
    def __init__(self, count): self.count = count
    def close(self): pass
class White:
    def run(self, spectra):
        return {name: light(spectra.count) for name in ("whitelight_flux", "whitelight_flux_NRS1")}
class Cut:
    def run(self, model): return Spectra(len(model.data))
class Background:
    def run(self, model):
        ny, nx = model.data.shape[-2:]
        ground = np.add.outer(np.linspace(1, 2, ny), np.linspace(0, 1, nx)).astype(np.float32)
        new = model.copy()
        new.data = model.data - ground
        return new
noise.post_process_rate = lambda model, **options: model
median.Extract2dStep, median.WhiteLightStep, median.BackgroundStep = Cut, White, Background
median.Extract1dStep = SimpleNamespace(call=lambda model, **options: model)
median.datamodels = SimpleNamespace(TSOMultiSpecModel=Spectra)
median.TSOPhotometryStep = SimpleNamespace(call=lambda model: {"aperture_sum": light(len(model.data))})
median._soss_box_extract = lambda model, soss_refmodel=None: Spectra(len(model.data))
noise.datamodels.PastasossModel = lambda path: None
real = CleanFlickerNoiseStep.get_reference_file
CleanFlickerNoiseStep.get_reference_file = lambda self, model, kind: (
    "traces" if kind == "pastasoss" else real(self, model, kind)
)
run_jwst.main()
"""


def summary(name: str, case: Case, rows: list[Row]) -> str:
    """One line of the table: what differs most among all segments and products."""

    def worst(*planes: str) -> str:
        return f"{max((row.worst for row in rows if row.plane in planes), default=0.0):.2g}"

    values = sum(row.pixels for row in rows if row.plane in ("GROUPDQ", "DQ"))
    bits = sum(round(row.beyond * row.pixels) for row in rows if row.plane in ("GROUPDQ", "DQ"))
    cells = (
        name, f"{case.mode} {case.ints} × {case.groups}", f"{bits} of {values}", worst("SCI"), worst("ERR"),
        worst("VAR_POISSON"), worst("VAR_RNOISE"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def told_of(case: Case) -> bool:
    """Whether the light is told, for a median image."""
    return case.steps.get("clean_flicker_noise", {}).get("background_method") == "median_image"


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
        for path in place.glob("*_uncal.fits"):
            fits.setval(path, "NSAMPLES", value=1)  # the clock of fast readout
        steps = {"emicorr": {**steps["emicorr"], "override_emicorr": str(write_waves(place))}}
    if case.snowballs:
        drop_snowballs(place)
    (tools / "told.py").write_text(TOLD)
    program = "told.py" if told_of(case) else "run_jwst.py"
    for number in range(1, len(list(place.glob("*_uncal.fits"))) + 1):
        run(
            program, str(place), "--seg", str(number), "--outdir", str(place / "jwst"), "--quiet",
            "--save-ramp", "--extra", json.dumps(steps),
            # the draft slopes of clean_flicker_noise know no overrides
            *(["--patch-refs"] if "clean_flicker_noise" in case.steps else []),
        )  # fmt: skip
    return place


def likely_differences(place: Path, result: SegmentResult) -> tuple[int, int]:
    """Ramps whose likelihood fit differs for a reason that is known, and others.

    Without photons (a negative median difference) a factor of the official two-difference formula is zero but for
    rounding; where it is exactly zero, 0/0 ends the official search. Pixels without a gain have no slope either way.
    """
    path = place / "jwst" / result.path.name.replace("uncal", "rateints")
    ours = result.slopes.planes
    with fits.open(path) as hdus:
        sci, err, bits = (hdus[name].data for name in ("SCI", "ERR", "DQ"))
    same = np.isclose(ours.data, sci, rtol=1e-5, atol=1e-5 * np.nanmedian(err), equal_nan=True)
    differs = ~(same & (ours.dq == bits))
    known = np.median(np.diff(result.ramps.data, axis=1), axis=1) < 0
    known |= bits & dq.NO_GAIN_VALUE > 0
    return int((differs & known).sum()), int((differs & ~known).sum())


@pytest.mark.parametrize("name", CASES)
def test_equals_the_official_pipeline(name: str, shared: Path, tmp_path: Path) -> None:
    case = CASES[name]
    place = official(case, shared, tmp_path)
    settings = [
        f"{step}.{key}={'null' if value is None else value}"
        for step, values in case.steps.items()
        for key, value in values.items()
    ]
    light = None
    if told_of(case):
        ground = soss_background if case.mode.startswith("nis") else None

        def flux(drafts: Any, _background: np.ndarray | None) -> np.ndarray:
            return light_of(sum(rate.count for rate in drafts()))

        def background(drafts: Any) -> np.ndarray | None:
            return None if ground is None else ground(*next(drafts()).data.shape[-2:])

        light = DraftLight(flux, background)
    results = list(run_case(place, settings, light=light))
    rows = [row for result in results for row in compare_case(place, result)]
    assert {row.product for row in rows} == {"ramp", "rateints", "rate"}
    sys.stdout.write(summary(name, case, rows) + "\n")
    if case.steps.get("ramp_fit", {}).get("algorithm") == "LIKELY":
        for result in results:
            known, unknown = likely_differences(place, result)
            assert unknown == 0
            assert known < 0.004 * result.slopes.planes.data.size
        rows = [row for row in rows if row.product == "ramp"]
    failed = [row for row in rows if not row.passed and (row.worst > case.rounding or row.beyond > 1e-4)]
    assert not failed, "\n".join(table(failed))

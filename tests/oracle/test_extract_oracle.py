"""The official box and the aperture corrections against jwst's own functions, on random images."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsostream.operators.spectral.correction import ApertureCorrection
from tsostream.operators.spectral.definition import ApertureDefinition
from tsostream.operators.spectral.official import GroundFit, extract_box
from tsostream.testing.builders import make_info
from tsostream.testing.oracle import official_python
from tsostream.testing.recipes import make_apcorr

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON is not set"),
]

CHILD = """
import pickle, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from jwst.extract_1d import extract, extract1d
from jwst.extract_1d.apply_apcorr import ApCorr, ApCorrPhase
results = []
for case in pickle.load(open(sys.argv[1], "rb")):
    if "row" in case:
        one = object.__new__(ApCorrPhase if case["phase"] else ApCorr)
        one.reference = case["row"]
        function = one.approximate()
        values = []
        for wave, size in zip(case["wave"], case["size"]):
            try:
                values.append(function(wave, size, 0.5).item() if case["phase"] else function(size, wave).item())
            except ValueError:
                values.append(1.0)
        results.append(np.array(values))
        continue
    p, along_y = case["params"], case["params"]["dispaxis"] == 2
    turn = (lambda a: a.T) if along_y else (lambda a: a)
    profile = extract.box_profile(case["wave"].shape, p, case["wave"])
    profile[~np.isfinite(case["wave"])] = 0.0
    ground = None
    if p["subtract_background"]:
        ground = turn(extract.box_profile(case["wave"].shape, p, case["wave"], coefficients="bkg_coeff"))
    out = extract1d.extract1d(
        turn(case["image"]), [turn(profile)], *(turn(case[k]) for k in ("rnoise", "poisson", "flat")),
        profile_bg=ground, bg_smooth_length=p["smoothing_length"], fit_bkg=p["subtract_background"],
        bkg_fit_type=p["bkg_fit"], bkg_order=p["bkg_order"], extraction_type="box")
    results.append([turn(profile), *(np.asarray(one)[0] for one in out[:9])])
pickle.dump(results, open(sys.argv[2], "wb"))
"""


def ask(cases: list[dict[str, Any]], folder: Path) -> list[Any]:
    (folder / "cases").write_bytes(pickle.dumps(cases))
    command = [official_python(), "-I", "-c", CHILD, str(folder / "cases"), str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = pickle.loads((folder / "results").read_bytes())
    return found


def make_case(rng: np.random.Generator, number: int) -> tuple[dict[str, Any], ApertureDefinition]:
    """Images with holes, apertures by limits, widths or polynomials, backgrounds of every kind."""
    along_y = number % 2 == 1
    shape = (24, 31)  # cross, disp
    kind = ("poly", "median", "none")[number % 3]
    by_wave, order = number % 4 == 3, number % 3 if kind == "poly" else 0
    wave = np.broadcast_to(np.linspace(1.0, 2.0, shape[1]), shape).astype(np.float32)
    wave = wave + rng.normal(0, 1e-3, shape).astype(np.float32)
    wave[:, :2] = np.nan
    slope = 1.5 if by_wave else 0.06
    src = None if number % 5 < 2 else ((8.3, slope), (14.9, slope))
    ground = ((0.4,), (4.2, slope / 2), (18.6, slope / 3), (22.8,))
    width = 6.6 if number % 5 == 1 else None
    smooth = (0, 5, 9)[(number // 3) % 3]
    cross, disp = ("x", "y") if along_y else ("y", "x")
    params = {
        "dispaxis": 2 if along_y else 1, f"{cross}start": 8.2, f"{cross}stop": 15.4, f"{disp}start": 1.5,
        f"{disp}stop": 28.2, "src_coeff": src, "bkg_coeff": ground, "independent_var": "wavelength" if by_wave else
        "pixel", "extract_width": width, "trace": None, "bkg_fit": None if kind == "none" else kind,
        "bkg_order": order, "smoothing_length": smooth, "subtract_background": kind != "none",
    }  # fmt: skip
    image = rng.normal(20, 5, shape).astype(np.float32)
    image[rng.random(shape) < 0.08] = np.nan
    lost = np.isnan(image)
    planes = {
        name: np.where(lost, np.nan, rng.uniform(0.1, 3, shape)).astype(np.float32)
        for name in ("rnoise", "poisson", "flat")
    }
    turn = np.transpose if along_y else np.asarray
    case = {
        "params": params,
        "wave": turn(wave),
        "image": turn(image),
        **{k: turn(v) for k, v in planes.items()},
    }
    definition = ApertureDefinition(
        8.2, 15.4, 1.5, 28.2, src_coeff=src, bkg_coeff=ground, in_wavelength=by_wave, extract_width=width,
        subtract_background=kind != "none", bkg_fit=kind, bkg_order=order, smoothing_length=smooth,
    )  # fmt: skip
    return case, definition


def test_box_extraction(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pairs = [make_case(rng, number) for number in range(40)]
    for number, ((case, definition), theirs) in enumerate(
        zip(pairs, ask([case for case, _ in pairs], tmp_path), strict=True)
    ):
        turn = np.transpose if case["params"]["dispaxis"] == 2 else np.asarray
        wave = turn(case["wave"]).astype(float)
        weight, mask = definition.weights(wave.shape, wave), definition.ground(wave.shape, wave)
        ground = None
        if mask is not None:
            ground = GroundFit(mask, definition.bkg_fit, definition.bkg_order, definition.smoothing_length)
        variance = np.stack([turn(case[name]).astype(float) for name in ("poisson", "rnoise", "flat")])
        sums = extract_box(turn(case["image"]).astype(float), variance, weight, ground)
        profile, flux, rnoise, poisson, flat, level, level_rn, level_po, level_fl, npixels = theirs
        pairs_of = {
            "weight": (weight, profile), "flux": (sums.flux, flux), "poisson": (sums.variance[0], poisson),
            "rnoise": (sums.variance[1], rnoise), "flat": (sums.variance[2], flat), "ground": (sums.ground, level),
            "ground_poisson": (sums.ground_variance[0], level_po), "ground_rnoise": (sums.ground_variance[1], level_rn),
            "ground_flat": (sums.ground_variance[2], level_fl), "npixels": (sums.npixels, npixels),
        }  # fmt: skip
        for name, (ours, official) in pairs_of.items():
            # 1e-6 of the value and 1e-6 of the error
            slack = 1e-6 * np.sqrt(np.median((rnoise + poisson + flat)[npixels > 0]))
            atol = slack if name in ("flux", "ground") else 1e-9
            np.testing.assert_allclose(
                ours, official, rtol=1e-6, atol=atol, err_msg=f"{name} of case {number}"
            )


@pytest.mark.parametrize("mode", ["NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS"])
def test_aperture_corrections(mode: str, tmp_path: Path) -> None:
    info = make_info(mode, filter="CLEAR", grating="PRISM")
    table = make_apcorr(info, np.random.default_rng(0)).tables["APCORR"]
    row = {name: np.array(table[name][0]) for name in table.dtype.names}
    wave = np.linspace(0.2, 16.0, 60)
    size = np.random.default_rng(1).uniform(1.0, 15.0, 60)
    phase = mode == "NRS_BRIGHTOBJ"
    (theirs,) = ask([{"row": row, "phase": phase, "wave": wave, "size": size}], tmp_path)
    np.testing.assert_allclose(ApertureCorrection(row, phase).factors(wave, size), theirs, rtol=1e-6)

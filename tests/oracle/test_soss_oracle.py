"""SOSS geometry against the official pipeline's own functions, on the references of a simulated exposure."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import tsostream
from tsostream.files import find_exposures
from tsostream.operators.soss import overlap
from tsostream.operators.soss.geometry import box_weights, soss_traces
from tsostream.references import load_references
from tsostream.simulate import simulate
from tsostream.testing.oracle import official_python

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst"),
]

_TRACES = """
import sys
import numpy as np
from stdatamodels.jwst import datamodels
from jwst.extract_1d.soss_extract.pastasoss import get_soss_wavemaps, get_soss_traces
from jwst.extract_1d.soss_extract.soss_extract import DetectorModelOrder
from jwst.extract_1d.soss_extract.soss_boxextract import get_box_weights
model = datamodels.PastasossModel(sys.argv[1])
subarray, pwcpos, width, rows = sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
maps, traces = get_soss_wavemaps(pwcpos, subarray=subarray, refmodel=model, spectraces=True)
out = {}
for i, entry in enumerate(model.traces):
    order = DetectorModelOrder(int(entry.spectral_order), maps[i], traces[i], None, None, trace_cutoff=entry.cutoff)
    x, y, wave = order.trace
    n = order.spectral_order
    out[f"y{n}"], out[f"wave{n}"], out[f"map{n}"] = y, wave, maps[i][rows // 2]
    out[f"box{n}"] = get_box_weights(y, width, (rows, 2048), cols=x)
np.savez(sys.argv[6], **out)
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {
        name: simulate(
            "NIS_SOSS", tmp_path_factory.mktemp(name), ints=1, groups=2, subarray=name, noise="none"
        )
        for name in ("SUBSTRIP256", "SUBSTRIP96")
    }


@pytest.mark.parametrize(
    ("subarray", "pwcpos", "width"),
    [("SUBSTRIP256", 245.76, 40.0), ("SUBSTRIP256", 245.9, 36.5), ("SUBSTRIP96", 245.6, 25.0)],
)
def test_traces_wavelengths_and_boxes(
    simulated: dict, subarray: str, pwcpos: float, width: float, tmp_path: Path
) -> None:
    exposure = simulated[subarray]
    rows = 96 if subarray == "SUBSTRIP96" else 256
    path, target = exposure.references["pastasoss"], tmp_path / "traces.npz"
    command = [
        official_python(),
        "-c",
        _TRACES,
        str(path),
        subarray,
        str(pwcpos),
        str(width),
        str(rows),
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = find_exposures(exposure.segments)
    info = dataclasses.replace(found.info, header={**found.info.header, "PWCPOS": pwcpos})
    references = load_references({"pastasoss": path}, info).references
    with np.load(target) as official:
        for order, trace in soss_traces(references, info).items():
            count = trace.cutoff
            y, wave = trace.columns(2048)
            np.testing.assert_allclose(y[:count], official[f"y{order}"], atol=1e-8)
            np.testing.assert_allclose(wave[:count], official[f"wave{order}"], atol=1e-10)
            assert np.isnan(y[count:]).all()
            assert np.isnan(wave[count:]).all()
            np.testing.assert_allclose(trace.pixel_wavelengths(2048), official[f"map{order}"], atol=1e-10)
            np.testing.assert_allclose(box_weights(y, width, rows), official[f"box{order}"], atol=1e-7)


_DEFAULTS = """
import pickle, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from stdatamodels.jwst import datamodels
from jwst.extract_1d.soss_extract import soss_extract
defaults = dict(threshold=1e-2, n_os=2, tikfac=None, width=40.0, bad_pix="masking", subtract_background=None,
                rtol=1e-4, max_grid_size=20000, wave_grid_in=None, wave_grid_out=None, model=False, estimate=None,
                order_3=True, atoca=True)
"""

_EXTRACTION = """
names = ("WAVELENGTH", "FLUX", "FLUX_ERROR", "BACKGROUND", "NPIXELS")
results = []
for case in pickle.load(open(sys.argv[1], "rb")):
    model = datamodels.open(case["input"])
    kinds = [case["references"][kind] for kind in ("pastasoss", "specprofile", "speckernel")]
    given = defaults | case["options"]
    out, _, _ = soss_extract.run_extract1d(model, *kinds, case["subarray"], "CLEAR", given)
    tables = {int(one.spectral_order): {n: np.array(one.spec_table[n]) for n in names} for one in out.spec}
    told = out.meta.soss_extract1d
    keys = {"SOSSWDTH": told.width, "OVERSAMP": told.oversampling, "THRESHLD": told.threshold,
            "TIKFACTR": told.tikhonov_factor}
    results.append((keys, tables))
pickle.dump(results, open(sys.argv[2], "wb"))
"""

_GRID_ALONE = """
find = soss_extract.Integration.make_decontamination_grid
def stop(self, *given, **options):
    np.save(sys.argv[5], find(self, *given, **options))
    sys.exit()
soss_extract.Integration.make_decontamination_grid = stop
soss_extract.run_extract1d(datamodels.open(sys.argv[1]), *sys.argv[2:5], "SUBSTRIP256", "CLEAR", defaults)
"""

#: a grid of half the official points, refined as far as it may: the official search takes its time from them
_GRID = {"n_os": 1, "rtol": 1e-3, "max_grid_size": 3400}
_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "SUBSTRIP256": {
        "box alone": {"atoca": False},
        "all orders": _GRID,
        "bad pixels modelled": {
            **_GRID, "rtol": 1e-2, "bad_pix": "model", "tikfac": 1e-8, "order_3": False, "width": 36.0,
        },
    },
    "SUBSTRIP96": {"box alone": {"atoca": False}, "bad pixels modelled": {**_GRID, "bad_pix": "model"}},
}  # fmt: skip


def _ours(exposure: Any, given: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Extract through the runner; products beside the output."""
    settings = [
        f"extract_1d.soss_{name}={value}".replace("False", "false") for name, value in options.items()
    ]
    products = ("crfints", "x1dints") if given in exposure.segments else ("x1dints",)
    tsostream.process([given], out, refs_dir=exposure.directory, parity="jwst", skip_steps=("photom",),
                      settings=settings, products=products)  # fmt: skip
    (path,) = out.parent.glob("*x1dints.fits")
    with fits.open(path) as hdus:
        tables = {hdu.header["SPORDER"]: np.array(hdu.data) for hdu in hdus if hdu.name == "EXTRACT1D"}
        keys = {key: hdus[0].header.get(key) for key in ("SOSSWDTH", "OVERSAMP", "THRESHLD", "TIKFACTR")}
    return {"tables": tables, "keys": keys}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("subarray", list(_CASES))
def test_extraction_through_the_runner(subarray: str, tmp_path: Path) -> None:
    """Grid, regularisation and spectra of all orders are the official ones, from the same slopes."""
    exposure = simulate(
        "NIS_SOSS", tmp_path / "data", ints=3, groups=3, subarray=subarray, seed=11, cosmic_rays=1e-3
    )
    given, ours = exposure.segments[0], []
    for number, options in enumerate(_CASES[subarray].values()):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        ours.append(_ours(exposure, given, folder / "lc.arrow", options))
        if number == 0:
            (given,) = folder.glob("*crfints.fits")
    cases = [
        {"input": str(given), "subarray": subarray, "options": options,
         "references": {kind: str(path) for kind, path in exposure.references.items()}}
        for options in _CASES[subarray].values()
    ]  # fmt: skip
    (tmp_path / "cases").write_bytes(pickle.dumps(cases))
    command = [
        official_python(),
        "-c",
        _DEFAULTS + _EXTRACTION,
        str(tmp_path / "cases"),
        str(tmp_path / "results"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    official = pickle.loads((tmp_path / "results").read_bytes())
    for name, mine, (keys, tables) in zip(_CASES[subarray], ours, official, strict=True):
        assert set(mine["tables"]) == set(tables), name
        # without a model of the overlap there is no factor
        told = {key: value for key, value in keys.items() if value is not None}
        assert {key: value for key, value in mine["keys"].items() if value is not None} == pytest.approx(
            told, rel=1e-6
        ), name
        for order, table in tables.items():
            _same_columns(mine["tables"][order], table, f"{name}, order {order}")


def _same_columns(ours: np.ndarray, official: dict[str, np.ndarray], what: str) -> None:
    error = np.nan_to_num(official["FLUX_ERROR"])
    for name, values in official.items():
        found = np.atleast_2d(ours[name])[..., : values.shape[-1]]
        # columns beyond the order's cutoff, which the official table does not have
        assert not np.nan_to_num(ours[name][..., values.shape[-1] :]).any(), what
        np.testing.assert_array_equal(np.isnan(found), np.isnan(values), err_msg=f"{what}: {name}")
        # the first estimate is reproduced to the last bit; the joint fit is solved in another order of its points
        slack = 1e-6 * np.abs(values) + (2e-5 * error if name == "FLUX" else 1e-9)
        off = np.nan_to_num(np.abs(found - values)) > np.nan_to_num(slack)
        # a modelled pixel takes the error of the pixel nearest in value, and two may be equally near
        assert off.mean() <= (1e-3 if name == "FLUX_ERROR" else 0.0), f"{what}: {name}"


class Enough(BaseException):
    """The grid is known, and nothing else is wanted."""


@pytest.mark.slow
def test_the_default_grid_is_the_official_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points per pixel, refined where the noise of the first estimate asks for it: the same points, every bit."""
    exposure = simulate("NIS_SOSS", tmp_path / "data", ints=3, groups=3, seed=11, cosmic_rays=1e-3)
    (tmp_path / "box").mkdir()
    _ours(exposure, exposure.segments[0], tmp_path / "box" / "lc.arrow", {"atoca": False})
    (given,) = (tmp_path / "box").glob("*crfints.fits")
    kinds = [str(exposure.references[kind]) for kind in ("pastasoss", "specprofile", "speckernel")]
    command = [
        official_python(),
        "-c",
        _DEFAULTS + _GRID_ALONE,
        str(given),
        *kinds,
        str(tmp_path / "grid.npy"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    find, grids = overlap._grid, []

    def stop(*arguments: Any) -> None:
        grids.append(find(*arguments))
        raise Enough

    monkeypatch.setattr(overlap, "_grid", stop)
    with pytest.raises(Enough):
        _ours(exposure, given, tmp_path / "lc.arrow", {})
    official = np.load(tmp_path / "grid.npy")
    assert official.size > 10_000
    np.testing.assert_array_equal(grids[0], official)

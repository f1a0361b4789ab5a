"""SOSS geometry against the official pipeline's own functions, on the references of a simulated exposure."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tsostream.files import find_exposures
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

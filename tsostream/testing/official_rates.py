"""Run single steps on slopes of the official pipeline; executed by an interpreter that has jwst installed.

``python official_rates.py CASES RESULTS``, as `official.py` does for steps on ramps. Reference files are given as
paths, so that both pipelines read the same ones.
"""

from __future__ import annotations

import logging
import pickle
import runpy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

#: step -> (module, class) in jwst
STEPS = {
    "flat_field": ("jwst.flatfield", "FlatFieldStep"),
    "photom": ("jwst.photom", "PhotomStep"),
    "pixel_replace": ("jwst.pixel_replace", "PixelReplaceStep"),
    "srctype": ("jwst.srctype", "SourceTypeStep"),
    "bkg_subtract": ("jwst.background", "BackgroundStep"),
}
ARRAYS = ("data", "err", "dq", "var_poisson", "var_rnoise", "var_flat")
#: what is read from the result
FACTS = (
    "bunit_data", "bunit_err", "photometry.conversion_megajanskys", "photometry.conversion_microjanskys",
    "photometry.pixelarea_steradians", "photometry.pixelarea_arcsecsq", "target.source_type",
)  # fmt: skip


def make_model(case: dict[str, Any]) -> Any:
    """Build the data model of a case."""
    from stdatamodels.jwst import datamodels

    model = getattr(datamodels, case["model"])()
    for name, array in case["arrays"].items():
        setattr(model, name, array.copy())
    for name, value in case["attributes"].items():
        setattr(model, name, value)
    set_path = HELP["setattr_path"]
    for name, value in case["meta"].items():
        if value is not None:
            set_path(model.meta, name, value)
    return model


def run_step(case: dict[str, Any]) -> dict[str, Any]:
    """Run one step."""
    import importlib

    module, cls = STEPS[case["step"]]
    step = getattr(importlib.import_module(module), cls)
    overrides = {f"override_{name}": path for name, path in case["references"].items()}
    given = [make_model(case), *case["positional"]]
    out = step.call(*given, **overrides, **case["parameters"])
    result: dict[str, Any] = {}
    for name in ARRAYS:
        if out.hasattr(name):
            array = np.asarray(getattr(out, name))
            if array.shape == np.asarray(out.data).shape:
                result[name] = array.copy()
    for name in FACTS:
        node = out.meta
        for part in name.split("."):
            node = getattr(node, part, None)
        result[name] = node
    result["status"] = {name: getattr(out.meta.cal_step, name, None) for name in (case["step"], "back_sub")}
    return result


def run_wavecorr(case: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the zero-point correction of a slit's wavelengths."""
    from astropy.modeling.tabular import Tabular2D
    from jwst.wavecorr import wavecorr

    table = Tabular2D(points=case["points"], lookup_table=case["table"])

    class Reference:
        """Stands in for the data model: one aperture."""

        def __init__(self, _name: str):
            entry = type("Aperture", (), {"aperture_name": case["aperture"], "zero_point_offset": table})
            self.apertures = [entry]

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_rest: object) -> None:
            """Nothing to close."""

    wavecorr.datamodels.WaveCorrModel = Reference
    model = wavecorr.calculate_wavelength_correction_transform(
        case["lam"], case["dispersion"], "", case["source_xpos"], case["aperture"]
    )
    return {"wave": None if model is None else model(case["at"])}


def main() -> None:
    """Run all cases of a file."""
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())
    with tempfile.TemporaryDirectory() as name:
        HELP["go_offline"](Path(name) / "crds")
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        results = []
        for case in cases:
            special = {"wavecorr": run_wavecorr}
            try:
                results.append(special.get(case["step"], run_step)(case))
            except Exception as error:
                results.append({"error": f"{type(error).__name__}: {error}"})
    Path(sys.argv[2]).write_bytes(pickle.dumps(results))


HELP = runpy.run_path(str(Path(__file__).with_name("official.py")))

if __name__ == "__main__":
    main()

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
import traceback
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


def run_outliers(case: dict[str, Any]) -> dict[str, Any]:
    """Flag outliers in time."""
    from jwst.outlier_detection import OutlierDetectionStep

    step = OutlierDetectionStep()
    step.mode = "tso"
    for name, value in case["parameters"].items():
        setattr(step, name, value)
    out = step.run(make_model(case))
    return {name: np.asarray(getattr(out, name)).copy() for name in ARRAYS if out.hasattr(name)}


def run_photometry(case: dict[str, Any]) -> dict[str, Any]:
    """Measure images; the sky is that of the pixels."""
    from astropy import coordinates, units
    from astropy.modeling.models import Scale
    from gwcs import coordinate_frames, wcs
    from jwst.tso_photometry import TSOPhotometryStep

    times = case["meta"].pop("int_times")
    model = make_model(case)
    table = np.zeros(len(times), model.get_dtype("int_times"))
    table["integration_number"] = np.arange(1, len(times) + 1)
    for place, name in enumerate(table.dtype.names[1:]):
        table[name] = times[:, place]
    model.int_times = table
    detector = coordinate_frames.Frame2D(name="detector", unit=(units.pix, units.pix))
    sky = coordinate_frames.CelestialFrame(name="world", reference_frame=coordinates.ICRS())
    model.meta.wcs = wcs.WCS([(detector, Scale(1.0) & Scale(1.0)), (sky, None)])
    table = TSOPhotometryStep.call(model, override_gain=case["references"]["gain"], **case["parameters"])
    columns = {name: np.asarray(getattr(table[name], "value", table[name])) for name in table.colnames}
    return {"columns": columns, "units": {name: str(table[name].unit or "") for name in table.colnames}}


def run_window(case: dict[str, Any]) -> dict[str, Any]:
    """Say which pixels extract_2d cuts out: of a bounding box (NIRSpec), or of a height (NIRCam grism)."""
    from types import SimpleNamespace

    if "bounds" in case:
        from jwst.extract_2d import nirspec

        class System(SimpleNamespace):
            """Only has a box; whatever it is asked to change stays."""

            def get_transform(self, *_frames: str) -> Any:
                from astropy.modeling.models import Identity

                return Identity(2)

            def set_transform(self, *_change: Any) -> None:
                """Nothing to change."""

        xlo, xhi, ylo, yhi = nirspec.offset_wcs(System(bounding_box=case["bounds"]))
        return {"window": [int(ylo), int(yhi), int(xlo), int(xhi)]}
    from jwst.extract_2d import grisms

    found: dict[str, Any] = {}

    def keep(
        _out: Any, _model: Any, xmin: int, xmax: int, ymin: int, ymax: int, *_rest: Any, **_more: Any
    ) -> None:
        found["window"] = [ymin, ymax + 1, xmin, xmax + 1]

    grisms.compute_tso_offset_center = lambda *_args: (10.0, 34.0)
    grisms._set_tso_subwcs_transform = lambda *_args: None
    grisms.build_grism_submodel = keep
    model = make_model(case)
    wcs = SimpleNamespace(get_transform=lambda *_frames: lambda *_place: (0.0, 0.0, 0.0))
    meta = SimpleNamespace(
        wcs=wcs, wcsinfo=model.meta.wcsinfo, subarray=model.meta.subarray, instrument=model.meta.instrument
    )
    stand_in = SimpleNamespace(meta=meta, data=model.data)
    # the cut is all that is asked for
    made = SimpleNamespace(update=lambda _model: None, meta=SimpleNamespace(wcsinfo=SimpleNamespace()))
    grisms.datamodels = SimpleNamespace(SlitModel=lambda: made)
    ranges = [(1, "", model.meta.instrument.filter, 1.0, 2.0)]
    height = case["height"]
    grisms._extract_tso_tsgrism_object(stand_in, ranges, [1], False, tsgrism_extract_height=height)
    return found


def main() -> None:
    """Run all cases of a file."""
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())
    with tempfile.TemporaryDirectory() as name:
        HELP["go_offline"](Path(name) / "crds")
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        results = []
        for case in cases:
            special = {
                "wavecorr": run_wavecorr, "outlier_detection": run_outliers, "tso_photometry": run_photometry,
                "extract_2d": run_window,
            }  # fmt: skip
            try:
                results.append(special.get(case["step"], run_step)(case))
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                results.append(
                    {"error": f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"}
                )
    Path(sys.argv[2]).write_bytes(pickle.dumps(results))


HELP = runpy.run_path(str(Path(__file__).with_name("official.py")))

if __name__ == "__main__":
    main()

"""Run single steps of the official pipeline; this file is executed by an interpreter that has jwst installed.

``python official.py CASES RESULTS``: ``CASES`` is a pickle of a list of cases (see
`tsostream.testing.oracle`), and ``RESULTS`` will be one of a list of results. Nothing of tsostream is
imported here, and no network is used.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

#: step -> (module, class) in jwst
STEPS = {
    "group_scale": ("jwst.group_scale", "GroupScaleStep"),
    "saturation": ("jwst.saturation", "SaturationStep"),
    "ipc": ("jwst.ipc", "IPCStep"),
    "superbias": ("jwst.superbias", "SuperBiasStep"),
    "refpix": ("jwst.refpix", "RefPixStep"),
    "rscd": ("jwst.rscd", "RscdStep"),
    "firstframe": ("jwst.firstframe", "FirstFrameStep"),
    "linearity": ("jwst.linearity", "LinearityStep"),
    "dark_current": ("jwst.dark_current", "DarkCurrentStep"),
    "charge_migration": ("jwst.charge_migration", "ChargeMigrationStep"),
    "persistence": ("jwst.persistence", "PersistenceStep"),
    "emicorr": ("jwst.emicorr", "EmiCorrStep"),
    "clean_flicker_noise": ("jwst.clean_flicker_noise", "CleanFlickerNoiseStep"),
    "ramp_fit": ("jwst.ramp_fitting", "RampFitStep"),
}
#: step -> keyword of its status, where the two differ
STATUS = {"dark_current": "dark_sub"}
#: reference type -> data model
MODELS = {
    "ipc": "IPCModel",
    "linearity": "LinearityModel",
    "saturation": "SaturationModel",
    "superbias": "SuperBiasModel",
    "gain": "GainModel",
    "readnoise": "ReadnoiseModel",
    "rscd": "RSCDModel",
    "dark": "DarkModel",
    "emicorr": "EmiModel",
    "flat": "FlatModel",
}
#: our extension name -> attribute of the data model
ATTRIBUTES = {
    "SCI": "data",
    "DQ": "dq",
    "COEFFS": "coeffs",
    "INV_COEFFS": "inv_coeffs",
    "AVDRKCUR": "average_dark_current",
}


def go_offline(folder: Path) -> None:
    """Give CRDS an empty cache, before it is imported."""
    (folder / "config" / "jwst").mkdir(parents=True)
    version = {"str": "14.0.3"}
    config = {
        "observatory": "jwst", "operational_context": "jwst_9999.pmap", "latest_context": "jwst_9999.pmap",
        "edit_context": "jwst_9999.pmap", "bad_files_list": [], "bad_files": "", "mappings": [],
        "status": "cache", "connected": False, "force_remote_mode": False, "last_synced": "never",
        "crds_version": version, "reference_url": "", "mapping_url": "", "server": "none",
    }  # fmt: skip
    (folder / "config" / "jwst" / "server_config").write_text(repr(config))
    os.environ.update(
        CRDS_PATH=str(folder),
        CRDS_SERVER_URL="https://jwst-serverless.invalid",
        CRDS_OBSERVATORY="jwst",
        CRDS_MODE="local",
        CRDS_CONTEXT="jwst_9999.pmap",
        CRDS_READONLY_CACHE="1",
        STPIPE_DISABLE_CRDS_STEPPARS="true",
    )


def make_ramp(case: dict[str, Any]) -> Any:
    """Build the data model of a case."""
    from stdatamodels.jwst import datamodels

    model = datamodels.RampModel(
        data=case["data"].copy(), groupdq=case["groupdq"].copy(), pixeldq=case["pixeldq"].copy()
    )
    for name, value in case["meta"].items():
        if value is not None:
            setattr_path(model.meta, name, value)
    if case.get("zeroframe") is not None:
        model.zeroframe = case["zeroframe"].copy()
        model.meta.exposure.zero_frame = True
    if case.get("start_mjd") is not None:
        table = np.zeros(len(case["start_mjd"]), model.get_dtype("int_times"))
        table["integration_number"] = np.arange(1, len(table) + 1)
        table["int_start_MJD_UTC"] = case["start_mjd"]
        model.int_times = table
    return model


def setattr_path(node: Any, path: str, value: Any) -> None:
    """Set ``node.a.b = value`` from ``"a.b"``."""
    *parents, last = path.split(".")
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, last, value)


def save_reference(reftype: str, content: dict[str, Any], meta: dict[str, Any], folder: Path) -> str:
    """Write a reference in the official format."""
    from stdatamodels.jwst import datamodels

    if reftype == "emicorr":
        model = datamodels.EmiModel()
        for name, value in content["tree"].items():
            setattr(model, name, value)
        for name in ("reftype", "author", "description", "pedigree"):
            setattr(model.meta, name, {"reftype": "emicorr", "pedigree": "GROUND"}.get(name, "test"))
        model.meta.useafter = "2020-01-01T00:00:00"
        path = folder / "emicorr.asdf"
        model.save(str(path))
        return str(path)
    model = getattr(datamodels, content.get("model", MODELS[reftype]))()
    for name, array in content.get("arrays", {}).items():
        setattr(model, ATTRIBUTES[name], array)
    for name in ("instrument.name", "instrument.detector"):
        setattr_path(model.meta, name, meta[name])
    if hasattr(model.meta, "subarray") and reftype != "ipc":
        for name in ("xstart", "ystart", "xsize", "ysize"):
            setattr(model.meta.subarray, name, meta[f"subarray.{name}"])
    for name, value in content.get("meta", {}).items():
        setattr_path(model.meta, name, value)
    if "rows" in content:
        kind = model.get_dtype("rscd_group_skip_table")
        table = np.zeros(len(content["rows"]), kind)
        for number, row in enumerate(content["rows"]):
            for name, value in zip(("subarray", "readpatt", "group_skip1", "group_skip"), row, strict=True):
                table[name][number] = value
        model.rscd_group_skip_table = table
    path = folder / f"{reftype}.fits"
    model.save(str(path))
    return str(path)


def save_mask(mask: Any, folder: Path) -> str:
    """Write a mask as an image."""
    from stdatamodels.jwst import datamodels

    path = folder / "mask.fits"
    datamodels.ImageModel(data=np.asarray(mask, np.float32)).save(str(path))
    return str(path)


def run_case(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one step."""
    import importlib

    module, name = STEPS[case["step"]]
    step = getattr(importlib.import_module(module), name)()
    step.skip = False
    for parameter, value in case.get("parameters", {}).items():
        setattr(step, parameter, save_mask(value, folder) if parameter == "user_mask" else value)
    paths = {
        reftype: save_reference(reftype, content, case["meta"], folder)
        for reftype, content in case.get("references", {}).items()
    }
    for reftype in step.reference_file_types:
        setattr(step, f"override_{reftype}", paths.get(reftype, "N/A"))
    model = make_ramp(case)

    def get_reference_file(self: Any, _model: Any, reftype: str) -> str:
        return paths.get(reftype, "N/A")

    from stpipe import Step

    Step.get_reference_file = get_reference_file  # a step inside a step has no overrides
    result = step.run(model)
    if case["step"] == "ramp_fit":
        return {
            f"{name}.{plane}": np.array(getattr(one, plane))
            for name, one in zip(("rate", "rateints"), result, strict=True)
            for plane in ("data", "err", "var_poisson", "var_rnoise", "dq")
        }
    out = {
        "data": np.array(result.data),
        "groupdq": np.array(result.groupdq),
        "pixeldq": np.array(result.pixeldq),
        "status": getattr(result.meta.cal_step, STATUS.get(case["step"], case["step"]), None),
    }
    if case.get("zeroframe") is not None:
        out["zeroframe"] = np.array(result.zeroframe)
    if case["step"] == "dark_current":
        out["average_dark_current"] = np.array(result.average_dark_current)
    return out


def main() -> None:
    """Run all cases."""
    warnings.simplefilter("ignore")
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        go_offline(folder / "crds")
        logging.disable(logging.ERROR)
        for number, case in enumerate(cases):
            place = folder / str(number)
            place.mkdir()
            results.append(run_case(case, place))
        Path(sys.argv[2]).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()

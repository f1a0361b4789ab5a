"""Run the official pipeline's first stage, measured; executed by an interpreter that has jwst installed.

``PYTHON official.py JOB RESULT``: ``JOB`` is a JSON file with ``uncal, references`` (type -> file), ``cores,
algorithm, out``.
Nothing of tsostream is imported and no network is used: references come from the job, and CRDS gets an empty cache.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

#: what the official time-series step set leaves out, whatever the instrument
SKIPPED = (
    "ipc", "persistence", "charge_migration", "firstframe", "lastframe", "rscd", "emicorr", "picture_frame",
    "clean_flicker_noise",
)  # fmt: skip


def go_offline(folder: Path) -> None:
    """Give CRDS an empty cache, before it is imported."""
    place = folder / "config" / "jwst"
    place.mkdir(parents=True)
    context = "jwst_9999.pmap"
    server = dict.fromkeys(("operational_context", "latest_context", "edit_context"), context)
    server |= {
        "observatory": "jwst",
        "bad_files_list": [],
        "bad_files": "",
        "mappings": [],
        "status": "cache",
    }
    server |= {
        "connected": False,
        "force_remote_mode": False,
        "last_synced": "never",
        "crds_version": {"str": "14"},
    }
    server |= {"reference_url": "", "mapping_url": "", "server": "none"}
    (place / "server_config").write_text(repr(server))
    os.environ.update(
        CRDS_PATH=str(folder),
        CRDS_SERVER_URL="https://jwst-serverless.invalid",
        CRDS_OBSERVATORY="jwst",
        CRDS_MODE="local",
        CRDS_CONTEXT=context,
        CRDS_READONLY_CACHE="1",
        STPIPE_DISABLE_CRDS_STEPPARS="true",
    )


def high_water() -> int:
    """Peak resident memory of this process [bytes]."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match.group(1)) * 1024 if match else 0


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Process one file."""
    began = time.perf_counter()
    import jwst
    from astropy.io import fits
    from jwst.pipeline import Detector1Pipeline
    from stpipe import Pipeline, Step

    imported = time.perf_counter() - began
    references = job["references"]

    def get_reference_file(self: Any, model: Any, reftype: str) -> str:
        return references.get(reftype, "N/A")

    steps: list[tuple[str, float]] = []
    real_run = Step.run

    def timed_run(self: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = real_run(self, *arguments)
        if not self.skip and self.parent is not None:
            steps.append((self.name, time.perf_counter() - start))
        return result

    Step.get_reference_file = get_reference_file
    Pipeline._precache_references = lambda self, input_file: None
    Step.run = timed_run
    parameters: dict[str, dict[str, Any]] = {name: {"skip": True} for name in SKIPPED}
    if fits.getval(job["uncal"], "INSTRUME") == "MIRI":
        parameters["refpix"] = {"skip": True}
    parameters["jump"] = {"maximum_cores": job["cores"]}
    parameters["ramp_fit"] = {"maximum_cores": job["cores"], "algorithm": job["algorithm"]}
    floor, began = high_water(), time.perf_counter()
    Detector1Pipeline.call(
        job["uncal"], steps=parameters, output_dir=job["out"], save_results=True, configure_log=False
    )
    return {
        "jwst": jwst.__version__,
        "import_seconds": imported,
        "seconds": time.perf_counter() - began,
        "step_seconds": dict(steps),
        "floor": floor,
        "peak": high_water(),
    }


def main() -> None:
    """Run the job."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        go_offline(Path(name) / "crds")
        result = run(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()

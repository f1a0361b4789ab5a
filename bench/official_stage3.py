"""Run the official stage 3 of one calints file, measured; executed by an interpreter that has jwst installed.

``PYTHON official_stage3.py CALINTS``: prints JSON. Outlier detection with the code's defaults, then for images the
aperture photometry; spectra need reference files for the extraction, which are not measured here.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

from official import go_offline


def main() -> None:
    """Run the job."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        go_offline(Path(name) / "crds")
        from jwst import datamodels
        from jwst.outlier_detection.outlier_detection_step import OutlierDetectionStep

        OutlierDetectionStep.get_reference_file = lambda *_: "N/A"
        with datamodels.open(sys.argv[1]) as model:
            model.data, model.dq, model.err  # noqa: B018 - read before the clock runs
            count = len(model.data)
            began = time.perf_counter()
            OutlierDetectionStep.call(model)
            seconds = time.perf_counter() - began
    print(json.dumps({"integrations": count, "outlier_detection": seconds}))


if __name__ == "__main__":
    main()

"""Compare with the official pipeline, run by another interpreter.

Tests that need it are marked ``oracle`` and skipped unless ``TSOSTREAM_JWST_PYTHON`` names a Python that has
jwst 3.0.0 installed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["Case", "Difference", "compare", "official_python", "run_official"]


def official_python() -> str:
    """Interpreter that has the official pipeline; empty when there is none."""
    return os.environ.get("TSOSTREAM_JWST_PYTHON", "")


@dataclass
class Case:
    """One step of the official pipeline on one small file.

    Parameters
    ----------
    step
        Step name.
    info
        The exposure.
    data, groupdq, pixeldq
        Input of the step.
    parameters
        Step parameters under their jwst names.
    references
        Reference type -> ``{"arrays": {extension: array}, "meta": {path: value}, "rows": rows}``.
    first
        INTSTART.
    zeroframe : float32 [integration, y, x]
        Zero frames, if any.
    start_mjd : float64 [integration]
        INT_TIMES, if any [d].
    """

    step: str
    info: ExposureInfo
    data: np.ndarray
    groupdq: np.ndarray
    pixeldq: np.ndarray
    parameters: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Any] = field(default_factory=dict)
    first: int = 1
    zeroframe: np.ndarray | None = None
    start_mjd: np.ndarray | None = None

    def plain(self) -> dict[str, Any]:
        """As plain objects, which any interpreter can read."""
        info = self.info
        meta = {
            "instrument.name": info.instrument, "instrument.detector": info.detector, "exposure.type":
            info.exp_type, "instrument.filter": info.filter or None, "instrument.grating": info.grating or
            None, "subarray.name": info.subarray, "subarray.xstart": info.xstart, "subarray.ystart":
            info.ystart, "subarray.xsize": info.nx, "subarray.ysize": info.ny, "subarray.fastaxis":
            info.fastaxis, "subarray.slowaxis": info.slowaxis, "exposure.nints": info.nints,
            "exposure.ngroups": info.ngroups, "exposure.nframes": info.nframes, "exposure.groupgap":
            info.groupgap, "exposure.noutputs": info.noutputs, "exposure.readpatt": info.readpatt or None,
            "exposure.frame_time": info.frame_time, "exposure.group_time": info.group_time,
            "exposure.integration_time": info.integration_time, "exposure.frame_divisor": info.frame_divisor,
            "exposure.drop_frames1": 0, "exposure.nsamples": int(info.header.get("NSAMPLES", 1)),
            "exposure.integration_start": self.first, "exposure.integration_end": self.first + len(self.data)
            - 1, "exposure.start_time": 60000.0, "visit.tsovisit": info.tsovisit,
            "observation.date": "2024-01-01", "observation.time": "00:00:00.0",
        }  # fmt: skip
        return {
            "step": self.step, "meta": meta, "data": self.data, "groupdq": self.groupdq, "pixeldq":
            self.pixeldq, "parameters": dict(self.parameters), "references": dict(self.references),
            "zeroframe": self.zeroframe, "start_mjd": self.start_mjd,
        }  # fmt: skip


def run_official(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Run all cases in one process of the official interpreter.

    Returns
    -------
    results
        Per case ``data, groupdq, pixeldq, status`` and what else the step makes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases").write_bytes(pickle.dumps([case.plain() for case in cases]))
        script = Path(__file__).with_name("official.py")
        command = [official_python(), "-I", str(script), str(folder / "cases"), str(folder / "results")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the official pipeline failed:\n{done.stderr[-4000:]}")
        return pickle.loads((folder / "results").read_bytes())


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Parameters
    ----------
    largest
        Largest absolute difference.
    fraction
        Fraction of values that are not identical.
    """

    largest: float
    fraction: float


def compare(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Measure the difference; NaN equals NaN, and NaN against a number counts as infinite."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    gap = np.where(np.isnan(gap), np.inf, gap)
    return Difference(float(gap.max(initial=0.0)), float(1.0 - same.mean()) if same.size else 0.0)

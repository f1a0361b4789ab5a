"""Steps on slopes compared with the official pipeline, run by another interpreter; see `tsostream.testing.oracle`."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.testing.oracle import official_python

__all__ = ["RateCase", "assert_parity", "run_official_rates"]

#: spectra that the official pipeline holds as slits
_SLITS = {"NRS_BRIGHTOBJ": "S1600A1", "NRC_TSGRISM": "NRC_TSGRISM", "MIR_LRS-SLITLESS": "MIR_LRS-SLITLESS"}


@dataclass
class RateCase:
    """One step on one block of slopes.

    Parameters
    ----------
    step
        Step name.
    info
        The exposure.
    rate
        Input; it is copied.
    wave : float64 [y, x]
        Wavelengths [µm], if any.
    parameters
        Step parameters under their jwst names.
    references
        Reference type -> file.
    meta
        Further metadata, by path.
    positional
        Further arguments of the step.
    """

    step: str
    info: ExposureInfo
    rate: Rate
    wave: np.ndarray | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Path | str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    positional: Sequence[Any] = ()

    def plain(self) -> dict[str, Any]:
        """As plain objects, which any interpreter can read."""
        info, slit = self.info, _SLITS.get(self.info.exp_type)
        arrays = {
            name: getattr(self.rate, name).copy()
            for name in ("data", "err", "dq", "var_poisson", "var_rnoise", "var_flat")
            if getattr(self.rate, name) is not None
        }
        attributes: dict[str, Any] = {}
        if slit is not None:
            attributes = {"name": slit, "xstart": 1, "ystart": 1, "xsize": info.nx, "ysize": info.ny}
            if self.wave is not None:
                arrays["wavelength"] = self.wave.astype(np.float32)
        full = (int(info.header.get("SUBSTRT1", info.xstart)), int(info.header.get("SUBSTRT2", info.ystart)))
        if slit is not None:
            attributes |= {"xstart": info.xstart - full[0] + 1, "ystart": info.ystart - full[1] + 1}
        meta = {
            "instrument.name": info.instrument, "instrument.detector": info.detector, "exposure.type":
            info.exp_type, "instrument.filter": info.filter or None, "instrument.pupil": info.pupil or None,
            "instrument.grating": info.grating or None, "subarray.name": info.subarray, "subarray.xstart": full[0],
            "subarray.ystart": full[1], "subarray.xsize": info.nx, "subarray.ysize": info.ny,
            "exposure.mid_time": info.header.get("EXPMID"), "visit.tsovisit": info.tsovisit,
            "exposure.nints": info.nints, "observation.date": "2024-01-01", "observation.time": "00:00:00.0",
            "wcsinfo.dispersion_direction": info.dispaxis or None, "wcsinfo.spectral_order": 1,
            "target.source_type": "POINT", "subarray.fastaxis": info.fastaxis, "subarray.slowaxis": info.slowaxis,
            "cal_step.assign_wcs": "COMPLETE",
        }  # fmt: skip
        return {
            "step": self.step, "model": "SlitModel" if slit else "CubeModel", "arrays": arrays,
            "attributes": attributes, "meta": {**meta, **self.meta}, "parameters": dict(self.parameters),
            "references": {name: str(path) for name, path in self.references.items()},
            "positional": [str(one) if isinstance(one, Path) else one for one in self.positional],
        }  # fmt: skip


def run_official_rates(cases: Sequence[RateCase | dict[str, Any]]) -> list[dict[str, Any]]:
    """Run all cases in one process of the official interpreter.

    Returns
    -------
    results
        Per case the arrays, facts and status after the step; ``error`` where it raised.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = [case.plain() if isinstance(case, RateCase) else case for case in cases]
        (folder / "cases").write_bytes(pickle.dumps(plain))
        script = Path(__file__).with_name("official_rates.py")
        command = [official_python(), "-I", str(script), str(folder / "cases"), str(folder / "results")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the official pipeline failed:\n{done.stderr[-4000:]}")
        return pickle.loads((folder / "results").read_bytes())


def assert_parity(rate: Rate, official: Mapping[str, Any]) -> None:
    """Compare at the tolerances of stages 2 and 3: 1e-6 of the value plus 1e-6 of its error, DQ identical.

    Raises
    ------
    AssertionError
        Says which array differs, and by how much.
    """
    assert "error" not in official, official["error"]
    np.testing.assert_array_equal(rate.dq, official["dq"])
    error = official["err"]
    for name in ("data", "err", "var_poisson", "var_rnoise", "var_flat"):
        if name not in official:
            continue
        ours, theirs = getattr(rate, name), official[name]
        assert ours is not None, name
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=name)
        # float32 products in another order: variances are squares, so twice the rounding
        scale = np.abs(theirs) + np.where(
            np.isfinite(error), error if not name.startswith("var") else error**2, 0
        )
        known = np.isfinite(theirs) & (scale > 0)
        far = np.abs(ours - theirs)[known] / scale[known]
        assert not far.size or far.max() < 1e-6, f"{name} differs by {far.max():.2g} of value and error"

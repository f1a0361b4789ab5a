"""Run the official stages 2 and 3 on one rateints file, measured; executed by an interpreter that has jwst installed.

``PYTHON official_stage3.py JOB``: ``JOB`` is a JSON file with ``rateints, references`` (type -> file),
``wavelengths`` (FITS image, or null) and ``limit`` (processor seconds for the extraction of SOSS). Prints JSON:
processor seconds of each step, or why it could not run. The files are simulated, so the coordinate system is a made-up
linear one.

The official extraction of SOSS first calibrates the overlap of the orders on the mean of a file, then takes integration
by integration. Both are measured apart: the quickest of `SOSS_INTEGRATIONS` stands for the others.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from official import go_offline

#: EXP_TYPE of images
IMAGES = ("NRC_TSIMAGE", "MIR_IMAGE")
#: integrations of SOSS that are extracted; of the first one the official code keeps matrices for the others
SOSS_INTEGRATIONS = 3
#: sky position of the target [deg], and pixels per degree
RA, DEC, PIXELS = 217.3, -3.4, 36000.0


def make_wcs(shape: tuple[int, int], wave: Any, *, along_y: bool) -> Any:
    """Build a coordinate system in which the target lies in the middle; with wavelengths if there are any."""
    from astropy import coordinates, units
    from astropy.modeling.models import Mapping, Polynomial1D, Scale, Shift
    from gwcs import coordinate_frames, wcs

    ny, nx = shape
    across = [Shift(-(n - 1) / 2) | Scale(1 / PIXELS) | Shift(place) for n, place in ((nx, RA), (ny, DEC))]
    detector = coordinate_frames.Frame2D(name="detector", unit=(units.pix, units.pix))
    sky = coordinate_frames.CelestialFrame(
        name="sky" if wave is not None else "world", axes_order=(0, 1), reference_frame=coordinates.ICRS()
    )
    if wave is None:
        return wcs.WCS([(detector, across[0] & across[1]), (sky, None)])
    line = wave[:, nx // 2] if along_y else wave[ny // 2]
    slope = float(line[-1] - line[0]) / (len(line) - 1)
    spectrum = Polynomial1D(1, c0=float(line[0]), c1=slope)
    spectrum.inverse = Polynomial1D(1, c0=-float(line[0]) / slope, c1=1 / slope)
    both = Mapping((0, 1, 1 if along_y else 0)) | across[0] & across[1] & spectrum
    both.inverse = Mapping((0, 1), n_inputs=3) | across[0].inverse & across[1].inverse
    frames = [
        sky,
        coordinate_frames.SpectralFrame(name="spectral", axes_order=(2,), unit=(units.micron,)),
    ]
    system = wcs.WCS([(detector, both), (coordinate_frames.CompositeFrame(frames, name="world"), None)])
    system.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return system


def prepare(rateints: str, wavelengths: str | None) -> Any:
    """Read the slopes as the model that stage 2 would have made of them."""
    from astropy.io import fits
    from stdatamodels.jwst import datamodels

    cube = datamodels.CubeModel(rateints)
    exp_type = cube.meta.exposure.type
    along_y = exp_type == "MIR_LRS-SLITLESS"
    wave = None if wavelengths is None else fits.getdata(wavelengths).astype("f4")
    system = make_wcs(cube.data.shape[1:], wave, along_y=along_y)
    model = cube
    if exp_type not in (*IMAGES, "NIS_SOSS"):
        names = ("data", "dq", "err", "var_poisson", "var_rnoise")
        model = datamodels.SlitModel(**{name: getattr(cube, name) for name in names}, wavelength=wave)
        model.update(cube)
        model.int_times = cube.int_times
        model.name = "S1600A1" if exp_type == "NRS_BRIGHTOBJ" else exp_type
        model.xstart, model.ystart, model.xsize, model.ysize = 1, 1, cube.data.shape[2], cube.data.shape[1]
        model.source_type = "POINT"
    model.meta.wcs = system
    model.meta.wcsinfo.spectral_order = 1
    model.meta.wcsinfo.dispersion_direction = 2 if along_y else 1
    model.meta.target.source_type = "POINT"
    model.meta.wcsinfo.siaf_xref_sci = cube.data.shape[2] / 2
    model.meta.wcsinfo.siaf_yref_sci = cube.data.shape[1] / 2
    return model


def box_reference(model: Any, folder: Path) -> str:
    """Write an EXTRACT1D reference with a box in the middle and a background on either side."""
    _, ny, nx = model.data.shape
    along_y = model.meta.wcsinfo.dispersion_direction == 2
    across = nx if along_y else ny
    low, high = across // 2 - 4, across // 2 + 4
    names = ("xstart", "xstop", "ystart", "ystop")
    limits = (low, high, 0, ny - 1) if along_y else (0, nx - 1, low, high)
    entry = {
        "id": model.name, "region_type": "target", "dispaxis": 2 if along_y else 1, "spectral_order": 1,
        "bkg_coeff": [[0.5], [3.5]], "bkg_order": 0, "use_source_posn": False, **dict(zip(names, limits, strict=True)),
    }  # fmt: skip
    path = folder / "box.json"
    path.write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": [entry]}))
    return str(path)


def steps_of(model: Any, references: dict[str, str], folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Step name -> function from a model to the next."""
    from jwst.extract_1d import Extract1dStep
    from jwst.flatfield import FlatFieldStep
    from jwst.outlier_detection import OutlierDetectionStep
    from jwst.tso_photometry import TSOPhotometryStep
    from jwst.white_light import WhiteLightStep

    def outliers(given: Any) -> Any:
        step = OutlierDetectionStep()
        step.mode = "tso"
        return step.run(given)

    def override(*names: str) -> dict[str, str]:
        return {f"override_{name}": references.get(name, "N/A") for name in names}

    exp_type = model.meta.exposure.type
    steps: dict[str, Callable[[Any], Any]] = {}
    if exp_type != "NRS_BRIGHTOBJ":
        steps["flat_field"] = lambda given: FlatFieldStep.call(
            given, **override("flat"), override_fflat="N/A", override_sflat="N/A", override_dflat="N/A"
        )
    steps["outlier_detection"] = outliers
    if exp_type in IMAGES:
        steps["tso_photometry"] = lambda given: TSOPhotometryStep.call(given, **override("gain"))
        return steps
    if exp_type == "NIS_SOSS":
        # extract_1d is measured by itself, see `SossClock`
        return steps
    box = box_reference(model, folder)
    none = dict.fromkeys((f"override_{name}" for name in ("pastasoss", "specprofile", "speckernel")), "N/A")
    steps["extract_1d"] = lambda given: Extract1dStep.call(
        given,
        **none,
        override_extract1d=box,
        override_apcorr="N/A",
        override_psf="N/A",
        apply_apcorr=False,
    )
    steps["white_light"] = lambda given: WhiteLightStep.call(given, override_wavelengthrange="N/A")
    return steps


class EnoughError(Exception):
    """What was to be measured is measured, or the time for it is over."""


@dataclass
class SossClock:
    """Processor time of the official SOSS extraction.

    Parameters
    ----------
    limit
        Processor seconds after which it is stopped.

    Attributes
    ----------
    calibration
        What passed until the first integration was begun [s]; None when the limit came before.
    integrations
        Seconds of each integration. One that the limit cut short has at least taken what stands here.
    limited
        Whether the limit came.
    """

    limit: float
    calibration: float | None = None
    integrations: list[float] = field(default_factory=list)
    limited: bool = False

    def run(self, model: Any, references: dict[str, str]) -> None:
        """Extract until enough integrations are measured."""
        from jwst.extract_1d import Extract1dStep
        from jwst.extract_1d.soss_extract import soss_extract

        official = soss_extract._process_one_integration
        began = since = time.process_time()

        def timed(*given: Any, **options: Any) -> Any:
            nonlocal since
            if options.get("int_num") is not None and self.calibration is None:
                since, self.calibration = time.process_time(), time.process_time() - began
            found = official(*given, **options)
            if self.calibration is not None:
                self.integrations.append(time.process_time() - since)
                since = time.process_time()
                if len(self.integrations) == SOSS_INTEGRATIONS:
                    raise EnoughError
            return found

        def stop(*_: Any) -> None:
            self.limited = True
            raise EnoughError

        kinds = ("pastasoss", "specprofile", "speckernel")
        override = {f"override_{name}": references[name] for name in kinds}
        override |= {f"override_{name}": "N/A" for name in ("extract1d", "apcorr", "psf")}
        soss_extract._process_one_integration = timed
        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, self.limit)
        try:
            Extract1dStep.call(model, **override)
        except EnoughError:
            if self.limited and self.calibration is not None:
                self.integrations.append(time.process_time() - since)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            soss_extract._process_one_integration = official

    def seconds(self, count: int) -> float:
        """Seconds that so many integrations take, at least; the calibration is counted when nothing else is known."""
        return count * min(self.integrations) if self.integrations and not self.limited else self.limit


def main() -> None:
    """Run the job."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    job = json.loads(Path(sys.argv[1]).read_text())
    seconds, failed = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        go_offline(folder / "crds")
        import jwst

        model = prepare(job["rateints"], job["wavelengths"])
        count = len(model.data)
        for step, run in steps_of(model, job["references"], folder).items():
            began = time.process_time()
            try:
                model = run(model)
                seconds[step] = time.process_time() - began
            except Exception as error:  # told, and left out of the comparison
                failed[step] = f"{type(error).__name__}: {error}"
                break  # what follows would work on something else
        answer = {"jwst": jwst.__version__, "integrations": count, "seconds": seconds, "failed": failed}
        if model.meta.exposure.type == "NIS_SOSS" and not failed:
            clock = SossClock(job["limit"])
            clock.run(model, job["references"])
            seconds["extract_1d"] = clock.seconds(count)
            answer["soss"] = asdict(clock)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""Measurements whose every number follows from its integration, so any process can make or check them."""

import numpy as np

from tsostream.integration.payload import Measurement, Times
from tsostream.records import RowSchemas, encode_metadata, light_curve_schema, spectra_schema, to_batches

N_WAVE = 16
EXPOSURE = "jw01366003001_04101_00001"
DETECTOR = "NRS1"


def measurement(first, count, *, keys=((1, 0),), n_wave=N_WAVE, spectra=True):
    numbers = np.arange(first, first + count, dtype=float)
    shape = (count, len(keys))
    times = Times(60000 + numbers[:, None] / 1e4 + np.arange(6) / 1e5, np.zeros(count, np.uint32))
    offsets = np.array([10 * order + aperture for order, aperture in keys], dtype=float)
    flux = 1e6 + numbers[:, None] + offsets / 100
    columns = {
        "flux": flux,
        "flux_err": np.sqrt(flux),
        "x": np.broadcast_to(np.sin(numbers)[:, None], shape).copy(),
        "y": np.broadcast_to(np.cos(numbers)[:, None], shape).copy(),
        "n_jump": np.zeros(shape, np.int32),
        "frac_filled": np.zeros(shape),
    }
    cubes = {}
    if spectra:
        wave = np.arange(n_wave)
        cubes = {
            "flux": (flux[:, :, None] / n_wave + wave).astype(np.float32),
            "dq": np.zeros((*shape, n_wave), np.uint32),
        }
    return Measurement(first, times, tuple(keys), columns, cubes, np.ones(count, bool))


def schemas(*, kind="spectroscopy", n_wave=N_WAVE, **facts):
    metadata = encode_metadata({"config": {"a": 1}, **facts})
    lc = light_curve_schema(kind=kind, flux_unit="electron", metadata=metadata)
    if kind == "imaging":
        return lc, None
    return lc, spectra_schema(n_wave=n_wave, flux_unit="electron", metadata=metadata)


def batches(first, count, **options):
    lc, spectra = schemas(n_wave=options.get("n_wave", N_WAVE))
    return to_batches(measurement(first, count, **options), RowSchemas(EXPOSURE, DETECTOR, lc, spectra))[:2]

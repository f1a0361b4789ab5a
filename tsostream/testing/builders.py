"""Random exposures, references and payloads with every pathology, for tests.

All builders are deterministic in the generator they are given. Arrays of references and templates are
read-only, as the loaders hand them over, so that a step that writes into them fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo, Level
from tsostream.integration.payload import Measurement, Ramp, Rate, Times
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, Operator
from tsostream.references.catalog import REFERENCE_TYPES
from tsostream.testing.recipes import RECIPES

__all__ = [
    "MODES",
    "make_binding",
    "make_block",
    "make_info",
    "make_measurement",
    "make_ramp",
    "make_rate",
    "make_reference",
    "make_references",
    "make_scene",
    "make_snowballs",
    "make_templates",
    "make_times",
]

#: EXP_TYPE -> instrument, detector, subarray, read pattern, (ny, nx), (fastaxis, slowaxis), frame time [s]
MODES: dict[str, tuple[str, str, str, str, tuple[int, int], tuple[int, int], float]] = {
    "NRS_BRIGHTOBJ": ("NIRSPEC", "NRS1", "SUB512", "NRSRAPID", (20, 48), (2, 1), 0.22616),
    "NRC_TSGRISM": ("NIRCAM", "NRCALONG", "SUBGRISM64", "SHALLOW4", (20, 48), (-1, 2), 0.34061),
    "NIS_SOSS": ("NIRISS", "NIS", "SUBSTRIP96", "NISRAPID", (24, 48), (-2, -1), 2.214),
    "MIR_LRS-SLITLESS": ("MIRI", "MIRIMAGE", "SLITLESSPRISM", "FASTR1", (48, 20), (1, 2), 0.15904),
    "NRC_TSIMAGE": ("NIRCAM", "NRCB1", "SUB64P", "RAPID", (32, 32), (1, -2), 0.05),
    "MIR_IMAGE": ("MIRI", "MIRIMAGE", "SUB64", "FASTR1", (32, 32), (1, 2), 0.085),
}

#: what the trace or star of `make_scene` adds up to per column or image [DN/s]
SIGNAL = {True: 4000.0, False: 60000.0}


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def make_info(
    exp_type: str = "NRS_BRIGHTOBJ",
    *,
    ny: int | None = None,
    nx: int | None = None,
    ngroups: int = 5,
    nints: int = 12,
    nframes: int = 1,
    groupgap: int = 0,
    level: Level = "uncal",
    **changes: Any,
) -> ExposureInfo:
    """Describe an exposure of a mode.

    Parameters
    ----------
    exp_type
        One of `MODES`.
    ny, nx
        Subarray; by default a small one on which the mode's steps can work.
    ngroups, nints, nframes, groupgap
        Readout.
    level
        Product level.
    **changes
        Any other field of `ExposureInfo`.
    """
    instrument, detector, subarray, readpatt, (rows, columns), (fast, slow), frame_time = MODES[exp_type]
    facts: dict[str, Any] = {
        "exposure_id": "jw01366003001_04101_00001",
        "instrument": instrument,
        "detector": detector,
        "exp_type": exp_type,
        "level": level,
        "subarray": subarray,
        "xstart": 1,
        "ystart": 1,
        "nx": columns if nx is None else nx,
        "ny": rows if ny is None else ny,
        "fastaxis": fast,
        "slowaxis": slow,
        "nints": nints,
        "ngroups": ngroups,
        "nframes": nframes,
        "groupgap": groupgap,
        "readpatt": readpatt,
        "frame_time": frame_time,
        "group_time": frame_time * (nframes + groupgap),
        "integration_time": frame_time * ((ngroups - 1) * (nframes + groupgap) + nframes),
        "bunit": "DN/s" if level != "uncal" else "",
    }
    return ExposureInfo(**{**facts, **changes})


def make_times(count: int, first: int = 1) -> Times:
    """Make times a minute apart."""
    start = 60000.0 + (first - 1 + np.arange(count)[:, None]) / 1440.0
    return Times(start + np.arange(6) / 86400.0, np.zeros(count, np.uint32))


def make_scene(info: ExposureInfo) -> np.ndarray:
    """Slopes without noise: a slightly tilted spectrum, or a star (float64 [y, x], DN/s)."""
    yy, xx = np.indices(info.frame_shape, dtype=np.float64)
    if not info.is_spectroscopy:
        y, x = (info.ny - 1) / 2 + 0.3, (info.nx - 1) / 2 - 0.2
        star = np.exp(-0.5 * ((yy - y) ** 2 + (xx - x) ** 2) / 1.6**2) / (2 * np.pi * 1.6**2)
        return SIGNAL[False] * star + 5.0
    along, across = (yy, xx) if info.dispaxis == 2 else (xx, yy)
    length, width = (info.ny, info.nx) if info.dispaxis == 2 else (info.nx, info.ny)
    centre = (width - 1) / 2 + 0.4 + 1.2 * (along / length - 0.5)
    profile = np.exp(-0.5 * ((across - centre) / 1.1) ** 2) / (1.1 * np.sqrt(2 * np.pi))
    return SIGNAL[True] * (0.4 + 0.6 * np.sin(np.pi * (along + 1) / (length + 1))) * profile + 5.0


def _pathologies(rng: np.random.Generator, array: np.ndarray, share: float, *values: float) -> np.ndarray:
    for value in values:
        array[..., rng.random(array.shape[-2:]) < share] = value
    return array


def make_reference(
    reftype: str, info: ExposureInfo, rng: np.random.Generator, *, share: float = 0.01, **keywords: Any
) -> Reference:
    """Make a reference with sane content and a share of pathological pixels.

    Parameters
    ----------
    reftype
        Reference type, lower case; types without a recipe of their own get a plane of about one.
    info
        The exposure it fits.
    rng
        Randomness.
    share
        Fraction of pixels with each pathology (NaN, zero, flags).
    **keywords
        Header keywords; NFRAMES and GROUPGAP default to the exposure's.
    """
    if reftype in RECIPES:
        return RECIPES[reftype](info, rng)
    shape = info.frame_shape
    bits = np.zeros(shape, np.uint32)
    base: dict[str, Any] = {"NFRAMES": info.nframes, "GROUPGAP": info.groupgap}
    arrays: dict[str, np.ndarray] = {}
    if reftype == "mask":
        for name in (dq.DO_NOT_USE | dq.DEAD, dq.HOT, dq.LOW_QE | dq.DO_NOT_USE):
            bits[rng.random(shape) < share] |= np.uint32(name)
    elif reftype == "saturation":
        arrays["SCI"] = _pathologies(rng, rng.uniform(45000, 60000, shape), share, np.nan)
        bits[rng.random(shape) < share] |= np.uint32(dq.NO_SAT_CHECK)
    elif reftype == "superbias":
        arrays["SCI"] = _pathologies(rng, rng.normal(1000, 30, shape), share, np.nan)
        bits[rng.random(shape) < share] |= np.uint32(dq.UNRELIABLE_BIAS)
    elif reftype == "linearity":
        terms = np.array([0.0, 1.0, 2e-7, 1e-12])[:, None, None] * np.ones((4, *shape))
        terms[2:] *= rng.uniform(0.5, 1.5, (2, *shape))
        terms[0] = rng.normal(0, 0.1, shape)
        terms[2, rng.random(shape) < share] = np.nan
        terms[1, rng.random(shape) < share] = 0.0
        arrays["COEFFS"] = terms
        bits[rng.random(shape) < share] |= np.uint32(dq.NO_LIN_CORR)
    elif reftype in ("dark", "reset"):
        members = (3,) if info.is_miri else ()
        planes = rng.normal(0, 0.5, (*members, info.ngroups + 1, *shape))
        planes += np.arange(info.ngroups + 1)[:, None, None] * 0.02
        arrays["SCI"] = _pathologies(rng, planes, share, np.nan)
        bits[rng.random(shape) < share] |= np.uint32(dq.UNRELIABLE_DARK)
        if info.is_miri and reftype == "dark":
            bits = np.stack([bits, bits << 1, np.zeros_like(bits)])[:, None]
    elif reftype == "gain":
        arrays["SCI"] = _pathologies(rng, rng.uniform(1.5, 1.9, shape), share, np.nan, 0.0, -1.0)
        base["GAINFACT"] = 2.0
    elif reftype == "readnoise":
        arrays["SCI"] = _pathologies(rng, rng.uniform(8, 12, shape), share, np.nan)
    else:
        kind = REFERENCE_TYPES.get(reftype)
        if kind is None or kind.layout != "image":
            raise NotImplementedError(
                f"tsostream.testing.builders has no recipe for a {reftype} reference; add one"
            )
        for entry in kind.arrays:
            arrays[entry.name] = _pathologies(rng, rng.normal(1.0, 0.02, shape), share, np.nan)
    if reftype not in ("gain", "readnoise"):
        arrays["DQ"] = bits
    frozen = {name: _frozen(a if name == "DQ" else a.astype(np.float32)) for name, a in arrays.items()}
    return Reference(reftype, f"test_{reftype}.fits", frozen, {**base, **keywords})


def make_references(
    reftypes: Iterable[str], info: ExposureInfo, rng: np.random.Generator, *, share: float = 0.01
) -> dict[str, Reference]:
    """Make one reference of each type."""
    return {reftype: make_reference(reftype, info, rng, share=share) for reftype in reftypes}


def make_ramp(
    info: ExposureInfo,
    rng: np.random.Generator,
    count: int,
    *,
    first: int = 1,
    hits: float = 0.01,
    saturated: float = 0.01,
    flags: float = 0.0,
    broken: float = 0.0,
    bias: float = 1000.0,
) -> Ramp:
    """Make decoded ramps of `make_scene` with noise.

    Parameters
    ----------
    info
        The exposure.
    rng
        Randomness.
    count, first
        Integrations, and the number of the first.
    hits
        Share of samples with a cosmic ray.
    saturated
        Share of pixels that run into saturation.
    flags
        Share of samples that already carry DO_NOT_USE, SATURATED (from there on) or PERSISTENCE.
    broken
        Share of samples that are NaN, and as many that are infinite.
    bias
        Level of the first read [DN].
    """
    shape = (count, info.ngroups, *info.frame_shape)
    rate = make_scene(info) * info.group_time
    rate = np.where(rng.random(shape[2:]) < saturated, 70000.0 / max(info.ngroups, 1), rate)
    steps = rng.poisson(np.broadcast_to(rate, shape)).astype(np.float64)
    steps += (rng.random(shape) < hits) * rng.exponential(3000.0, shape)
    data = np.rint(np.clip(bias + steps.cumsum(axis=1) + rng.normal(0, 8, shape), 0, 65535)).astype(
        np.float32
    )
    data[rng.random(shape) < broken] = np.nan
    data[rng.random(shape) < broken] = np.inf
    groupdq = np.zeros(shape, np.uint8)
    groupdq[np.maximum.accumulate(rng.random(shape) < flags, axis=1)] |= dq.SATURATED
    groupdq[rng.random(shape) < flags] |= dq.DO_NOT_USE
    groupdq[rng.random(shape) < flags] |= dq.PERSISTENCE
    zero = None
    if info.zeroframe:
        zero = rng.poisson(np.broadcast_to(bias + rate / info.nframes, data[:, 0].shape)).astype(np.float32)
        zero[rng.random(zero.shape) < 0.05] = 0.0
    return Ramp(first, data, groupdq, np.zeros(info.frame_shape, np.uint32), make_times(count, first), zero)


def make_snowballs(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Make flags of ramps hit by snowballs: round and long regions of jumps, many with a saturated core.

    Parameters
    ----------
    rng
        Random numbers.
    shape
        [integration, group, y, x], at least three groups.

    Returns
    -------
    groupdq : uint8 [integration, group, y, x]
        Besides, single jumps and unusable samples; no jump where a sample cannot be used.
    """
    groupdq = np.zeros(shape, np.uint8)
    ngroups, ny, nx = shape[1:]
    y, x = np.mgrid[:ny, :nx]
    for flags in groupdq:
        for _ in range(rng.integers(1, 7)):
            group, at = rng.integers(1, ngroups), rng.uniform(0, (ny, nx))
            radius, ratio, turn = rng.uniform(0, 9), rng.uniform(0.3, 1), rng.uniform(0, 3)
            if rng.random() < 0.5:
                at, radius, ratio = np.rint(at), np.rint(radius), 1.0
            dy, dx = y - at[0], x - at[1]
            along, across = dy * np.cos(turn) + dx * np.sin(turn), dy * np.sin(turn) - dx * np.cos(turn)
            distance = np.hypot(along, across / ratio)
            flags[group][distance <= radius] |= dq.JUMP_DET
            flags[group + rng.integers(0, 2) :, distance <= radius * rng.uniform(-0.3, 0.8)] |= dq.SATURATED
        flags[1:][rng.random((ngroups - 1, ny, nx)) < 0.02] |= dq.JUMP_DET
        flags[rng.random(flags.shape) < 0.01] |= dq.DO_NOT_USE
        flags[rng.integers(1, ngroups) :, rng.random((ny, nx)) < 0.002] |= dq.SATURATED
    groupdq[groupdq & (dq.SATURATED | dq.DO_NOT_USE) > 0] &= np.uint8(255 - dq.JUMP_DET)
    return groupdq


def make_rate(
    info: ExposureInfo,
    rng: np.random.Generator,
    count: int,
    *,
    first: int = 1,
    flux: np.ndarray | None = None,
    noise: float = 1.0,
    bad: float = 0.01,
    broken: float = 0.0,
) -> Rate:
    """Make slopes of `make_scene` with noise.

    Parameters
    ----------
    info
        The exposure.
    rng
        Randomness.
    count, first
        Integrations, and the number of the first.
    flux : float64 [integration], optional
        Relative brightness.
    noise
        Factor on the noise that is added; the variances say 1.
    bad
        Share of samples that are NaN with DO_NOT_USE, and as many with a jump, an outlier or saturation.
    broken
        Share of samples with NaN, infinite, negative or missing values and variances, without any flag.
    """
    level = np.ones(count) if flux is None else np.asarray(flux, np.float64)
    scene = level[:, None, None] * make_scene(info)
    shape = scene.shape
    time = info.integration_time or 1.0
    poisson, rnoise = scene / (1.7 * time), np.full(shape, 16.0 / time**2)
    data = scene + noise * rng.normal(size=shape) * np.sqrt(poisson + rnoise)
    bits = np.zeros(shape, np.uint32)
    for name in (dq.JUMP_DET, dq.OUTLIER | dq.DO_NOT_USE, dq.SATURATED, dq.SATURATED | dq.DO_NOT_USE):
        bits[rng.random(shape) < bad / 4] |= np.uint32(name)
    dead = rng.random(shape) < bad
    data[dead], bits[dead] = np.nan, bits[dead] | np.uint32(dq.DO_NOT_USE)
    for array in (data, poisson, rnoise):
        for value in (np.nan, np.inf, -np.inf, -1.0, 0.0):
            array[rng.random(shape) < broken] = value
    with np.errstate(invalid="ignore"):
        err = np.sqrt(poisson + rnoise)
    data, err, poisson, rnoise = (array.astype(np.float32) for array in (data, err, poisson, rnoise))
    return Rate(first, data, err, poisson, rnoise, bits, make_times(count, first))


def _covariance(variance: float) -> np.ndarray:
    """Covariance of neighbours by their distance, zero at distance zero (float64 [5, 7])."""
    y, x = np.mgrid[-2:3, -3:4]
    return np.where(np.hypot(y, x) > 0, 0.01 * variance * np.exp(-np.hypot(y, x)), 0.0)


def make_templates(info: ExposureInfo, rng: np.random.Generator, *, share: float = 0.005) -> dict[str, Any]:
    """Make what the scout makes: images, and the spectrum the white light is chosen from.

    Parameters
    ----------
    info
        The exposure.
    rng
        Randomness.
    share
        Share of pixels without a template.
    """
    scene, time = make_scene(info), info.integration_time or 1.0
    variance = scene / (1.7 * time) + 16.0 / time**2
    image = scene + rng.normal(size=scene.shape) * np.sqrt(variance / 64)
    lost = rng.random(scene.shape) < share
    image[lost], variance[lost] = np.nan, np.nan
    templates: dict[str, Any] = {
        "image": _frozen(image.astype(np.float32)),
        "scatter": _frozen(np.sqrt(variance).astype(np.float32)),
        "variance": _frozen(variance.astype(np.float32)),
        "covariance": _frozen(_covariance(float(np.median(scene)) / time)),
        "count": 64,
    }
    if info.is_spectroscopy:
        spectrum = scene.sum(axis=1 if info.dispaxis == 2 else 0)
        spectrum[:3] = np.nan
        length = spectrum.size
        templates["keys"] = ((1, 0),)
        templates["spectrum"] = _frozen(spectrum)
        templates["spectrum_error"] = _frozen(np.sqrt(np.abs(spectrum)))
        templates["columns_wavelength"] = _frozen(np.linspace(0.6, 5.3, length))
        shape = (length, info.ny * info.nx // length)[::-1]
        templates["sum_weights"] = _frozen(
            np.where(np.abs(np.arange(shape[0])[:, None] - 9) < 4, 1.7, -0.5) * np.ones(shape)
        )
        templates["column_covariance"] = templates["covariance"]
        templates["wavelength"] = {1: _frozen(np.linspace(0.6, 5.3, length))}
    return templates


def make_measurement(
    info: ExposureInfo,
    rng: np.random.Generator,
    count: int,
    *,
    first: int = 1,
    bad: float = 0.01,
    flux: np.ndarray | None = None,
) -> Measurement:
    """Make spectra as the extraction hands them on.

    Parameters
    ----------
    info
        A spectroscopic exposure.
    rng
        Randomness.
    count, first
        Integrations, and the number of the first.
    bad
        Share of columns that are NaN.
    flux : float64 [integration], optional
        Relative brightness.
    """
    level = np.ones(count) if flux is None else np.asarray(flux, np.float64)
    spectrum = make_scene(info).sum(axis=1 if info.dispaxis == 2 else 0)
    shape = (count, 1, spectrum.size)
    mean = level[:, None, None] * spectrum
    values = rng.normal(mean, np.sqrt(mean))
    values[rng.random(shape) < bad] = np.nan
    spectra = {
        "flux": values,
        "flux_err": np.sqrt(1.1 * mean),
        "own_err": np.sqrt(mean),
        "flux_var_poisson": 0.8 * mean,
        "flux_var_rnoise": 0.2 * mean,
        "flux_var_flat": np.zeros(shape),
        "background": rng.normal(5.0, 0.1, shape),
        "background_err": np.full(shape, 0.1),
        "dq": np.where(np.isnan(values), np.uint32(dq.DO_NOT_USE), np.uint32(0)),
        "npixels": np.full(shape, 10.0),
        "lost": np.where(rng.random(shape) < bad, 0.1, 0.0),
        "counts": rng.integers(0, 2, (*shape, 4)).astype(np.int32),
    }
    columns = {
        name: rng.normal(size=(count, 1)) for name in ("x", "y", "x_err", "y_err", "width_x", "width_y")
    }
    return Measurement(first, make_times(count, first), ((1, 0),), columns, spectra, np.ones(count, bool))


def make_block(
    accepts: str,
    info: ExposureInfo,
    rng: np.random.Generator,
    count: int,
    *,
    first: int = 1,
    broken: float = 0.0,
) -> Ramp | Rate | Measurement:
    """Make what a step accepts: ramps, slopes or spectra, with a share of ``broken`` samples."""
    if accepts == "ramp":
        return make_ramp(info, rng, count, first=first, flags=0.01, broken=broken)
    if accepts == "rate":
        return make_rate(info, rng, count, first=first, broken=broken)
    return make_measurement(info, rng, count, first=first, bad=max(0.01, broken))


def make_binding(
    operator: type[Operator],
    info: ExposureInfo,
    rng: np.random.Generator,
    *,
    share: float = 0.01,
    templates: Mapping[str, Any] | None = None,
) -> Binding:
    """Give a step its references, templates and a DQ plane with flags of earlier steps.

    Parameters
    ----------
    operator
        Class of the step.
    info
        The exposure.
    rng
        Randomness.
    share
        Share of pathological pixels in references and templates.
    templates
        Instead of those of `make_templates`.
    """
    wanted = [name for names in operator().wants(info) for name in names]
    references = make_references(wanted, info, rng, share=share)
    pixeldq = np.zeros(info.frame_shape, np.uint32)
    for name in (dq.DO_NOT_USE, dq.HOT, dq.REFERENCE_PIXEL):
        pixeldq[rng.random(info.frame_shape) < share] |= np.uint32(name)
    given = make_templates(info, rng, share=share / 2) if templates is None else templates
    return Binding(info, references, _frozen(pixeldq), given)

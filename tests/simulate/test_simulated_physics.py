"""The simulator's physics against independent formulae: times, noise, transit, detector."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.simulate import simulate
from tsostream.simulate.modes import find_mode
from tsostream.simulate.noise import PIECE, OneOverF, cosmic_rays, stream
from tsostream.simulate.readout import Readout, dark_columns, reference_pixels

SCENES = Path(__file__).resolve().parents[2] / "../shared/data"


def calibrate(exposure):
    """Undo the detector with the exposure's own reference files: electrons above the dark, [i, g, y, x]."""
    ref = {kind: fits.open(path) for kind, path in exposure.references.items() if path.suffix == ".fits"}
    value = np.concatenate([fits.getdata(p, "SCI") for p in exposure.segments]).astype(float)
    groups = value.shape[1]
    dark = ref["dark"]["SCI"].data
    if "reset" in ref:
        reset = ref["reset"]["SCI"].data
        n = min(groups, reset.shape[1])
        value[0, :n] -= reset[0, :n]
        value[1:, :n] -= reset[1, :n]
        dark = dark[0]
    else:
        value -= ref["superbias"]["SCI"].data
    linear = np.zeros_like(value)
    for plane in ref["linearity"]["COEFFS"].data.astype(float)[::-1]:
        linear = linear * value + plane
    if "reset" in ref:  # MIRI's polynomial leaves the bias in; it can be read off its coefficients
        _, c1, c2 = ref["linearity"]["COEFFS"].data.astype(float)
        linear -= np.divide(1 - c1, 2 * c2, out=np.zeros_like(c1), where=c2 > 0)
    return (linear - dark[:groups]) * ref["gain"]["SCI"].data, ref


def truth(exposure):
    with pa.ipc.open_file(str(exposure.truth)) as file:
        table = file.read_all()
    return table, json.loads(table.schema.metadata[b"tsostream.simulate"])


def usable(exposure, ref):
    """Good pixels that never come near saturation."""
    brightest = np.max([fits.getdata(p, "SCI").max((0, 1)) for p in exposure.segments], axis=0)
    return (ref["mask"]["DQ"].data == 0) & (brightest < 0.92 * ref["saturation"]["SCI"].data)


# ---------------------------------------------------------------- readout geometry


@pytest.mark.parametrize(
    ("exp_type", "subarray", "frame_time"),
    [
        ("NRS_BRIGHTOBJ", "SUB512", 0.22616), ("NRS_BRIGHTOBJ", "SUB512S", 0.14392),
        ("NRS_BRIGHTOBJ", "SUB2048", 0.90200), ("NRC_TSGRISM", "SUBGRISM64", 0.34061),
        ("NRC_TSGRISM", "SUBGRISM128", 0.67597), ("NRC_TSGRISM", "SUBGRISM256", 1.34669),
        ("NIS_SOSS", "SUBSTRIP256", 5.49400), ("NIS_SOSS", "SUBSTRIP96", 2.21400),
        ("MIR_LRS-SLITLESS", "SLITLESSPRISM", 0.15904), ("NRC_TSIMAGE", "SUB64P", 0.05016),
        ("NRC_TSIMAGE", "SUB160P", 0.27864), ("NRC_TSIMAGE", "SUB400P", 1.65624),
        ("MIR_IMAGE", "SUB64", 0.08512), ("MIR_IMAGE", "SUB128", 0.11904), ("MIR_IMAGE", "SUB256", 0.29952),
    ],
)  # fmt: skip
def test_frame_times_are_the_published_ones(exp_type, subarray, frame_time):
    assert find_mode(exp_type, subarray).frame_time == pytest.approx(frame_time, abs=1e-9)


def test_read_order_follows_the_detector():
    """Written-out positions from the published clocking, one detector at a time."""
    soss = Readout.of(find_mode("NIS_SOSS")).tau  # fast -y, slow -x: the blue end of order 1 comes first
    assert soss[255, 2047] == 0
    assert soss[254, 2047] == pytest.approx(1e-5)
    assert soss[255, 2046] == pytest.approx(2.68e-3)
    assert soss[255, 0] == pytest.approx(2047 * 2.68e-3)
    nrs = Readout.of(find_mode("NRS_BRIGHTOBJ")).tau  # fast +y, slow +x
    assert nrs[0, 0] == 0
    assert nrs[3, 100] == pytest.approx(100 * 0.44e-3 + 3e-5)
    grism = Readout.of(
        find_mode("NRC_TSGRISM")
    )  # fast -x in four outputs, neighbours read towards each other
    assert grism.tau[0, 2047] == 0
    assert grism.output[0, 2047] == 0
    assert grism.tau[0, 1535] == pytest.approx(511e-5) == grism.tau[0, 1536]
    assert grism.tau[0, 1024] == 0
    assert grism.output[0, 1024] == 1
    assert grism.output[0, 0] == 3
    assert grism.tau[1, 2047] == pytest.approx(5.24e-3)
    image = Readout.of(find_mode("NRC_TSIMAGE")).tau  # fast +x, slow -y
    assert image[63, 0] == 0
    assert image[63, 5] == pytest.approx(5e-5)
    assert image[62, 0] == pytest.approx(0.76e-3)
    lrs = Readout.of(find_mode("MIR_LRS-SLITLESS"))  # four columns at once, 28 clocks a row
    assert list(lrs.tau[0, :9] * 1e5) == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert lrs.tau[415, 0] == pytest.approx(415 * 28e-5)
    assert list(lrs.output[7, :5]) == [0, 1, 2, 3, 0]


def test_blind_pixels_are_where_the_detector_ends():
    soss = reference_pixels(find_mode("NIS_SOSS"))  # touches left, right and top
    assert soss[-4:].all()
    assert soss[:, :4].all()
    assert soss[:, -4:].all()
    assert not soss[:-4, 4:-4].any()
    grism = reference_pixels(find_mode("NRC_TSGRISM"))  # left, right and bottom
    assert grism[:4].all()
    assert not grism[4:, 4:-4].any()
    lrs = reference_pixels(find_mode("MIR_LRS-SLITLESS"))  # left only
    assert lrs[:, :4].all()
    assert not lrs[:, 4:].any()
    prism = find_mode("NRS_BRIGHTOBJ")  # none, but the outer columns see no light
    assert not reference_pixels(prism).any()
    assert dark_columns(prism)[:, [0, 3, 508, 511]].all()
    assert not dark_columns(prism)[:, 4:508].any()


def test_dark_columns_collect_no_light(tmp_path):
    exposure = simulate("NRS_BRIGHTOBJ", tmp_path, ints=1, groups=3, noise="none", nx=32, ny=16)
    electrons, ref = calibrate(exposure)
    gained, good = electrons[0, -1] - electrons[0, 0], ref["mask"]["DQ"].data == 0
    edge = np.zeros_like(good)
    edge[:, :4] = edge[:, -4:] = True
    assert np.abs(gained[edge & good]).max() < 2 < gained[~edge & good].max() / 1000


# ---------------------------------------------------------------- light


MODES = {
    "NRS_BRIGHTOBJ": {"nx": 48, "groups": 4},
    "NRC_TSGRISM": {"nx": 48, "ny": 24, "groups": 4},
    "NIS_SOSS": {"nx": 32, "ny": 64, "groups": 3},
    "MIR_LRS-SLITLESS": {"nx": 32, "ny": 48, "groups": 6},
    "NRC_TSIMAGE": {"nx": 32, "ny": 32, "groups": 4},
    "MIR_IMAGE": {"nx": 48, "ny": 48, "groups": 6},
}


@pytest.mark.parametrize("exp_type", MODES)
def test_without_noise_every_read_holds_the_model_s_charge(exp_type, tmp_path):
    """Calibrating gives rate x time, transit included, integrated numerically up to each pixel's read."""
    exposure = simulate(exp_type, tmp_path, ints=9, noise="none", transit_depth=0.3, **MODES[exp_type])
    electrons, ref = calibrate(exposure)
    table, meta = truth(exposure)
    good = usable(exposure, ref)
    head = fits.getheader(exposure.segments[0])
    mode = find_mode(exp_type)
    frame, groups = head["TFRAME"], electrons.shape[1]
    rate = electrons[0, -1] / (groups * frame)  # electrons per second
    background = meta["background_electron_per_s"] * ref["flat"]["SCI"].data
    star = rate - background

    # wholly inside the transit: the depth of the pixel's wavelength
    inside = int(np.argmin(table["flux_model"].to_numpy()))
    bright = good & (star > 0.1 * star[good].max())
    measured = 1 - (electrons[inside, -1] / (groups * frame) - background) / star
    if mode.dispaxis == 1 and exp_type != "NIS_SOSS":  # one order: column = wavelength
        expected = np.broadcast_to(meta["orders"]["1"]["depth"], star.shape)
        np.testing.assert_allclose(measured[bright], expected[bright], atol=3e-3)
    assert (star * measured)[bright].sum() / star[bright].sum() == pytest.approx(0.3, abs=0.015)

    # during ingress: numerical integration of the covered fraction over each pixel's own time
    t1, t2, t3, t4 = meta["transit_contacts_s"]
    rows, columns = np.nonzero(bright)
    tau = _tau_by_hand(head)[rows, columns]
    for i in range(9):
        start = i * meta["cadence_s"]
        for g in (0, groups - 1):
            t = start - frame + np.linspace(0, (g + 1) * frame, 2001)[:, None] + tau
            u, v = np.clip((t - t1) / (t2 - t1), 0, 1), np.clip((t - t3) / (t4 - t3), 0, 1)
            covered = np.trapezoid(3 * u**2 - 2 * u**3 - 3 * v**2 + 2 * v**3, axis=0, dx=1 / 2000)
            model = (star[bright] * (1 - measured[bright] * covered) + background[bright]) * (g + 1) * frame
            # rounding to a count, twice, amplified by the linearity correction
            np.testing.assert_allclose(electrons[i, g][bright], model, atol=3.0 * head_gain(ref, bright))


def head_gain(ref, where):
    return float(ref["gain"]["SCI"].data[where].max())


def _tau_by_hand(head):
    """Read times from the keywords alone, pixel by pixel, as section G of the specification words it."""
    ny, nx, fast, slow, outputs = (
        head[k] for k in ("SUBSIZE2", "SUBSIZE1", "FASTAXIS", "SLOWAXIS", "NOUTPUTS")
    )
    tau = np.empty((ny, nx))
    for y in range(ny):
        for x in range(nx):
            if head["INSTRUME"] == "MIRI":
                tau[y, x] = y * 28 + x // 4
                continue
            along, across = (x, y) if abs(fast) == 1 else (y, x)
            n_fast, n_slow = (nx, ny) if abs(fast) == 1 else (ny, nx)
            j = along if fast > 0 else n_fast - 1 - along
            i = across if slow > 0 else n_slow - 1 - across
            width = n_fast // outputs
            k = j % width if (j // width) % 2 == 0 else width - 1 - j % width
            tau[y, x] = i * (width + 12) + k
    return tau * 1e-5


@pytest.mark.parametrize("exp_type", MODES)
def test_flux_model_is_what_the_pixels_collect(exp_type, tmp_path):
    """The truth's white flux equals the summed light between first and last read, ingress included."""
    exposure = simulate(
        exp_type, tmp_path, ints=15, noise="none", transit_depth=0.3, peak=0.6, **MODES[exp_type]
    )
    electrons, ref = calibrate(exposure)
    table, meta = truth(exposure)
    collected = electrons[:, -1] - electrons[:, 0]
    flat, groups = ref["flat"]["SCI"].data, electrons.shape[1]
    # pixels that cannot be calibrated are left out on both sides; their depth is nearly that of the others
    good = usable(exposure, ref)
    star = collected / flat - meta["background_electron_per_s"] * meta["frame_time_s"] * (groups - 1)
    light = (star * good).sum((1, 2))
    np.testing.assert_allclose(light / light[0], table["flux_model"].to_numpy(), atol=0.004)
    assert 0.68 < table["flux_model"].to_numpy().min() < 0.72


def test_the_source_moves_as_the_truth_says(tmp_path):
    """Centroid and width of the image follow dx, dy and dwidth."""
    exposure = simulate("NRC_TSIMAGE", tmp_path, ints=6, groups=2, noise="none", drift=(0.05, -0.1),
                        tilt=(4, 0.06, 0.04, 0.02), transit_depth=0.0)  # fmt: skip
    electrons, ref = calibrate(exposure)
    table, meta = truth(exposure)
    image = (electrons[:, -1] - electrons[:, 0]) / ref["flat"]["SCI"].data
    image -= meta["background_electron_per_s"] * meta["frame_time_s"]
    x0, y0 = (round(v) for v in meta["source_position"])
    cut = image[:, y0 - 4 : y0 + 5, x0 - 4 : x0 + 5]
    grid = np.arange(-4, 5)
    x = (cut.sum(1) * grid).sum(1) / cut.sum((1, 2))
    y = (cut.sum(2) * grid).sum(1) / cut.sum((1, 2))
    # light crosses the edge of the window, so the centroid follows almost, not fully
    for measured, name in ((x, "dx"), (y, "dy")):
        injected = table[name].to_numpy()
        slope = np.polyfit(injected, measured, 1)[0]
        assert 0.85 < slope < 1.1
        assert np.std(measured - slope * injected - np.mean(measured - slope * injected)) < 2e-3
    peak = cut.max((1, 2))
    assert peak[3:].max() < peak[:3].min()  # a wider image is lower


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("exp_type", MODES)
def test_scatter_is_photon_and_read_noise(exp_type, tmp_path):
    """Variance over integrations = electrons + read noise of two samples, for bright and for empty pixels."""
    n = 160
    exposure = simulate(exp_type, tmp_path, ints=n, oof=0, cosmic_rays=0, jitter=0, drift=0, transit_depth=0,
                        **MODES[exp_type])  # fmt: skip
    electrons, ref = calibrate(exposure)
    difference = electrons[:, -1] - electrons[:, 0]
    gain = ref["gain"]["SCI"].data
    dark = ref["dark"]["SCI"].data
    dark = dark[0] if dark.ndim == 4 else dark
    mean = difference.mean(0)
    expected = (
        mean + (dark[electrons.shape[1] - 1] - dark[0]) * gain + (ref["readnoise"]["SCI"].data * gain) ** 2
    )
    still = simulate(exp_type, tmp_path / "still", ints=1, noise="none", transit_depth=0, **MODES[exp_type])
    silence = calibrate(still)[0][0]
    quiet = silence[-1] - silence[0]
    good = usable(exposure, ref)
    ratio = difference.var(0, ddof=1) / expected
    for part in (good & (mean > 0.2 * mean[good].max()), good & (mean < 0.05 * mean[good].max())):
        # the mean is that of the noiseless exposure; rounding leaves a fraction of a count per pixel
        offset, spread = (mean - quiet)[part].mean(), np.sqrt((expected[part] / n).mean() / part.sum())
        assert abs(offset) < 4 * spread + 0.3 * gain.mean() / np.sqrt(part.sum()) + 1e-4 * mean[part].mean()
        error = np.sqrt(2 / (n - 1) / part.sum())
        assert abs(ratio[part].mean() - 1) < 4 * error + 0.006, (ratio[part].mean(), error)


def test_one_over_f_has_its_level_and_law():
    """RMS within a frame as asked for; power falls as 1/f over three decades; outputs are independent."""
    noise = OneOverF(level=5.0, frame=22616, samples=3 * 22616, outputs=2)
    rng = np.random.default_rng(3)
    draws = np.concatenate([noise.draw(rng) for _ in range(25)])
    frames = draws.reshape(-1, 22616)
    assert np.sqrt(frames.var(axis=1).mean()) == pytest.approx(5.0, rel=0.06)
    power = (np.abs(np.fft.rfft(frames * np.hanning(22616), axis=1)) ** 2).mean(0)
    f = np.arange(power.size)
    bands = [(10, 30), (100, 300), (1000, 3000)]
    level = [np.mean(power[a:b] * f[a:b]) for a, b in bands]
    assert np.ptp(level) < 0.1 * np.mean(level), level
    assert abs(np.corrcoef(draws[::2].ravel(), draws[1::2].ravel())[0, 1]) < 0.2


def test_one_over_f_is_continuous_across_frames_and_pieces():
    """Nothing happens at a frame's end, nor where a long ramp's pieces join."""
    n = PIECE + PIECE // 2 + 1000
    noise = OneOverF(level=5.0, frame=20000, samples=n, outputs=1)
    series = noise.draw(np.random.default_rng(1))[0].astype(float)
    block = series[: n // 500 * 500].reshape(-1, 500).mean(1)  # slow enough that a step would show
    step = np.abs(np.diff(block))
    joints = [k * (PIECE // 2) // 500 for k in (1, 2)]
    for joint in joints:
        assert step[joint - 2 : joint + 2].max() < 5 * np.median(step)
    # the same spectrum on both sides of the frequency where the slow part hands over
    power = np.abs(np.fft.rfft(series * np.hanning(n))) ** 2
    f = np.arange(power.size)
    level = [np.mean(power[a:b] * f[a:b]) for a, b in ((20, 90), (120, 600), (1000, 5000), (50000, 200000))]
    assert max(level) < 1.9 * min(level), level


def test_one_over_f_follows_the_read_order(tmp_path):
    """NIRSpec reads along y: noise is shared by neighbours in y, not by neighbours in x."""
    exposure = simulate("NRS_BRIGHTOBJ", tmp_path, ints=8, groups=2, oof=40.0, cosmic_rays=0, nx=96)
    data = fits.getdata(exposure.segments[0], "SCI").astype(float)
    cds = data[:, 1] - data[:, 0]
    cds = (cds - np.median(cds, axis=0))[:, :10, 60:]  # away from the trace
    along = np.corrcoef(cds[:, :-2].ravel(), cds[:, 2:].ravel())[0, 1]
    columns = cds.mean(1)
    within = (cds - columns[:, None]).var()
    assert along > 0.7
    assert columns.var() > 1.5 * within


def test_random_streams_are_keyed_by_integration():
    one, again, other, second = (stream(7, p, i).standard_normal(4) for p, i in
                                 (("read", 3), ("read", 3), ("photons", 3), ("read", 4)))  # fmt: skip
    assert (one == again).all()
    assert not (one == other).any()
    assert not (one == second).any()


def test_cosmic_rays_follow_a_power_law():
    rays = cosmic_rays(np.random.default_rng(2), 1e-3, (5, 300, 300), 20.0)
    assert abs(rays.n_hits - 9000) < 5 * 95
    first = rays.electrons[: rays.n_hits]
    counts = [np.sum((first > a) & (first < 2 * a)) for a in (200, 800, 3200)]
    for less, more in zip(counts[1:], counts[:-1], strict=True):
        assert more / less == pytest.approx(4**0.7, rel=0.25)
    assert np.bincount(rays.group, minlength=5).min() > 0.8 * rays.group.size / 5


def test_detector_effects_are_there(tmp_path):
    """Bad, hot, blind and saturating pixels; odd and even columns; a bias that is not a number."""
    exposure = simulate("NIS_SOSS", tmp_path, ints=2, groups=4, nx=128, ny=96)
    ref = {kind: fits.open(path) for kind, path in exposure.references.items() if path.suffix == ".fits"}
    mask = ref["mask"]["DQ"].data
    for bit in (dq.DEAD, dq.HOT, dq.DO_NOT_USE):
        assert (mask & bit > 0).sum() >= 1
    data = fits.getdata(exposure.segments[0], "SCI").astype(int)
    threshold = ref["saturation"]["SCI"].data
    saturated = (data >= threshold) & (mask == 0)
    assert 1 <= saturated[:, -1].sum() // 2 <= 30
    assert not saturated[:, 1].any()
    first = fits.getdata(exposure.references["superbias"], "SCI")
    assert abs((first[::2] - first[1::2]).mean()) > 60


@pytest.mark.parametrize(
    ("name", "exp_type", "more"),
    [
        ("scene_nirspec_prism_jw06456.fits", "NRS_BRIGHTOBJ", {}),
        ("scene_niriss_soss_wasp94ab.fits", "NIS_SOSS", {"groups": 2}),
        ("scene_nircam_grism64_noiseless.fits", "NRC_TSGRISM", {"groups": 2}),
        ("scene_nircam_phot_wasp39.fits", "NRC_TSIMAGE", {"subarray": "SUB160P", "groups": 2}),
    ],
)
def test_an_observed_scene_becomes_the_source(name, exp_type, more, tmp_path):
    """The simulated image is the given one: same trace, same wavelengths."""
    path = SCENES / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    exposure = simulate(exp_type, tmp_path, ints=1, noise="none", scene=path, **more)
    electrons, ref = calibrate(exposure)
    image = electrons[0, -1] - electrons[0, 0]
    good = ref["mask"]["DQ"].data == 0
    with fits.open(path) as hdus:
        given = np.asarray(hdus["MEDFLUX"].data if "MEDFLUX" in hdus else hdus[0].data, float)
        x, y = (
            hdus[k].data.astype(int) if k in hdus else np.arange(n)
            for k, n in zip("XY", given.shape[::-1], strict=True)
        )
        wave = hdus["WAVE_1D"].data if "WAVE_1D" in hdus else None
    if "wavelength" in ref and wave is not None:
        np.testing.assert_allclose(ref["wavelength"]["WAVELENGTH"].data[5, x], wave, rtol=1e-5)
    if (
        exp_type == "NRC_TSIMAGE"
    ):  # larger than the subarray: the ring of its star, read off the image, comes to the middle
        x, y = np.arange(given.shape[1]) - 549 + 80, np.arange(given.shape[0]) - 164 + 80
    inside_x, inside_y = (x >= 0) & (x < image.shape[1]), (y >= 0) & (y < image.shape[0])
    where = np.ix_(y[inside_y], x[inside_x])
    given = np.maximum(given[np.ix_(inside_y, inside_x)], 0)
    keep = good[where]
    assert keep.sum() > 0.9 * keep.size
    assert np.corrcoef(given[keep], image[where][keep])[0, 1] > 0.999


@pytest.mark.parametrize(("pupil", "radius"), [("WLP4", 32.0), ("WLP8", 64.0)])
def test_a_weak_lens_spreads_the_star(pupil, radius, tmp_path):
    """A ring of the pupil's shape, 65 pixels in radius through WLP8, as in real images; half of that through WLP4."""
    exposure = simulate(
        "NRC_TSIMAGE", tmp_path, ints=1, groups=2, subarray="SUB160P", pupil=pupil, noise="none"
    )
    assert fits.getheader(exposure.segments[0])["PUPIL"] == pupil
    electrons, ref = calibrate(exposure)
    _, meta = truth(exposure)
    image = (electrons[0, -1] - electrons[0, 0]) / ref["flat"]["SCI"].data
    image = image - meta["background_electron_per_s"] * meta["frame_time_s"]
    image[~usable(exposure, ref)] = 0
    x, y = meta["source_position"]
    rows, columns = np.indices(image.shape)
    distance = np.hypot(columns - x, rows - y)
    light = [image[distance <= part * radius].sum() / image.sum() for part in (0.3, 0.8, 1.1)]
    assert light[0] < 0.1
    assert 0.45 < light[1] < 0.75
    assert light[2] > 0.9


def test_a_weak_lens_needs_nircam(tmp_path):
    with pytest.raises(ConfigError, match="MIR_IMAGE has no weak lenses"):
        simulate("MIR_IMAGE", tmp_path, pupil="WLP8")
    with pytest.raises(ConfigError, match="did you mean WLP8"):
        simulate("NRC_TSIMAGE", tmp_path, pupil="WLP9")

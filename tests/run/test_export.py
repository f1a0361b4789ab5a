"""`tsostream export`: every format of every kind of output comes back as the rows are; growing and killed ones, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.timeseries import TimeSeries
from click.testing import CliRunner
from run_helpers import Simulated, reduce

import tsostream
from tsostream.cli.app import tsostream as command
from tsostream.errors import ConfigError, InputError, OutputExistsError
from tsostream.sinks.export import FORMATS, default_path
from tsostream.testing.oracle import official_python

INTS = 20


@pytest.fixture(scope="module")
def spectral(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the products that the run itself makes."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=INTS, segments=2, seed=2, nx=96)
    return reduce(exposure, tmp_path_factory.mktemp("s") / "lc.arrow", products="x1dints,whtlt")


@pytest.fixture(scope="module")
def imaging(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exposure = simulated("NRC_TSIMAGE", ints=12, segments=2, seed=3, nx=48, ny=48, groups=5)
    out = tmp_path_factory.mktemp("i") / "lc.arrow"
    return reduce(exposure, out, products="phot", settings=("tso_photometry.radius=[5,8]",))


def growing(lc: Path, folder: Path, *, cut: int = 7) -> Path:
    """As a killed writer leaves it: no footer, a torn batch at the end."""
    for name in ("lc.arrow", "lc.spectra.arrow"):
        source = lc.with_name(name)
        if source.exists():
            table = tsostream.open(lc) if name == "lc.arrow" else tsostream.open(lc).spectra
            schema = table.schema
            from tsostream.sinks.arrow_file import GrowingFile

            file = GrowingFile.create(folder / name, schema)
            for batch in table.batches():
                for start in range(0, batch.num_rows, 5):
                    file.append(batch.slice(start, 5))
            file.close()
            path = folder / name
            with path.open("r+b") as opened:
                opened.truncate(path.stat().st_size - cut)
    return folder / "lc.arrow"


def first(lc: Path, aperture: int = 0) -> pd.DataFrame:
    table = tsostream.open(lc).to_pandas()
    return table[table["aperture"] == aperture].reset_index(drop=True)


def test_official_tables_are_those_of_the_run(spectral: Path, imaging: Path, tmp_path: Path) -> None:
    for lc, kind in ((spectral, "whtlt"), (imaging, "phot")):
        path = tsostream.open(lc).export(kind, tmp_path / f"x_{kind}.ecsv")
        (made,) = lc.parent.glob(f"jw*_{kind}.ecsv")
        assert path.read_bytes() == made.read_bytes()


def test_spectra_are_those_of_the_run_in_the_precision_of_the_rows(spectral: Path, tmp_path: Path) -> None:
    path = tsostream.open(spectral).to_x1dints(tmp_path / "x.fits")
    (made,) = spectral.parent.glob("jw*_x1dints.fits")
    with fits.open(path, uint=True) as ours, fits.open(made, uint=True) as theirs:
        ours.verify("exception")
        a, b = ours["EXTRACT1D"].data, theirs["EXTRACT1D"].data
        assert a.dtype == b.dtype
        for name in ("FLUX", "FLUX_ERROR", "FLUX_VAR_POISSON", "BACKGROUND", "NPIXELS"):
            np.testing.assert_array_equal(a[name], b[name].astype(np.float32), err_msg=name)
        for name in ("DQ", "INT_NUM", "SEGMENT", "N_ALONGDISP", "TDB-MID", "WAVELENGTH"):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert ours[0].header["EXP_TYPE"] == "NRS_BRIGHTOBJ"
        assert "TSOSTAT" not in ours[0].header


OFFICIAL = """
import sys
from stdatamodels.jwst import datamodels as dm
for path in sys.argv[1:]:
    with dm.open(path) as model:
        table = model.spec[0].spec_table
        facts = type(model).__name__, len(table), model.meta.exposure.type, len(model.int_times)
        print(*facts, float(table["FLUX"][2, 40]))
"""


@pytest.mark.oracle
@pytest.mark.skipif(
    not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name an interpreter with jwst"
)
def test_the_official_package_opens_them(spectral: Path, tmp_path: Path) -> None:
    exported = tsostream.open(spectral).to_x1dints(tmp_path / "x.fits")
    (made,) = spectral.parent.glob("jw*_x1dints.fits")
    done = subprocess.run([official_python(), "-W", "ignore", "-c", OFFICIAL, str(made), str(exported)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    lines = done.stdout.splitlines()[-2:]
    flux = tsostream.open(spectral).spectra.array("flux")[2, 40]
    for line in lines:
        model, rows, exp_type, times, value = line.split()
        assert (model, rows, exp_type, times) == ("TSOMultiSpecModel", str(INTS), "NRS_BRIGHTOBJ", str(INTS))
        assert np.float32(value) == flux


def test_csv_and_parquet(spectral: Path, imaging: Path, tmp_path: Path) -> None:
    for lc in (spectral, imaging):
        frame = tsostream.open(lc).to_pandas()
        for read, path in (
            (pd.read_csv, tsostream.open(lc).to_csv(tmp_path / f"{lc.parent.name}.csv")),
            (pd.read_parquet, tsostream.open(lc).to_parquet(tmp_path / f"{lc.parent.name}.parquet")),
        ):
            back = read(path)
            assert list(back.columns) == list(frame.columns)
            assert len(back) == len(frame)
            np.testing.assert_array_equal(back["flux"], frame["flux"])
            np.testing.assert_array_equal(back["quality"], frame["quality"])
    spectra = tsostream.open(spectral).spectra
    back = pd.read_csv(tsostream.open(spectral).to_csv(tmp_path / "s.csv", table="spectra"))
    np.testing.assert_allclose(back[[f"flux_{k}" for k in range(96)]], spectra.array("flux"), rtol=1e-6)
    back = pd.read_parquet(tsostream.open(spectral).to_parquet(tmp_path / "s.parquet", table="spectra"))
    np.testing.assert_array_equal(np.stack(back["flux"]), spectra.array("flux"))
    with pytest.raises(InputError, match="--bins"):
        tsostream.open(spectral).to_csv(tmp_path / "b.csv", table="bins")


@pytest.mark.parametrize("aperture", [0, 1])
def test_time_series(imaging: Path, tmp_path: Path, aperture: int) -> None:
    rows = first(imaging, aperture)
    path = tsostream.open(imaging).export("timeseries", tmp_path / "t.ecsv", aperture=aperture)
    memory = tsostream.open(imaging).to_timeseries(aperture=aperture)
    for series in (TimeSeries.read(path, format="ascii.ecsv"), memory):
        assert series.time.format == "mjd"
        assert series.time.scale == "tdb"
        np.testing.assert_array_equal(series.time.value, rows["time_bmjd_tdb_mid"])
        np.testing.assert_array_equal(series["flux"].value, rows["flux"])
        assert series["flux"].unit == "electron"
        np.testing.assert_array_equal(series["quality"], rows["quality"])
        assert series.meta["aperture"] == aperture
        assert series.meta["status"] == "complete"


def test_eureka(spectral: Path, imaging: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    rows, spectra = first(spectral), tsostream.open(spectral).spectra
    # as Astraeus reads it, for stage 4
    with xarray.open_dataset(
        tsostream.open(spectral).to_eureka(tmp_path / "s.h5"), engine="h5netcdf"
    ) as spec:
        assert spec.optspec.shape == (INTS, 96)
        assert spec.optspec.dims == ("time", "x")
        np.testing.assert_array_equal(spec.optspec.values, spectra.array("flux"))
        np.testing.assert_array_equal(spec.opterr.values, spectra.array("flux_err"))
        np.testing.assert_allclose(spec.stdvar.values, spectra.array("flux_err").astype(float) ** 2)
        np.testing.assert_array_equal(spec.wave_1d.values, spectra.wavelength())
        np.testing.assert_array_equal(spec.time.values, rows["time_bmjd_tdb_mid"])
        np.testing.assert_array_equal(spec.centroid_x.values, rows["x"])
        assert spec.optmask.dtype == bool
        np.testing.assert_array_equal(spec.optmask.values, (spectra.array("dq") & 1) != 0)
        assert spec.optspec.attrs["flux_units"] == "electrons"
        assert spec.optspec.attrs["time_units"] == "BMJD_TDB"
        assert spec.wave_1d.attrs["wave_units"] == "microns"
    with xarray.open_dataset(tsostream.open(imaging).to_eureka(tmp_path / "i.h5"), engine="h5netcdf") as spec:
        np.testing.assert_array_equal(spec.aplev.values, first(imaging)["flux"])


def test_light_curve_file(imaging: Path, tmp_path: Path) -> None:
    rows = first(imaging)
    path = tsostream.open(imaging).export("lightkurve", tmp_path / "l.fits")
    with fits.open(path) as hdus:
        hdus.verify("exception")
        data, header = hdus["LIGHTCURVE"].data, hdus["LIGHTCURVE"].header
        assert header["BJDREFI"] + header["BJDREFF"] == 2400000.5
        for name, column in (
            ("TIME", "time_bmjd_tdb_mid"),
            ("FLUX", "flux"),
            ("CENTROID_COL", "x"),
            ("QUALITY", "quality"),
        ):
            np.testing.assert_array_equal(data[name], rows[column], err_msg=name)


LIGHTKURVE = """
import sys, numpy as np, tsostream
from lightkurve.io.generic import read_generic_lightcurve
lc = tsostream.open(sys.argv[1])
curve = lc.to_lightkurve(aperture=1)
read = read_generic_lightcurve(sys.argv[2], flux_column="flux", time_format="mjd")
rows = lc.to_timeseries()
assert np.array_equal(read.flux.value, rows["flux"].value) and read.flux_err is not None
assert np.allclose(read.time.value, rows.time.value, rtol=0, atol=1e-9)
assert len(curve) == len(rows) and curve.time.scale == "tdb" and curve.meta["order"] == 0
assert np.array_equal(curve.centroid_col.value, lc.to_timeseries(aperture=1)["x"].value)
print(type(curve).__name__, curve.normalize().flux[0])
"""


def test_lightkurve_takes_it(imaging: Path, tmp_path: Path) -> None:
    """With lightkurve here, or in the interpreter that TSOSTREAM_LIGHTKURVE_PYTHON names."""
    python = os.environ.get("TSOSTREAM_LIGHTKURVE_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lightkurve"], capture_output=True, check=False).returncode:
        with pytest.raises(InputError, match="lightkurve is not installed"):
            tsostream.open(imaging).to_lightkurve()
        pytest.skip("lightkurve is not installed")
    path = tsostream.open(imaging).export("lightkurve", tmp_path / "l.fits")
    done = subprocess.run([python, "-W", "ignore", "-c", LIGHTKURVE, str(imaging), str(path)], capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)
                          if python == sys.executable else str(Path(tsostream.__file__).parents[1])})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "LightCurve" in done.stdout


@pytest.mark.parametrize("format_", FORMATS)
def test_outputs_without_an_end(spectral: Path, imaging: Path, tmp_path: Path, format_: str) -> None:
    """What is whole so far is exported, and the command says so."""
    lc = imaging if format_ == "phot" else spectral
    torn = growing(lc, tmp_path)
    assert tsostream.open(torn).status == "growing"
    result = CliRunner().invoke(command, ["export", str(torn), "--to", format_])
    assert result.exit_code == 0, result.output
    assert "is not finished" in result.output.replace("\n", " ")
    path = default_path(torn, format_)
    assert path.exists()
    assert not [*tmp_path.glob("*.part"), *tmp_path.glob(".*tmp")]
    whole = len(first(torn))
    if format_ in ("whtlt", "phot"):
        assert len(QTable.read(path)) == whole == QTable.read(path).meta["number_of_integrations"]
    if format_ == "x1dints":
        assert fits.getheader(path)["TSOSTAT"] == "growing"
        assert len(fits.getdata(path, "EXTRACT1D")) == whole
    if format_ == "timeseries":
        assert TimeSeries.read(path, format="ascii.ecsv").meta["status"] == "growing"
    assert 0 < whole < INTS


def test_refusals(spectral: Path, imaging: Path, tmp_path: Path) -> None:
    lc = tsostream.open(spectral)
    with pytest.raises(ConfigError, match="choose from whtlt"):
        lc.export("excel")
    with pytest.raises(InputError, match="has no phot"):
        lc.to_phot(tmp_path / "x")
    with pytest.raises(InputError, match="has no whtlt"):
        tsostream.open(imaging).to_whtlt(tmp_path / "x")
    with pytest.raises(InputError, match="it has order 1 aperture 0"):
        lc.export("timeseries", tmp_path / "x", order=2)
    with pytest.raises(InputError, match="does not exist"):
        lc.to_csv(tmp_path / "no" / "x.csv")
    with pytest.raises(OutputExistsError, match="is what is exported"):
        lc.to_csv(spectral, overwrite=True)
    path = lc.to_csv(tmp_path / "x.csv")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        lc.to_csv(path)
    assert lc.to_csv(path, overwrite=True) == path
    result = CliRunner().invoke(command, ["export", str(spectral), "--to", "csv", "--out", str(path)])
    assert result.exit_code != 0


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """Eight times the rows, the same peak (but for what is counted in kilobytes)."""
    code = """
import resource, sys
sys.path[:0] = sys.argv[3].split(":")
from test_export import long_output
import tsostream
lc = tsostream.open(long_output(sys.argv[1], int(sys.argv[2])))
for name in ("whtlt", "x1dints", "csv", "parquet", "timeseries", "lightkurve", "eureka"):
    lc.export(name)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (1_000, 8_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        here = ":".join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "records")])
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder), str(count), here],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 15_000, "kB"


def test_orders_and_apertures(tmp_path: Path) -> None:
    keys = ((1, 0), (1, 1), (2, 0), (2, 1))
    waves = {"1": [2.8, 1.9, 0.9], "2": [1.4, 0.6, None]}
    lc = tsostream.open(long_output(str(tmp_path), 150, keys=keys, waves=waves))
    rows = lc.to_pandas()
    for aperture in (0, 1):
        path = lc.to_x1dints(tmp_path / f"{aperture}.fits", aperture=aperture)
        white = QTable.read(lc.to_whtlt(tmp_path / f"{aperture}.ecsv", aperture=aperture))
        with fits.open(path) as hdus:
            for order in (1, 2):
                chosen = ((rows["order"] == order) & (rows["aperture"] == aperture)).to_numpy()
                table = hdus["EXTRACT1D", order]
                assert table.header["SPORDER"] == order
                np.testing.assert_array_equal(table.data["FLUX"], lc.spectra.array("flux")[chosen])
                np.testing.assert_array_equal(table.data["WAVELENGTH"][5], np.array(waves[str(order)], float))
                flux = white[f"whitelight_flux_order_{order}"].value
                np.testing.assert_array_equal(flux, rows["flux"][chosen])
                series = lc.to_timeseries(order=order, aperture=aperture)
                np.testing.assert_array_equal(series["flux"].value, rows["flux"][chosen])
    with pytest.raises(InputError, match="no order 1 with aperture 2"):
        lc.to_whtlt(tmp_path / "x.ecsv", aperture=2)


def long_output(
    folder: str,
    count: int,
    keys: tuple[tuple[int, int], ...] = ((1, 0),),
    waves: dict[str, Any] | None = None,
) -> Path:
    """An output of many integrations, without a run."""
    from tsostream.integration.payload import Measurement, Times
    from tsostream.records import RowSchemas, encode_metadata, light_curve_schema, spectra_schema, to_batches
    from tsostream.sinks import Output

    exposure: dict[str, Any] = {"exposure_id": "jw1", "instrument": "MIRI", "detector": "MIRIMAGE",
                                "exp_type": "MIR_LRS-SLITLESS", "nints": count}  # fmt: skip
    n_wave = 3 if waves else 32
    metadata = {"exposure": exposure, "wavelength": waves or np.linspace(5, 12, 32).tolist(), "wavelength_unit": "um",
                "flux_unit": "electron", "segments": [{"intstart": 1, "segment": 1}]}  # fmt: skip
    encoded = encode_metadata(metadata)
    schemas = (
        light_curve_schema(kind="spectroscopy", flux_unit="electron", metadata=encoded),
        spectra_schema(n_wave=n_wave, flux_unit="electron", metadata=encoded),
    )
    out = Path(folder) / "lc.arrow"
    output = Output.create(out, *schemas)
    for begin in range(1, count + 1, 64):
        n = min(64, count + 1 - begin)
        clock = 59770 + np.arange(begin, begin + n)[:, None] * 1e-5 + np.zeros(6)
        flux = np.full((n, len(keys), n_wave), float(begin)) + 0.25 * np.arange(len(keys))[:, None]
        rows = Measurement(begin, Times(clock, np.zeros(n, np.uint32)), keys, {"flux": flux.sum(-1)},
                           {"flux": flux, "flux_err": flux}, np.ones(n, bool))  # fmt: skip
        output.commit(*to_batches(rows, RowSchemas("jw1", "MIRIMAGE", *schemas)))
    output.finish("complete")
    return out

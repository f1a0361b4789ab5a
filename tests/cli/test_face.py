"""Help, start-up, and the small parts: meter, plot, figures."""

import math
import subprocess
import sys

import click
import numpy as np
import pyarrow as pa
import pytest

from tsostream import __version__
from tsostream.cli.app import tsostream
from tsostream.cli.meter import Meter
from tsostream.cli.plot import draw
from tsostream.live.figures import duration, p2p_ppm
from tsostream.records import RowPair


def test_version(cli):
    """As the package says."""
    assert cli("--version").stdout == f"tsostream {__version__}\n"


@pytest.mark.parametrize("name", list(tsostream.commands))
def test_help_teaches(cli, name):
    """Every command shows examples, and every option says what it is for."""
    for flag in ("-h", "--help"):
        result = cli(name, flag)
        assert result.exit_code == 0
        assert f"Examples:\n  tsostream {name}" in result.stdout
    for parameter in tsostream.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_without_arguments(cli):
    """The first thing anybody types."""
    result = cli()
    assert "tsostream demo" in result.output
    assert all(name in result.output for name in ("process", "inspect", "simulate"))


def test_help_imports_nothing_heavy():
    """It must be there at once."""
    code = (
        "import sys, tsostream.cli.app\n"
        "heavy = {'numpy', 'astropy', 'numba', 'pyarrow', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.4 s"), (42.4, "42 s"), (125, "2:05"), (3725, "1:02:05"), (math.nan, "?")],
)
def test_duration(seconds, text):
    """As people write it."""
    assert duration(seconds) == text


def test_scatter_ignores_transit_and_outlier():
    """Point to point, robust, relative."""
    rng = np.random.default_rng(1)
    flux = 1e6 * (1 + 300e-6 * rng.standard_normal(2000))
    flux[500:1500] *= 0.98
    flux[100] *= 1.5
    assert p2p_ppm(flux) == pytest.approx(300, rel=0.08)
    assert math.isnan(p2p_ppm(flux[:3]))
    assert math.isnan(p2p_ppm(np.full(10, np.nan)))


def _pair(flux, order=1):
    count = len(flux)
    columns = {
        "order": np.full(count, order),
        "aperture": np.zeros(count, int),
        "flux": flux,
        "flux_err": np.ones(count),
    }
    columns |= dict.fromkeys(("n_jump", "n_saturated", "n_outlier", "n_bad"), np.full(count, 2))
    return RowPair(
        pa.record_batch({name: pa.array(values) for name, values in columns.items()}),
        None,
    )


def test_meter():
    """Speed, time left, counts and scatter, from a clock of our own."""
    now = [0.0]
    meter = Meter(1e6, clock=lambda: now[0])
    meter.begin("stream", 100)
    assert meter.speed() == "starting"
    assert meter.quality() == ""
    rng = np.random.default_rng(2)
    for step in range(1, 6):
        now[0] = step
        meter.advance(10 * step, _pair(1e4 + rng.standard_normal(10)))
    assert meter.rate == pytest.approx(10)
    assert meter.left == pytest.approx(5)
    assert meter.speed() == "10 integrations/s, 10 MB/s, 5.0 s left"
    assert meter.rows == 50
    assert meter.counts["n_jump"] == 100
    found, own = meter.scatter
    assert own == pytest.approx(100, rel=0.01)
    assert 60 < found < 150


def test_no_time_left_is_told_while_kernels_are_compiled():
    """A minute before the first integration says nothing about the others."""
    now = [0.0]
    meter = Meter(1e6, clock=lambda: now[0])
    meter.begin("scout", 64)
    now[0] = 60.0
    meter.advance(1, None)
    assert meter.speed() == "starting"
    now[0] = 60.1
    meter.advance(2, None)
    assert meter.left == pytest.approx(6.2)
    now[0] = 90.0  # a run that hangs has no speed
    assert meter.rate < 0.1
    meter.advance(64, None)
    assert meter.speed().endswith("1:30" if meter.elapsed >= 90 else "30 s")


def test_meter_survives_rows_without_flux():
    """NaN rows and missing integrations are not a scatter."""
    meter = Meter()
    meter.begin("stream", 3)
    meter.advance(3, _pair(np.full(3, np.nan)))
    assert meter.quality() == ""


def test_plot_puts_points_where_they_belong():
    """A rising line goes from bottom left to top right; axes carry round numbers."""
    lines = draw(np.linspace(0, 10, 200), np.linspace(0, 1, 200), width=40, height=10, xlabel="x", ylabel="y")
    body = [line.split("┤")[-1].split("│")[-1] for line in lines[1:11]]
    assert body[0].strip()
    assert len(body[0].rstrip()) == 40
    assert body[0].index(body[0].strip()) > 30
    assert body[-1][0] != " "
    assert lines[1].lstrip().startswith("1.0 ┤")
    assert lines[10].lstrip().startswith("0.0 ┤")
    assert lines[-1].strip() == "x"


@pytest.mark.parametrize(
    ("x", "y"),
    [([], []), ([1.0], [5.0]), ([1, 2, 3], [7, 7, 7]), ([1, 2], [np.nan, np.nan]), ([0, 1], [1e-9, 1e9])],
)
def test_plot_takes_whatever_comes(x, y):
    """Nothing, one point, a constant, NaN, anything."""
    assert draw(np.array(x, float), np.array(y, float))

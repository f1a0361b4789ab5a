"""The commands of the README: from ramps to the file everybody reads, each exactly as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from tsostream.simulate import simulate

README = Path(__file__).resolve().parents[2] / "README.md"
INTS = 12
#: what the README calls the mode -> mode, and a small exposure of it
MODES = {
    "NIRSpec BOTS": ("NRS_BRIGHTOBJ", {"nx": 96, "ny": 16, "groups": 4}),
    "NIRCam grism": ("NRC_TSGRISM", {"nx": 96, "ny": 32, "groups": 4}),
    "NIRISS SOSS": ("NIS_SOSS", {"subarray": "SUBSTRIP96", "nx": 160, "groups": 4}),
    "MIRI LRS": ("MIR_LRS-SLITLESS", {"ny": 128, "groups": 6}),
    "NIRCam imaging": ("NRC_TSIMAGE", {"nx": 40, "ny": 40, "groups": 4}),
    "MIRI imaging": ("MIR_IMAGE", {"groups": 5}),
}
COMMANDS = re.findall(
    r"^    (tsostream process \S*_uncal\.fits .*--products .*?) *# (.+)$", README.read_text(), re.M
)


def test_every_mode_has_its_command() -> None:
    assert [mode for _, mode in COMMANDS] == list(MODES)


@pytest.mark.parametrize(("command", "mode"), COMMANDS, ids=[mode for _, mode in COMMANDS])
def test_one_command_from_ramps_to_a_light_curve(
    command: str, mode: str, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp_type, options = MODES[mode]
    exposure = simulate(exp_type, tmp_path / "references", ints=INTS, segments=2, seed=4, **options)
    for path in exposure.segments:
        path.rename(tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(command)
    # what the shell does with jw*_nis_uncal.fits
    result = cli(*(found for word in words for found in (sorted(map(str, Path().glob(word))) or [word])))
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "lc.arrow").exists()
    if "phot" in command:
        (path,) = tmp_path.glob("jw*_phot.ecsv")
        flux = QTable.read(path)["net_aperture_sum"]
    else:
        (path,) = tmp_path.glob("jw*_whtlt.ecsv")
        table = QTable.read(path)
        flux = table[next(name for name in table.colnames if name.startswith("whitelight_flux"))]
        (spectra,) = tmp_path.glob("jw*_x1dints.fits")
        assert len(fits.getdata(spectra, "EXTRACT1D")) == INTS
    assert flux.unit == "electron"
    assert len(flux) == INTS
    assert np.isfinite(flux).all()
    assert (flux > 0).all()

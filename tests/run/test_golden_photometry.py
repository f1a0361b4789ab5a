"""Official photometry of whole runs: the golden catalogues, from calints and from rateints, in any cut."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from run_helpers import differences

import tsostream
from tsostream.errors import InputError, SinkError
from tsostream.integration.payload import Measurement, Times
from tsostream.run.parity import photometry as shelves

CASES = ["nrc_sub64p", "miri_sub64"]


def run(folder: Path, out: Path, level: str, **options: object) -> QTable:
    source = next(folder.glob(f"*_{level}.fits.gz"))
    given = {"parity": "jwst", "products": "phot", "refs_dir": folder, "workers": 1, **options}
    tsostream.process(source, out, **given)
    (path,) = out.parent.glob("*_phot.ecsv")
    return QTable.read(path)


def check(ours: QTable, theirs: QTable, *, sky: bool) -> None:
    """Column by column, in the official order; sky coordinates where there is a WCS."""
    assert ours.colnames == theirs.colnames
    assert len(ours) == len(theirs)
    assert ours.meta["apertures"] == theirs.meta["apertures"]
    for name in theirs.colnames:
        a, b = (np.asarray(getattr(table[name], "value", table[name])) for table in (ours, theirs))
        assert getattr(ours[name], "unit", None) == getattr(theirs[name], "unit", None), name
        if name.endswith("_icrs"):
            if sky:
                np.testing.assert_allclose(a, b, atol=1e-8, rtol=0, err_msg=name)
            else:
                assert np.isnan(a).all()
        elif name.startswith("psf_"):
            np.testing.assert_allclose(a, b, rtol=1e-3, err_msg=name)
        elif name.endswith(("_x", "_y")):
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=0, err_msg=name)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", ["crfints", "calints"])
def test_from_calibrated_slopes(shared: Path, tmp_path: Path, case: str, level: str) -> None:
    folder = shared / "golden_stage2" / case
    sky = find_spec("gwcs") is not None and find_spec("stdatamodels") is not None
    check(run(folder, tmp_path / "lc.arrow", level), QTable.read(folder / "phot.ecsv"), sky=sky)


@pytest.mark.parametrize("case", CASES)
def test_from_slopes(shared: Path, tmp_path: Path, case: str) -> None:
    folder = shared / "golden_stage2" / case
    header = fits.getheader(next(folder.glob("*_calints.fits.gz")), "SCI")
    position = [header["XREF_SCI"] - 1, header["YREF_SCI"] - 1]
    ours = run(folder, tmp_path / "lc.arrow", "rateints", position=position)
    check(ours, QTable.read(folder / "phot.ecsv"), sky=False)


def test_without_a_position_the_way_out_is_told(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--position"):
        run(shared / "golden_stage2" / "miri_sub64", tmp_path / "lc.arrow", "rateints")


def test_blocks_workers_and_the_shelf_do_not_matter(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / "golden_stage2" / "nrc_sub64p"
    outs = [tmp_path / name / "lc.arrow" for name in "abc"]
    for out in outs:
        out.parent.mkdir()
    run(folder, outs[0], "crfints")
    run(folder, outs[1], "crfints", block_bytes=1, workers=2)
    monkeypatch.setattr(shelves, "SHELF_BYTES", 0)
    monkeypatch.setattr(shelves, "_PIECE_BYTES", 3 * 9 * 1600)
    run(folder, outs[2], "crfints", scratch=tmp_path)
    for out in outs[1:]:
        assert differences(outs[0], out) == []


def in_two(source: Path, folder: Path, at: int) -> list[Path]:
    """Cut a file of slopes into two segments."""
    folder.mkdir()
    paths = []
    with fits.open(source) as hdus:
        whole = hdus["SCI"].shape[0]
        for number, (low, high) in enumerate(((0, at), (at, whole)), 1):
            parts = [hdus[0].copy()]
            parts[0].header.update(INTSTART=low + 1, INTEND=high, EXSEGNUM=number, EXSEGTOT=2)
            for hdu in hdus[1:]:
                part = hdu.copy()
                if hdu.name != "ASDF":
                    part.data = hdu.data[low:high]
                parts.append(part)
            path = folder / source.name.replace("seg001", f"seg{number:03d}").removesuffix(".gz")
            fits.HDUList(parts).writeto(path)
            paths.append(path)
    return paths


def test_medians_are_those_of_a_file(shared: Path, tmp_path: Path) -> None:
    source = next((shared / "golden_stage2" / "nrc_sub64p").glob("*_crfints.fits.gz"))
    pair = in_two(source, tmp_path / "cut", 14)
    tables = {}
    for name, inputs in {"both": pair, "one": pair[:1], "two": pair[1:]}.items():
        (tmp_path / name).mkdir()
        out = tmp_path / name / "lc.arrow"
        tsostream.process(
            inputs[::-1], out, parity="jwst", products="phot", allow_gaps=True, block_bytes=30_000
        )
        tables[name] = QTable.read(next(out.parent.glob("*_phot.ecsv")))
    assert len(set(tables["both"]["aperture_x"].value)) == 2, "one place per file"
    rows = {"one": slice(0, 14), "two": slice(14, None)}
    for name, part in rows.items():
        alone = tables[name]
        alone = alone[np.isfinite(alone["net_aperture_sum"])]
        for column in alone.colnames:
            np.testing.assert_array_equal(tables["both"][column][part], alone[column], err_msg=column)


def test_a_run_is_taken_up_inside_a_file(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written of a file stays, its images are read again, and the whole is the same bit for bit."""
    source = next((shared / "golden_stage2" / "nrc_sub64p").glob("*_crfints.fits.gz"))
    pair = in_two(source, tmp_path / "cut", 14)
    given = {"parity": "jwst", "products": "phot", "workers": 1}
    outs = [tmp_path / name / "lc.arrow" for name in ("whole", "cut_off")]
    for out in outs:
        out.parent.mkdir()
    tsostream.process(pair, outs[0], **given)

    from tsostream.records import Batcher
    from tsostream.sinks import Output

    commit, done = Output.commit, []

    def stop(self: Output, *batches: object, **options: object) -> None:
        if done:
            raise SinkError("the disk is gone")
        done.append(True)
        commit(self, *batches, **options)

    # pieces of five integrations, batches of as many: the run ends inside the first file
    monkeypatch.setattr(shelves, "_PIECE_BYTES", 5 * 9 * 1600)
    monkeypatch.setitem(Batcher.__init__.__kwdefaults__, "max_rows", 5)
    monkeypatch.setattr(Output, "commit", stop)
    with pytest.raises(SinkError, match="the disk is gone"):
        tsostream.process(pair, outs[1], **given)
    monkeypatch.undo()
    assert len(tsostream.open(outs[1]).to_pandas()) == 5
    tsostream.process(pair, outs[1], resume=True, **given)
    assert differences(*outs) == []
    one, other = (next(out.parent.glob("*_phot.ecsv")) for out in outs)
    assert one.read_bytes() == other.read_bytes()


def test_gaps_between_and_inside_files(shared: Path) -> None:
    from astropy.io import fits as _fits

    from tsostream.files import find_exposures
    from tsostream.integration.payload import Rate
    from tsostream.operators.base import Binding
    from tsostream.operators.tso_photometry import BoundOfficialPhotometry, TsoPhotometry

    path = next((shared / "golden_stage2" / "nrc_sub64p").glob("*_crfints.fits.gz"))
    (exposure,) = find_exposures([path])
    step = TsoPhotometry(scope="segment").bind(Binding(exposure.info, segments=((1, 6), (9, 12))))
    assert isinstance(step, BoundOfficialPhotometry)
    with _fits.open(path) as hdus:
        sci, err = (hdus[name].data[:12].astype(np.float32) for name in ("SCI", "ERR"))

    def block(first: int, last: int) -> Rate:
        part = slice(first - 1, last)
        n = last - first + 1
        flags, times = (
            np.zeros((n, *sci.shape[1:]), np.uint32),
            Times(np.full((n, 6), first), np.zeros(n, np.uint32)),
        )
        return Rate(first, sci[part], err[part], err[part] ** 2, err[part] ** 2, flags, times)

    def absent(first: int, last: int) -> Measurement:
        n = last - first + 1
        times = Times(np.full((n, 6), 7.0), np.ones(n, np.uint32))
        return Measurement(first, times, step.keys, {}, {}, np.zeros(n, bool))

    segments = shelves.SegmentPhotometry(step, sci.shape[1:])
    stream = [step.first_pass(block(1, 4)), step.first_pass(block(5, 6)), absent(7, 8), step.first_pass(block(9, 9)),
              absent(10, 10), step.first_pass(block(11, 12))]  # fmt: skip
    out = [one for each in stream for one in segments.push(each)]
    numbers = np.concatenate([np.arange(one.first, one.first + one.count) for one in out])
    assert numbers.tolist() == list(range(1, 13))
    present = np.concatenate([one.present for one in out])
    assert np.flatnonzero(~present).tolist() == [6, 7, 9]
    (whole,) = step.push(block(1, 6))
    np.testing.assert_array_equal(out[0].columns["flux"], whole.columns["flux"])

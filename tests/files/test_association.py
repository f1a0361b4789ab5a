"""Association files, good and bad."""

from __future__ import annotations

import gzip
import json

import pytest
from segment_makers import codes, make_segment

from tsostream.errors import InputError
from tsostream.files import find_exposures, load_association


def write(path, products, **keys):
    path.write_text(json.dumps({"asn_type": "tso3", "asn_id": "o003", "products": products, **keys}))
    return path


def member(name, kind="science"):
    return {"expname": name, "exptype": kind}


def test_level_3(tmp_path):
    for n in (1, 4):
        make_segment(tmp_path / f"seg{n}_calints.fits", level="calints", first=n)
    members = [
        member("seg1_calints.fits"),
        member("seg4_calints.fits"),
        member("ta.fits", "target_acquisition"),
    ]
    path = write(tmp_path / "asn.json", [{"name": "jw01366-o003_t001_nirspec", "members": members}])
    association = load_association(path)
    assert (association.product, association.asn_id) == ("jw01366-o003_t001_nirspec", "o003")
    (exposure,) = find_exposures([path])
    assert (exposure.first, exposure.last) == (1, 6)
    assert (exposure.product, exposure.asn_id) == ("jw01366-o003_t001_nirspec", "o003")
    assert any("1 members are not science" in note for note in exposure.notes)


def test_level_2_has_a_product_per_segment(tmp_path):
    products = []
    for n in (1, 4):
        make_segment(tmp_path / f"seg{n}_rateints.fits", level="rateints", first=n)
        products.append({"name": f"seg{n}", "members": [member(f"seg{n}_rateints.fits")]})
    (exposure,) = find_exposures([write(tmp_path / "asn.json", products, asn_type="tso-spec2")])
    assert (exposure.count, exposure.product) == (6, "")


def test_packed_member(tmp_path):
    raw = make_segment(tmp_path / "a_uncal.fits").read_bytes()
    (tmp_path / "a_uncal.fits").unlink()
    (tmp_path / "a_uncal.fits.gz").write_bytes(gzip.compress(raw))
    path = write(tmp_path / "asn.json", [{"name": "x", "members": [member("a_uncal.fits")]}])
    assert find_exposures([path])[0].count == 3


def test_missing_members_are_all_named(tmp_path):
    path = write(tmp_path / "asn.json", [{"name": "x", "members": [member("a.fits"), member("b.fits")]}])
    with pytest.raises(InputError, match=r"member a\.fits is not there") as caught:
        load_association(path)
    assert codes(caught.value) == ["missing_member"] * 2
    assert "b.fits" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{", "association_invalid", "not valid JSON"),
        ("[" * 100000, "association_invalid", "not valid JSON"),
        ("\xff", "association_invalid", "not valid JSON"),
        ("[]", "association_invalid", "no list 'products'"),
        ('{"products": 3}', "association_invalid", "no list 'products'"),
        ('{"products": []}', "association_empty", "no product"),
        (
            '{"products": [{"members": [{"expname": "a", "exptype": "background"}]}]}',
            "association_empty",
            "no product",
        ),
        ('{"products": [{"members": [{"expname": 3}]}]}', "association_invalid", "no text 'expname'"),
    ],
)
def test_bad_files(tmp_path, text, code, words):
    path = tmp_path / "asn.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words) as caught:
        find_exposures([path])
    assert codes(caught.value) == [code]
    assert str(path) in str(caught.value)


def test_yaml_and_absent(tmp_path):
    with pytest.raises(InputError, match="YAML association, expected JSON") as caught:
        find_exposures([tmp_path / "asn.yaml", tmp_path / "asn.json"])
    assert codes(caught.value) == ["association_yaml", "not_found"]

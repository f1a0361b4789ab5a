import json

import pyarrow as pa
import pytest
from row_builders import schemas

from tsostream.records import QUALITY_BITS, Quality, decode_metadata, encode_metadata, spectra_schema

KEY = [
    ("exposure_id", "string", ""),
    ("detector", "string", ""),
    ("order", "int16", ""),
    ("aperture", "int32", ""),
    ("integration", "int64", ""),
]
LIGHT_CURVE = [
    *KEY,
    ("present", "bool", ""),
    ("time_mjd_utc_start", "double", "d"),
    ("time_mjd_utc_mid", "double", "d"),
    ("time_mjd_utc_end", "double", "d"),
    ("time_bmjd_tdb_start", "double", "d"),
    ("time_bmjd_tdb_mid", "double", "d"),
    ("time_bmjd_tdb_end", "double", "d"),
    ("time_flag", "uint32", ""),
    ("flux", "double", "electron"),
    ("flux_err", "double", "electron"),
    ("background", "double", "electron / pix"),
    ("background_err", "double", "electron / pix"),
    ("x", "double", "pix"),
    ("y", "double", "pix"),
    ("x_err", "double", "pix"),
    ("y_err", "double", "pix"),
    ("width_x", "double", "pix"),
    ("width_y", "double", "pix"),
    ("n_jump", "int32", "pix"),
    ("n_saturated", "int32", "pix"),
    ("n_outlier", "int32", "pix"),
    ("n_bad", "int32", "pix"),
    ("frac_filled", "double", "1"),
    ("quality", "uint32", ""),
]
IMAGING = [
    ("annulus_mean", "double", "electron / pix"),
    ("psf_flux", "double", "electron"),
    ("ra", "double", "deg"),
    ("dec", "double", "deg"),
]
FLOATS = "fixed_size_list<item: float not null>[16]"
SPECTRA = [
    *KEY,
    ("flux", FLOATS, "electron"),
    ("flux_err", FLOATS, "electron"),
    ("flux_var_poisson", FLOATS, "(electron)^2"),
    ("flux_var_rnoise", FLOATS, "(electron)^2"),
    ("flux_var_flat", FLOATS, "(electron)^2"),
    ("background", FLOATS, "electron / pix"),
    ("background_err", FLOATS, "electron / pix"),
    ("dq", "fixed_size_list<item: uint32 not null>[16]", ""),
    ("npixels", FLOATS, "pix"),
]


def columns(schema):
    return [(field.name, str(field.type), field.metadata[b"unit"].decode()) for field in schema]


def test_columns_types_and_units_are_the_promised_ones():
    lc, spectra = schemas()
    assert columns(lc) == LIGHT_CURVE
    assert columns(spectra) == SPECTRA
    assert columns(schemas(kind="imaging")[0]) == LIGHT_CURVE + IMAGING


@pytest.mark.parametrize("schema", [*schemas(), schemas(kind="imaging")[0]])
def test_every_field_is_described_and_takes_no_nulls(schema):
    for field in schema:
        assert not field.nullable
        assert len(field.metadata[b"description"]) >= 7, field.name
        assert not pa.types.is_dictionary(field.type)


def test_metadata_hold_the_facts_given_and_the_quality_bits():
    facts = decode_metadata(schemas(visit="x")[0].metadata)
    assert facts["visit"] == "x"
    assert facts["config"] == {"a": 1}
    assert (facts["table"], facts["kind"], facts["flux_unit"]) == ("light_curve", "spectroscopy", "electron")
    assert facts["quality_bits"]["JUMP"]["bit"] == 32
    assert facts["quality_bits"] == QUALITY_BITS
    assert sorted(entry["bit"] for entry in QUALITY_BITS.values()) == [1 << bit for bit in range(10)]
    assert set(QUALITY_BITS) == {str(bit.name) for bit in Quality}


def test_metadata_are_strict_json_whatever_numpy_brings():
    import numpy as np

    facts = {
        "wavelength": np.array([1.0, np.nan]),
        "n": np.int32(3),
        "t": (1, 2),
        "s": {"b", "a"},
        "f": np.inf,
    }
    text = encode_metadata(facts)["tsostream"]
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "wavelength": [1.0, None],
        "n": 3,
        "t": [1, 2],
        "s": ["a", "b"],
        "f": None,
    }
    with pytest.raises(TypeError, match="cannot stand in metadata"):
        encode_metadata({"x": object()})


def test_metadata_of_others_are_kept():
    schema = spectra_schema(n_wave=3, flux_unit="Jy", metadata={"mine": "yes", **encode_metadata({"a": 1})})
    assert decode_metadata(schema.metadata)["mine"] == "yes"
    assert decode_metadata(schema.metadata)["a"] == 1

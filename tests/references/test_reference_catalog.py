"""The table of reference types."""

import pytest

from tsostream.errors import ConfigError
from tsostream.references import REFERENCE_TYPES, canonical_name, reference_type


def test_every_type_is_consistent():
    for name, kind in REFERENCE_TYPES.items():
        assert name == kind.name == name.lower()
        assert bool(kind.arrays) == (kind.layout == "image")
        assert all(alias not in REFERENCE_TYPES for alias in kind.aliases)
        # a table may stand in the array's place (NIRSpec's pixel areas)
        assert not kind.arrays or kind.arrays[0].required or kind.extra_tables


def test_aliases_and_keywords():
    assert canonical_name("SUPERBIAS ") == "superbias"
    assert canonical_name("dark_current") == "dark"
    assert canonical_name("PARS-JUMPSTEP") is None
    assert reference_type("read_noise").name == "readnoise"


def test_an_unknown_type_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown reference type 'superbais'.*did you mean 'superbias'\?"):
        reference_type("superbais")

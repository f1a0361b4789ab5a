"""Whatever bytes a file holds: facts, or one of our own errors, in good time."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import pytest
from segment_makers import make_segment

from tsostream.errors import InputError, ReadError
from tsostream.files import find_exposures, header_disagreement, read_blocks


def corrupted(whole: bytes, headers: np.ndarray, rng: np.random.Generator) -> bytes:
    """Cut the file, flip bits, or overwrite a stretch; half of the damage hits a header."""
    raw = bytearray(whole)
    kind = rng.integers(4)
    where = int(rng.choice(headers)) if rng.random() < 0.5 else int(rng.integers(len(raw)))
    if kind == 0:
        return bytes(raw[:where])
    if kind == 1:
        for at in rng.integers(where, min(where + 200, len(raw)), 10):
            raw[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        raw[where] = int(rng.integers(32, 127))
    else:
        end = min(where + int(rng.integers(1, 3000)), len(raw))
        raw[where:end] = rng.bytes(end - where)
    return bytes(raw)


@pytest.mark.parametrize("level", ["uncal", "rateints"])
def test_random_corruptions(tmp_path, level):
    path = make_segment(tmp_path / "a.fits", level=level)
    whole = path.read_bytes()
    blocks = np.arange(0, len(whole), 2880)
    text = [at for at in blocks if whole[at : at + 2880].isascii() and 0 not in whole[at : at + 2880]]
    headers = np.concatenate([np.arange(at, at + 2880) for at in text])
    outcomes = {"read": 0, "refused": 0}
    unnamed = 0
    for seed in range(200):
        path.write_bytes(corrupted(whole, headers, np.random.default_rng(seed)))
        start = time.process_time()
        try:
            asyncio.run(_read_all(path))
            outcomes["read"] += 1
        except (InputError, ReadError) as error:
            unnamed += str(path) not in str(error)
            outcomes["refused"] += 1
        assert time.process_time() - start < 2, seed
    assert min(outcomes.values()) > 20, outcomes
    assert unnamed == 0


async def _read_all(path):
    for exposure in find_exposures([path]):
        header_disagreement(exposure.segments[0])
        async for raw in read_blocks(exposure, max_ints=2):
            assert raw.times.values.shape == (raw.count, 6)
            raw.release()


@pytest.mark.parametrize("seed", range(20))
def test_single_card_damage(tmp_path, seed):
    """One card of any header replaced by another's text."""
    rng = np.random.default_rng(seed)
    path = make_segment(tmp_path / "a.fits", level="rateints")
    whole = bytearray(path.read_bytes())
    cards = [at for at in range(0, len(whole), 80) if whole[at + 8 : at + 10] == b"= "]
    for _ in range(10):
        raw = bytearray(whole)
        a, b = rng.choice(cards, 2)
        raw[a + 10 : a + 80] = whole[b + 10 : b + 80]
        path.write_bytes(raw)
        with contextlib.suppress(InputError, ReadError):
            asyncio.run(_read_all(path))


def test_noise(tmp_path):
    path = tmp_path / "a.fits"
    for seed in range(20):
        noise = np.random.default_rng(seed).bytes(30000)
        path.write_bytes(b"SIMPLE  =                    T".ljust(80) + noise)
        with pytest.raises(InputError, match=r"corrupt|ends after"):
            find_exposures([path])

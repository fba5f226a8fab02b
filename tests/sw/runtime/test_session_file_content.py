"""What a saved session holds, on the toy device: elements in nibbles, its metadata, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.numerics import FOUR_BIT_LEVELS
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.session_file import _from_nibbles, _to_nibbles, check_place, pack_session, unpack_session
from hwgen.sw.runtime.vector_tokens import VectorToken, as_words, with_vectors

from .toy_device import tiny_image, toy_engine


@pytest.fixture(scope="module")
def image() -> Image:
    return tiny_image()


@pytest.mark.parametrize("kv", ["k8v8", "k8v4", "k4v4"])
def test_elements_in_nibbles(kv: str) -> None:
    """The even one low; of 8 bits the nearest of fifteen parts of 127, of 4 bits the codes as they are."""
    of: Any = SimpleNamespace(kv=kv)
    rng = np.random.default_rng(1)
    elements = rng.integers(-127, 128, (2, 3, 8)).astype(np.int8)
    levels = np.array([*FOUR_BIT_LEVELS, *(-level for level in FOUR_BIT_LEVELS)], np.int8)
    four = [kv[1] == "4", kv[3] == "4"]
    for kind in range(2):
        if four[kind]:
            elements[kind] = rng.choice(levels, (3, 8))
    packed = _to_nibbles(elements, of)
    assert packed.shape == (2, 3, 4) and packed.dtype == np.uint8
    back = _from_nibbles(packed, of)
    for kind in range(2):
        if four[kind]:
            assert np.array_equal(back[kind], elements[kind])
            continue
        seven = np.rint(elements[kind].astype(int) * 7 / 127).astype(int)
        assert np.array_equal(packed[kind] & 15, (seven + 8)[:, 0::2]) and np.array_equal(packed[kind] >> 4, (seven + 8)[:, 1::2])
        assert np.array_equal(back[kind], np.rint(seven * 127 / 7)) and back.dtype == np.int8


@pytest.mark.parametrize(("bits", "exact"), [(8, True), (8, False), (4, True)])
def test_metadata(image: Image, bits: int, exact: bool) -> None:
    engine, session = toy_engine(image, 512), Session()
    engine.prefill(session, [1, 2, 3, 4, 5])
    session.exact, session.pending = exact, [7]
    content = pack_session(engine, session, kv_bits=bits)
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = said["__metadata__"]
    assert (metadata["format"], metadata["kv_bits"], metadata["kv"]) == ("hwgen-session-5", str(bits), "k8v8")
    assert metadata["exact"] == str(int(exact and bits == 8)) and metadata["contract_version"] == "9"
    assert said["tokens"]["shape"] == [5] and said["pending"]["shape"] == [1]
    assert said["kv"]["shape"] == [2, 1, 1, 5, 16 if bits == 8 else 8]
    other = toy_engine(image, 512)
    back = unpack_session(other, content, "file")
    assert (back.tokens, back.pending, back.exact) == ([1, 2, 3, 4, 5], [7], exact and bits == 8)
    assert len(back.pages) == 1 and back.parked is None
    parked = Session()
    engine.prefill(parked, [1, 2, 3, 4, 5])
    engine.pages.park(parked)
    assert len(pack_session(engine, parked)) > 100
    for at in (len(content) // 2, 12, len(content) - 1):
        damaged = bytearray(content)
        damaged[at] ^= 1
        with pytest.raises(HwgenError, match="is damaged"):
            unpack_session(other, bytes(damaged), "file")
    assert all(other.pages.reserve(Session(), 64) for _ in range(7)) and other.pages.reserve(Session(), 48) and not other.pages.free
    with pytest.raises(HwgenError, match="needs 1 KV pages, 0 are free"):
        unpack_session(other, content, "file")


def test_what_is_not_saved(image: Image, tmp_path: Path) -> None:
    engine = toy_engine(image, 512)
    with pytest.raises(HwgenError, match="kv_bits must be 8 or 4, not 5"):
        pack_session(engine, Session(), kv_bits=5)
    session = Session()
    session.pending = [VectorToken(np.zeros(16, np.uint16))]
    with pytest.raises(HwgenError, match="vectors in place of tokens cannot be saved"):
        pack_session(engine, session)
    check_place(tmp_path / "new")
    for place, reason in ((tmp_path, "it is a directory"), (tmp_path / "no" / "where", "is not a directory")):
        with pytest.raises(HwgenError, match=reason):
            check_place(place)


def test_vectors_in_a_prompt() -> None:
    """Equal for equal vectors, negative, and none that stands for a place; in their places, or behind the first tokens."""
    rows = np.array([[1, 2], [3, 4]], np.float32)
    one, two = (token for token in with_vectors([9], rows, 2) if token < 0)
    again = with_vectors([5, -1, 6, -1], rows, 2)
    assert again == [5, one, 6, two] and one != two and max(one, two) < -1 and as_words(again) == [5, 6]
    assert with_vectors([5, 6], rows, 2, 1) == [5, one, two, 6] and with_vectors([5, 6], rows, 2) == [one, two, 5, 6]
    for wrong, message in ((rows[0], "embeddings must be"), (rows[:, :1], "embeddings must be"), (rows[:0], "embeddings must be"),
                           (rows * np.inf, "must be finite")):
        with pytest.raises(HwgenError, match=message):
            with_vectors([5], wrong, 2)
    with pytest.raises(HwgenError, match="has 1 places .-1. for 2 embeddings"):
        with_vectors([5, -1], rows, 2)

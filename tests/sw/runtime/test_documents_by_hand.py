"""Documents by themselves: what they ask of an engine, and what they are at other positions."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.documents import Computed, Document, compute_document
from hwgen.sw.runtime.kv_arrays import KvArrays, unpack_pages
from hwgen.weights import random_weights

from ..conftest import CONFIG

SHAPE = ModelShape(hidden=16, layers=3, heads=1, kv_heads=1, head_dim=16, ffn=16, vocab=60, max_context=64)
LENGTH = 10


@pytest.fixture(scope="module")
def image() -> Image:
    return compile_model(CONFIG, random_weights(SHAPE, 5))


@pytest.fixture(scope="module")
def document() -> Document:
    """Of random keys and values behind two tokens."""
    rng = np.random.default_rng(1)
    elements = rng.integers(-127, 128, (2, SHAPE.layers, 1, LENGTH, 16)).astype(np.int8)
    scales = rng.integers(0x3C00, 0x3F00, elements.shape[:-1]).astype(np.uint16)
    return Document("", tuple(range(LENGTH)), (Computed(2, KvArrays(elements, scales)),))


@pytest.mark.parametrize("length", [8, 9])
def test_a_document_leaves_room_for_a_token(length: int) -> None:
    """Its own tokens, those in front, and one more must fit into the context; nothing is computed before that is known."""
    asked: list[int] = []

    def refuse(tokens: int) -> None:
        asked.append(tokens)
        raise HwgenError("context", "too long", "shorten it")

    engine: Any = SimpleNamespace(check_context=refuse)
    with pytest.raises(HwgenError, match="too long"):
        compute_document(engine, "", [1] * length, [2, 3])
    assert asked == [2 + length + 1]
    with pytest.raises(HwgenError, match="must have 8 tokens or more, not 7"):
        compute_document(engine, "", [1] * 7, [2, 3])


def test_a_document_is_itself_alone(image: Image, document: Document) -> None:
    """Not what is equal to it; what was placed last is placed once."""
    assert list(inspect.signature(Document).parameters) == ["text", "tokens", "computed"]
    same = Document(document.text, document.tokens, document.computed)
    assert len({document, same, document}) == 2
    first, other = same.at(image, 5, 1), same.at(image, 6, 1)
    again = same.at(image, 6, 1)
    assert again[0] is other[0] and again[1] is other[1] and first[0] is not other[0]


@pytest.mark.parametrize("position", [2, 5, 21])
@pytest.mark.parametrize("layer", range(SHAPE.layers))
def test_a_document_somewhere_else(image: Image, document: Document, position: int, layer: int) -> None:
    """Its pages begin with the block of its first position, and have the same of a layer as is given of it alone."""
    pages, own = document.at(image, position, layer)
    slot = position % CONFIG.kv_block
    placed = unpack_pages(image, pages, slot + LENGTH, layer)
    assert np.array_equal(placed.elements[..., slot:, :], own.elements) and not placed.elements[..., :slot, :].any()
    assert np.array_equal(placed.scales[..., slot:], own.scales) and own.scales.shape == (2, 1, 1, LENGTH)
    computed = document.computed[0]
    if position == computed.position:
        assert np.array_equal(own.elements[:, 0], computed.arrays.elements[:, layer])


@pytest.mark.parametrize(("position", "taken"), [(0, 2), (2, 2), (11, 2), (12, 50), (50, 50), (500, 50)])
def test_what_is_nearest_is_taken_over(image: Image, document: Document, position: int, taken: int) -> None:
    """Twelve tokens are 4 times three, and 51 are 4.25 times twelve; thirteen are 4.33 times three, and 51 are 3.92 times that."""
    early = document.computed[0]
    late = Computed(50, KvArrays(-early.arrays.elements, early.arrays.scales))
    for computed in ((early, late), (late, early)):
        both = Document("", document.tokens, computed)
        assert both.nearest(position).position == taken
        _, own = both.at(image, position, 1)
        assert np.array_equal(own.elements[1], both.nearest(position).arrays.elements[1, 1:2]), "values have no position"
    assert document.nearest(position) is early

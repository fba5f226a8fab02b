"""Keys and values of a cache as arrays, against what a pass of the golden machine wrote, byte by byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.numerics import FOUR_BIT_LEVELS
from hwgen.sw.compiler.compile import plan_image
from hwgen.sw.compiler.image import Image
from hwgen.sw.models.random_model import RandomModel
from hwgen.sw.runtime.kv_arrays import KvArrays, pack_pages, unpack_pages, with_cache_tokens

from ..compiler.test_int4 import CONFIG, SHAPE


def image(kv: str) -> Image:
    """Two layers of two heads of 32 elements, in blocks of 16 positions: beats of 32 bytes, two bytes of every key."""
    weights: Any = RandomModel(SHAPE, LLAMA, "int4", kv=kv)
    return plan_image(CONFIG, weights)


def random_arrays(positions: int, kv: str) -> KvArrays:
    rng = np.random.default_rng(positions)
    elements = rng.integers(-127, 128, (2, 2, 2, positions, 32)).astype(np.int8)
    for kind, bits in enumerate((kv[1], kv[3])):
        if bits == "4":
            elements[kind] = rng.choice([*FOUR_BIT_LEVELS, *(-level for level in FOUR_BIT_LEVELS)], elements[kind].shape)
    return KvArrays(elements, rng.integers(0, 1 << 16, elements.shape[:-1]).astype(np.uint16))


@pytest.mark.parametrize("positions", [1, 16, 17, 40])
@pytest.mark.parametrize("kv", ["k8v8", "k8v4", "k4v4"])
def test_there_and_back(kv: str, positions: int) -> None:
    planned, arrays = image(kv), random_arrays(positions, kv)
    pages = pack_pages(planned, arrays)
    assert pages.shape == (-(-positions // 16), planned.page_bytes) and pages.dtype == np.uint8
    found = unpack_pages(planned, pages, positions)
    assert np.array_equal(found.elements, arrays.elements) and np.array_equal(found.scales, arrays.scales)
    for layer in range(2):
        one = unpack_pages(planned, pages, positions, layer)
        assert np.array_equal(one.elements, arrays.elements[:, layer : layer + 1])
        assert np.array_equal(one.scales, arrays.scales[:, layer : layer + 1])
    fewer = unpack_pages(planned, pages, positions - 1)
    assert np.array_equal(fewer.elements, arrays.elements[..., : positions - 1, :]) and fewer.scales.shape[-1] == positions - 1


def test_where_a_byte_lies() -> None:
    """docs/machine.md: of a head's block two beats of scales, of keys and of values; then the keys' beats, two elements each."""
    planned, arrays = image("k8v8"), random_arrays(20, "k8v8")
    pages = pack_pages(planned, arrays)
    head_bytes = next(d.head_stride for d in planned.descriptors if d.head_stride)
    for layer, head, position in ((0, 0, 0), (1, 0, 5), (0, 1, 15), (1, 1, 19)):
        page, slot = divmod(position, 16)
        block = pages[page, (2 * layer + head) * head_bytes :]
        header = block[:64].view(np.uint16)
        assert (header[slot], header[16 + slot]) == tuple(arrays.scales[:, layer, head, position])
        for kind in range(2):
            for beat in (0, 7, 15):
                at = 64 + 512 * kind + 32 * beat + 2 * slot
                expected = arrays.elements[kind, layer, head, position, 2 * beat : 2 * beat + 2]
                assert np.array_equal(block[at : at + 2].view(np.int8), expected)
    assert not unpack_pages(planned, pages, 32).elements[..., 20:, :].any(), "behind the last position is nothing"


def test_tokens_of_a_cache() -> None:
    planned = replace(image("k8v8"), context=64)
    assert [with_cache_tokens(planned, tokens).pages for tokens in (64, 65, 80, 81)] == [4, 5, 5, 6]
    with pytest.raises(HwgenError, match="a KV cache of 63 tokens is smaller than the context of 64 tokens") as caught:
        with_cache_tokens(planned, 63)
    assert caught.value.kind == "usage"

"""Where a model keeps things, in numbers that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.decoder import LLAMA, QWEN2
from hwgen.descriptors import Buffers
from hwgen.errors import HwgenError
from hwgen.sw.compiler.constants import ArrayConstants, ArrayRows, LazyRows, PackedConstants
from hwgen.sw.compiler.placement import (
    Region,
    ScratchPlan,
    SegmentPlan,
    bias_vectors,
    check_fit,
    contiguous_bytes,
    maxima_of,
    pages_together,
    parameter_place,
    plan_scratch,
    token_vectors,
    whole_rounds,
)

from .content import content
from .test_int4 import CONFIG, SHAPE

# Vectors of 8: hidden 8, queries 16, keys and values 8 each, a head 4, feed-forward 20; a token 8 + 2 * 16 + 2 * 8 = 56.


def test_a_plan() -> None:
    assert token_vectors(CONFIG, SHAPE) == 56 and token_vectors(CONFIG, replace(SHAPE, ffn=800)) == 8 + 100
    plan = ScratchPlan(
        chunk=12, x=0, x_stride=8, bias=96, qkv=96, qkv_stride=32, a=96 + 12 * 32, a_stride=16, g=96, g_stride=20, gains=(48, 56),
    )
    assert plan_scratch(CONFIG, SHAPE) == plan
    assert plan_scratch(CONFIG, SHAPE, biases=32) == replace(plan, qkv=128, g=128, a=128 + 12 * 32)
    assert bias_vectors(CONFIG, SHAPE, QWEN2) == 32 and bias_vectors(CONFIG, SHAPE, LLAMA) == 0


@pytest.mark.parametrize(("scratch", "params", "gains", "biases", "chunk"), [
    (56 * 12, 256, None, 0, 12), (56 * 12 - 1, 256, None, 0, 8), (56 * 8 + 31, 256, None, 32, 6), (56 * 8 + 32, 256, None, 32, 8),
    (56 * 4, 256, None, 0, 4), (56 * 3, 256, None, 0, 3), (56, 256, None, 0, 1), (88, 256, None, 32, 1),
    (1024, 28 + 4 * 12, None, 0, 12), (1024, 28 + 4 * 12 - 1, None, 0, 8), (1024, 28 + 4, None, 0, 1),
    (1024, 100 + 4 * 4, 100, 0, 4),
])
def test_tokens_of_a_pass(scratch: int, params: int, gains: int | None, biases: int, chunk: int) -> None:
    """As many as fit in scratch and parameter memory, in whole rounds of four lanes."""
    config = replace(CONFIG, scratch_vectors=scratch, param_vectors=params)
    assert plan_scratch(config, SHAPE, gains, biases).chunk == chunk


@pytest.mark.parametrize(("scratch", "params", "biases", "message"), [
    (55, 256, 0, "one token needs 56 vectors, .* scratch_vectors=55"), (87, 256, 32, "one token needs 88 vectors"),
    (1024, 31, 0, "one token needs 32 vectors, .* param_vectors=31"), (56, 31, 0, "needs 32 vectors, .* param_vectors=31"),
    (88, 31, 32, "needs 32 vectors, .* param_vectors=31"), (8, 8, 0, "has scratch_vectors=8"),
])
def test_a_token_that_does_not_fit(scratch: int, params: int, biases: int, message: str) -> None:
    with pytest.raises(HwgenError, match=message) as caught:
        plan_scratch(replace(CONFIG, scratch_vectors=scratch, param_vectors=params), SHAPE, biases=biases)
    assert caught.value.kind == "model"


def test_whole_rounds() -> None:
    """Two rounds where they are three quarters full; else whole ones."""
    assert [whole_rounds(n, 4) for n in range(1, 14)] == [1, 2, 3, 4, 4, 6, 6, 8, 8, 8, 8, 12, 12]
    assert [whole_rounds(n, 6) for n in (5, 6, 7, 8, 9, 10, 11, 12, 13, 18)] == [5, 6, 6, 6, 8, 10, 10, 12, 12, 18]
    assert (parameter_place(0), parameter_place(1)) == (Buffers.NONE, Buffers.PARAMETER)


def test_every_maximum_is_held_to_the_last_unit() -> None:
    shape = replace(SHAPE, hidden=72, heads=6, kv_heads=2, head_dim=16, ffn=40)
    maxima = {"max_inputs": 96, "max_query": 96, "max_heads": 6, "max_kv_heads": 2, "max_shared": 3, "max_head_dim": 16}
    assert maxima_of(shape) == maxima
    assert maxima_of(replace(shape, ffn=200))["max_inputs"] == 200 and maxima_of(replace(shape, hidden=120))["max_inputs"] == 120
    check_fit(replace(CONFIG, **maxima), shape)  # type: ignore[arg-type]  # fields by name
    for name, step in (("max_inputs", 32), ("max_query", 16), ("max_heads", 1), ("max_kv_heads", 1), ("max_shared", 1)):
        with pytest.raises(HwgenError, match=f"needs {maxima[name]} .* {name}={maxima[name] - step}"):
            check_fit(replace(CONFIG, **{**maxima, name: maxima[name] - step}), shape)  # type: ignore[arg-type]  # likewise
    with pytest.raises(HwgenError, match="needs 32 elements of a head"):
        check_fit(replace(CONFIG, max_head_dim=16), SHAPE)
    with pytest.raises(HwgenError, match="head_dim is 24, .* a multiple of 16"):
        check_fit(CONFIG, replace(SHAPE, head_dim=24))


@pytest.mark.parametrize(("size", "taken"), [
    (1, 8192), (8192, 8192), (8193, 16384), (12289, 16384), (16385, 32768), (1 << 19, 1 << 19), ((1 << 19) + 1, 1 << 20),
    (1 << 20, 1 << 20), ((1 << 20) + 1, 2 << 20), ((3 << 20) + 4096, 4 << 20),
])
def test_contiguous_memory(size: int, taken: int) -> None:
    """Two frames at least, whole frames, and a power of two up to 1 MiB; multiples of that beyond."""
    assert contiguous_bytes(size) == taken


def test_pages_that_share_a_buffer() -> None:
    """The fewest whose buffer is at most a fifth larger than they are."""
    for page in (4096, 8192, 12288, 20480, 45056, 1 << 20, 1_200_128 // 4096 * 4096, 3 << 19):
        count = pages_together(page)
        assert contiguous_bytes(count * page) <= 1.2 * count * page
        assert all(contiguous_bytes(n * page) > 1.2 * n * page for n in range(1, count))
    assert [pages_together(page) for page in (4096, 8192, 12288)] == [2, 1, 5]


def test_segments_and_gaps() -> None:
    """Segments at multiples of 256, bytes as they are made, zeros between and behind; read in windows of any size."""
    plan, rng = SegmentPlan(), np.random.default_rng(1)
    expected = np.zeros(4096 + 300, np.uint8)
    places = {"a": (0, 100), "b": (256, 700), "c": (1024, 256), "d": (1280, 1), "e": (4096, 300)}
    for name, (offset, size) in places.items():
        if name == "e":
            plan.align(4096)
        data = rng.integers(1, 256, size).astype(np.uint8)
        expected[offset : offset + size] = data
        assert plan.add(name, size, lambda data=data: data) == offset  # type: ignore[misc]  # data has its type from the loop
    assert {name: s.region for name, s in plan.segments.items()} == {name: Region(*place) for name, place in places.items()}
    plan.align(512)
    said: list[str] = []
    constants = PackedConstants(plan, said.append)
    expected = np.concatenate((expected, np.zeros(4608 - expected.size, np.uint8)))
    assert constants.bytes == 4608 and np.array_equal(content(constants), expected)
    for source in (constants, constants.packed(), ArrayConstants(expected)):
        for sizes in ([1, 99, 1, 700, 3807], [256, 4352], [4608]):
            parts = [np.empty(size, np.uint8) for size in sizes]
            with source.reading() as read:
                for part in parts:
                    read(part)
            assert np.array_equal(np.concatenate(parts), expected)


def test_a_short_segment_is_followed_by_zeros() -> None:
    plan = SegmentPlan()
    plan.add("a", 3, lambda: np.full(3, 7, np.uint8))
    plan.align(4096)
    assert content(PackedConstants(plan, print)).tolist() == [7] * 3 + [0] * 4093


def test_a_segment_of_another_size_is_refused() -> None:
    plan = SegmentPlan()
    plan.add("a", 10, lambda: np.zeros(11, np.uint8))
    with pytest.raises(AssertionError, match="a has 11 bytes, 10 were planned"):
        content(PackedConstants(plan, print))


def test_rows_of_an_embedding() -> None:
    """Made once, when the first is asked for."""
    table, made = np.arange(24, dtype=np.uint16).reshape(6, 4), []

    def make() -> np.ndarray:
        made.append(1)
        return table

    lazy = LazyRows(make)
    assert not made
    for tokens in ([5, 0, 5], [], [2]):
        for rows in (lazy, ArrayRows(table)):
            assert rows.gather(tokens).tolist() == [table[t].tolist() for t in tokens]
    assert made == [1]

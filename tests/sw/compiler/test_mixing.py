"""What mixes heads and turns outputs back, operator by operator, as docs/numerics.md says."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import or_

import pytest

from hwgen.descriptors import Descriptor, Flag, Format, Opcode
from hwgen.errors import HwgenError
from hwgen.sw.compiler.mixing import Mixing, check_formats

from .test_int4 import CONFIG, SHAPE

Q, K, V, STORE = Flag.QUERIES, Flag.KEYS, Flag.VALUES, Flag.STORE
KV = Format.INT4_KEYS | Format.INT4_VALUES

#: Vectors of 8 elements; heads of 32: four of queries, two of keys, two of values, 4 vectors each.
ROPE = Descriptor(
    opcode=Opcode.ROPE, layer=3, flags=Q | K | V, heads=4, kv_heads=2, head_vectors=4, src=100, src_stride=50, dst=100,
    dst_stride=50, param=7, param_stride=4, token_start=2, token_count=5, scalar0=0.5,
)

#: Heads, their vectors, distance within a vector, and place, of what mixes two strides of whole vectors: 8 and 16 elements.
VALUES = [(4, 2, 0, 124), (2, 4, 0, 124)]
#: The same of six heads of queries and keys: first 2 and 4 elements; the last stride is that of the pass that measures them.
KEYS = [(6, 4, 2, 100), (6, 4, 4, 100), (12, 2, 0, 100)]


def rows(operators: list[Descriptor]) -> list[tuple[int, int, int, int]]:
    return [(d.heads, d.head_vectors, d.param, d.src) for d in operators]


def common(d: Descriptor, format: Format) -> bool:
    """Whether it is a mixing operator of the tokens of `ROPE`, which writes where it reads."""
    same = (d.layer, d.kv_heads, d.token_start, d.token_count) == (3, 2, 2, 5) and d.opcode is Opcode.ROPE
    return same and d.dst == d.src and d.src_stride == d.dst_stride == 50 and d.flags == Q | STORE and d.format == format


def test_keys_and_values() -> None:
    found = list(Mixing(CONFIG, SHAPE, "k4v4").mixed(replace(ROPE, format=KV)))
    assert rows(found[:2]) == VALUES and rows(found[3:6]) == KEYS and len(found) == 7
    assert all(common(d, Format.MIX) for d in (*found[:2], *found[3:6]))
    assert found[2] == replace(ROPE, format=KV, flags=Q | K | STORE), "rotated first"
    assert found[6] == replace(ROPE, format=KV | Format.MIX, param=0, param_stride=0), "measured with the last stride"


@pytest.mark.parametrize(("kv", "flags", "values", "keys"), [
    ("k8v8", (Q, K, V), [], []), ("k8v4", (Q, K, V), VALUES, []), ("k8v4", (Q, K), [], []),
    ("k8v4", (V,), [(4, 2, 0, 100), (2, 4, 0, 100)], []), ("k4v4", (V,), [(4, 2, 0, 100), (2, 4, 0, 100)], []),
    ("k4v4", (Q,), [], [(4, 4, 2, 100), (4, 4, 4, 100), (8, 2, 0, 100)]),
    ("k4v4", (K, V), [(4, 2, 0, 108), (2, 4, 0, 108)], [(2, 4, 2, 100), (2, 4, 4, 100), (4, 2, 0, 100)]),
])
def test_kinds_of_heads(kv: str, flags: tuple[Flag, ...], values: list[object], keys: list[object]) -> None:
    """Heads that are there, from where the first of their kind lies."""
    rope = replace(ROPE, flags=reduce(or_, flags))
    found = list(Mixing(CONFIG, SHAPE, kv).mixed(rope))
    count = len(values)
    assert rows(found[:count]) == values
    if keys:
        assert found[count].flags == rope.flags & ~V | STORE and rows(found[count + 1 : -1]) == keys
        assert found[-1].format == Format.MIX
    else:
        assert found[count:] == [rope]


@pytest.mark.parametrize(("flags", "keys"), [(Q | K, 116), (K, 100), (K | V, 100), (Q, None)])
def test_what_is_added_to_keys(flags: Flag, keys: int | None) -> None:
    """A row, to all key heads, behind their rotation: an operator that mixes halves of heads adds it in place of that."""
    mixing = Mixing(CONFIG, SHAPE, "k4v4")
    rope = replace(ROPE, flags=flags)
    plain, added = list(mixing.mixed(rope)), list(mixing.mixed(rope, 700))
    if keys is None:
        assert added == plain
        return
    at = next(i for i, (a, b) in enumerate(zip(plain, added, strict=False)) if a != b)
    assert added[:at] + added[at + 1 :] == plain and added[at - 1].flags == flags & ~V | STORE
    row = added[at]
    assert rows([row]) == [(2, 4, 0, keys)] and (row.dst, row.dst_stride, row.src_stride) == (700, 0, 50)
    assert row.flags == Q | STORE | Flag.ADD and row.format == Format.MIX and (row.token_start, row.token_count) == (2, 5)


def test_outputs_are_turned_back() -> None:
    """Of all query heads and tokens, by the strides of values; nothing where values have 8 bits."""
    for kv in ("k8v4", "k4v4"):
        found = list(Mixing(CONFIG, SHAPE, kv).turn_back(3, 60, 16, 12))
        assert rows(found) == [(8, 2, 0, 60), (4, 4, 0, 60)]
        for d in found:
            assert (d.opcode, d.flags, d.format) == (Opcode.ROPE, Q | STORE, Format.UNMIX)
            assert (d.layer, d.dst, d.src_stride, d.dst_stride, d.token_start, d.token_count) == (3, 60, 16, 16, 0, 12)
    assert not list(Mixing(CONFIG, SHAPE, "k8v8").turn_back(3, 60, 16, 12))


def test_wide_heads() -> None:
    """An eighth, a quarter and a half of a head of 128: 16, 32 and 64 elements, heads of twice as many."""
    wide = replace(CONFIG, max_head_dim=128)
    mixing = Mixing(wide, replace(SHAPE, head_dim=128), "k4v4")
    assert rows(list(mixing.turn_back(0, 0, 64, 1))) == [(16, 4, 0, 0), (8, 8, 0, 0), (4, 16, 0, 0)]
    assert (mixing.of_values, mixing.of_keys) == ((16, 32, 64), (2, 4, 16, 32, 64))


@pytest.mark.parametrize(("changes", "kv", "query", "refused"), [
    ({}, "k4v4", "e4m3", ""), ({"int4_kv": False}, "k8v8", "e4m3", ""), ({"fp8_query": False}, "k4v4", "int8", ""),
    ({"int4_kv": False}, "k8v4", "int8", "k8v4 cache"), ({"fp8_query": False}, "k8v8", "e4m3", "e4m3 queries"),
])
def test_formats_that_a_build_takes(changes: dict[str, bool], kv: str, query: str, refused: str) -> None:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]  # fields by name
    if not refused:
        check_formats(config, kv, query)
        return
    with pytest.raises(HwgenError, match=refused):
        check_formats(config, kv, query)

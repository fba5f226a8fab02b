"""Online softmax against exact rational arithmetic, float64, and its own properties."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from hwgen.formats import score_constant
from hwgen.golden.attention import AttentionState, exp2
from hwgen.golden.float32 import bf16_round
from hwgen.golden.rotary import quantize_kv, quantize_query
from hwgen.numerics import exp2_table

from . import rational
from .bits import assert_same_bits, fractions

Heads = tuple[Tensor, Tensor]


def test_exp2_table_is_what_the_hardware_can_hold() -> None:
    base, slope = exp2_table()
    assert len(base) == len(slope) == 64 and base[0] == 1 << 16
    assert all(0 < s < 1 << 10 for s in slope)


def test_exp2_every_argument() -> None:
    d = torch.arange(19 * 1024, dtype=torch.int32)
    value = exp2(d)
    assert value.tolist() == [rational.exp2(i) for i in range(19 * 1024)]
    assert value[0] == 1 << 15 and value[17 * 1024 :].abs().sum() == 0
    assert (value[1:] <= value[:-1]).all()
    assert (value.double() / 2**15 - torch.exp2(-d.double() / 1024)).abs().max() < 4e-5
    assert exp2(torch.tensor([(1 << 24) - 2], dtype=torch.int32)) == 0


def run(query: Heads, keys: Heads, values: Heads, sizes: list[int], valid: Tensor | None = None) -> Tensor:
    """Attention of ``query [..., queries, d]`` over keys ``[..., n, d]`` cut into blocks of ``sizes``."""
    q8, q_scale = query
    state = AttentionState.initial(q_scale.shape, q8.shape[-1])
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        mask = torch.ones(q_scale.shape[-1], size, dtype=torch.bool) if valid is None else valid[:, part]
        state.attend(
            q8,
            q_scale,
            (keys[0][..., part, :], keys[1][..., part]),
            (values[0][..., part, :], values[1][..., part]),
            mask,
        )
        first += size
    return state.result()


def random_heads(seed: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    queries, n, d = shape
    spread = torch.exp2(torch.randint(-6, 7, (n, 1), generator=g).float())
    return (
        torch.randn(queries, d, generator=g) * 4,
        torch.randn(n, d, generator=g),
        torch.randn(n, d, generator=g) * spread,
    )


def slow(query: Heads, keys: Heads, values: Heads, sizes: list[int]) -> list[list[Fraction]]:
    pairs = [
        ((k.tolist(), Fraction(ks.item())), (v.tolist(), Fraction(vs.item())))
        for k, ks, v, vs in zip(*keys, *values, strict=True)
    ]
    blocks, first = [], 0
    for size in sizes:
        blocks.append(pairs[first : first + size])
        first += size
    return [rational.attention((q.tolist(), Fraction(s.item())), blocks) for q, s in zip(*query, strict=True)]


@pytest.mark.parametrize("sizes", [[1], [5], [3, 8, 8, 2], [8, 1, 1]])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_rational_model(sizes: list[int], seed: int) -> None:
    q, k, v = random_heads(seed, 3, sum(sizes), 8)
    query, keys, values = quantize_query(q, score_constant(8)), quantize_kv(k), quantize_kv(v)
    out = run(query, keys, values, sizes)
    assert [fractions(row) for row in out] == slow(query, keys, values, sizes)


@pytest.mark.parametrize(
    "case", ["all -127", "zero values", "zero keys", "huge", "tiny beside huge", "saturated scores"]
)
def test_extremes_equal_rational_model(case: str) -> None:
    q, k, v = random_heads(7, 2, 6, 8)
    if case == "all -127":
        q, k, v = torch.full_like(q, -3.0), torch.full_like(k, -1.0), torch.full_like(v, -1.0)
    elif case == "zero values":
        v[:3] = 0.0
        v[4] = 0.0
    elif case == "zero keys":
        k[:] = 0.0
        v[:] = 0.0
    elif case == "huge":
        v *= 2.0**100
    elif case == "tiny beside huge":
        v[1] *= 2.0**-60
        v[2] *= 2.0**60
        v[5] *= 2.0**-14
    else:
        q *= 1e6
        k *= 1e6
    query, keys, values = quantize_query(q, score_constant(8)), quantize_kv(k), quantize_kv(v)
    sizes = [4, 2]
    out = run(query, keys, values, sizes)
    assert [fractions(row) for row in out] == slow(query, keys, values, sizes)
    assert torch.isfinite(out).all()


def test_order_of_scale_products() -> None:
    """Scores of thousands, close together: there the last bit of the product decides a probability."""
    g = torch.Generator().manual_seed(9)
    q8 = torch.randint(60, 128, (4, 8), generator=g, dtype=torch.int8)
    k8 = torch.randint(60, 126, (1, 8), generator=g, dtype=torch.int8).repeat(12, 1)
    k8[torch.arange(12), torch.arange(12) % 8] += 1
    query = q8, torch.rand(4, generator=g) * 0.02 + 0.07
    keys = k8, bf16_round(torch.rand(1, generator=g) + 1).repeat(12)
    values = quantize_kv(torch.randn(12, 8, generator=g))
    assert [fractions(row) for row in run(query, keys, values, [12])] == slow(query, keys, values, [12])


def test_close_to_float64() -> None:
    q, k, v = (torch.randn(n, 32, generator=torch.Generator().manual_seed(n)) for n in (16, 200, 201))
    v = v[:200]
    query, keys, values = quantize_query(q, score_constant(32)), quantize_kv(k), quantize_kv(v)
    q64 = query[0].double() * query[1].double()[:, None] / score_constant(32) / 127
    k64, v64 = (x.double() * s.double()[:, None] for x, s in (keys, values))
    exact = ((q64 @ k64.T) / 32**0.5).softmax(-1) @ v64
    assert (run(query, keys, values, [8, *[16] * 12]).double() - exact).abs().max() < 3e-3


def test_keys_that_are_not_valid_change_nothing() -> None:
    q, k, v = random_heads(3, 4, 12, 8)
    query, keys, values = quantize_query(q, score_constant(8)), quantize_kv(k), quantize_kv(v)
    causal = torch.ones(4, 12, dtype=torch.bool).tril(2)
    before = run(query, keys, values, [4, 8], causal)
    k[3:] *= -100.0
    v[3:] += 1e6
    other_keys, other_values = quantize_kv(k), quantize_kv(v)
    assert_same_bits(run(query, other_keys, other_values, [4, 8], causal)[0], before[0])
    assert not torch.equal(run(query, other_keys, other_values, [4, 8], causal)[3], before[3])
    assert_same_bits(run(query, keys, values, [4], causal[:, :4])[:2], before[:2])  # no valid key in the second block


def test_queries_do_not_depend_on_each_other_or_on_batch() -> None:
    q, k, v = random_heads(5, 6, 9, 16)
    query, keys, values = quantize_query(q, score_constant(16)), quantize_kv(k), quantize_kv(v)
    together = run(query, keys, values, [4, 5])
    for i in range(6):
        alone = run((query[0][i : i + 1], query[1][i : i + 1]), keys, values, [4, 5])
        assert_same_bits(alone[0], together[i])
    batched = run(
        tuple(x.unsqueeze(0).expand(2, *x.shape) for x in query),
        *(tuple(x.unsqueeze(0) for x in h) for h in (keys, values)),
        [4, 5],
    )
    assert_same_bits(batched[1], together)


def test_one_key_gives_its_value() -> None:
    value = torch.randn(1, 16, generator=torch.Generator().manual_seed(8))
    v8, v_scale = quantize_kv(value)
    out = run(quantize_query(torch.ones(1, 16), 0.01), quantize_kv(torch.ones(1, 16)), (v8, v_scale), [1])
    assert torch.allclose(out, v8.float() * v_scale, rtol=1e-6)


def test_head_dim_is_bounded() -> None:
    state = AttentionState.initial(torch.Size([1]), 1056)
    big = torch.ones(1, 1056, dtype=torch.int8)
    with pytest.raises(ValueError, match="head_dim must be below 1041 .*, not 1056"):
        state.attend(big, torch.ones(1), (big, torch.ones(1)), (big, torch.ones(1)), torch.ones(1, 1, dtype=torch.bool))

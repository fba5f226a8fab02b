"""Arithmetic without flushing is chosen where it gives the same bits, and the order of a column sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hwgen.golden import attention, int4, linear, norm, rotary
from hwgen.golden.arithmetic import FLUSHED, PLAIN, arithmetic, column_sum, is_contract, sqrt
from hwgen.golden.float32 import MAX, MIN, fadd, flush, fsqrt

#: Exponents between which magnitudes are drawn: ordinary, around the bounds of those, and at the ends of float32.
RANGES = [(-8, 8), (-42, -38), (-46, 2), (26, 32), (-39, 29), (-125, -100), (90, 126), (-125, 126)]


def drawn(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Contract values of either sign, an eighth of them 0."""
    exponent = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    x = (sign * torch.exp2(exponent)).float()
    return flush(torch.where(torch.rand(shape, generator=generator) < 0.125, 0.0, x))


def _norm(function: Callable[..., Any], x: Tensor) -> Any:
    return [function(x, x.flip(-1)[0], 1 / x.shape[-1], eps) for eps in (0.0, 1e-5)]


OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "norm_quantize": lambda x: _norm(norm.norm_quantize, x),
    "norm_e4m3": lambda x: _norm(int4.norm_e4m3, x),
    "norm_heads": lambda x: _norm(norm.norm_heads, x),
    "quantize_int8": norm.quantize_int8,
    "quantize_e4m3": int4.quantize_e4m3,
    "quantize_query": lambda x: [rotary.quantize_query(x, c) for c in (0.18, 2.0**-60)],
    "quantize_kv": rotary.quantize_kv,
    "rotate": lambda x: [rotary.rotate(x, x.flip(-1)), rotary.rotate(x, x), rotary.mix(x, (4, 16))],
    "dequantize": lambda x: [linear.dequantize((x * 2.0**20).clamp(-(2.0**40), 2.0**40).long(), x[..., 0], c) for c in (0.3, -MIN)],
}


def flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [tensor for part in results for tensor in flat(part)]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_give_the_bits_of_flushed_arithmetic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their operands are, also where some of them are 0, and where sums cancel."""
    generator, plain = torch.Generator().manual_seed(len(name)), 0
    for low, high in RANGES:
        for shape in ((1, 64), (3, 192), (2, 32)):
            x = drawn(generator, low, high, *shape)
            x[0, ::5] = x[0, 0]
            plain += arithmetic(x.numpy()) is PLAIN
            fast = flat(OPERATORS[name](x))
            with monkeypatch.context() as patch:
                for module in (norm, int4, rotary, linear):
                    patch.setattr(module, "arithmetic", lambda *operands, constants=(): FLUSHED)
                exact = flat(OPERATORS[name](x))
            for a, b in zip(fast, exact, strict=True):
                assert a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes(), (low, high, shape)
    assert 0 < plain < len(RANGES) * 3


def test_attention_gives_the_bits_of_flushed_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """With scales that are ordinary or not, and with maxima that grow from block to block, by which sums fade."""
    generator = torch.Generator().manual_seed(5)
    kept = []
    for (low, high), fades in product(((-8, 2), (-41, -39), (-60, -50), (-125, -90), (20, 40)), (False, True)):
        q8 = torch.randint(1, 128, (2, 3, 16), generator=generator).to(torch.int8)
        k8, v8 = (torch.randint(-127, 128, (2, 9, 8, 16), generator=generator).to(torch.int8) for _ in range(2))
        k_scale, v_scale = (rotary.bf16_round(drawn(generator, low, high, 2, 9, 8).abs()) for _ in range(2))
        if fades:  # to 2^-14 with every block, of which the first alone has values
            q8, k8, k_scale = torch.ones_like(q8), torch.ones_like(k8), 0.875 * torch.arange(9.0)[:, None].expand(2, 9, 8)
            v8[:, 1:] = 0
        args = q8, torch.ones(2, 3), (k8, k_scale), (v8, v_scale), torch.ones(9, 1, 8, dtype=torch.bool)

        def attended(values: tuple[Any, ...] = args) -> Tensor:
            state = attention.AttentionState.initial(torch.Size((2, 3)), 16)
            state.attend_blocks(*values)
            return torch.cat((state.sums, state.result()), -1)

        fast = attended()
        with monkeypatch.context() as patch:
            patch.setattr(attention, "arithmetic", lambda *operands, constants=(): FLUSHED)
            patch.setattr(attention, "is_contract", lambda x: kept.append(is_contract(x)) and False)
            assert fast.numpy().tobytes() == attended().numpy().tobytes(), (low, high, fades)
    assert True in kept and False in kept


def test_numbers_of_the_contract() -> None:
    ends = [0.0, MIN, -MIN, MAX, -MAX, 1.0]
    assert is_contract(np.array(ends, np.float32))
    for other in (MIN / 2, -MIN * (1 - 2.0**-24), float("inf"), float("nan"), 2.0**-149):
        assert not is_contract(np.array([*ends, other], np.float32))


def test_roots_of_arrays() -> None:
    x = drawn(torch.Generator().manual_seed(1), -125, 126, 5000)
    assert sqrt(x.numpy()).tolist() == fsqrt(x).tolist()


def naive_column_sum(x: list[float]) -> float:
    def add(a: float, b: float) -> float:
        return float(fadd(torch.tensor(a), torch.tensor(b)))

    sums = [0.0] * 128
    for i, value in enumerate(x):
        sums[i % 128] = add(sums[i % 128], value)
    for stride in (64, 32, 16, 8, 4, 2, 1):
        for c in range(stride):
            sums[c] = add(sums[c], sums[c + stride])
    return sums[0]


@pytest.mark.parametrize("exponent", [0, -122, 124])
@pytest.mark.parametrize("length", [0, 1, 2, 127, 128, 129, 300, 512])
def test_column_sum(length: int, exponent: int) -> None:
    """Also where sums are flushed and saturated; with half the elements 0 and some that cancel."""
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, 3, length, generator=generator) * torch.exp(4 * torch.randn(2, 3, length, generator=generator))
    x[..., 128::3] = -x[..., : x[..., 128::3].shape[-1]]
    x = flush(x * 2.0**exponent)
    expected = [naive_column_sum(row) for row in x.reshape(6, length).tolist()]
    for f in (FLUSHED,) if exponent else (FLUSHED, PLAIN):
        result = column_sum(x.numpy(), f)
        assert result.shape == (2, 3)
        assert result.flatten().tolist() == expected


def test_column_sum_order_matters() -> None:
    """The sum in the contract's order differs from other orders, so that a test of hardware can see the order."""
    x = torch.randn(1024, generator=torch.Generator().manual_seed(0)).exp()
    in_order = 0.0
    for value in x:
        in_order = fadd(torch.as_tensor(in_order), value)
    total = column_sum(x.numpy(), PLAIN)
    assert total != in_order.item()
    assert total != column_sum(x.flip(0).numpy(), PLAIN)
    assert math.isclose(total, x.sum(dtype=torch.float64), rel_tol=1e-6)

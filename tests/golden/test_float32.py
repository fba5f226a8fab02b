"""Golden float arithmetic against exact rational arithmetic, rounded by a few lines of integer code."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from hwgen.golden.float32 import (
    MAX,
    MIN,
    bf16_bits,
    bf16_round,
    fadd,
    fdiv,
    flush,
    fmul,
    fsqrt,
    fsub,
    int_to_f32,
    round_int,
    round_int8,
)
from tests.hw.float.stimulus import EDGES, operand_pairs, random_numbers, to_bits, to_float

COUNT = 3_000


def nearest(x: Fraction, digits: int = 24) -> Fraction:
    """``x`` rounded to ``digits`` significant bits, ties to even, exponent unbounded."""
    if x == 0:
        return x
    exponent = abs(x).numerator.bit_length() - abs(x).denominator.bit_length()
    while abs(x) >= Fraction(2) ** exponent:
        exponent += 1
    while abs(x) < Fraction(2) ** (exponent - 1):
        exponent -= 1
    unit = Fraction(2) ** (exponent - digits)
    return round(x / unit) * unit


def contract(x: Fraction, digits: int = 24, largest: float = MAX) -> int:
    """Bits of the contract's number for the exact value ``x``."""
    x = nearest(x, digits)
    if abs(x) < Fraction(MIN):
        x = Fraction(0)
    return to_bits(torch.tensor([float(min(max(x, -Fraction(largest)), Fraction(largest)))]))[0]


def pairs(around: int) -> tuple[Tensor, Tensor]:
    """Random operands, the edges among themselves thinned out to one in seven."""
    a, b = operand_pairs(random.Random(7), COUNT, around)
    edges = len(EDGES) ** 2
    return to_float(a[:edges:7] + a[edges:]), to_float(b[:edges:7] + b[edges:])


@pytest.mark.parametrize(
    ("operation", "exact", "around"),
    [
        (fadd, lambda a, b: a + b, +1),
        (fsub, lambda a, b: a - b, +1),
        (fmul, lambda a, b: a * b, +1),
        (fdiv, lambda a, b: a / b if b else Fraction(0), -1),
    ],
)
def test_binary(
    operation: Callable[[Tensor, Tensor], Tensor], exact: Callable[[Fraction, Fraction], Fraction], around: int
) -> None:
    a, b = pairs(around)
    expected = [contract(exact(Fraction(x), Fraction(y))) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert to_bits(operation(a, b)) == expected


def test_sqrt_is_correctly_rounded() -> None:
    a = to_float(EDGES + [bits & 0x7FFFFFFF for bits in random_numbers(random.Random(8), COUNT)])
    expected = []
    for x in a.tolist():
        # 2^200 and more binary digits behind the point leave the root far on its side of every rounding boundary
        scaled = math.isqrt(int(Fraction(max(x, 0.0)) * 2**800)) if x > 0 else 0
        expected.append(contract(Fraction(scaled, 2**400)))
    assert to_bits(fsqrt(a)) == expected


def test_operations_agree_with_themselves_at_every_size() -> None:
    """Vector and scalar code paths of torch give the same bits."""
    a, b = pairs(+1)
    for operation in (fadd, fsub, fmul, fdiv):
        whole = to_bits(operation(a, b))
        assert [to_bits(operation(x, y).reshape(1))[0] for x, y in zip(a[:64], b[:64], strict=True)] == whole[:64]
        assert to_bits(operation(a[3:40], b[3:40])) == whole[3:40]
    roots = to_bits(fsqrt(a))
    assert [to_bits(fsqrt(x).reshape(1))[0] for x in a[:64]] == roots[:64]


def test_flush_and_saturate() -> None:
    inf = math.inf
    x = torch.tensor([MIN, -MIN, MIN * 0.75, -MIN * 0.75, -0.0, 1e-45, inf, -inf, MAX, 1.0])
    assert to_bits(flush(x)) == to_bits(torch.tensor([MIN, -MIN, 0, 0, 0, 0, MAX, -MAX, MAX, 1.0]))
    assert (MIN, to_bits(torch.tensor([MAX]))) == (2.0**-125, [0x7F7FFFFF])
    top, one = torch.tensor([MAX, -MAX]), torch.tensor([1.0, -1.0])
    assert torch.equal(fadd(top, top), top) and torch.equal(fmul(top, top), top.abs())
    assert torch.equal(fdiv(top, 0.5 * one), top.abs()) and torch.equal(fdiv(one, 0 * one), torch.zeros(2))
    assert to_bits(fdiv(0 * one.abs(), -one)) == [0, 0] and to_bits(fsqrt(-one.abs())) == [0, 0]


def test_int_to_f32() -> None:
    rng = random.Random(9)
    values = [0, 1, -1, 2**24 + 1, 2**24 + 3, 2**25 + 2, 2**25 + 6, 2**31 - 1, 1 - 2**31, -(2**24) - 1]
    values += [rng.choice((1, -1)) * rng.getrandbits(rng.randint(1, 31)) for _ in range(COUNT)]
    expected = [contract(Fraction(value)) for value in values]
    assert to_bits(int_to_f32(torch.tensor(values, dtype=torch.int64))) == expected
    assert to_bits(int_to_f32(torch.tensor(values, dtype=torch.int32))) == expected


@pytest.mark.parametrize(("bits", "fraction"), [(2, 0), (8, 0), (16, 10), (25, 0), (32, 0), (32, 20), (10, -3)])
def test_round_int(bits: int, fraction: int) -> None:
    rng = random.Random(10)
    x = EDGES + random_numbers(rng, COUNT, 120 - fraction, 130 + bits - fraction)
    ties = [(rng.randrange(-1 << min(bits, 23), 1 << min(bits, 23)) + 0.5) * 2.0**-fraction for _ in range(500)]
    values = torch.cat([to_float(x), torch.tensor(ties)])
    top = 2 ** (bits - 1) - 1
    expected = [min(max(round(Fraction(value) * Fraction(2) ** fraction), -top), top) for value in values.tolist()]
    result = round_int(values, bits, fraction)
    assert result.dtype == torch.int32 and result.tolist() == expected
    if (bits, fraction) == (8, 0):
        assert round_int8(values).dtype == torch.int8 and round_int8(values).tolist() == expected


def test_round_int_refuses() -> None:
    with pytest.raises(ValueError, match="bits must be 2 to 32, not 33"):
        round_int(torch.zeros(1), 33)


def test_bf16() -> None:
    x = to_float(EDGES + random_numbers(random.Random(11), COUNT))
    largest = float(to_float([0x7F7F0000])[0])
    expected = [contract(Fraction(value), 8, largest) for value in x.tolist()]
    assert to_bits(bf16_round(x)) == expected
    assert bf16_bits(x).tolist() == [bits >> 16 for bits in expected]
    assert torch.equal(bf16_round(x[::3]), bf16_round(x)[::3])
    inside = x.abs() < largest
    assert torch.equal(bf16_round(x[inside]), x[inside].to(torch.bfloat16).to(torch.float32))

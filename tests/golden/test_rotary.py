"""Rotary embedding and head quantisation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.formats import rotary_rows, score_constant
from hwgen.golden.float32 import bf16_round
from hwgen.golden.rotary import mix, quantize_kv, quantize_query, rotate, unmix
from hwgen.layout import key_mixing_strides, lane_strides, mixing_strides
from hwgen.shape import ModelShape

from . import rational
from .bits import fractions, random_floats

SHAPE = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=8)


def test_rotate_equals_rational_model() -> None:
    g = torch.Generator().manual_seed(1)
    x = random_floats(g, 16, low=-20, high=20)
    row = torch.from_numpy(rotary_rows(SHAPE, [37]))[0]
    a, b, cos, sin = fractions(x)[:8], fractions(x)[8:], fractions(row)[:8], fractions(row)[8:]
    y1 = [rational.add(rational.mul(p, c), -rational.mul(q, s)) for p, q, c, s in zip(a, b, cos, sin, strict=True)]
    y2 = [rational.add(rational.mul(q, c), rational.mul(p, s)) for p, q, c, s in zip(a, b, cos, sin, strict=True)]
    assert fractions(rotate(x, row)) == y1 + y2


def test_rotation_is_hugging_face_order_and_keeps_length() -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    rows = torch.from_numpy(rotary_rows(SHAPE, np.arange(5)))
    angle = torch.arange(5)[:, None].double() * 10000.0 ** (-torch.arange(8).double() / 8)
    pairs = torch.complex(x[:, :8].double(), x[:, 8:].double()) * torch.exp(1j * angle)
    assert torch.allclose(rotate(x, rows).double(), torch.cat((pairs.real, pairs.imag), -1), atol=1e-6)
    assert torch.equal(rotate(x, rows)[0], x[0])


def level_of(k8: int) -> int:
    """What an element becomes with 4 bits, by the table of docs/numerics.md."""
    if k8 < 0:
        return -level_of(-1 - k8)
    rows = (0, 5), (12, 18), (24, 30), (36, 44), (52, 59), (68, 73), (84, 96), (112, 127)
    return max(level for threshold, level in rows if threshold <= k8)


@pytest.mark.parametrize("spread", [4.0, 100.0])
def test_quantisers_equal_rational_model(spread: float) -> None:
    g = torch.Generator().manual_seed(3)
    for _ in range(30):
        y = random_floats(g, 16, low=-spread, high=spread)
        constant = score_constant(16)
        q8, q_scale = quantize_query(y, constant)
        values = fractions(y)
        a = max(abs(v) for v in values)
        inverse = rational.div(Fraction(127), a)
        assert q8.tolist() == [rational.to_int(rational.mul(v, inverse), 0, 8) for v in values]
        assert fractions(q_scale[None]) == [rational.mul(a, Fraction(constant))]
        k8, k_scale = quantize_kv(y)
        scale = rational.bf16(rational.mul(a, rational.f32(Fraction(1, 127))))
        inverse = rational.div(Fraction(1), scale)
        assert fractions(k_scale[None]) == [scale]
        assert k8.tolist() == [rational.to_int(rational.mul(v, inverse), 0, 8) for v in values]
        k4, k4_scale = quantize_kv(y, four_bits=True)
        assert k4.dtype == torch.int8 and torch.equal(k4_scale, k_scale)
        assert k4.tolist() == [level_of(int(code)) for code in k8]


def test_mixing_equals_rational_model() -> None:
    """Differences in front of sums, in every pair of every stage; turned back with halves."""
    x = random_floats(torch.Generator().manual_seed(5), 32, low=-20, high=20)
    for function, half in ((mix, False), (unmix, True)):
        values = fractions(x)
        for stride in (4, 8, 16):
            after = list(values)
            for j in range(32):
                if j // stride % 2 == 0:
                    a, b = (v / 2 if half else v for v in (values[j], values[j + stride]))
                    signed = -b if half else b
                    after[j], after[j + stride] = rational.add(a, -signed), rational.add(b, -a if half else a)
            values = after
        assert fractions(function(x, (4, 8, 16))) == values


def test_mixing_spreads_and_comes_back() -> None:
    strides = mixing_strides(BuildConfig(), 64)
    assert BuildConfig().width == 8 and strides == (8, 16, 32)
    assert lane_strides(BuildConfig()) == (2, 4) and key_mixing_strides(BuildConfig(), 64) == (2, 4, 8, 16, 32)
    x = torch.zeros(64)
    x[13] = 80.0
    mixed = mix(x, strides)
    assert mixed.abs()[5::8].tolist() == [80.0] * 8 and mixed.count_nonzero() == 8
    assert torch.equal(unmix(mixed, strides), x)
    whole = torch.randint(-50, 51, (7, 64), generator=torch.Generator().manual_seed(6)).float()
    assert torch.equal(unmix(mix(whole, strides), strides), whole)  # small integers: nothing is rounded
    assert torch.equal(mix(whole, strides) @ mix(whole, strides).T, 8 * whole @ whole.T)
    other = BuildConfig(beat_vectors=2)
    assert [mixing_strides(BuildConfig(), d) for d in (8, 16, 96)] == [(), (8,), (24, 48)]
    assert mixing_strides(other, 64) == (8, 16, 32) and mixing_strides(other, 128) == (16, 32, 64)


def test_zero_head_and_codes_in_range() -> None:
    zero = torch.zeros(2, 16)
    for q, scale in (quantize_query(zero, score_constant(16)), quantize_kv(zero)):
        assert q.abs().sum() == 0 and scale.abs().sum() == 0 and q.dtype == torch.int8
    k8, scale = quantize_kv(torch.randn(1000, 16, generator=torch.Generator().manual_seed(4)))
    assert k8.min() >= -127 and torch.equal(bf16_round(scale), scale)


def test_score_constant() -> None:
    assert math.isclose(score_constant(64), 1.4426950408889634 / (127 * 8), rel_tol=1e-7)
    assert score_constant(64, mixes=3) * 8 == score_constant(64)

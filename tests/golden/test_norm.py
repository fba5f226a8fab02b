"""NORM against exact rational arithmetic, float64, and its own properties."""

from __future__ import annotations

import pytest
import torch

from hwgen.golden.float32 import flush
from hwgen.golden.norm import norm_heads, norm_quantize, quantize_int8

from . import rational
from .bits import assert_same_bits, fractions, random_floats

EPS = float(torch.tensor(1e-5))


def inverse_of(n: int) -> float:
    return float(torch.tensor(1.0 / n))


@pytest.mark.parametrize("n", [1, 5, 40, 128, 129, 300])
@pytest.mark.parametrize("spread", [2.0, 62.0])
def test_equals_rational_model(n: int, spread: float) -> None:
    g = torch.Generator().manual_seed(n)
    x, gain = random_floats(g, n, low=-spread, high=spread), random_floats(g, n, low=-3, high=3)
    q, scale = norm_quantize(x, gain, inverse_of(n), EPS)
    slow_q, slow_scale = rational.norm(fractions(x), fractions(gain), *fractions(torch.tensor([inverse_of(n), EPS])))
    assert q.tolist() == slow_q
    assert fractions(scale[None]) == [slow_scale]


def test_close_to_float64() -> None:
    g = torch.Generator().manual_seed(1)
    x, gain = torch.randn(20, 192, generator=g), torch.rand(192, generator=g) + 0.5
    q, scale = norm_quantize(x, gain, inverse_of(192), EPS)
    x64 = x.double()
    exact = x64 / (x64.square().mean(-1, keepdim=True) + EPS).sqrt() * gain.double()
    step = exact.abs().amax(-1, keepdim=True) / 127
    assert ((q.double() * scale.double()[:, None] - exact).abs() <= step * 0.5001).all()
    assert (q.abs().amax(-1) == 127).all()


def test_zero_row_and_extremes() -> None:
    gain = torch.ones(64)
    x = torch.zeros(4, 64)
    x[1, 7], x[2], x[3] = 2.0**-125, 3e38, -1e-30
    q, scale = norm_quantize(x, gain, inverse_of(64), EPS)
    assert q[0].abs().sum() == 0 and scale[0] == 0
    assert q[1, 7] == 8 and q[1].sum() == 8  # 127 / a saturates there
    assert (q[2] == 127).all() and (q[3] == -127).all()
    assert torch.isfinite(scale).all()


def test_batch_and_zero_padding_do_not_matter() -> None:
    g = torch.Generator().manual_seed(2)
    x, gain = torch.randn(3, 4, 200, generator=g), torch.rand(200, generator=g)
    q, scale = norm_quantize(x, gain, inverse_of(200), EPS)
    padded = torch.nn.functional.pad(x[2, 1], (0, 56))
    q_one, scale_one = norm_quantize(padded, torch.nn.functional.pad(gain, (0, 56)), inverse_of(200), EPS)
    assert_same_bits(q_one[:200], q[2, 1])
    assert_same_bits(scale_one, scale[2, 1])


def test_power_of_two_scaling_of_input_keeps_codes() -> None:
    g = torch.Generator().manual_seed(3)
    x = flush(torch.randn(8, 96, generator=g))
    q, _ = norm_quantize(x, torch.ones(96), inverse_of(96), EPS)
    q_scaled, _ = norm_quantize(x * 1024, torch.ones(96), inverse_of(96), EPS)
    assert_same_bits(q, q_scaled)


@pytest.mark.parametrize("n", [8, 64, 128])
def test_norm_of_heads_is_close_to_float64(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    x, gain = torch.randn(5, 3, n, generator=g) * 4, torch.rand(n, generator=g) + 0.5
    x[0, 0] = 0
    y = norm_heads(x, gain, inverse_of(n), 0.25)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 0.25).sqrt() * gain.double()
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-12)
    for i in range(5):
        assert_same_bits(norm_heads(x[i, 1], gain, inverse_of(n), 0.25), y[i, 1])


@pytest.mark.parametrize("spread", [2.0, 62.0])
def test_quantisation_alone_is_a_norm_whose_root_is_one(spread: float) -> None:
    """With 0 for 1/n and 1 for epsilon: what the vector unit computes."""
    g = torch.Generator().manual_seed(3)
    x = random_floats(g, 4, 130, low=-spread, high=spread)
    x[2] = 0
    q, scale = quantize_int8(x)
    same_q, same_scale = norm_quantize(x, torch.ones(130), 0.0, 1.0)
    assert torch.equal(q, same_q)
    assert_same_bits(scale, same_scale)
    assert ((q.double() * scale.double()[:, None] - x.double()).abs() <= scale.double()[:, None] * 0.51).all()

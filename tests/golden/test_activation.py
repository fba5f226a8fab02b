"""Sigmoid, SiLU and squared ReLU."""

from __future__ import annotations

import torch

from hwgen.golden.activation import relu2, sigmoid, silu
from hwgen.numerics import sigmoid_table

from . import rational
from .bits import fractions, random_floats


def test_table_is_what_the_hardware_can_hold() -> None:
    base, slope = sigmoid_table()
    assert len(base) == len(slope) == 256
    assert base[0] == 1 << 16 and base[-1] >= 0
    assert all(0 <= s < 1 << 11 for s in slope)
    assert all(b - ((s * 63 + 32) >> 6) >= 0 for b, s in zip(base, slope, strict=True))


def test_equals_rational_model() -> None:
    g = torch.Generator().manual_seed(1)
    y = torch.cat(
        [random_floats(g, 400, low=-14, high=6), torch.tensor([0.0, 16.0, -16.0, 3e38, -3e38, 2.0**-11, -(2.0**-11)])]
    )
    assert fractions(sigmoid(y)) == [rational.sigmoid(v) for v in fractions(y)]
    assert fractions(silu(y)) == [rational.mul(v, rational.sigmoid(v)) for v in fractions(y)]


def test_every_step_is_close_monotone_and_symmetric() -> None:
    y = torch.arange(-20 * 1024, 20 * 1024 + 1) / 1024.0
    s = sigmoid(y)
    assert (s.double() - torch.sigmoid(y.double())).abs().max() < 1.2e-4
    assert (s[1:] >= s[:-1]).all()
    assert ((s + s.flip(0))[y != 0] == 1.0).all() and s[y == 0] == 0.5
    assert ((s >= 0) & (s <= 1)).all()


def test_silu_and_relu2_close_to_float64() -> None:
    y = torch.linspace(-30, 30, 4001)
    assert (silu(y).double() - torch.nn.functional.silu(y.double())).abs().max() < 4e-4
    assert torch.equal(relu2(y), torch.relu(y) * torch.relu(y))
    assert not torch.signbit(relu2(torch.tensor([-1.0, 0.0]))).any()

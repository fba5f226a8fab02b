"""Exact products and DRAIN."""

from __future__ import annotations

import pytest
import torch

from hwgen.golden.linear import dequantize, drain, integer_matmul

from . import rational
from .bits import assert_same_bits, fractions, random_floats


@pytest.mark.parametrize(
    ("n", "low", "high"), [(1, -1, 1), (7, -1, 1), (6912, -1, 1), (40, -127, 127), (5000, -127, 127)]
)
def test_exact(n: int, low: int, high: int) -> None:
    g = torch.Generator().manual_seed(n)
    q = torch.randint(-127, 128, (3, n), generator=g)
    w = torch.randint(low, high + 1, (9, n), generator=g)
    assert_same_bits(integer_matmul(q.float(), w.float(), 127 * high), q @ w.T)


@pytest.mark.parametrize("n", [1039, 1040, 1041, 4096])
def test_exact_at_the_largest_sums(n: int) -> None:
    q, w = torch.full((2, n), -127.0), torch.full((2, n), 127.0)
    w[1] = -127.0
    acc = integer_matmul(q, w, 127 * 127)
    assert acc.tolist() == [[-16129 * n, 16129 * n]] * 2


def test_dequantize_rounds_the_product_of_scales_first() -> None:
    g = torch.Generator().manual_seed(5)
    acc = torch.randint(-(1 << 30), 1 << 30, (50,), generator=g)
    scale, weight = random_floats(g, 2)
    slow = [rational.mul(rational.f32(a), rational.mul(*fractions(torch.stack((scale, weight))))) for a in acc.tolist()]
    assert fractions(dequantize(acc, scale, float(weight))) == slow


def test_drain_modes() -> None:
    y, other = torch.tensor([-3.0, 0.0, 2.0, 1e30]), torch.tensor([0.5, 4.0, -2.0, 1e30])
    assert drain(y, "store").tolist() == y.tolist()
    assert drain(y, "relu2")[:3].tolist() == [0.0, 0.0, 4.0]
    assert drain(y, "relu2")[3] == torch.finfo(torch.float32).max
    assert drain(y, "multiply", other)[:3].tolist() == [-1.5, 0.0, -4.0]
    assert drain(y, "add", other)[:3].tolist() == [-2.5, 4.0, 0.0]
    with pytest.raises(ValueError, match="other must be given for mode 'add'"):
        drain(y, "add")
    with pytest.raises(ValueError, match="mode must be .*, not 'gelu'"):
        drain(y, "gelu")

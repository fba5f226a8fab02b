"""Comparison bit for bit, and conversion between tensors and the rational numbers of the slow models."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from hwgen.golden.float32 import flush


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    """Equal shapes, types and bits (so -0 is not +0)."""
    assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, a.dtype, b.shape, b.dtype)
    if a.dtype == torch.float32:
        a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    wrong = (a != b).nonzero()
    assert len(wrong) == 0, (
        f"{len(wrong)} differ, first at {wrong[0].tolist()}: {a[tuple(wrong[0])]} {b[tuple(wrong[0])]}"
    )


def fractions(x: Tensor) -> list[Fraction]:
    """The exact values of a vector."""
    return [Fraction(value) for value in x.tolist()]


def random_floats(generator: torch.Generator, *shape: int, low: float = -10.0, high: float = 10.0) -> Tensor:
    """Contract values of random sign whose magnitudes spread evenly over the binades 2^low..2^high."""
    exponent = torch.empty(shape).uniform_(low, high, generator=generator)
    sign = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    return flush(sign * torch.exp2(exponent))

"""Gate functions of the feed-forward layer."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..numerics import SIGMOID_ONE, sigmoid_table
from .float32 import fmul, int_to_f32, round_int

__all__ = ["relu2", "sigmoid", "silu"]


@cache
def _sigmoid_values() -> Tensor:
    """The table with its interpolation for every u in 0..16383: sigmoid(-u / 1024), 17 fraction bits."""
    base, slope = (torch.tensor(column) for column in sigmoid_table())
    u = torch.arange(1 << 14)
    return base[u >> 6] - ((slope[u >> 6] * (u & 63) + 32) >> 6)


def sigmoid(y: Tensor) -> Tensor:
    """1 / (1 + e^-y): a table of 256 linear segments over |y| < 16, the result in steps of 2^-17."""
    value = _sigmoid_values()[round_int(y.abs(), 15, 10).long()]
    return int_to_f32(torch.where(y < 0, value, SIGMOID_ONE - value)) * (1.0 / SIGMOID_ONE)


def silu(y: Tensor) -> Tensor:
    """``y * sigmoid(y)``."""
    return fmul(y, sigmoid(y))


def relu2(y: Tensor) -> Tensor:
    """``max(y, 0)^2``."""
    m = y.clamp(min=0.0)
    return fmul(m, m)

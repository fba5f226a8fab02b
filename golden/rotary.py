"""Rotary position embedding, mixing and quantisation of heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..formats import to_four_bits
from .arithmetic import ZERO, arithmetic, largest, scalar
from .float32 import bf16_round, round_int8
from .norm import INVERSE_127, quantize_int8

__all__ = ["mix", "quantize_kv", "quantize_query", "rotate", "unmix"]


def rotate(x: Tensor, row: Tensor) -> Tensor:
    """Rotate the pairs (j, j + d/2) of ``x [..., d]`` by ``row [..., d]``: d/2 cosines, then d/2 sines."""
    elements, factors, half = x.numpy(), row.numpy(), x.shape[-1] // 2
    f = arithmetic(elements, factors)
    x1, x2, cos, sin = elements[..., :half], elements[..., half:], factors[..., :half], factors[..., half:]
    turned = f.sub(f.mul(x1, cos), f.mul(x2, sin)), f.add(f.mul(x2, cos), f.mul(x1, sin))
    return torch.from_numpy(np.concatenate(turned, axis=-1) + ZERO)


def quantize_query(y: Tensor, score_constant: float) -> tuple[Tensor, Tensor]:
    """Query heads ``y [..., d]`` -> ``(int8 [..., d], scale [...])``.

    The scale, with a key's, takes a dot product to base-2 logarithms.
    """
    return quantize_int8(y, score_constant)


def _pairs(x: Tensor, stride: int, cos: float, sin: float) -> Tensor:
    """Rotate the pairs (j, j + stride) of every 2 * stride elements of ``x [..., d]``, all by the same."""
    row = torch.tensor([cos, sin]).repeat_interleave(stride)
    return rotate(x.reshape(*x.shape[:-1], -1, 2 * stride), row).flatten(-2)


def mix(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Heads ``x [..., d]`` mixed: for every stride the pairs become difference and sum. Outliers are spread, so that 4 bits do."""
    for stride in strides:
        x = _pairs(x, stride, 1.0, 1.0)
    return x


def unmix(x: Tensor, strides: Sequence[int]) -> Tensor:
    """What :func:`mix` made of heads ``[..., d]`` turned back."""
    for stride in strides:
        x = _pairs(x, stride, 0.5, -0.5)
    return x


def quantize_kv(y: Tensor, *, four_bits: bool = False) -> tuple[Tensor, Tensor]:
    """Key or value heads ``y [..., d]`` -> ``(int8 [..., d], bf16 scale [...] held in float32)``. With ``four_bits`` every
    element becomes one of the 16 levels that these have.
    """
    elements = y.numpy()
    f = arithmetic(elements)
    scale = bf16_round(torch.from_numpy(f.mul(largest(elements), scalar(INVERSE_127))))
    q = round_int8(torch.from_numpy(f.mul(elements, f.div(scalar(1.0), scale.numpy()))))
    return torch.from_numpy(to_four_bits(q.numpy())) if four_bits else q, scale.squeeze(-1)

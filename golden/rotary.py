"""Rotary position embedding, mixing and quantisation of heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .float32 import bf16_round, constant, fadd, fdiv, fmul, fsub, round_int8
from .norm import INVERSE_127, absmax_inverse

__all__ = ["mix", "quantize_kv", "quantize_query", "rotate", "unmix"]


def rotate(x: Tensor, row: Tensor) -> Tensor:
    """Rotate the pairs (j, j + d/2) of ``x [..., d]`` by ``row [..., d]``: d/2 cosines, then d/2 sines."""
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = row.chunk(2, dim=-1)
    return torch.cat((fsub(fmul(x1, cos), fmul(x2, sin)), fadd(fmul(x2, cos), fmul(x1, sin))), dim=-1)


def quantize_query(y: Tensor, score_constant: float) -> tuple[Tensor, Tensor]:
    """Query heads ``y [..., d]`` -> ``(int8 [..., d], scale [...])``.

    The scale, with a key's, takes a dot product to base-2 logarithms.
    """
    a, inverse = absmax_inverse(y)
    return round_int8(fmul(y, inverse)), fmul(a, constant(score_constant)).squeeze(-1)


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
    """Key or value heads ``y [..., d]`` -> ``(int8 [..., d], bf16 scale [...] held in float32)``. With ``four_bits`` the lower
    half of every element is 8, the middle of what it may be.
    """
    scale = bf16_round(fmul(y.abs().amax(dim=-1, keepdim=True), INVERSE_127))
    q = round_int8(fmul(y, fdiv(constant(1.0), scale)))
    return q & -16 | 8 if four_bits else q, scale.squeeze(-1)

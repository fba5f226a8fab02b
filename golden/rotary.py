"""Rotary position embedding, and int8 quantisation of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from .float32 import bf16_round, constant, fadd, fdiv, fmul, fsub, round_int8
from .norm import INVERSE_127, absmax_inverse

__all__ = ["quantize_kv", "quantize_query", "rotate"]


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


def quantize_kv(y: Tensor) -> tuple[Tensor, Tensor]:
    """Key or value heads ``y [..., d]`` -> ``(int8 [..., d], bf16 scale [...] held in float32)``."""
    scale = bf16_round(fmul(y.abs().amax(dim=-1, keepdim=True), INVERSE_127))
    return round_int8(fmul(y, fdiv(constant(1.0), scale))), scale.squeeze(-1)

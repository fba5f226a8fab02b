"""RMSNorm with gain and per-token int8 quantisation, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .float32 import column_sum, constant, fadd, fdiv, fmul, fsqrt, round_int8

__all__ = ["INVERSE_127", "absmax_inverse", "norm_heads", "norm_quantize", "quantize_int8"]

#: 1/127 as float32.
INVERSE_127 = torch.tensor(1.0 / 127.0, dtype=torch.float32)


def absmax_inverse(y: Tensor) -> tuple[Tensor, Tensor]:
    """``(a, inv)`` of the last dimension, kept as size 1: ``a = max |y|``, ``inv = 127 / a`` (0 for ``a = 0``)."""
    a = y.abs().amax(dim=-1, keepdim=True)
    return a, fdiv(constant(127.0), a)


def norm_quantize(x: Tensor, gain: Tensor, inverse_n: float, eps: float) -> tuple[Tensor, Tensor]:
    """NORM: ``x [..., n]``, ``gain [n]`` -> ``(q int8 [..., n], scale [...])``, ``q * scale ~ rmsnorm(x) * gain``.

    ``y = x * g; a = max |y|; q = round(y * (127 / a)); scale = a * (1/127) / sqrt(sum(x^2) * (1/n) + eps)``.
    The root mean square cancels in q, so no element waits for it.
    """
    y = fmul(x, gain)
    a, inverse = absmax_inverse(y)
    mean = fmul(column_sum(fmul(x, x)), constant(inverse_n))
    rms = fsqrt(fadd(mean, constant(eps)))
    return round_int8(fmul(y, inverse)), fdiv(fmul(a.squeeze(-1), INVERSE_127), rms)


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """QUANTIZE: ``x [..., n]`` -> ``(q int8 [..., n], scale [...])``, ``q * scale ~ x``."""
    a, inverse = absmax_inverse(x)
    return round_int8(fmul(x, inverse)), fmul(a.squeeze(-1), INVERSE_127)


def norm_heads(x: Tensor, gain: Tensor, inverse_n: float, eps: float) -> Tensor:
    """NORM with STORE: heads ``x [..., d]``, ``gain [d]`` -> ``y [..., d]``: ``y = x * g * (1 / sqrt(sum(x^2) * (1/d) + eps))``."""
    mean = fmul(column_sum(fmul(x, x)), torch.tensor(inverse_n, dtype=torch.float32))
    factor = fdiv(torch.tensor(1.0), fsqrt(fadd(mean, torch.tensor(eps, dtype=torch.float32))))
    return fmul(fmul(x, gain), factor.unsqueeze(-1))

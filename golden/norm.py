"""RMSNorm with gain and per-token int8 quantisation, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import ZERO, Array, Flushed, arithmetic, column_sum, largest, scalar, sqrt
from .float32 import round_int8

__all__ = ["INVERSE_127", "norm_heads", "norm_quantize", "norm_scaled", "quantize_int8", "scaled"]

#: 1/127 as float32.
INVERSE_127 = torch.tensor(1.0 / 127.0, dtype=torch.float32).item()


def scaled(y: Array, top: float, f: Flushed) -> tuple[Array, Array]:
    """``(y * (top / a), a)`` with ``a = max |y|`` of the last dimension, kept as size 1; 0 for ``a = 0``."""
    a = largest(y)
    return f.mul(y, f.div(scalar(top), a)), a


def _root_mean_square(x: Array, inverse_n: float, eps: float, f: Flushed) -> Array:
    """``sqrt(sum(x^2) * inverse_n + eps)`` of the last dimension, kept as size 1."""
    mean = f.mul(column_sum(f.mul(x, x), f)[..., None], scalar(inverse_n))
    return sqrt(f.add(mean, scalar(eps)))


def norm_scaled(x: Tensor, gain: Tensor, inverse_n: float, eps: float, top: float, inverse_top: float) -> tuple[Tensor, Tensor]:
    """NORM of ``x [..., n]``, ``gain [n]`` before its rounding: ``(y * (top / a), scale [...])``, where ``y = x * g; a = max |y|``
    and ``scale = a * inverse_top / sqrt(sum(x^2) * (1/n) + eps)``.

    The root mean square cancels in the first, so no element waits for it.
    """
    elements, gains = x.numpy(), gain.numpy()
    f = arithmetic(elements, gains, constants=(inverse_n, eps, top, inverse_top))
    integers, a = scaled(f.mul(elements, gains), top, f)
    rms = _root_mean_square(elements, inverse_n, eps, f)
    f = arithmetic(a, rms)
    return torch.from_numpy(integers), torch.from_numpy(f.div(f.mul(a, scalar(inverse_top)), rms)[..., 0])


def norm_quantize(x: Tensor, gain: Tensor, inverse_n: float, eps: float) -> tuple[Tensor, Tensor]:
    """NORM: ``x [..., n]``, ``gain [n]`` -> ``(q int8 [..., n], scale [...])``, ``q * scale ~ rmsnorm(x) * gain``."""
    y, scale = norm_scaled(x, gain, inverse_n, eps, 127.0, INVERSE_127)
    return round_int8(y), scale


def quantize_int8(x: Tensor, scale: float = INVERSE_127) -> tuple[Tensor, Tensor]:
    """QUANTIZE: ``x [..., n]`` -> ``(q int8 [..., n], max |x| * scale [...])``; by ``scale`` as it is given, together ``~ x``."""
    elements = x.numpy()
    f = arithmetic(elements, constants=(scale,))
    y, a = scaled(elements, 127.0, f)
    return round_int8(torch.from_numpy(y)), torch.from_numpy(f.mul(a, scalar(scale))[..., 0])


def norm_heads(x: Tensor, gain: Tensor, inverse_n: float, eps: float) -> Tensor:
    """NORM with STORE: heads ``x [..., d]``, ``gain [d]`` -> ``y [..., d]``: ``y = x * g * (1 / sqrt(sum(x^2) * (1/d) + eps))``."""
    elements, gains = x.numpy(), gain.numpy()
    f = arithmetic(elements, gains, constants=(inverse_n, eps))
    rms = _root_mean_square(elements, inverse_n, eps, f)
    y, factor = f.mul(elements, gains), f.div(scalar(1.0), rms)
    return torch.from_numpy(arithmetic(y, factor).mul(y, factor) + ZERO)

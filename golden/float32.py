"""Float arithmetic of the machine: binary32, round to nearest even, no fused multiply-add, flushed and saturated.

Every function takes and returns contract values (see ``hwgen.numerics``): finite float32, +0 the only zero, nothing
else below 2**-125 in magnitude. Any shape and broadcasting work; the hardware of ``hwgen.hw.float`` gives the same bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..numerics import F32_MAX_BITS, F32_MIN_EXPONENT

__all__ = [
    "EXACT",
    "MAX",
    "MIN",
    "bf16_bits",
    "bf16_round",
    "constant",
    "fadd",
    "fdiv",
    "flush",
    "fmul",
    "fsqrt",
    "fsub",
    "int_to_f32",
    "round_int",
    "round_int8",
]

#: Smallest positive number.
MIN = 2.0 ** (F32_MIN_EXPONENT - 127)

#: The float32 below it: hardshrink makes 0 of this and of what is smaller.
_BELOW_MIN = MIN * (1 - 2.0**-24)

#: Largest number.
MAX = torch.tensor(F32_MAX_BITS, dtype=torch.int32).view(torch.float32).item()

#: float32 holds every integer up to this magnitude.
EXACT = 1 << 24

_BF16_MAX_BITS = F32_MAX_BITS >> 16


def flush(x: Tensor) -> Tensor:
    """A float32 result in the contract: +0 where ``|x| < 2**-125`` (or ``x`` is -0), +-MAX where it overflowed."""
    return torch.hardshrink(x, _BELOW_MIN).clamp_(-MAX, MAX)  # half the operations of torch.where, and most of golden's time


def fadd(a: Tensor, b: Tensor) -> Tensor:
    """``flush(a + b)``."""
    return flush(a + b)


def fsub(a: Tensor, b: Tensor) -> Tensor:
    """``flush(a - b)``."""
    return flush(a - b)


def fmul(a: Tensor, b: Tensor) -> Tensor:
    """``flush(a * b)``."""
    return flush(a * b)


def fdiv(a: Tensor, b: Tensor) -> Tensor:
    """``flush(a / b)``, and 0 where ``b == 0``."""
    return flush(a / b).masked_fill_(b == 0, 0.0)


def fsqrt(a: Tensor) -> Tensor:
    """``sqrt(a)``, and 0 where ``a <= 0``: of contract values it is one."""
    # torch's float32 sqrt is not correctly rounded on every CPU. The root of a float32 is never so close to the middle
    # of two float32 that the error of a float64 root, or rounding twice, would matter.
    return a.clamp(min=0.0).to(torch.float64).sqrt_().to(torch.float32)


@cache
def constant(value: float) -> Tensor:
    """A number as a float32 of no dimensions; not to be written to."""
    return torch.tensor(value, dtype=torch.float32)


def int_to_f32(i: Tensor) -> Tensor:
    """Nearest float32 (ties to even) of an int32 or int64 tensor."""
    return i.to(torch.float32)


def round_int(x: Tensor, bits: int, fraction: int = 0) -> Tensor:
    """``round(x * 2**fraction)``, ties to even, saturated to +-(2**(bits-1) - 1), as int32. ``bits`` is 2 to 32."""
    if not 2 <= bits <= 32:
        raise ValueError(f"bits must be 2 to 32, not {bits!r}")
    top = float(2 ** (bits - 1) - 1)
    # Scaling by a power of two is exact, or overflows and is saturated; float64 where float32 does not hold the bound.
    scaled = (x if bits <= 25 else x.to(torch.float64)) * 2.0**fraction if fraction or bits > 25 else x
    return scaled.round().clamp_(-top, top).to(torch.int32)


def round_int8(x: Tensor) -> Tensor:
    """Nearest integer, ties to even, saturated to +-127, as int8."""
    integers = np.rint(x.numpy())
    np.minimum(np.maximum(integers, -127, out=integers), 127, out=integers)
    return torch.from_numpy(integers.astype(np.int8))


def bf16_bits(x: Tensor) -> Tensor:
    """The 16 bits of the nearest bfloat16 (ties to even; saturated, not infinite), as int32 in 0..65535."""
    bits = x.contiguous().numpy().view(np.int32)
    magnitude = bits & 0x7FFFFFFF
    rounded = (magnitude + (0x7FFF + (magnitude >> 16 & 1))) >> 16
    return torch.from_numpy(np.minimum(rounded, _BF16_MAX_BITS) | (bits >> 16 & 0x8000))


def bf16_round(x: Tensor) -> Tensor:
    """The nearest bfloat16 value (ties to even; saturated to the largest bfloat16), held in float32."""
    return torch.from_numpy(bf16_bits(x).numpy() << 16).view(torch.float32)

"""Float arithmetic of the machine: binary32, round to nearest even, no fused multiply-add, flushed and saturated.

Every function takes and returns contract values (see ``hwgen.numerics``): finite float32, +0 the only zero, nothing
else below 2**-125 in magnitude. Each is made of plain torch operations, so any shape and broadcasting work; the
hardware of ``hwgen.hw.float`` gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..numerics import F32_MAX_BITS, F32_MIN_EXPONENT, SUM_COLUMNS
from ..rounding import ceil_div

__all__ = [
    "EXACT",
    "MAX",
    "MIN",
    "bf16_bits",
    "bf16_round",
    "column_sum",
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
    return x.round().clamp_(-127.0, 127.0).to(torch.int8)


def bf16_bits(x: Tensor) -> Tensor:
    """The 16 bits of the nearest bfloat16 (ties to even; saturated, not infinite), as int32 in 0..65535."""
    bits = x.contiguous().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    rounded = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16
    return rounded.clamp(max=_BF16_MAX_BITS) | ((bits >> 16) & 0x8000)


def bf16_round(x: Tensor) -> Tensor:
    """The nearest bfloat16 value (ties to even; saturated to the largest bfloat16), held in float32."""
    return (bf16_bits(x) << 16).view(torch.float32)


def column_sum(x: Tensor) -> Tensor:
    """Sum of the last dimension in the contract's order, which hardware of any width can follow.

    ``S[c]``, c in 0..127, starts at 0 and takes ``x[i]`` with ``i % 128 == c`` in ascending ``i``. Then for s in 64,
    32, ..., 1: ``S[c] = S[c] + S[c + s]`` for ``c < s``. The sum is ``S[0]``.
    """
    n, rows = x.shape[-1], ceil_div(x.shape[-1], SUM_COLUMNS)
    elements = x.numpy()
    padded = np.zeros((*x.shape[:-1], rows * SUM_COLUMNS), np.float32)  # adding +0 changes nothing
    padded[..., :n] = elements
    columns = padded.reshape(*x.shape[:-1], rows, SUM_COLUMNS)
    if _sums_stay_inside(elements):  # nearly always: numpy takes a fraction of torch's time for small additions
        return torch.from_numpy(_add_columns(columns, np.add))
    total: Tensor = _add_columns(torch.from_numpy(columns), fadd)
    return total


def _add_columns(columns: Any, add: Callable[[Any, Any], Any]) -> Any:
    """``S[0]`` of :func:`column_sum` of an array or tensor ``[..., rows, 128]``."""
    sums = columns[..., 0, :] if columns.shape[-2] else columns.sum(-2)
    for row in range(1, columns.shape[-2]):
        sums = add(sums, columns[..., row, :])
    stride = SUM_COLUMNS // 2
    while stride:
        sums = add(sums[..., :stride], sums[..., stride : 2 * stride])
        stride //= 2
    return sums[..., 0].copy() if isinstance(sums, np.ndarray) else sums[..., 0]


def _sums_stay_inside(x: npt.NDArray[np.float32]) -> bool:
    """Whether no sum of elements of x, in whatever order, can be below `MIN` or above `MAX`, so that none needs :func:`flush`:
    sums of multiples of 2^-83 are such multiples or 0, and fewer than 2^27 numbers below 2^100 stay below 2^127.
    """
    if not 0 < x.size < 1 << 27:
        return False
    magnitude = np.abs(x)
    if magnitude.max() >= 2.0**100:
        return False
    return bool(magnitude.min() >= 2.0**-60) or not magnitude[magnitude < 2.0**-60].any()

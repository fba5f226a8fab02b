"""Exact integer products, and the dequantisation of their results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics import GROUP_SCALE_MAX
from .activation import relu2, silu
from .arithmetic import ZERO, arithmetic, scalar
from .float32 import EXACT, fadd, fmul, int_to_f32

__all__ = ["dequantize", "drain", "grouped_matmul", "integer_matmul"]


def integer_matmul(q: Tensor, weights: Tensor, magnitude: int) -> Tensor:
    """Exact ``q [..., n] @ weights[rows, n].T`` of integers held in float32; int64.

    No product of two elements exceeds ``magnitude`` in absolute value (127 for trits, 127 * 127 for int8), which
    bounds how many inputs float32 can add exactly; longer rows are added in parts.
    """
    step = EXACT // magnitude
    total = (q[..., :step] @ weights[:, :step].T).to(torch.int64)
    for first in range(step, q.shape[-1], step):
        total += (q[..., first : first + step] @ weights[:, first : first + step].T).to(torch.int64)
    return total


def grouped_matmul(q: Tensor, weights: Tensor) -> Tensor:
    """Exact ``q [..., n] @ weights[rows, n].T`` of int8 values and trits times the scales of their groups; int64."""
    return integer_matmul(q, weights, 127 * GROUP_SCALE_MAX)


def dequantize(acc: Tensor, activation_scale: Tensor, weight_scale: float) -> Tensor:
    """``acc [..., rows]`` times ``activation_scale [...] * weight_scale``: two roundings, the scales' product first."""
    scales = activation_scale.numpy()
    f = arithmetic(scales, constants=(weight_scale,))  # times integers, which are 0 or 1 at least
    scale = f.mul(scales[..., None], scalar(weight_scale))
    return torch.from_numpy(f.mul(int_to_f32(acc).numpy(), scale) + ZERO)


def drain(y: Tensor, mode: str, other: Tensor | None = None) -> Tensor:
    """DRAIN on dequantised results: ``mode`` "store", "relu2", "silu", "multiply" (y * other) or "add" (other + y)."""
    if mode in ("multiply", "add"):
        if other is None:
            raise ValueError(f"other must be given for mode {mode!r}")
        return fmul(y, other) if mode == "multiply" else fadd(other, y)
    functions: dict[str, Callable[[Tensor], Tensor]] = {"store": lambda value: value, "relu2": relu2, "silu": silu}
    if mode not in functions:
        raise ValueError(f"mode must be store, relu2, silu, multiply or add, not {mode!r}")
    return functions[mode](y)

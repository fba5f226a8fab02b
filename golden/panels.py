"""Products of a panel of a matrix, whatever its number format."""

from __future__ import annotations

import torch
from torch import Tensor

from ..descriptors import Format
from .int4 import e4m3_values, int4_matmul
from .linear import grouped_matmul, integer_matmul

__all__ = ["panel_products"]


def panel_products(format: Format, q: Tensor, matrix: Tensor) -> Tensor:
    """LINEAR: exact products, int64 ``[tokens, rows]``, of activations as they are stored, int8 ``[tokens, inputs]``, and weights
    in units of their scales ``[rows, inputs]``.
    """
    if Format.FP8 in format:
        return int4_matmul(e4m3_values(q.view(torch.uint8)), matrix)
    product = grouped_matmul if Format.GROUPED in format else _ternary_matmul
    return product(q.float(), matrix.float())


def _ternary_matmul(q: Tensor, trits: Tensor) -> Tensor:
    return integer_matmul(q, trits, 127)

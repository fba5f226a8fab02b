"""A float matrix to INT4 codes with the error of every column moved to the columns behind it (GPTQ)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...formats import Float
from ...int4 import CODE_MAX, Int4Matrix, symmetric_scales
from ...rounding import ceil_div

__all__ = ["round_gptq"]

#: Room above the scales of the weights as they are, because GPTQ enlarges some.
_MARGIN = 1.25

#: Columns after which GPTQ brings the rest of the matrix up to date.
_BLOCK = 128


def round_gptq(w: Float, hessian: Tensor, group: int, damping: float = 0.01) -> Int4Matrix:
    """GPTQ (arXiv 2210.17323): columns in order, each one's rounding error spread over the later ones so that the output on the
    calibration text changes least. ``hessian [inputs, inputs]`` is X^T X. A group's scales are set at its first column.
    """
    rest = torch.from_numpy(w).double()
    rows, inputs = rest.shape
    h = hessian.double().clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    rest[:, dead] = 0
    h.diagonal().add_(damping * h.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    _, unit = symmetric_scales(w, group, _MARGIN)
    units = torch.from_numpy(np.where(unit == 0, np.float32(1), unit)).double()
    codes = torch.zeros(rows, inputs, dtype=torch.int8)
    scales = torch.ones(rows, ceil_div(inputs, group), dtype=torch.float64)
    for first in range(0, inputs, _BLOCK):
        last = min(first + _BLOCK, inputs)
        block, inverse = rest[:, first:last], upper[first:last, first:last]
        errors = torch.zeros_like(block)
        for i in range(last - first):
            column = first + i
            if column % group == 0:
                absmax = rest[:, column : column + group].abs().amax(dim=1)
                scales[:, column // group] = (absmax / CODE_MAX / units).round().clamp(1, 255)
            step = scales[:, column // group] * units
            q = (block[:, i] / step).round().clamp(-8, CODE_MAX)
            codes[:, column] = q.to(torch.int8)
            errors[:, i] = (block[:, i] - q * step) / inverse[i, i]
            block[:, i:] -= errors[:, i : i + 1] * inverse[i, i:]
        rest[:, last:] -= errors @ upper[first:last, last:]
    return Int4Matrix(codes.numpy(), group, scales.numpy().astype(np.uint8), None, unit)

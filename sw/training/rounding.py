"""A float matrix to INT4 codes: to nearest in groups, or with the error of every column moved to the columns behind it (GPTQ)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...formats import Float
from ...int4 import BlockMatrix, Int4Matrix, row_scales, spread, to_machine
from ...rounding import ceil_div

__all__ = ["round_gptq", "round_to_nearest"]

#: Largest positive code: the scale of a symmetric group is its absmax over this.
_TOP = 7

#: Room above the scales of the weights as they are, because GPTQ enlarges some.
_MARGIN = 1.25

#: Columns after which GPTQ brings the rest of the matrix up to date.
_BLOCK = 128


def _group_absmax(w: Float, group: int) -> Float:
    padded = np.pad(np.abs(w), ((0, 0), (0, -w.shape[1] % group)))
    return np.asarray(padded.reshape(len(w), -1, group).max(axis=2), np.float32)


def _symmetric_scales(w: Float, group: int, margin: float = 1.0) -> tuple[Float, Float]:
    """``(scale codes [rows, groups] as floats, unit [rows])`` with codes 1..255: a small group may not lose its scale."""
    absmax = _group_absmax(w, group) / np.float32(_TOP)
    unit = row_scales(absmax, None) * np.float32(margin)
    divisor = np.where(unit == 0, np.float32(1), unit)
    return np.clip(np.rint(absmax / divisor[:, None]), 1, 255).astype(np.float32), unit


def round_to_nearest(w: Float, group: int, *, midpoints: bool = False) -> Int4Matrix:
    """Codes nearest to ``w`` under the scales that are stored, that is after these were rounded.

    Symmetric: scale = absmax / 7. With ``midpoints``: scale = range / 15 around the middle of the range.
    """
    inputs = w.shape[1]
    if not midpoints:
        scales, unit = _symmetric_scales(w, group)
        step = spread(scales * unit[:, None], group, inputs)
        codes = np.clip(np.rint(w / np.where(step == 0, np.float32(1), step)), -8, _TOP).astype(np.int8)
        return Int4Matrix(codes, group, scales.astype(np.uint8), None, unit)
    padded = np.pad(w, ((0, 0), (0, -inputs % group)), mode="edge").reshape(len(w), -1, group)
    low, high = padded.min(axis=2), padded.max(axis=2)
    scale = np.asarray((high - low) / np.float32(15), np.float32)
    stored = to_machine(BlockMatrix(np.zeros(w.shape, np.int8), group, scale, np.asarray(low + 8 * scale, np.float32)))
    kept = np.maximum(stored.scales, 1).astype(np.uint8)
    step = spread(kept * stored.row_scale[:, None], group, inputs)
    codes = np.clip(np.rint((w - stored.dense()) / np.where(step == 0, np.float32(1), step)), -8, _TOP).astype(np.int8)
    return Int4Matrix(codes, group, kept, stored.midpoints, stored.row_scale)


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
    _, unit = _symmetric_scales(w, group, _MARGIN)
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
                scales[:, column // group] = (absmax / _TOP / units).round().clamp(1, 255)
            step = scales[:, column // group] * units
            q = (block[:, i] / step).round().clamp(-8, _TOP)
            codes[:, column] = q.to(torch.int8)
            errors[:, i] = (block[:, i] - q * step) / inverse[i, i]
            block[:, i:] -= errors[:, i : i + 1] * inverse[i, i:]
        rest[:, last:] -= errors @ upper[first:last, last:]
    return Int4Matrix(codes.numpy(), group, scales.numpy().astype(np.uint8), None, unit)

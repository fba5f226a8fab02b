"""int8 LM head: logits and the best candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from .float32 import fmul, int_to_f32
from .linear import integer_matmul

__all__ = ["head_logits", "top_candidates"]


def head_logits(q: Tensor, scale: Tensor, rows: Tensor, row_scale: Tensor) -> Tensor:
    """HEAD: ``q [..., n]``, ``scale [...]``, ``rows [vocab, n]``, ``row_scale [vocab]`` -> logits ``[..., vocab]``.

    ``q`` and ``rows`` are int8 values held in float32.
    """
    return fmul(fmul(int_to_f32(integer_matmul(q, rows, 127 * 127)), row_scale), scale.unsqueeze(-1))


def top_candidates(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``(token ids, logits)`` of the ``k`` largest of ``logits [..., vocab]``, of equal ones the smaller id first."""
    values, index = torch.sort(logits, dim=-1, descending=True, stable=True)
    return index[..., :k], values[..., :k]

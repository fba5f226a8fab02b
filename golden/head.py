"""int8 LM head: logits and the best candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from .float32 import fmul, int_to_f32
from .linear import integer_matmul

__all__ = ["head_logits", "short_list", "top_candidates"]

#: Rows converted to float32 at a time.
_ROWS = 16384


def head_logits(q: Tensor, scale: Tensor, rows: Tensor, row_scale: Tensor) -> Tensor:
    """HEAD: ``q [..., n]``, ``scale [...]``, ``rows [vocab, n]``, ``row_scale [vocab]`` -> logits ``[..., vocab]``.

    ``q`` holds int8 values in float32, ``rows`` as int8 or in float32. Rows are worked on in parts, so that a large
    vocabulary needs no copy of all its rows.
    """
    if rows.dtype == torch.int8:
        starts = range(0, rows.shape[0], _ROWS)
        parts = [head_logits(q, scale, rows[i : i + _ROWS].float(), row_scale[i : i + _ROWS]) for i in starts]
        return torch.cat(parts, dim=-1)
    return fmul(fmul(int_to_f32(integer_matmul(q, rows, 127 * 127)), row_scale), scale.unsqueeze(-1))


def short_list(scores: Tensor, block: int, entries: int) -> Tensor:
    """Blocks of ``block`` rows whose best score of ``scores [..., vocab]`` is largest, ``[..., entries]`` at most: best first, of
    equal ones the smaller number first.
    """
    padding = -scores.shape[-1] % block
    padded = torch.nn.functional.pad(scores, (0, padding), value=-torch.inf)
    best = padded.reshape(*padded.shape[:-1], -1, block).amax(dim=-1)
    return torch.sort(best, dim=-1, descending=True, stable=True).indices[..., :entries]


def top_candidates(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``(token ids, logits)`` of the ``k`` largest of ``logits [..., vocab]``, of equal ones the smaller id first."""
    near = None
    if logits.dim() == 1 and logits.shape[0] > k:  # to sort a whole vocabulary takes longer than its products
        near = torch.nonzero(logits >= torch.topk(logits, k).values[-1]).flatten()
        logits = logits[near]
    values, index = torch.sort(logits, dim=-1, descending=True, stable=True)
    index = index[..., :k]
    return (index if near is None else near[index]), values[..., :k]

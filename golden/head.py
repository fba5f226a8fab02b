"""LM head: logits and the best candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import TRITS_PER_BYTE
from .int4 import dequantize_rows, int4_matmul
from .linear import dequantize, drain, integer_matmul

__all__ = ["digit_logits", "join_digits", "nibble_logits", "short_list", "top_candidates"]

#: Rows that are worked on at a time.
_ROWS = 16384


def join_digits(acc: Tensor, width: int) -> Tensor:
    """DRAIN with DIGITS: accumulators ``[..., rows * 5]``, of every vector of ``width`` rows those of the highest digits, then
    those of the next ones -> integers ``[..., rows]``.
    """
    digits = acc.reshape(*acc.shape[:-1], -1, TRITS_PER_BYTE, width)
    powers = 3 ** torch.arange(TRITS_PER_BYTE - 1, -1, -1)
    return (digits * powers[:, None]).sum(dim=-2).flatten(-2)


def digit_logits(q: Tensor, scale: Tensor, rows: Tensor, row_scale: Tensor) -> Tensor:
    """Logits ``[..., vocab]`` of a ternary model: ``q [..., n]`` int8 values, ``scale [...]``, ``rows [vocab, n]``,
    ``row_scale [vocab]``.
    """
    def logits(weights: Tensor, scales: Tensor) -> Tensor:
        acc = integer_matmul(q.float(), weights.float(), 127 * 127)
        return drain(dequantize(acc, scale, 1.0), "multiply", scales.expand(acc.shape))

    return _by_rows(logits, rows, row_scale)


def nibble_logits(q: Tensor, scale: Tensor, rows: Tensor, row_scale: Tensor) -> Tensor:
    """Logits ``[..., vocab]`` of an INT4 model: ``q [..., n]`` e4m3 integers, the others as in :func:`digit_logits`."""
    return _by_rows(lambda weights, scales: dequantize_rows(int4_matmul(q, weights), scale, scales), rows, row_scale)


def _by_rows(logits: Callable[[Tensor, Tensor], Tensor], rows: Tensor, row_scale: Tensor) -> Tensor:
    """``logits`` of parts of the rows, so that a large vocabulary needs no wide copy of all of them."""
    starts = range(0, rows.shape[0], _ROWS)
    return torch.cat([logits(rows[i : i + _ROWS], row_scale[i : i + _ROWS]) for i in starts], dim=-1)


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

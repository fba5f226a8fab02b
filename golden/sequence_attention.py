"""Causal attention over whole token windows, in the order in which the machine meets keys and values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..rounding import ceil_div
from .attention import AttentionState

__all__ = ["attend_windows"]

Heads = tuple[Tensor, Tensor]


def attend_windows(query: Heads, keys: Heads, values: Heads, chunk: int, block: int) -> Tensor:
    """Windows that start at position 0, cut into passes of ``chunk`` tokens, over a cache in blocks of ``block`` positions.

    ``query``: codes ``[batch, length, heads, d]`` and scales ``[batch, length, heads]``; ``keys`` and ``values`` alike with
    their own number of heads. The result is ``[batch, length, heads * d]``.
    """
    length, heads, d = query[0].shape[1:]
    kv_heads = keys[0].shape[2]
    shared = heads // kv_heads
    chunks = ceil_div(length, chunk)

    def by_chunk(x: Tensor, group: int) -> Tensor:
        """``[batch, length, heads, ...]`` -> ``[batch, chunks, kv_heads, chunk * group, ...]``, zeros behind the end."""
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, chunks * chunk - length))
        x = x.reshape(x.shape[0], chunks, chunk, kv_heads, group, *x.shape[3:])
        return x.transpose(2, 3).flatten(3, 4)

    q8, q_scale = (by_chunk(x, shared) for x in query)
    state = AttentionState.initial(q_scale.shape, d)
    causal = torch.ones(chunk, chunk, dtype=torch.bool).tril().repeat_interleave(shared, dim=0)
    own = [tuple(by_chunk(x, 1) for x in kind) for kind in (keys, values)]
    state.attend(q8, q_scale, (own[0][0], own[0][1]), (own[1][0], own[1][1]), causal)
    for first in range(0, (chunks - 1) * chunk, block):
        later = slice(first // chunk + 1, chunks)  # chunks that start behind the block's first position
        past = [[x[:, first : first + block].transpose(1, 2).unsqueeze(1) for x in kind] for kind in (keys, values)]
        position = torch.arange(first, first + past[0][0].shape[3])
        starts = torch.arange(later.start, later.stop) * chunk
        valid = (position < starts[:, None])[:, None, None]
        part = AttentionState(state.maximum[:, later], state.total[:, later], state.output[:, later])
        part.attend(q8[:, later], q_scale[:, later], (past[0][0], past[0][1]), (past[1][0], past[1][1]), valid)
        state.maximum[:, later] = part.maximum
        state.total[:, later] = part.total
        state.output[:, later] = part.output
    out = state.result().reshape(-1, chunks, kv_heads, chunk, shared * d).transpose(2, 3)
    return out.reshape(-1, chunks * chunk, heads * d)[:, :length]

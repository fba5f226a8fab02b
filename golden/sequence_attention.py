"""Causal attention of the last tokens of sequences, block by block of positions, as the machine meets the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import AttentionState

__all__ = ["attend_sequence"]

#: Codes and scales.
Heads = tuple[Tensor, Tensor]


def attend_sequence(query: Heads, keys: Heads, values: Heads, block: int) -> Tensor:
    """The last ``tokens`` of sequences of ``length`` positions, over blocks of ``block`` positions from position 0 on.

    ``query``: codes ``[batch, tokens, heads, d]`` and scales ``[batch, tokens, heads]``; ``keys`` and ``values`` alike of all
    ``length`` positions, with their own number of heads. The result is ``[batch, tokens, heads * d]``.
    """
    (tokens, heads, d), (length, kv_heads) = query[0].shape[1:], keys[0].shape[1:3]
    group = heads // kv_heads

    def by_head(x: Tensor) -> Tensor:
        """``[batch, n, heads, ...]`` -> ``[batch, kv_heads, n * members, ...]``: heads that share keys side by side."""
        x = x.reshape(*x.shape[:2], kv_heads, x.shape[2] // kv_heads, *x.shape[3:])
        return x.transpose(1, 2).flatten(2, 3)

    q8, q_scale = (by_head(x) for x in query)
    (k8, k_scale), (v8, v_scale) = ([by_head(x) for x in kind] for kind in (keys, values))
    state = AttentionState.initial(q_scale.shape, d)
    position = torch.arange(length - tokens, length).repeat_interleave(group)
    for first in range(0, length, block):
        of = slice(first, min(first + block, length))
        valid = torch.arange(of.start, of.stop) <= position[:, None]
        # Tokens before the block see none of it, so that it changes nothing for them.
        later = slice(max(0, first - (length - tokens)) * group, tokens * group)
        part = AttentionState(state.maximum[..., later], state.sums[..., later, :])
        part.attend(
            q8[..., later, :], q_scale[..., later], (k8[..., of, :], k_scale[..., of]), (v8[..., of, :], v_scale[..., of]),
            valid[later],
        )
        state.maximum[..., later], state.sums[..., later, :] = part.maximum, part.sums
    out = state.result().reshape(-1, kv_heads, tokens, group * d).transpose(1, 2)
    return out.reshape(-1, tokens, heads * d)

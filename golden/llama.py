"""Bit-exact model of llama decoders on the INT4 x FP8 engine: over whole token windows, and pass by pass over a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..config import BuildConfig
from ..int4 import Int4Matrix
from ..llama import MATRICES, LlamaLayer, LlamaWeights
from ..weights import flush, quantize_head, rotary_rows, round_bf16, score_constant
from .attention import AttentionState
from .head import head_logits
from .int4 import dequantize_rows, int4_matmul, norm_e4m3, quantize_e4m3, quantize_kv4, quantize_query_e4m3
from .linear import drain
from .norm import norm_quantize
from .rotary import quantize_kv, quantize_query, rotate
from .sequence_attention import attend_windows

__all__ = ["LlamaModel", "LlamaSession"]

Heads = tuple[Tensor, Tensor]

#: ``attend(layer, query, keys, values) -> [batch, length, heads * head_dim]``.
Attend = Callable[[int, Heads, Heads, Heads], Tensor]


class _Linear:
    """One INT4 layer with its weights, in units of their row scales, held in float64."""

    def __init__(self, matrix: Int4Matrix) -> None:
        self.weights = torch.from_numpy(matrix.integers()).double()
        self.row_scale = torch.from_numpy(flush(matrix.row_scale))

    def __call__(self, activation: Heads) -> Tensor:
        q, scale = activation
        return dequantize_rows(int4_matmul(q, self.weights), scale, self.row_scale)


class _Layer:
    def __init__(self, weights: LlamaLayer) -> None:
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = (_Linear(getattr(weights, n)) for n in MATRICES)
        self.attention_gain = torch.from_numpy(flush(weights.input_layernorm))
        self.ffn_gain = torch.from_numpy(flush(weights.post_attention_layernorm))


@dataclass
class LlamaSession:
    """One sequence: its tokens, and the keys and values of every layer, as ``(codes, scales)`` of all positions so far."""

    tokens: list[int] = field(default_factory=list)
    keys: list[Heads] = field(default_factory=list)
    values: list[Heads] = field(default_factory=list)

    @property
    def position(self) -> int:
        return len(self.tokens)


class LlamaModel:
    """What the machine computes for a llama model, bit for bit.

    The order in which attention meets the keys depends on how a sequence is cut into passes of ``chunk`` tokens (the build's,
    unless given). ``chunk=1`` is token-by-token decoding.
    """

    def __init__(self, weights: LlamaWeights, config: BuildConfig, chunk: int | None = None) -> None:
        w = weights.on_machine()
        self.shape, self.kv, self.query = w.shape, w.kv, w.query
        self.chunk, self.kv_block = config.chunk if chunk is None else chunk, config.kv_block
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk!r}")
        self._embedding = torch.from_numpy(round_bf16(w.embedding))
        self._layers = [_Layer(layer) for layer in w.layers]
        self._norm = torch.from_numpy(flush(w.norm))
        self._inverse_n = float(np.float32(1.0 / w.shape.hidden))
        w8, bits = quantize_head(flush(w.head_rows))
        self._head = torch.from_numpy(w8).float()
        self._head_scale = torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32))

    # ---- heads ---------------------------------------------------------------------------------------------------
    def _quantize_query(self, y: Tensor) -> Heads:
        e4m3 = self.query == "e4m3"
        return (quantize_query_e4m3 if e4m3 else quantize_query)(y, score_constant(self.shape.head_dim, e4m3))

    def _quantize_kv(self, y: Tensor) -> Heads:
        return quantize_kv4(y) if self.kv == "int4" else quantize_kv(y)

    # ---- layers --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _hidden(self, tokens: Tensor, first: int, attend: Attend) -> Tensor:
        """Residual stream after the last layer of ``tokens [batch, length]`` at positions from ``first``."""
        s, eps = self.shape, self.shape.rms_eps
        x = self._embedding[tokens]
        rows = torch.from_numpy(rotary_rows(s, np.arange(first, first + tokens.shape[1])))[:, None]
        for i, layer in enumerate(self._layers):
            a = norm_e4m3(x, layer.attention_gain, self._inverse_n, eps)
            q, k, v = (p(a).reshape(*tokens.shape, -1, s.head_dim) for p in (layer.q, layer.k, layer.v))
            query = self._quantize_query(rotate(q, rows))
            y = attend(i, query, self._quantize_kv(rotate(k, rows)), self._quantize_kv(v))
            x = drain(layer.o(quantize_e4m3(y)), "add", x)
            a = norm_e4m3(x, layer.ffn_gain, self._inverse_n, eps)
            y = drain(layer.up(a), "multiply", drain(layer.gate(a), s.activation))
            x = drain(layer.down(quantize_e4m3(y)), "add", x)
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        q, scale = norm_quantize(hidden, self._norm, self._inverse_n, self.shape.rms_eps)
        return head_logits(q.float(), scale, self._head, self._head_scale)

    # ---- whole windows -------------------------------------------------------------------------------------------
    def hidden(self, tokens: Tensor) -> Tensor:
        """Residual stream after the last layer ``[batch, length, hidden]`` of windows from position 0."""

        def attend(layer: int, query: Heads, keys: Heads, values: Heads) -> Tensor:
            return attend_windows(query, keys, values, self.chunk, self.kv_block)

        return self._hidden(tokens, 0, attend)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits after every token ``[batch, length, vocab]`` of windows from position 0."""
        return self._logits(self.hidden(tokens))

    # ---- pass by pass --------------------------------------------------------------------------------------------
    @torch.no_grad()
    def forward(self, session: LlamaSession, tokens: Sequence[int]) -> Tensor:
        """Passes of up to ``chunk`` tokens behind those the session has; logits ``[vocab]`` after the last token."""
        if not tokens:
            raise ValueError("tokens must be at least one")
        hidden = torch.zeros(0)
        for first in range(0, len(tokens), self.chunk):
            part = list(tokens[first : first + self.chunk])
            hidden = self._hidden(torch.tensor([part]), session.position, lambda *args: self._attend(session, *args))
            session.tokens.extend(part)
        return self._logits(hidden[0, -1])

    def _attend(self, session: LlamaSession, layer: int, query: Heads, keys: Heads, values: Heads) -> Tensor:
        length, d = query[0].shape[1], self.shape.head_dim
        shared, first = self.shape.group, session.position

        def by_kv_head(x: Tensor, group: int) -> Tensor:
            """``[1, length, heads, ...]`` -> ``[kv_heads, length * group, ...]``."""
            return x[0].reshape(length, -1, group, *x.shape[3:]).transpose(0, 1).flatten(1, 2)

        q8, q_scale = (by_kv_head(x, shared) for x in query)
        own_keys, own_values = ((by_kv_head(c, 1), by_kv_head(s, 1)) for c, s in (keys, values))
        state = AttentionState.initial(q_scale.shape, d)
        causal = torch.ones(length, length, dtype=torch.bool).tril().repeat_interleave(shared, dim=0)
        state.attend(q8, q_scale, own_keys, own_values, causal)
        if layer < len(session.keys):
            past_keys, past_values = session.keys[layer], session.values[layer]
            for start in range(0, first, self.kv_block):
                block = slice(start, min(start + self.kv_block, first))
                valid = torch.ones(1, block.stop - start, dtype=torch.bool)
                one, other = ((c[:, block], s[:, block]) for c, s in (past_keys, past_values))
                state.attend(q8, q_scale, one, other, valid)
            own_keys, own_values = (
                (torch.cat((past[0], own[0]), 1), torch.cat((past[1], own[1]), 1))
                for past, own in ((past_keys, own_keys), (past_values, own_values))
            )
            session.keys[layer], session.values[layer] = own_keys, own_values
        else:
            session.keys.append(own_keys)
            session.values.append(own_values)
        return state.result().reshape(-1, length, shared, d).permute(1, 0, 2, 3).reshape(1, length, -1)

"""Bit-exact model over whole token windows: the machine's logits without its memory, for many windows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import BuildConfig
from ..weights import LayerWeights, ModelWeights, TernaryMatrix, quantize_head, rotary_rows, score_constant
from .attention import AttentionState
from .head import head_logits
from .linear import dequantize, drain, integer_matmul
from .norm import norm_quantize
from .rotary import quantize_kv, quantize_query, rotate

__all__ = ["GoldenModel"]


class _Linear:
    """One ternary layer with its weights held in float32."""

    def __init__(self, matrix: TernaryMatrix) -> None:
        self.weights = torch.from_numpy(matrix.trits).float()
        self.scale = matrix.scale

    def __call__(self, activation: tuple[Tensor, Tensor]) -> Tensor:
        q, scale = activation
        return dequantize(integer_matmul(q.float(), self.weights, 127), scale, self.scale)


class _Norm:
    """Norm and quantisation with a gain."""

    def __init__(self, gain: npt.NDArray[np.float32], eps: float) -> None:
        self.gain = torch.from_numpy(gain)
        self.inverse_n = float(np.float32(1.0 / gain.size))
        self.eps = eps

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return norm_quantize(x, self.gain, self.inverse_n, self.eps)


class _Layer:
    def __init__(self, weights: LayerWeights, eps: float) -> None:
        w = weights
        self.q, self.k, self.v, self.o = (_Linear(m) for m in (w.q, w.k, w.v, w.o))
        self.gate, self.up, self.down = (_Linear(m) for m in (w.gate, w.up, w.down))
        self.attention_norm, self.attention_sub_norm = _Norm(w.input_layernorm, eps), _Norm(w.attn_sub_norm, eps)
        self.ffn_norm, self.ffn_sub_norm = _Norm(w.post_attention_layernorm, eps), _Norm(w.ffn_sub_norm, eps)


class GoldenModel:
    """``tokens [batch, length] -> logits [batch, length, vocab]``, equal to the machine's bit for bit.

    The order in which attention meets the keys depends on how a prompt is cut into passes: here into passes of
    ``chunk`` tokens (the build's, unless given), from position 0. ``chunk=1`` is token-by-token decoding.
    """

    def __init__(self, weights: ModelWeights, config: BuildConfig, chunk: int | None = None) -> None:
        self.shape, self.config = weights.shape, config
        self.chunk = config.chunk if chunk is None else chunk
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk!r}")
        self._embedding = torch.from_numpy(weights.embedding)
        self._layers = [_Layer(layer, weights.shape.rms_eps) for layer in weights.layers]
        self._norm = _Norm(weights.norm, weights.shape.rms_eps)
        w8, bits = quantize_head(weights.head_rows)
        self._head = torch.from_numpy(w8).float()
        self._head_scale = torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32))

    @torch.no_grad()
    def hidden(self, tokens: Tensor) -> Tensor:
        """Residual stream after the last layer ``[batch, length, hidden]``."""
        x = self._embedding[tokens]
        rows = torch.from_numpy(rotary_rows(self.shape, np.arange(tokens.shape[1])))[:, None]
        gate = self.shape.activation
        for layer in self._layers:
            a = layer.attention_norm(x)
            q, k, v = (p(a).reshape(*tokens.shape, -1, self.shape.head_dim) for p in (layer.q, layer.k, layer.v))
            y = self._attention(rotate(q, rows), rotate(k, rows), v)
            x = drain(layer.o(layer.attention_sub_norm(y)), "add", x)
            a = layer.ffn_norm(x)
            y = drain(layer.up(a), "multiply", drain(layer.gate(a), gate))
            x = drain(layer.down(layer.ffn_sub_norm(y)), "add", x)
        return x

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits after every token ``[batch, length, vocab]``."""
        q, scale = self._norm(self.hidden(tokens))
        return head_logits(q.float(), scale, self._head, self._head_scale)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotated heads ``[batch, length, heads, head_dim]`` -> attention output ``[batch, length, heads *
        head_dim]``.
        """
        s, chunk, block = self.shape, self.chunk, self.config.kv_block
        length = q.shape[1]
        chunks = -(-length // chunk)

        def by_chunk(x: Tensor, group: int) -> Tensor:
            """``[batch, length, heads, ...]`` -> ``[batch, chunks, kv_heads, chunk * group, ...]``, zeros behind the
            end.
            """
            x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, chunks * chunk - length))
            x = x.reshape(x.shape[0], chunks, chunk, s.kv_heads, group, *x.shape[3:])
            return x.transpose(2, 3).flatten(3, 4)

        q8, q_scale = (by_chunk(x, s.group) for x in quantize_query(q, score_constant(s.head_dim)))
        keys, values = quantize_kv(k), quantize_kv(v)
        state = AttentionState.initial(q_scale.shape, s.head_dim)
        causal = torch.ones(chunk, chunk, dtype=torch.bool).tril().repeat_interleave(s.group, dim=0)
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
        out = state.result().reshape(-1, chunks, s.kv_heads, chunk, s.group * s.head_dim).transpose(2, 3)
        return out.reshape(-1, chunks * chunk, s.q_rows)[:, :length]

"""Bit-exact model over whole token windows: the machine's logits without its memory, for many windows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import BuildConfig
from ..weights import LayerWeights, ModelWeights, TernaryMatrix, quantize_head, rotary_rows, score_constant
from .head import head_logits
from .linear import dequantize, drain, integer_matmul
from .norm import norm_quantize
from .rotary import quantize_kv, quantize_query, rotate
from .sequence_attention import attend_windows

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
        query = quantize_query(q, score_constant(self.shape.head_dim))
        return attend_windows(query, quantize_kv(k), quantize_kv(v), self.chunk, self.config.kv_block)

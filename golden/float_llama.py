"""Float reference of llama decoders: what the bit-exact model is held against, and what quantisers calibrate on.

With ternary matrices the inputs of every matrix are rounded to int8, as such models are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..weights import ModelWeights, dense
from .float_bitnet import quantize_activation

__all__ = ["FloatLlama"]

#: ``observe(layer, name, input [batch, length, inputs])``: called with the input of every linear layer, and with rotated
#: queries ``"rotated_q"`` and keys ``"rotated_k"`` ``[batch, heads, length, head_dim]``.
Observe = Callable[[int, str, Tensor], None]


def _rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class FloatLlama:
    """``tokens [batch, length] -> logits [batch, length, vocab]`` in plain float32, weights dequantised."""

    def __init__(self, weights: ModelWeights) -> None:
        self.shape = weights.shape
        self._embedding = torch.from_numpy(weights.embedding)
        self._head = torch.from_numpy(weights.head_rows)
        self._norm = torch.from_numpy(weights.norm)
        self.layers = [
            {
                name: torch.from_numpy(np.ascontiguousarray(dense(w)))
                for part in (layer.matrices, layer.norms, layer.biases) for name, w in part.items()
            }
            for layer in weights.layers
        ]
        self._bias_of, self._head_norms = weights.layer.bias_of, weights.layer.head_norms
        self._rounded = weights.engine != "int4"

    def _linear(self, w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        y = (quantize_activation(x) if self._rounded else x) @ w[name].T
        return y + w[self._bias_of[name]] if name in self._bias_of else y

    def _normed_heads(self, w: dict[str, Tensor], heads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        if not self._head_norms:
            return heads
        return tuple(_rms_norm(x, w[gain], self.shape.rms_eps) for x, gain in zip(heads, self._head_norms, strict=True))

    @torch.no_grad()
    def run(self, x: Tensor, observe: Observe | None = None) -> Tensor:
        """Residual stream ``[batch, length, hidden]`` through every layer, from position 0."""
        s = self.shape
        d, (batch, length) = s.head_dim, x.shape[:2]
        seen: Observe = observe or (lambda layer, name, x: None)
        inverse = torch.from_numpy(s.rotary_frequencies())
        angle = torch.arange(length, dtype=torch.float64)[:, None] * inverse
        cos, sin = (angle.cos() * s.rope_scale).float(), (angle.sin() * s.rope_scale).float()
        gate = F.silu if s.activation == "silu" else (lambda y: F.relu(y).square())
        for i, w in enumerate(self.layers):
            a = _rms_norm(x, w["input_layernorm"], s.rms_eps)
            for name in ("q", "k", "v"):
                seen(i, name, a)
            q, k, v = (self._linear(w, n, a).view(batch, length, -1, d).transpose(1, 2) for n in ("q", "k", "v"))
            q, k = self._normed_heads(w, (q, k))
            if i not in s.unrotated:
                q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            seen(i, "rotated_q", q)
            seen(i, "rotated_k", k)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            y = y.transpose(1, 2).reshape(batch, length, s.q_rows)
            seen(i, "o", y)
            x = x + self._linear(w, "o", y)
            a = _rms_norm(x, w["post_attention_layernorm"], s.rms_eps)
            seen(i, "gate", a)
            seen(i, "up", a)
            y = gate(self._linear(w, "gate", a)) * self._linear(w, "up", a)
            seen(i, "down", y)
            x = x + self._linear(w, "down", y)
        return x

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        logits: Tensor = _rms_norm(self.run(self._embedding[tokens]), self._norm, self.shape.rms_eps) @ self._head.T
        return logits

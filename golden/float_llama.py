"""Float reference of llama decoders: what the bit-exact model is held against, and what quantisers calibrate on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..weights import ModelWeights, dense

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
            {name: torch.from_numpy(np.ascontiguousarray(dense(w))) for name, w in (*layer.matrices.items(), *layer.norms.items())}
            for layer in weights.layers
        ]

    @torch.no_grad()
    def run(self, x: Tensor, observe: Observe | None = None) -> Tensor:
        """Residual stream ``[batch, length, hidden]`` through every layer, from position 0."""
        s = self.shape
        d, (batch, length) = s.head_dim, x.shape[:2]
        seen: Observe = observe or (lambda layer, name, x: None)
        inverse = torch.from_numpy(s.rotary_frequencies())
        angle = torch.arange(length, dtype=torch.float64)[:, None] * inverse
        cos, sin = angle.cos().float(), angle.sin().float()
        gate = F.silu if s.activation == "silu" else (lambda y: F.relu(y).square())
        for i, w in enumerate(self.layers):
            a = _rms_norm(x, w["input_layernorm"], s.rms_eps)
            for name in ("q", "k", "v"):
                seen(i, name, a)
            q, k, v = ((a @ w[n].T).view(batch, length, -1, d).transpose(1, 2) for n in ("q", "k", "v"))
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            seen(i, "rotated_q", q)
            seen(i, "rotated_k", k)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            y = y.transpose(1, 2).reshape(batch, length, s.q_rows)
            seen(i, "o", y)
            x = x + y @ w["o"].T
            a = _rms_norm(x, w["post_attention_layernorm"], s.rms_eps)
            seen(i, "gate", a)
            seen(i, "up", a)
            y = gate(a @ w["gate"].T) * (a @ w["up"].T)
            seen(i, "down", y)
            x = x + y @ w["down"].T
        return x

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        logits: Tensor = _rms_norm(self.run(self._embedding[tokens]), self._norm, self.shape.rms_eps) @ self._head.T
        return logits

"""Float reference of BitNet b1.58 decoders: what the bit-exact model is held against, and what ``hwgen train`` trains.

Source: "The Era of 1-bit LLMs" (arXiv 2402.17764) section 2 and its training notes for the quantisers; the layouts of
bitnet_b1_58-large and BitNet b1.58 2B4T (arXiv 2504.12285, section 2) for sub-norms and gate functions.
Parameter names are Hugging Face's, so a state dict of ``transformers.BitNetForCausalLM`` loads as it is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shape import ModelShape
from ..weights import ModelWeights, dense

__all__ = ["Attention", "BitLinear", "BitNet", "FeedForward", "RMSNorm", "float_model", "quantize_activation", "quantize_weight"]


def quantize_weight(w: Tensor) -> tuple[Tensor, Tensor]:
    """Absmean ternary quantisation: ``(trits, scale)`` with ``trits`` in {-1, 0, 1} and ``w ~ trits * scale``.

    ``scale = mean |w|`` (at least 1e-5), one per matrix; rounding is half-to-even.
    """
    scale = w.abs().mean().clamp(min=1e-5)
    return (w / scale).round().clamp(-1, 1), scale


def quantize_activation(x: Tensor) -> Tensor:
    """Per-token absmax int8 quantisation of the last dimension, returned dequantised (fake quantisation)."""
    scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return (x * scale).round().clamp(-128, 127) / scale


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class BitLinear(nn.Linear):
    """Linear layer with ternary weights and int8 activations, trained with straight-through gradients.

    Once :meth:`freeze` was called the weight is taken as already dequantised ternary and used as it is.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.frozen = False

    def freeze(self) -> None:
        """Replace the master weights by their quantised values."""
        if not self.frozen:
            trits, scale = quantize_weight(self.weight.data)
            self.weight.data = trits * scale
            self.frozen = True

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen:
            return F.linear(quantize_activation(x), self.weight)
        trits, scale = quantize_weight(self.weight)
        w = self.weight + (trits * scale - self.weight).detach()
        xq = x + (quantize_activation(x) - x).detach()
        return F.linear(xq, w)


def rotate_half(x: Tensor) -> Tensor:
    """``(a, b) -> (-b, a)`` on the two halves of the last dimension (Hugging Face's pair order)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and a sub-norm before the output projection."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = BitLinear(shape.hidden, shape.q_rows)
        self.k_proj = BitLinear(shape.hidden, shape.kv_rows)
        self.v_proj = BitLinear(shape.hidden, shape.kv_rows)
        self.o_proj = BitLinear(shape.q_rows, shape.hidden)
        self.attn_sub_norm = RMSNorm(shape.q_rows, shape.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        s = self.shape
        q = self.q_proj(x).view(batch, length, s.heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, s.kv_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, s.kv_heads, s.head_dim).transpose(1, 2)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        k = k.repeat_interleave(s.group, dim=1)
        v = v.repeat_interleave(s.group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, length, s.q_rows)
        out: Tensor = self.o_proj(self.attn_sub_norm(y))
        return out


class FeedForward(nn.Module):
    """``down(sub_norm(act(gate(x)) * up(x)))`` with squared ReLU or SiLU as ``act``."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = BitLinear(shape.hidden, shape.ffn)
        self.up_proj = BitLinear(shape.hidden, shape.ffn)
        self.down_proj = BitLinear(shape.ffn, shape.hidden)
        self.ffn_sub_norm = RMSNorm(shape.ffn, shape.rms_eps)
        self.activation = shape.activation

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = F.silu(gate) if self.activation == "silu" else F.relu(gate).square()
        out: Tensor = self.down_proj(self.ffn_sub_norm(gate * self.up_proj(x)))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.rms_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.rms_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Backbone(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.rms_eps)


class BitNet(nn.Module):
    """Float BitNet decoder: ``tokens [batch, length] int64 -> logits [batch, length, vocab] float32``."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Backbone(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if "embed" in name else 1.0 / math.sqrt(p.shape[1]))

    def rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each ``[length, head_dim]``."""
        inv = torch.from_numpy(self.shape.rotary_frequencies()).to(device)
        angle = torch.arange(length, dtype=torch.float64, device=device)[:, None] * inv
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos().float(), angle.sin().float()

    def freeze(self) -> None:
        """Quantise every ternary layer once; afterwards the forward pass is inference only."""
        for module in self.modules():
            if isinstance(module, BitLinear):
                module.freeze()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.embed_tokens(tokens)
        cos, sin = self.rotary(tokens.shape[1], tokens.device)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits


def float_model(weights: ModelWeights) -> BitNet:
    """The float reference, frozen and in inference mode, with exactly these ternary weights."""
    model = BitNet(weights.shape)
    state = {
        "model.embed_tokens.weight": weights.embedding,
        "model.norm.weight": weights.norm,
        "lm_head.weight": weights.head_rows,
    }
    for i, layer in enumerate(weights.layers):
        name = f"model.layers.{i}"
        for part, names in (("self_attn", "q k v o"), ("mlp", "gate up down")):
            for letter in names.split():
                state[f"{name}.{part}.{letter}_proj.weight"] = dense(layer.matrices[letter])
        places = {"attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
        state |= {f"{name}.{places.get(norm, norm)}.weight": gain for norm, gain in layer.norms.items()}
    model.load_state_dict({key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in state.items()})
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.frozen = True
    return model.eval().requires_grad_(False)

"""The float reference with the weights of a model: the other end of every comparison of quality."""

from __future__ import annotations

import numpy as np
import torch

from ..weights import ModelWeights
from .float_bitnet import BitLinear, BitNet

__all__ = ["float_model"]


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
                matrix = getattr(layer, letter)
                state[f"{name}.{part}.{letter}_proj.weight"] = matrix.trits * np.float32(matrix.scale)
        state[f"{name}.input_layernorm.weight"] = layer.input_layernorm
        state[f"{name}.post_attention_layernorm.weight"] = layer.post_attention_layernorm
        state[f"{name}.self_attn.attn_sub_norm.weight"] = layer.attn_sub_norm
        state[f"{name}.mlp.ffn_sub_norm.weight"] = layer.ffn_sub_norm
    model.load_state_dict({key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in state.items()})
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.frozen = True
    return model.eval().requires_grad_(False)

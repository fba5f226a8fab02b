"""The float reference takes the ternary weights as they are."""

from __future__ import annotations

import numpy as np
import torch

from hwgen.golden.float_bitnet import float_model
from hwgen.shape import ModelShape
from hwgen.weights import random_weights


def test_weights_arrive() -> None:
    for tied in (True, False):
        shape = ModelShape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=40, vocab=20, tied=tied)
        weights = random_weights(shape, 4)
        model = float_model(weights)
        up = weights.layers[1].matrices["up"]
        assert np.array_equal(model.model.layers[1].mlp.up_proj.weight.numpy(), up.trits * np.float32(up.scale))
        assert np.array_equal(
            model.model.layers[0].self_attn.attn_sub_norm.weight.numpy(), weights.layers[0].norms["attn_sub_norm"]
        )
        assert np.array_equal(model.lm_head.weight.numpy(), weights.head_rows)
        before = model.model.layers[0].mlp.gate_proj.weight.clone()
        model.freeze()  # nothing left to quantise
        assert torch.equal(model.model.layers[0].mlp.gate_proj.weight, before)
        assert not any(p.requires_grad for p in model.parameters())

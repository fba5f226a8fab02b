"""The float reference against the independent implementation in ``transformers``."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # its quantisers are compiled; eager gives the same numbers at once
transformers = pytest.importorskip("transformers")

from transformers.integrations.bitnet import AutoBitLinear, replace_with_bitnet_linear

from hwgen.golden.float_bitnet import BitNet, float_model
from hwgen.shape import ModelShape
from hwgen.weights import random_weights

SHAPES = {
    "grouped queries, squared ReLU, tied": ModelShape(
        hidden=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn=112, vocab=90, rope_theta=500000.0, max_context=64
    ),
    "multi-head, SiLU, own head": ModelShape(
        hidden=48,
        layers=2,
        heads=3,
        kv_heads=3,
        head_dim=16,
        ffn=80,
        vocab=61,
        activation="silu",
        tied=False,
        max_context=64,
    ),
}


def huggingface_model(shape: ModelShape) -> torch.nn.Module:
    """``transformers`` BitNet with online quantisation and random master weights and gains."""
    quantization = transformers.BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
    config = transformers.BitNetConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, hidden_act=shape.activation,
        max_position_embeddings=shape.max_context, rms_norm_eps=shape.rms_eps, tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, bos_token_id=0, eos_token_id=1,
        attn_implementation="eager",
    )
    model = transformers.BitNetForCausalLM(config).eval()
    model = replace_with_bitnet_linear(model, ["lm_head"], quantization).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        p.data = (
            torch.rand(p.shape, generator=generator) + 0.5
            if p.dim() == 1
            else torch.randn(p.shape, generator=generator)
        )
        if p.dim() == 2 and "embed" not in name:
            p.data *= p.shape[1] ** -0.5
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers were emptied with the weights
    if shape.tied:
        model.tie_weights()
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_equals_transformers(name: str) -> None:
    shape = SHAPES[name]
    theirs = huggingface_model(shape)
    assert sum(isinstance(m, AutoBitLinear) for m in theirs.modules()) == 7 * shape.layers
    ours = BitNet(shape).eval()
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randint(0, shape.vocab, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert torch.allclose(ours(tokens), expected, rtol=1e-3, atol=1e-3)
        ours.freeze()
        frozen = ours(tokens)
    assert torch.allclose(frozen, expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1


def test_freeze_keeps_quantised_weights() -> None:
    model = BitNet(SHAPES["multi-head, SiLU, own head"])
    model.freeze()
    weight = model.model.layers[0].mlp.up_proj.weight.data.clone()
    assert len(weight.unique()) == 3
    model.freeze()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight.data, weight)


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

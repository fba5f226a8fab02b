"""The bit-exact llama: windows equal passes, and stay close to the float reference, which equals transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.golden.float_llama import FloatLlama
from hwgen.golden.decoder import GoldenModel, GoldenSession
from hwgen.decoder import LLAMA
from hwgen.weights import ModelWeights, dense, random_weights
from hwgen.shape import ModelShape

from .bits import assert_same_bits

GROUPED = ModelShape(hidden=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=80, vocab=50, activation="silu", max_context=128)
MULTI_HEAD = ModelShape(hidden=96, layers=1, heads=3, kv_heads=3, head_dim=32, ffn=112, vocab=37, activation="silu", tied=False,
max_context=128)
CONFIG = BuildConfig(max_context=128)


@pytest.mark.parametrize(("shape", "kv", "query", "group"), [
    (GROUPED, "int8", "int8", 16), (GROUPED, "int4", "e4m3", 32),
    (MULTI_HEAD, "int4", "int8", 64), (MULTI_HEAD, "int8", "e4m3", 128),
])
@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_windows_equal_passes(shape: ModelShape, kv: str, query: str, group: int, chunk: int) -> None:
    weights = random_weights(shape, 3, LLAMA, "int4", group=group, kv=kv, query=query)
    model = GoldenModel(weights, CONFIG, chunk)
    tokens = np.random.default_rng(chunk).integers(0, shape.vocab, 40).tolist()
    expected = model.logits(torch.tensor([tokens]))[0]
    session, first = GoldenSession(), 0
    for count in (2 * chunk, chunk, 40 - 3 * chunk):
        assert_same_bits(model.forward(session, tokens[first : first + count]), expected[first + count - 1])
        first += count


@pytest.mark.parametrize(("kv", "query", "bound"), [("int8", "int8", 0.1), ("int8", "e4m3", 0.1), ("int4", "int8", 0.3)])
def test_close_to_the_float_reference(kv: str, query: str, bound: float) -> None:
    weights = random_weights(GROUPED, 5, LLAMA, "int4", kv=kv, query=query)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 50, (2, 60)))
    exact, reference = GoldenModel(weights, CONFIG).logits(tokens), FloatLlama(weights)(tokens)
    error = (exact - reference).std() / reference.std()
    assert 0 < error < bound


def test_later_tokens_do_not_matter() -> None:
    model = GoldenModel(random_weights(GROUPED, 7, LLAMA, "int4", kv="int4", query="e4m3"), CONFIG)
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 50, (1, 30)))
    other = tokens.clone()
    other[0, 17:] = 3
    assert_same_bits(model.logits(tokens)[0, :17], model.logits(other)[0, :17])


def test_needs_codes() -> None:
    weights = random_weights(GROUPED, 7, LLAMA, "int4")
    layer = weights.layers[1].with_matrices({"up": dense(weights.layers[1].matrices["up"])})
    floats = ModelWeights(shape=GROUPED, layers=(weights.layers[0], layer), norm=weights.norm, embedding=weights.embedding)
    assert not floats.is_int4 and weights.is_int4
    with pytest.raises(ValueError, match="layer 1 up must have 4-bit codes"):
        GoldenModel(floats, CONFIG)
    with pytest.raises(ValueError, match="kv must be one of"):
        random_weights(GROUPED, 0, LLAMA, "int4", kv="fp8")


@pytest.mark.parametrize("shape", [GROUPED, MULTI_HEAD])
def test_reference_equals_transformers(shape: ModelShape) -> None:
    transformers = pytest.importorskip("transformers")
    weights = random_weights(shape, 9, LLAMA, "int4")
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads, head_dim=shape.head_dim,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn, vocab_size=shape.vocab, rms_norm_eps=shape.rms_eps,
        tie_word_embeddings=shape.tied, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )
    state = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm, "lm_head.weight": weights.head_rows}
    for i, layer in enumerate(weights.layers):
        for part, names in (("self_attn", "q k v o"), ("mlp", "gate up down")):
            for name in names.split():
                state[f"model.layers.{i}.{part}.{name}_proj.weight"] = dense(getattr(layer, name))
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"model.layers.{i}.{name}.weight"] = getattr(layer, name)
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()})
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, shape.vocab, (2, 33)))
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(FloatLlama(weights)(tokens), expected, rtol=1e-4, atol=1e-4)

"""Published shapes against what the models' own ``config.json`` say, and how many weights their authors count."""

from __future__ import annotations

import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.published import PUBLISHED, published_model

#: hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size, hidden_act,
#: rope_theta, rms_norm_eps; then the context that is measured, and the millions of weights with one embedding.
CONFIGS = {
    "bitnet-0.73b": (1536, 24, 16, 16, 96, 4096, 32002, "silu", 1e4, 1e-5, 2048, 729),
    "bitnet-2b4t": (2560, 30, 20, 5, 128, 6912, 128256, "relu2", 5e5, 1e-5, 4096, 2412),
    "smollm2-135m": (576, 30, 9, 3, 64, 1536, 49152, "silu", 1e5, 1e-5, 2048, 135),
    "llama-1b": (2048, 16, 32, 8, 64, 8192, 128256, "silu", 5e5, 1e-5, 2048, 1236),
    "bonsai-1.7b": (2048, 28, 16, 8, 128, 6144, 151936, "silu", 1e6, 1e-6, 2048, 1721),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, "silu", 1e6, 1e-6, 2048, 596),
}
#: Linear engine, and what a layer computes.
KINDS: dict[str, tuple[str, DecoderLayer]] = {
    "bitnet-0.73b": ("ternary", BITNET), "bitnet-2b4t": ("ternary", BITNET), "smollm2-135m": ("int4", LLAMA),
    "llama-1b": ("int4", LLAMA), "bonsai-1.7b": ("grouped", QWEN3), "qwen3-0.6b": ("int4", QWEN3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes(name: str) -> None:
    model = published_model(name)
    s, weights = model.shape, CONFIGS[name][-1]
    assert (
        s.hidden, s.layers, s.heads, s.kv_heads, s.head_dim, s.ffn, s.vocab, s.activation, s.rope_theta, s.rms_eps, s.max_context,
    ) == CONFIGS[name][:-1]
    assert (model.engine, model.layer) == KINDS[name]
    assert s.tied and not s.rope_factors and s.rope_scale == 1 and not s.unrotated
    assert (s.linear_weights + s.vocab * s.hidden) / 1e6 == pytest.approx(weights, abs=0.6)
    assert (s.q_rows, s.kv_rows, s.group) == (s.heads * s.head_dim, s.kv_heads * s.head_dim, s.heads // s.kv_heads)


def test_all_are_held() -> None:
    assert CONFIGS.keys() == KINDS.keys() == PUBLISHED.keys()
    with pytest.raises(HwgenError, match="'bitnet' is not a published shape") as caught:
        published_model("bitnet")
    assert caught.value.kind == "usage"

"""Published models without their weights, for benchmarks and estimates: sizes, layers and number formats."""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import BITNET, LLAMA, QWEN3, DecoderLayer
from .errors import HwgenError
from .shape import ModelShape

__all__ = ["PUBLISHED", "PublishedModel", "published_model"]


@dataclass(frozen=True)
class PublishedModel:
    """A row of :data:`PUBLISHED`."""

    #: Linear engine that its matrices need: "ternary", "grouped" or "int4".
    engine: str
    #: What a layer computes.
    layer: DecoderLayer
    shape: ModelShape


#: By name. Contexts are those of the builds that are measured, not the longest of the models.
PUBLISHED = {
    # 1bitLLM/bitnet_b1_58-large, the model of TeLLMe v2.
    "bitnet-0.73b": PublishedModel("ternary", BITNET, ModelShape(
        hidden=1536, layers=24, heads=16, kv_heads=16, head_dim=96, ffn=4096, vocab=32002, activation="silu",
        max_context=2048, rms_eps=1e-5,
    )),
    # microsoft/bitnet-b1.58-2B-4T, the model of bitnet-kv260.
    "bitnet-2b4t": PublishedModel("ternary", BITNET, ModelShape(
        hidden=2560, layers=30, heads=20, kv_heads=5, head_dim=128, ffn=6912, vocab=128256, activation="relu2",
        max_context=4096, rope_theta=500000.0, rms_eps=1e-5,
    )),
    # HuggingFaceTB/SmolLM2-135M-Instruct.
    "smollm2-135m": PublishedModel("int4", LLAMA, ModelShape(
        hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152, activation="silu",
        max_context=2048, rope_theta=100000.0, rms_eps=1e-5,
    )),
    # meta-llama/Llama-3.2-1B, without the scaling of its rotary embedding.
    "llama-1b": PublishedModel("int4", LLAMA, ModelShape(
        hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab=128256, activation="silu",
        max_context=2048, rope_theta=500000.0, rms_eps=1e-5,
    )),
    # prism-ml/Ternary-Bonsai-1.7B, without the scaling of its rotary embedding.
    "bonsai-1.7b": PublishedModel("grouped", QWEN3, ModelShape(
        hidden=2048, layers=28, heads=16, kv_heads=8, head_dim=128, ffn=6144, vocab=151936, activation="silu",
        max_context=2048, rope_theta=1000000.0, rms_eps=1e-6,
    )),
    # Qwen/Qwen3-0.6B.
    "qwen3-0.6b": PublishedModel("int4", QWEN3, ModelShape(
        hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, ffn=3072, vocab=151936, activation="silu",
        max_context=2048, rope_theta=1000000.0, rms_eps=1e-6,
    )),
}


def published_model(name: str) -> PublishedModel:
    """The row called ``name``."""
    if name not in PUBLISHED:
        raise HwgenError("usage", f"{name!r} is not a published shape", f"use one of: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]

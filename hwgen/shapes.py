"""Sizes of published models, for benchmarks and estimates without their weights."""

from __future__ import annotations

from .errors import HwgenError
from .model import ModelShape

__all__ = ["SHAPES", "published_shape"]

#: Sizes by name. Contexts are those of the builds that are measured, not the longest of the models.
SHAPES: dict[str, ModelShape] = {
    # 1bitLLM/bitnet_b1_58-large, the model of TeLLMe v2.
    "bitnet-0.73b": ModelShape(
        hidden=1536, layers=24, heads=16, kv_heads=16, head_dim=96, ffn=4096, vocab=32002, activation="silu",
        max_context=2048, rms_eps=1e-5,
    ),
    # microsoft/bitnet-b1.58-2B-4T, the model of bitnet-kv260.
    "bitnet-2b4t": ModelShape(
        hidden=2560, layers=30, heads=20, kv_heads=5, head_dim=128, ffn=6912, vocab=128256, activation="relu2",
        max_context=4096, rope_theta=500000.0, rms_eps=1e-5,
    ),
}  # fmt: skip


def published_shape(name: str) -> ModelShape:
    """The shape called ``name``."""
    if name not in SHAPES:
        raise HwgenError("usage", f"{name!r} is no published shape", f"use one of: {', '.join(SHAPES)}")
    return SHAPES[name]

"""Memories of the accelerator that a build with ``probe`` shows to a simulator, word by word as they are written."""

from __future__ import annotations

from dataclasses import dataclass

from .config import BuildConfig

__all__ = ["Probe", "probes"]


@dataclass(frozen=True)
class Probe:
    """A memory seen through its writes: outputs ``probe_{name}_valid`` (one bit a lane), ``probe_{name}_addr`` and
    ``probe_{name}_data`` (``lanes`` words of ``word_bits`` bits, lane 0 lowest)."""

    name: str
    #: Words a lane.
    depth: int
    word_bits: int
    lanes: int
    #: What a word is: "f32", "bf16" (bit patterns) or "int" (two's complement).
    element: str


def probes(config: BuildConfig) -> list[Probe]:
    """Every probe of a build, with its address in the memory:

    * ``scratch``, ``param``: vector.
    * ``act``: vector of a token's int8 activations, ``(half * tokens + token) * (max_inputs / width) + vector``; the token counts
      from the first active one.
    * ``acc``: accumulators as DRAIN reads them, ``(half * tokens + token) * panel_vectors + vector``.
    * ``query``: ``(slot * kv_heads + kv_head) * head_vectors + vector``; ``query_scale``: ``slot * kv_heads + kv_head``.
    * ``kv``: ``((bank * 2 + value) * max_kv_heads + head) * (max_head_dim / width) + vector``; ``kv_scale``: ``(bank * 2 + value) *
      max_kv_heads + head``.
    """
    width = config.width
    head_vectors = config.max_head_dim // width
    return [
        Probe("scratch", config.scratch_vectors, 32, width, "f32"),
        Probe("param", config.param_vectors, 32, width, "f32"),
        Probe("act", 2 * config.tokens * (config.max_inputs // width), 8, width, "int"),
        Probe("acc", 2 * config.tokens * config.panel_vectors, config.acc_bits, width, "int"),
        Probe("query", max(config.chunk * config.max_query, config.max_inputs) // width, 8, width, "int"),
        Probe("query_scale", config.chunk * config.max_heads, 32, 1, "f32"),
        Probe("kv", 2 * config.chunk * config.max_kv_heads * head_vectors, 8, width, "int"),
        Probe("kv_scale", 2 * config.chunk * config.max_kv_heads, 16, 1, "bf16"),
    ]

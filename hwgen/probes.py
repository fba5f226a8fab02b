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
    * ``act{group}_{lane}``: vector of the lane's int8 activations.
    * ``acc``: accumulators as DRAIN reads them, ``token lane * (max_rows / width) + vector``; the token lane is ``lane`` of a gang,
      else ``group * lanes + lane``.
    * ``query``: ``(slot * kv_heads + kv_head) * head_vectors + vector``; ``query_scale``: ``slot * kv_heads + kv_head``.
    * ``kv``: ``((bank * 2 + value) * max_kv_heads + head) * (max_head_dim / width) + vector``; ``kv_scale``: ``(bank * 2 + value) *
      max_kv_heads + head``.
    """
    width = config.width
    head_vectors = config.max_head_dim // width
    lanes = [
        Probe(f"act{group}_{lane}", config.max_inputs // width, 8, width, "int")
        for group in range(config.groups)
        for lane in range(config.lanes)
    ]
    return [
        Probe("scratch", config.scratch_vectors, 32, width, "f32"),
        Probe("param", config.param_vectors, 32, width, "f32"),
        *lanes,
        Probe("acc", config.tokens * (config.max_rows // width), config.acc_bits, width, "int"),
        Probe("query", max(config.max_group * head_vectors, config.max_inputs // width), 8, width, "int"),
        Probe("query_scale", config.max_group, 32, 1, "f32"),
        Probe("kv", 2 * config.chunk * config.max_kv_heads * head_vectors, 8, width, "int"),
        Probe("kv_scale", 2 * config.chunk * config.max_kv_heads, 16, 1, "bf16"),
    ]

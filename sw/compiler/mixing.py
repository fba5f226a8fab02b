"""Formats of queries, keys and values; operators that mix values of 4 bits, and turn the output of attention back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...config import BuildConfig
from ...descriptors import Descriptor, Flag, Format, Opcode
from ...errors import HwgenError
from ...layout import KV_FORMATS, key_mixing_strides, mixing_strides
from ...operators import rope_heads
from ...shape import ModelShape

__all__ = ["Mixing", "check_formats"]


def check_formats(config: BuildConfig, kv: str, query: str) -> None:
    """Refuse formats that the build does not have."""
    build = f"build {config.name!r}"
    if KV_FORMATS[kv] and not config.int4_kv:
        raise HwgenError("model", f"the model keeps a {kv} cache, {build} has k8v8 alone", "build with int4_kv, or use --kv k8v8")
    if query == "e4m3" and not config.fp8_query:
        raise HwgenError("model", f"the model has e4m3 queries, {build} has none", "build with fp8_query, or use --query int8")


class Mixing:
    """Mixes heads where they lie in the scratch, by a ROPE for every stride: its heads are of twice the stride, or those of the
    model for strides within a vector. Keys (with queries) and values are mixed where they have 4 bits.
    """

    def __init__(self, config: BuildConfig, shape: ModelShape, kv: str) -> None:
        self.shape, self.width, self.head_vectors = shape, config.width, shape.head_dim // config.width
        self.of_keys, self.of_values = (
            strides(config, shape.head_dim) if bits in KV_FORMATS[kv] else ()
            for strides, bits in ((key_mixing_strides, Format.INT4_KEYS), (mixing_strides, Format.INT4_VALUES))
        )

    def mixed(self, rope: Descriptor, key_row: int | None = None) -> Iterator[Descriptor]:
        """``rope``, and what mixes its heads before they are quantised: the last time that queries and keys are mixed is the pass
        that measures them. ``key_row``: scratch address of what is added to keys before.
        """
        heads = rope_heads(rope)
        turned = sum(count for kind, count in heads.items() if kind is not Flag.VALUES)
        if Flag.VALUES in heads:
            values = rope.src + turned * self.head_vectors
            yield from self._operators(rope, Format.MIX, self.of_values, heads[Flag.VALUES], values)
        if turned and self.of_keys:
            yield replace(rope, flags=rope.flags & ~Flag.VALUES | Flag.STORE)
            if key_row is not None and Flag.KEYS in heads:
                keys = rope.src + heads.get(Flag.QUERIES, 0) * self.head_vectors
                added = next(self._operators(rope, Format.MIX, [self.shape.head_dim // 2], heads[Flag.KEYS], keys))
                yield replace(added, flags=added.flags | Flag.ADD, dst=key_row, dst_stride=0)
            yield from self._operators(rope, Format.MIX, self.of_keys[:-1], turned, rope.src)
            rope = replace(rope, format=rope.format | Format.MIX, param=0, param_stride=0)
        yield rope

    def turn_back(self, layer: int, src: int, src_stride: int, tokens: int) -> Iterator[Descriptor]:
        """What attention made of mixed values, of all tokens."""
        whole = Descriptor(
            layer=layer, kv_heads=self.shape.kv_heads, dst=src, src_stride=src_stride, dst_stride=src_stride, token_count=tokens
        )
        return self._operators(whole, Format.UNMIX, self.of_values, self.shape.heads, src)

    def _operators(
        self, rope: Descriptor, format: Format, strides: Sequence[int], heads: int, src: int
    ) -> Iterator[Descriptor]:
        """``heads`` heads of the tokens of ``rope``, the first one at ``src``."""
        for stride in strides:
            vectors = self.head_vectors if stride < self.width else 2 * stride // self.width
            yield Descriptor(
                opcode=Opcode.ROPE, layer=rope.layer, flags=Flag.QUERIES | Flag.STORE, format=format,
                heads=heads * self.head_vectors // vectors, kv_heads=rope.kv_heads, head_vectors=vectors,
                param=stride if stride < self.width else 0,
                src=src, src_stride=rope.src_stride, dst=src, dst_stride=rope.src_stride,
                token_start=rope.token_start, token_count=rope.token_count,
            )

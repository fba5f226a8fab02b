"""Memories of the attention unit: what the generator builds and the model of resources counts."""

from __future__ import annotations

from .config import BuildConfig
from .rounding import ceil_div

__all__ = ["AttentionMemory", "last_column"]

#: ``(depth, bits)`` of one column: a half block RAM up to 1024 words, else a whole one.
_COLUMNS = ((512, 36), (1024, 18), (2048, 18), (4096, 9))

#: Most bits of a last column that lies in distributed memory.
_DISTRIBUTED_BITS = 2048


class AttentionMemory:
    """Words of the memories of the attention unit."""

    def __init__(self, config: BuildConfig) -> None:
        lanes = config.query_lanes
        #: Rounds of ``query_lanes`` slots at most.
        self.rounds = ceil_div(config.max_group, lanes)
        #: Beats of the keys of one block at most.
        self.dims = config.max_head_dim // config.key_bytes
        #: Blocks buffered on chip: four keep the stages busy, eight also the ring while own keys are read; block RAM has 512
        #: words, whatever is used of them.
        self.buffers = 8 if 8 << (self.dims - 1).bit_length() <= 512 else 4
        # Where the slots of a key/value head do not fill its last round, lanes waste one row of every head.
        wasted = config.max_kv_heads if config.chunk % lanes else 0
        #: Rows of query heads in one bank of the query memory.
        self.query_rows = ceil_div(config.chunk * config.max_heads, lanes) + wasted
        elements = ceil_div(config.chunk * config.max_query, lanes) + min(wasted * config.max_head_dim, config.max_query)
        #: Words of one bank of the query memory.
        self.query_words = ceil_div(max(elements, config.max_inputs), config.width)
        #: Words of one lane's output memory.
        self.output_words = self.rounds * self.dims


def last_column(bits: int, depth: int) -> tuple[int, str]:
    """``(bits, style)`` of what whole columns of block RAM leave of a word of ``bits``: "distributed" where it is little, else
    "block". 0 bits where there is no whole column, or nothing is left."""
    column = next((wide for words, wide in _COLUMNS if depth <= words), bits)
    rest = bits % column if bits >= column else 0
    return rest, "distributed" if rest * depth <= _DISTRIBUTED_BITS else "block"

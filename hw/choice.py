"""What prefetcher and attention unit agree on where runs choose their blocks (hwgen/block_choice.py)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Value

from ..config import BuildConfig
from .interfaces import index_bits

__all__ = ["choice_entries", "choice_lists", "seen_position"]


def choice_lists(config: BuildConfig) -> int:
    """Lists of chosen blocks: list ``run << bits of a head | head``."""
    return config.chunk << index_bits(config.max_kv_heads)


def choice_entries(config: BuildConfig) -> int:
    """Entries of all lists together."""
    return choice_lists(config) * config.kv_budget


def seen_position(config: BuildConfig, runs: Any, choosing: Value) -> Value:
    """Position at which a run read from ``runs`` stands for the walks over its blocks.

    ATTENTION: where it would if what it attends to were the whole cache. With CHOOSE at the last slot of the last page of summaries
    that it looks at; a run without a budget, which has none to look at, at its beginning: of that it is given one block, so that
    every run has blocks.
    """
    if not config.kv_budget:
        position: Value = runs.position
        return position
    block_bits = config.kv_block.bit_length() - 1
    whole = runs.position >> block_bits
    last_page = (((whole - 1) * config.summary_rows - 1) >> block_bits)[: len(whole)]
    among = Cat(runs.position[:block_bits], (runs.budget + 2))
    looked = Cat(Const(-1, block_bits), last_page)
    chooses = runs.budget != 0
    return Mux(choosing, Mux(chooses, looked, 0), Mux(chooses, among, runs.position))[: len(runs.position)]

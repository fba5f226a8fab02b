"""Blocks of the cache that a decode step attends to where it has a budget: which may be chosen, and where their summaries are.

A run of one token at position p, behind n = floor(p / kv_block) whole blocks, may have a *budget* of N blocks. For every
key/value head it attends to the first block, to the N of the blocks 1 to n - 2 whose *summaries* score highest, best first, then
to the newest whole block, and to what follows it: in this order (docs/numerics.md). It is exact where all blocks are within the
budget, for then it has none: a budget is for runs with ``n >= N + 3`` alone.

A block has ``summary_rows`` R summaries, each as a key: int8 elements, or four bits where keys have them, and a bf16 scale. A
block scores what the best of them does. Summary r of block b is row ``b * R + r``. Rows ``j * kv_block`` to ``(j + 1) * kv_block
- 1`` are the key slots of a page of the cache of their own, page of summaries ``j``, whose values mean nothing; its entry in the
page table is the first one of the run less ``1 + j``. The host makes them: the mean of kv_block / R keys (the choice of blocks by
summaries of their keys as in Quest, Tang et al. 2024, section 3; means as in MoBA, Lu et al. 2025, section 2.2).
"""

from __future__ import annotations

from .config import BuildConfig
from .layout import KvBlockLayout, pad_beats
from .rounding import ceil_div

__all__ = ["attended_blocks", "attended_position", "candidates", "first_position", "may_choose", "summary_beats", "summary_pages"]


def candidates(config: BuildConfig, position: int) -> range:
    """Blocks that a token at ``position`` may choose: all that are whole but the first and the newest one."""
    return range(1, max(1, position // config.kv_block - 1))


def may_choose(config: BuildConfig, position: int, budget: int) -> bool:
    """Whether a token at ``position`` has more blocks to choose from than ``budget``, which is not 0."""
    return 0 < budget < len(candidates(config, position))


def first_position(config: BuildConfig, budget: int) -> int:
    """The first position whose token chooses."""
    return (budget + 3) * config.kv_block


def summary_pages(config: BuildConfig, position: int) -> int:
    """Pages of summaries that a token at ``position`` looks at: those with a block that it may choose."""
    return ceil_div(candidates(config, position).stop * config.summary_rows, config.kv_block)


def summary_beats(config: BuildConfig, layout: KvBlockLayout) -> int:
    """Beats of a segment of summaries: header and keys of a block of the cache, padded to whole ring rows."""
    return pad_beats(config, layout.first_beats[1])


def attended_position(config: BuildConfig, position: int, budget: int) -> int:
    """Position at which the token would stand if what it attends to were the whole cache: ``position`` without a budget."""
    if not budget:
        return position
    return (budget + 2) * config.kv_block + position % config.kv_block


def attended_blocks(config: BuildConfig, position: int, chosen: list[int]) -> list[int]:
    """Cached blocks that a token attends to, in this order: the first, the ``chosen`` ones, the newest whole one, what follows."""
    whole = position // config.kv_block
    return [0, *chosen, *range(whole - 1, ceil_div(position, config.kv_block))]

"""Blocks of the cache that a step may choose, counted by hand: blocks of 16 keys, four summaries each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.block_choice import (
    attended_blocks,
    attended_position,
    candidates,
    first_position,
    may_choose,
    summary_beats,
    summary_pages,
)
from hwgen.config import BuildConfig
from hwgen.descriptors import Format
from hwgen.layout import KvBlockLayout

CONFIG = BuildConfig(kv_budget=8)


@pytest.mark.parametrize(("position", "blocks", "pages"), [
    (0, [], 1), (15, [], 1), (47, [], 1), (48, [1], 1), (63, [1], 1), (64, [1, 2], 1), (80, [1, 2, 3], 1), (96, [1, 2, 3, 4], 2),
    (1023, [*range(1, 62)], 16),
])
def test_all_whole_blocks_but_the_first_and_the_newest(position: int, blocks: list[int], pages: int) -> None:
    """Their summaries are on the pages up to that of the last of them, four blocks on each."""
    assert list(candidates(CONFIG, position)) == blocks and summary_pages(CONFIG, position) == pages
    assert summary_pages(replace(CONFIG, summary_rows=16), position) == max(1, len(blocks) + 1)


@pytest.mark.parametrize("budget", [1, 2, 5, 8])
def test_more_blocks_than_the_budget(budget: int) -> None:
    chooses = [may_choose(CONFIG, position, budget) for position in range(300)]
    first = chooses.index(True)
    assert first == first_position(CONFIG, budget) == 16 * (budget + 3) and all(chooses[first:])
    assert not may_choose(CONFIG, 10**6, 0)


def test_what_is_attended_to() -> None:
    """The first block, the chosen ones in their order, the newest whole one, and what follows it."""
    assert attended_blocks(CONFIG, 100, [3, 2]) == [0, 3, 2, 5, 6] and attended_blocks(CONFIG, 96, [3, 2]) == [0, 3, 2, 5]
    for position, attended in ((100, 68), (96, 64), (111, 79), (1000, 72)):
        assert attended_position(CONFIG, position, 2) == attended and attended_position(CONFIG, position, 0) == position
        assert -(-attended // 16) == len(attended_blocks(CONFIG, position, [1, 2]))


@pytest.mark.parametrize(("format", "beats"), [(Format.NONE, 34), (Format.INT4_VALUES, 34), (Format.INT4_KEYS, 18)])
def test_a_page_of_summaries_has_no_values(format: Format, beats: int) -> None:
    """Two beats of scales, and two elements of every key a beat of heads of 64."""
    assert summary_beats(CONFIG, KvBlockLayout(CONFIG, 64, format)) == beats
    assert summary_beats(replace(CONFIG, groups=4), KvBlockLayout(CONFIG, 64, format)) == -(-beats // 4) * 4

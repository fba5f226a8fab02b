"""ATTENTION with CHOOSE, and with what it chose, on the functional model, against exact rational arithmetic and plain loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hwgen.block_choice import first_position, summary_beats
from hwgen.descriptors import Fetch, Flag
from hwgen.golden.memories import ProgramError
from hwgen.registers import PassFlag, Status

from .choosing import BLOCK, CONFIG, DATA, DIM, GROUP, HEADS, KV_HEADS, LAYER, Rig, Wanted


def check(rig: Rig) -> None:
    """Choices and outputs of a pass that has ended."""
    choices = {number: rig.chosen(number) for number, run in enumerate(rig.runs) if run.budget}
    assert rig.machine.choice == choices
    assert np.array_equal(rig.outputs(), rig.expected(choices))


LATE = 19 * BLOCK  # summaries of two pages


# ---- what is chosen and attended to ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kv", "e4m3"), [("k8v8", False), ("k8v4", True), ("k4v4", False), ("k4v4", True)])
@pytest.mark.parametrize("position", [LATE, LATE + 1, LATE + BLOCK - 1])
def test_a_step_attends_to_what_it_chooses(kv: str, e4m3: bool, position: int) -> None:
    rig = Rig([Wanted(position, budget=3)], kv, e4m3, seed=position)
    rig.go()
    check(rig)
    assert len({tuple(blocks) for blocks in rig.machine.choice[0]}) == KV_HEADS  # every head its own
    # Two pages of summaries, then the first block, three, the newest and what follows it, of each head.
    blocks = 5 + (position % BLOCK > 0)
    beats = KV_HEADS * (2 * summary_beats(CONFIG, rig.layout) + blocks * rig.layout.beats)
    assert rig.machine.registers.counters["stream_beats"] == beats


@pytest.mark.parametrize(("whole", "budget"), [(5, 2), (6, 3), (7, 4), (18, 4), (17, 1)])
def test_the_first_positions_that_choose(whole: int, budget: int) -> None:
    """One block more than the budget has; and pages of summaries of 16 and of 17 blocks that are looked at."""
    rig = Rig([Wanted(whole * BLOCK + 3, budget=budget)], seed=whole)
    assert (first_position(CONFIG, budget) == whole * BLOCK) == (whole == budget + 3)
    rig.go()
    check(rig)


@pytest.mark.parametrize(("rows", "pages"), [(2, 3), (4, 5), (16, 18)])
def test_a_block_has_several_summaries(rows: int, pages: int) -> None:
    """Its score is that of the best one, first or last; pages of them end within a block, at one, or are of one block."""
    config = replace(CONFIG, summary_rows=rows, page_entries=128)
    rig = Rig([Wanted(LATE + 3, budget=3), Wanted(40)], "k4v4", seed=rows, config=config)
    for head, (block, row) in itertools.product(range(KV_HEADS), ((17, rows - 1), (1, 0), (9, 1))):
        q8, _ = rig.query(0, head * GROUP)
        best = np.where(np.array(q8) < 0, -120, 120).astype(np.int8)
        rig.summaries[0][head][block * rows + row] = best, np.uint16(0x3F80 - block)
        rig.put_summary(0, head, block * rows + row)
    rig.go()
    check(rig)
    assert all(sorted(blocks) == [1, 9, 17] for blocks in rig.machine.choice[0])
    beats = KV_HEADS * ((pages + 1) * summary_beats(config, rig.layout) + (6 + 3) * rig.layout.beats)
    assert rig.machine.registers.counters["stream_beats"] == beats
    for head in range(KV_HEADS):  # those of the first block and of the newest one, beside candidates
        q8, _ = rig.query(0, head * GROUP)
        best = np.where(np.array(q8) < 0, -120, 120).astype(np.int8)
        for row in (rows - 1, *range(18 * rows, min(19 * rows, pages * BLOCK))):
            rig.summaries[0][head][row] = best, np.uint16(0x7F00)
            rig.put_summary(0, head, row)
    rig.go()
    check(rig)
    assert all(sorted(blocks) == [1, 9, 17] for blocks in rig.machine.choice[0])


def test_runs_with_and_without_a_budget() -> None:
    """Each as if it were alone: one of several tokens, one that begins, and two whose budgets differ."""
    runs = [Wanted(37, 3), Wanted(LATE + 5, budget=2), Wanted(0, 2), Wanted(9 * BLOCK, budget=4), Wanted(LATE + 1)]
    rig = Rig(runs, seed=3)
    rig.go()
    check(rig)
    assert set(rig.machine.choice) == {1, 3}
    choosing = KV_HEADS * summary_beats(CONFIG, rig.layout) * (1 + 2 + 1 + 1 + 1)  # a page of who does not choose
    attending = KV_HEADS * rig.layout.beats * (3 + 5 + 0 + 6 + 20)
    assert rig.machine.registers.counters["stream_beats"] == choosing + attending


def test_nobody_chooses() -> None:
    """Runs without a budget choose nothing, and attend to everything, whether the pass has CHOOSE or not."""
    rig = Rig([Wanted(37, 2), Wanted(LATE)], seed=4)
    for options in (PassFlag.CHOOSE, PassFlag.NONE, PassFlag.CHOOSE):
        rig.machine.scratch[:] = 0
        rig.go(options)
        check(rig)
        assert rig.machine.registers.counters["operators"] == (2 if options else 1)


@pytest.mark.parametrize("at", [0, 1])
def test_of_equal_scores_the_first_block(at: int) -> None:
    """Blocks 4, 9, 15, 16 and 17 are the same, the best of all, across pages; then those that are the worst are the same."""
    rig = Rig([Wanted(LATE + at, budget=3)], seed=5)
    for head in range(KV_HEADS):
        best = max(range(1, 18), key=lambda block, head=head: rig.score(0, head, block))
        for block in (4, 9, 15, 16, 17):
            rig.summaries[0][head][block] = rig.summaries[0][head][best]
            rig.put_summary(0, head, block)
    rig.go()
    check(rig)
    assert all(len({rig.score(0, head, b) for b in blocks}) == 1 for head, blocks in enumerate(rig.machine.choice[0]))
    for head in range(KV_HEADS):  # a score of 0, whatever the query is
        for block in range(2 * BLOCK):
            rig.summaries[0][head][block] = np.zeros(DIM, np.int8), np.uint16(0)
            rig.put_summary(0, head, block)
    rig.go()
    check(rig)
    assert rig.machine.choice[0] == [[1, 2, 3]] * KV_HEADS


def test_scores_are_those_of_attention() -> None:
    """Saturated ones are equal, and so are those that differ behind the tenth fraction bit; one that differs there is better."""
    rig = Rig([Wanted(LATE, budget=4)], seed=6)
    rig.machine.query[0, :HEADS, :DIM] = 1
    rig.machine.query_scale[0, :HEADS] = 2.0**-11  # of the dot product
    ones = np.ones(DIM, np.int8)
    one, huge = np.uint16(0x3F80), np.uint16(0x7F00)
    for head in range(KV_HEADS):
        for block in range(2 * BLOCK):
            rig.summaries[0][head][block] = -ones, one
        last = ones.copy()
        last[0] = 2
        rig.summaries[0][head][12] = ones, one  # 16 / 2^11: 8 / 2^10
        rig.summaries[0][head][8] = last, one  # 17 / 2^11: half to even, 8 / 2^10
        last = last.copy()
        last[1] = 4
        rig.summaries[0][head][14] = last, one  # 20 / 2^11: 10 / 2^10
        rig.summaries[0][head][11] = ones, huge
        rig.summaries[0][head][7] = 127 * ones, huge  # larger, were it not saturated
        for block in range(2 * BLOCK):
            rig.put_summary(0, head, block)
    rig.go()
    check(rig)
    assert rig.machine.choice[0] == [[7, 11, 14, 8]] * KV_HEADS


def test_the_score_is_of_the_best_query_of_the_group() -> None:
    rig = Rig([Wanted(8 * BLOCK, budget=2)], seed=7)
    rig.machine.query[0, :HEADS, :DIM] = 0
    for head in range(HEADS):
        rig.machine.query[0, head, head] = 10 - head  # each its own element
    for kv_head, block in itertools.product(range(KV_HEADS), range(BLOCK)):
        rig.summaries[0][kv_head][block] = -np.ones(DIM, np.int8), np.uint16(0x3F80)
    for block, element in ((3, 1), (5, 0), (2, 2), (6, 3)):
        for kv_head in range(KV_HEADS):
            key = np.full(DIM, -127, np.int8)
            key[element] = 100
            rig.summaries[0][kv_head][block] = key, np.uint16(0x3F80)
    for kv_head, block in itertools.product(range(KV_HEADS), range(BLOCK)):
        rig.put_summary(0, kv_head, block)
    rig.machine.query_scale[0, :HEADS] = 0.01
    rig.go()
    check(rig)
    assert rig.machine.choice[0] == [[5, 3], [2, 6]]


def test_first_and_newest_are_no_candidates() -> None:
    """Nor are slots behind them, whose summaries are not there yet."""
    rig = Rig([Wanted(8 * BLOCK + 5, budget=4)], seed=8)
    for head, block in itertools.product(range(KV_HEADS), (0, *range(7, BLOCK))):
        q8, _ = rig.query(0, head * GROUP)
        rig.summaries[0][head][block] = np.sign(np.array(q8)).astype(np.int8) * np.int8(127), np.uint16(0x7F00)
        rig.put_summary(0, head, block)
    rig.go()
    check(rig)
    assert all(set(blocks) < set(range(1, 7)) and len(blocks) == 4 for blocks in rig.machine.choice[0])


@pytest.mark.parametrize("kv", ["k8v8", "k4v4"])
def test_nothing_else_is_looked_at(kv: str) -> None:
    """Noise in blocks that are not attended to, and in the values of pages of summaries and their scales, changes nothing."""
    rig = Rig([Wanted(LATE + 2, budget=3)], kv, seed=9)
    rig.go()
    before, choice = rig.outputs().copy(), dict(rig.machine.choice)
    for head, block in itertools.product(range(KV_HEADS), range(20)):
        if block not in (0, *choice[0][head], 18, 19):
            rig.segment(0, block, head)[:] = rig.rng.integers(0, 256, rig.layout.bytes).reshape(-1, CONFIG.beat_bytes)
    for head, page in itertools.product(range(KV_HEADS), range(2)):
        beats = rig.segment(0, -1 - page, head)
        beats[rig.layout.first_beats[1] :] = 0xA5
        beats[: rig.layout.header_beats].reshape(-1).view(np.uint16)[BLOCK:] = 0x7FFF
    rig.go()
    assert rig.machine.choice == choice and np.array_equal(rig.outputs(), before)
    rig.cache[0][1][choice[0][1][2]][0][1] ^= 1  # but that of a chosen block does
    rig.put_block(0, 1, choice[0][1][2])
    rig.go()
    after = rig.outputs()
    assert np.array_equal(after[0, :GROUP], before[0, :GROUP]) and not np.array_equal(after[0, GROUP:], before[0, GROUP:])


def test_a_loop_chooses_anew_in_every_pass() -> None:
    """The budget stays, the position grows: a block becomes a candidate when the next one is whole."""
    rig = Rig([Wanted(10 * BLOCK - 2, budget=3)], seed=10)
    for head in range(KV_HEADS):  # the best of all
        q8, _ = rig.query(0, head * GROUP)
        rig.summaries[0][head][8] = np.sign(np.array(q8)).astype(np.int8) * np.int8(127), np.uint16(0x7F00)
        rig.put_summary(0, head, 8)
    rig.set_pass()
    rig.set("WANTED", 1)
    rig.set("WANT", 0)
    rig.set("LOOP", 4)
    rig.machine.registers.candidates[0] = [(7, 1.0)]
    seen: list[list[list[int]]] = []
    rig.machine.on_retire = lambda d, machine: seen.append(machine.choice[0]) if Flag.CHOOSE in d.flags else None
    rig.set("PAGE", 7, rig.first[0] + 10)  # what becomes of the block that begins
    rig.set("CONTROL", 1)
    assert [[blocks[0] == 8 for blocks in choice] for choice in seen] == [[False] * 2] * 2 + [[True] * 2] * 2


# ---- what is refused ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("run", "options", "message"), [
    (Wanted(LATE, 2, 3), PassFlag.CHOOSE, "a run with a budget must have one token, not 2"),
    (Wanted(LATE, 1, 5), PassFlag.CHOOSE, r"a budget must be at most kv_budget \(4\), not 5"),
    (Wanted(LATE, 1, 3), PassFlag.NONE, "PASS must have CHOOSE where a run has a budget"),
    (Wanted(LATE, 1, 3), PassFlag.WRITE_LOGITS, "PASS must have CHOOSE where a run has a budget"),
    (Wanted(6 * BLOCK - 1, 1, 3), PassFlag.CHOOSE, "a budget at position 95 must be at most 2, not 3"),
    (Wanted(5, 1, 1), PassFlag.CHOOSE, "a budget at position 5 must be at most 0, not 1"),
])
def test_refuses_a_run_that_cannot_choose(run: Wanted, options: PassFlag, message: str) -> None:
    rig = Rig([Wanted(3), run])
    with pytest.raises(ProgramError, match=f"^{message}"):
        rig.go(options)
    assert Status.BUSY not in rig.machine.registers.status


def test_refuses_pages_of_summaries_that_cannot_be() -> None:
    rig = Rig([Wanted(LATE, budget=3)])
    rig.first[0] = 1
    with pytest.raises(ProgramError, match="^a run that chooses at position 304 must have PAGES 2 at least, not 1$"):
        rig.go()
    rig = Rig([Wanted(18 * BLOCK - 1, budget=3)])  # in a loop: the next position looks at a page more
    rig.write_program([])
    rig.first[0] = 1
    rig.set_pass()
    for name, value in (("WANTED", 1), ("WANT", 0), ("LOOP", 3)):
        rig.set(name, value)
    rig.machine.registers.candidates[0] = [(7, 1.0)]
    with pytest.raises(ProgramError, match="^a run that chooses at position 288 must have PAGES 2 at least, not 1$"):
        rig.set("CONTROL", 1)


def test_builds_without_a_budget_have_none() -> None:
    config = replace(CONFIG, kv_budget=0)
    rig = Rig([Wanted(LATE, budget=3)], config=config)
    with pytest.raises(ProgramError, match=r"^a budget must be at most kv_budget \(0\), not 3$"):
        rig.go()
    rig = Rig([Wanted(LATE)], config=config)
    with pytest.raises(ProgramError, match="^PASS must be without CHOOSE in a build without kv_budget$"):
        rig.go()
    rig.go(PassFlag.NONE)
    check(rig)


def test_refuses_attention_without_its_choice() -> None:
    rig = Rig([Wanted(3), Wanted(LATE, budget=3)])
    rig.go()
    missing = "ATTENTION must find what run 1 chose by an operator with CHOOSE"
    other = {"stream_address": DATA + LAYER + CONFIG.beat_bytes}
    for program in (
        [rig.attend()],  # that of the pass before is gone
        [rig.attend(), rig.choose()],
        [rig.choose(), rig.attend(**other)],  # another layer's
        [rig.choose(kv_heads=1, heads=GROUP), rig.attend()],
    ):
        rig.write_program(program)
        with pytest.raises(ProgramError, match=missing):
            rig.go()


@pytest.mark.parametrize(("fields", "message"), [
    ({"fetch": Fetch.CACHE}, "ATTENTION must have fetch SUMMARY with CHOOSE, and only then, not CACHE"),
    ({"flags": Flag.NONE}, "ATTENTION must have fetch SUMMARY with CHOOSE, and only then, not SUMMARY"),
    ({"stream_beats": 18}, "ATTENTION: stream_beats must be 10, not 18"),
    ({"stream_address": DATA + 8}, "a segment must begin at a multiple of 32 bytes"),
    ({"token_count": 1}, "ATTENTION must work on all 2 tokens, not 1"),
])
def test_refuses_a_choice_that_is_not_defined(fields: dict[str, object], message: str) -> None:
    rig = Rig([Wanted(3), Wanted(LATE, budget=3)])
    rig.write_program([rig.choose(**fields)])
    with pytest.raises(ProgramError, match=message):
        rig.go()

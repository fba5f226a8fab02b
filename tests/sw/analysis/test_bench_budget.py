"""A bench of steps that choose among blocks of an invented cache, with the golden machine in place of the simulator: the budget
reaches the passes of one answer and of several, whose summaries the engine makes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwgen.boards import Board, load_board
from hwgen.decoder import BITNET
from hwgen.published import PUBLISHED, PublishedModel
from hwgen.sw.analysis.bench import Bench, BenchPlan
from hwgen.sw.analysis.estimate import attended, cache_tokens, context_text, estimate_json
from hwgen.sw.devices.golden import GoldenDevice
from tests.system.small import CONFIG, SHAPE

#: Blocks of 8 tokens: from 40 on a step chooses 2 of at least 3.
BOARD = replace(load_board("kv260"), config=replace(CONFIG, probe=False, kv_budget=2, summary_rows=4, max_context=64))


@pytest.fixture(autouse=True)
def on_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(config: Any, *, memory_bytes: int, **options: Any) -> GoldenDevice:
        return GoldenDevice(config, memory_bytes=memory_bytes)

    monkeypatch.setitem(PUBLISHED, "small", PublishedModel("ternary", BITNET, SHAPE))
    monkeypatch.setattr("hwgen.sw.analysis.bench.VerilatorDevice", device)


def bench(board: Board, **plan: Any) -> tuple[Bench, list[Any]]:
    """A bench that has run, and the candidates behind every pass."""
    run = Bench(board, BenchPlan(shape="small", prompt=0, decode=2, check="none", **plan), lambda text: None)
    _, decode = run.run()
    return run, [[r.candidates for r in result.runs] for result in decode.results]


def test_steps_choose_where_they_have_a_budget() -> None:
    (whole, all_blocks), (part, two) = (bench(BOARD, cached=40, kv_budget=budget) for budget in (0, 2))
    assert all_blocks != two
    assert (whole.sessions[0].summaries.written, part.sessions[0].summaries.written) == (0, 4)
    assert all_blocks == bench(replace(BOARD, config=replace(BOARD.config, kv_budget=0)), cached=40)[1]


def test_a_short_cache_is_attended_to_whole() -> None:
    (_, all_blocks), (part, two) = (bench(BOARD, cached=37, kv_budget=budget) for budget in (0, 2))
    assert all_blocks == two and not part.sessions[0].summaries.written


def test_answers_have_summaries_of_their_own() -> None:
    """Two of three answers in a pass differ; each has its pages, eleven blocks of eight positions and five pages of summaries."""
    wide = replace(BOARD, config=replace(BOARD.config, max_context=128, page_entries=64))
    together, _ = bench(wide, cached=80, sequences=3, kv_budget=2)
    assert [session.summaries.written for session in together.sessions] == [9, 9, 9]
    pages = [page for session in together.sessions for page in (*session.pages, *session.summaries.pages)]
    assert len(set(pages)) == len(pages) == 3 * (11 + 5)


def test_the_estimate_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, chosen = (estimate_json(BOARD, "small", 0, 2, cached=56, kv_budget=budget)["decode"] for budget in (0, 2))
    assert (plain["attended"], chosen["attended"], chosen["context"]) == (56, 32, 56)
    assert context_text(plain) == "context 56" and context_text(chosen) == "context 56, attending to 32 tokens of it"


def test_sizes() -> None:
    config = BOARD.config
    assert [attended(config, position, 2) for position in (39, 40, 47, 63)] == [39, 32, 39, 39]
    assert attended(config, 63, 0) == 63
    # Whole pages, and whole pages of summaries of two of them.
    assert (cache_tokens(config, 3, 65), cache_tokens(replace(config, kv_budget=0), 3, 65)) == (3 * 80, 3 * 72)

"""Drafts replayed over recorded answers."""

from __future__ import annotations

import json

from hwgen.sw.analysis.draft_bench import PROMPTS, replay
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.runtime.drafts import ALLOWANCE, DEBT

#: As of kv260 and a head that is streamed once a round: four tokens cost what one costs, and the fifth begins another round.
COSTS = PassCosts(sizes=(1, 4, 5, 8), plain=(100.0, 101.0, 130.0, 132.0), wanting=(100.0, 101.0, 130.0, 132.0), block=1.0)


def test_no_answer_takes_longer() -> None:
    rows = json.loads(PROMPTS.read_text())["prompts"]
    kinds = [row["kind"] for row in rows]
    assert len(rows) == 20 and min(kinds.count(kind) for kind in ("chat", "summary", "edit")) >= 6
    for row in rows:
        found = replay(COSTS, 32, row["prompt_tokens"], row["answer"], 8)
        assert found.tokens == len(row["answer"]) - 1 >= found.passes
        assert found.cycles <= (1 + ALLOWANCE) * found.without + DEBT * 100
        assert row["kind"] != "edit" or found.passes < 0.8 * found.tokens or found.tokens < 20


def test_a_text_that_repeats_is_drafted() -> None:
    found = replay(COSTS, 32, [1, 2, 3, 4, 5, 6] * 3, [1, 2, 3, 4, 5, 6] * 5, 8)
    assert found.tokens == 29 and found.passes < 12 and found.cycles < 0.5 * found.without
    nothing = replay(COSTS, 32, [1], list(range(2, 30)), 8)
    assert nothing.passes == nothing.tokens == 27 and nothing.cycles == nothing.without

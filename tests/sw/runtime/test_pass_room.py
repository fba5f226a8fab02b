"""What a pass is estimated to cost, with a table that says what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.sw.runtime.pass_room import count_of, cycles_of, prompt_room, single_cycles


def test_what_the_table_is_asked() -> None:
    engine: Any = SimpleNamespace(
        costs=SimpleNamespace(cycles=lambda tokens, wanted, blocks: (tokens, wanted, blocks)),
        pages=SimpleNamespace(blocks=lambda position: -(-position // 16)),
    )

    def job(position: int) -> Any:
        return SimpleNamespace(generation=SimpleNamespace(attended=position))

    parts: Any = [
        (job(17), SimpleNamespace(run=SimpleNamespace(tokens=[1], wanted=1))),
        (job(64), SimpleNamespace(run=SimpleNamespace(tokens=[1, 2, 3], wanted=2))),
    ]
    assert cycles_of(engine, parts) == (4, 3, 6)
    assert cycles_of(engine, parts, 5, job(1)) == (9, 4, 7)
    assert single_cycles(engine, parts) == (1, 1, 3) and single_cycles(engine, []) == (1, 1, 0)


@pytest.mark.parametrize(("most", "tokens"), [(1.5, 5), (1.1, 1), (1.0, 3), (1.09, 3), (9.0, 7)])
def test_room_for_a_prompt(most: float, tokens: int) -> None:
    """As many tokens as keep the pass so short; else the rest of the round of four lanes, but not beside another prompt."""
    engine: Any = SimpleNamespace(
        costs=SimpleNamespace(cycles=lambda tokens, wanted, blocks: 100 + 10 * tokens + 1000 * blocks),
        pages=SimpleNamespace(blocks=lambda position: 0), image=SimpleNamespace(chunk=8), config=SimpleNamespace(lanes=4),
    )
    job: Any = SimpleNamespace(generation=SimpleNamespace(attended=0))
    parts: Any = [(job, SimpleNamespace(run=SimpleNamespace(tokens=[1], wanted=1)))]
    # a pass takes 100 cycles and 10 a token, one of a single answer 110; the chunk is 8 tokens, of which one is there
    assert prompt_room(engine, most, parts, 1, job) == tokens
    two: Any = [*parts, (job, SimpleNamespace(run=SimpleNamespace(tokens=[1, 2, 3], wanted=0)))]
    assert prompt_room(engine, 1.0, two, 1, job) == 0 and prompt_room(engine, 1.0, two, 2, job) == 4
    assert prompt_room(engine, 9.0, two, 1, job) == 4 and count_of(two) == (4, 1)

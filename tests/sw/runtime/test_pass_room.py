"""What a pass is estimated to cost, with a table that says what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hwgen.sw.runtime.pass_room import cycles_of, single_cycles


def test_what_the_table_is_asked() -> None:
    engine: Any = SimpleNamespace(
        costs=SimpleNamespace(cycles=lambda tokens, wanted, blocks: (tokens, wanted, blocks)),
        pages=SimpleNamespace(blocks=lambda position: -(-position // 16)),
    )

    def job(position: int) -> Any:
        return SimpleNamespace(generation=SimpleNamespace(session=SimpleNamespace(position=position)))

    parts: Any = [
        (job(17), SimpleNamespace(run=SimpleNamespace(tokens=[1], wanted=1))),
        (job(64), SimpleNamespace(run=SimpleNamespace(tokens=[1, 2, 3], wanted=2))),
    ]
    assert cycles_of(engine, parts) == (4, 3, 6)
    assert cycles_of(engine, parts, 5, job(1)) == (9, 4, 7)
    assert single_cycles(engine, parts) == (1, 1, 3) and single_cycles(engine, []) == (1, 1, 0)

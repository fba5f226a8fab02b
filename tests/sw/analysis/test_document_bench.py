"""What documents save by the model of a pass, and what was recorded of answers with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.sw.analysis.document_bench import BOARD, ORDERS, QUESTIONS, SHAPE, SHARES, first_token_cycles, quality
from hwgen.sw.analysis.estimate import planned_image


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    return found


def test_the_first_token_comes_three_times_as_soon() -> None:
    """Of 1,024 tokens of documents, 15% of them computed again, and 64 others; the more is computed, the later."""
    published = published_model(SHAPE)
    config = load_board(BOARD).for_engine(published.engine).config
    image = planned_image(config, published.shape, published.engine, layer=published.layer)
    cycles = [first_token_cycles(image, 1024, 64, share) for share in (0.0, 0.15, 0.3, 1.0)]
    assert cycles == sorted(cycles) and cycles[3] > 3 * cycles[1]


def test_recorded_answers(content: dict[str, Any]) -> None:
    questions = content["questions"]
    assert len({row["question"] for row in questions}) == 20 and len(content["documents"]) == 3
    rows = content["recorded"]
    assert [(tuple(row["order"]), row["share"]) for row in rows] == [(order, share) for order in ORDERS for share in SHARES]
    assert all(len(row["nats"]) == 20 for row in rows)
    for row in rows:
        assert row["recomputed"] == 0 if row["share"] in (0, 1) else 0.15 * row["placed"] <= row["recomputed"]


def test_computing_a_share_again_is_better_than_taking_over(content: dict[str, Any]) -> None:
    by_share = {row["share"]: row for row in quality(content["recorded"])}
    assert by_share[1.0]["apart"] == 0 < by_share[0.15]["apart"] < by_share[0.0]["apart"]

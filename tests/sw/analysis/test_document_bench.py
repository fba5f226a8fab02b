"""What documents save by the model of a pass, and what was recorded of answers with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.sw.analysis.document_bench import BOARD, ORDERS, QUESTIONS, SHAPE, WAYS, first_token_cycles, quality, texts_of
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
    assert [(kind, len(texts)) for kind, texts in texts_of(content["documents"]).items()] == [("documents", 3), ("paragraphs", 14)]
    rows = content["recorded"]
    assert [(row["texts"], tuple(row["order"]), row["share"], row["plain"]) for row in rows] == [
        (kind, order, *way) for kind in ORDERS for order in ORDERS[kind] for way in WAYS
    ]
    assert all(len(row["nats"]) == 20 for row in rows)
    for row in rows:
        assert row["recomputed"] == 0 if row["share"] in (0, 1) else 0.15 * row["placed"] <= row["recomputed"]


def test_documents_are_within_three_per_cent_of_the_whole_prompt(content: dict[str, Any]) -> None:
    """In every order, with a share computed again; plain they are not, and a share is better than none."""
    found = {(row["texts"], row["share"], row["plain"]): row for row in quality(content["recorded"])}
    whole, again = found["documents", 1.0, False], found["documents", 0.15, False]
    assert whole["apart"] == 0 and -0.03 < again["least"] <= again["most"] < 0.03
    for texts in ORDERS:
        shared, plain = found[texts, 0.15, True], found[texts, 0.0, True]
        assert max(abs(found[texts, 0.15, False]["apart"]), 0.03) < shared["apart"] < plain["apart"]

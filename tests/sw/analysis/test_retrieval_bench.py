"""What the bench of budgets plants, reads and scores, on a tiny model; and that the page has what was kept."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("torch")

from hwgen.errors import HwgenError
from hwgen.golden.decoder import GoldenModel, GoldenSession
from hwgen.sw.analysis.retrieval_bench import BUDGETS, DATA, NAMES, PAGE, Asked, Fact, plant, read_exactly, score, written
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.progress import Ticker
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.kv_arrays import unpack_pages
from hwgen.sw.runtime.logprobs import token_logprobs
from hwgen.sw.runtime.pages import Session
from hwgen.weights import ModelWeights, random_weights
from tests.sw.runtime.budget_model import BLOCK, BUDGET, CONFIG, SHAPE, budget_image, prompt

TICKER = Ticker(lambda text: None)
FACTS = [Fact(f"thing{i}", f"{12345 + i}") for i in range(5)]
STORY = (
    'Tom ran. "Why?" asked Lily.\nHe fell! She did not laugh. It was 3.5 miles. The\nend came... Then Tom slept.\n\nLily ate. '
    "Good night."
)


@pytest.fixture(scope="module")
def weights() -> ModelWeights:
    return random_weights(SHAPE, seed=11)


@pytest.fixture(scope="module")
def image() -> Image:
    return budget_image()


def engine_of(image: Image) -> Engine:
    return Engine(GoldenDevice(image.config, memory_bytes=image.memory_bytes()), image)


def test_facts_stand_once_between_sentences() -> None:
    text = plant(STORY, FACTS, seed=3)
    assert plant(STORY, FACTS, seed=3) == text != plant(STORY, FACTS, seed=4)
    rest = text
    for fact in FACTS:
        before, found, behind = rest.partition(fact.sentence)
        assert found == f" The secret code of the {fact.name} is {fact.code}." and fact.sentence not in behind
        assert re.search(r"[.!?]$", before) and re.match(r"\s+\S", behind)
        rest = before + behind
    assert rest == STORY
    with pytest.raises(HwgenError, match="places between sentences"):
        plant("One. Two.", FACTS, seed=3)


def test_what_is_read_at_once_has_the_bits_of_passes(image: Image, weights: ModelWeights) -> None:
    tokens = prompt(10 * BLOCK + 5)
    engine, passes = engine_of(image), Session()
    engine.prefill(passes, tokens)
    read = read_exactly(engine, GoldenModel(weights, CONFIG), tokens, TICKER)
    assert read.tokens == tokens and read.exact
    expected, found = (unpack_pages(image, engine.pages.read(session.pages), len(tokens)) for session in (passes, read))
    np.testing.assert_array_equal(found.elements, expected.elements)
    np.testing.assert_array_equal(found.scales, expected.scales)


def straight(weights: ModelWeights, tokens: list[int], ask: Asked) -> tuple[float, int]:
    """Of an answer, by the bit-exact model without pages, passes and forks."""
    model, session = GoldenModel(weights, CONFIG), GoldenSession()
    row = model.forward(session, [*tokens, *ask.question])
    nats, right = 0.0, 0
    for number, token in enumerate(ask.answer):
        if number >= len(ask.answer) - ask.scored:
            nats += token_logprobs(row.numpy(), token, 0).logprob
            right += int(row.argmax()) == token
        row = model.forward(session, [token])
    return nats, right


@pytest.mark.parametrize("blocks", [5, 12])
def test_scores(image: Image, weights: ModelWeights, blocks: int) -> None:
    """Without a budget, and with one that is enough for all blocks, those of the exact model, bit for bit; beyond it others."""
    tokens = prompt(blocks * BLOCK + 3)
    sizes = (2, 4), (5, 3), (1, 4)
    asked = [Asked(prompt(length, 7 + length), prompt(answer, 20 + length), answer - 1) for length, answer in sizes]
    engine = engine_of(image)
    context = read_exactly(engine, GoldenModel(weights, CONFIG), tokens, TICKER)
    free = engine.pages.free
    found = score(engine, context, asked, (0, 2, BUDGET), TICKER)
    assert engine.pages.free == free and context.tokens == tokens
    for ask, (exact, small, whole) in zip(asked, found, strict=True):
        assert exact == straight(weights, tokens, ask)
        assert small != exact
        assert (whole == exact) is (blocks == 5)


def test_a_right_answer_counts(image: Image, weights: ModelWeights) -> None:
    tokens, answer = prompt(30), list[int]()
    model, session = GoldenModel(weights, CONFIG), GoldenSession()
    row = model.forward(session, [*tokens, 5])
    for _ in range(4):
        answer.append(int(row.argmax()))
        row = model.forward(session, answer[-1:])
    engine = engine_of(image)
    context = read_exactly(engine, model, tokens, TICKER)
    wrong = [*answer[:3], (answer[3] + 1) % SHAPE.vocab]
    found = score(engine, context, [Asked([5], answer, 3), Asked([5], wrong, 3)], (0,), TICKER)
    assert [row[0][1] for row in found] == [3, 2] and found[0][0][0] > found[1][0][0]


def test_the_page_has_what_was_kept() -> None:
    result, page = json.loads(DATA.read_text(encoding="utf-8")), PAGE.read_text(encoding="utf-8")
    assert page == written(page, result), "run python -m hwgen.sw.analysis.retrieval_bench --write"
    assert [row["budget"] for row in result["budgets"]] == list(BUDGETS)
    assert [fact["name"] for fact in result["facts"]] == list(NAMES)
    for number, row in enumerate(result["budgets"]):
        assert row["logprob"] == pytest.approx(np.mean([fact["logprobs"][number] for fact in result["facts"]]) / 5, abs=1e-4)
        assert row["exact"] == sum(fact["right"][number] == 5 for fact in result["facts"])

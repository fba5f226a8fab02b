"""Several answers to one prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen import LLM
from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.answers import AnswerSet
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights

from ..conftest import CONFIG
from .toy_device import toy_engine

SAMPLING = Sampling(temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("cache_tokens", [128, 512])
def test_pages_of_the_prompt_are_shared(image: Image, length: int, cache_tokens: int) -> None:
    """Full pages by all answers, the last one copied; no answer reads or writes what another wrote, also where they are parked."""
    prompt = list(range(5, 5 + length))
    alone = [[i.token for i in Generation(toy_engine(image, 64), prompt, 20, replace(SAMPLING, seed=s))] for s in range(4)]
    engine = toy_engine(image, cache_tokens)
    scheduler = Scheduler(engine)
    generations = [Generation(engine, prompt, 20, replace(SAMPLING, seed=s)) for s in range(4)]
    for generation in generations:
        generation.sibling = generations[0] if generation is not generations[0] else None
        scheduler.submit(Job(generation, lambda item: None, lambda error: None))
    shared = 0
    while scheduler.step():
        sessions = [g.session for g in generations if len(g.session.pages) and g.tokens and not g.ended]
        if len(sessions) == 4:
            pages = [page for session in sessions for page in session.pages]
            shared = max(shared, len(pages) - len(set(pages)))
    assert [g.tokens for g in generations] == alone
    if cache_tokens == 512:
        assert [g.reused for g in generations] == [0, *[length - 1] * 3]
        assert shared >= 3 * (length // 16 if length % 16 else length // 16 - 1)
    assert engine.pages.free == engine.image.pages


def test_whose_pages_are_taken_over(image: Image) -> None:
    """The first answer's, by all others: it is the first to read the prompt."""
    generations = [Generation(toy_engine(image, 64), [1, 2], 5, SAMPLING) for _ in range(4)]
    AnswerSet(None, generations)  # type: ignore[arg-type]  # nothing is written
    assert [g.sibling for g in generations] == [None, *[generations[0]] * 3]


def test_the_first_error_of_several(image: Image) -> None:
    """Is raised, when all have come to their end."""
    engine = toy_engine(image, 256)
    generations = [Generation(engine, [1, 2], 5, replace(SAMPLING, seed=seed)) for seed in range(3)]

    def failing(text: str) -> Callable[..., int]:
        def fail(*arguments: object) -> int:
            raise HwgenError("usage", text, "")

        return fail

    for number, text in ((1, "the second"), (2, "the third")):
        generations[number]._sampler.choose = failing(text)  # type: ignore[method-assign]  # it fails
    answers = AnswerSet(None, generations)  # type: ignore[arg-type]  # nothing is written
    with pytest.raises(HwgenError, match="the second"):
        answers.write()
    assert answers.ended == [1, 2, 0] and len(generations[0].tokens) == 5 and engine.pages.free == engine.image.pages


def test_a_sibling_that_begins_late(image: Image) -> None:
    """The first answer has ended and given its pages back: the prompt is read again."""
    engine = toy_engine(image, 256)
    scheduler = Scheduler(engine, max_running=1)
    generations = [Generation(engine, [1, 2, 3, 4], 5, SAMPLING) for _ in range(2)]
    generations[1].sibling = generations[0]
    for generation in generations:
        scheduler.submit(Job(generation, lambda item: None, lambda error: None))
    while scheduler.step():
        pass
    assert generations[0].tokens == generations[1].tokens and generations[1].reused == 0


@pytest.fixture(scope="module")
def llm(model_directory: Path) -> LLM:
    pytest.importorskip("torch")
    return LLM(model_directory, device="golden", board=CONFIG, cache_tokens=256)


def test_answers(llm: LLM) -> None:
    sampling = replace(SAMPLING, temperature=20.0)  # the model is nearly sure of what comes
    answers = llm.answers("the cat", sampling, n=3, max_new_tokens=6)
    expected = [llm.generate("the cat", max_new_tokens=6, temperature=20.0, seed=3 + i) for i in range(3)]
    assert [a.text for a in answers] == [e.text for e in expected]
    assert [a.generation.tokens for a in answers] == [e.generation.tokens for e in expected]
    best = llm.answers("the cat", sampling, n=2, best_of=3, max_new_tokens=6)
    assert {a.text for a in best} <= {e.text for e in expected} and best[0].score > best[1].score > -30
    assert llm.engine.pages.free == llm.image.pages - sum(len(s.pages) for s in llm.prefixes._entries)  # type: ignore[union-attr]


def test_first_finish(llm: LLM, image: Image) -> None:
    """They run token by token together: the one that comes to a stop token first is the answer, and the others stop there."""
    alone = [[i.token for i in Generation(toy_engine(image, 64), [7, 8], 20, replace(SAMPLING, seed=s))] for s in range(3)]
    stop = alone[1][4]
    assert all(stop not in tokens[:9] for tokens in (alone[0], alone[2])) and stop not in alone[1][:4]
    engine = toy_engine(image, 512)
    generations = [Generation(engine, [7, 8], 20, replace(SAMPLING, seed=s), [stop]) for s in range(3)]
    answers = AnswerSet(llm.model.tokenizer, generations)
    (found,) = answers.write(first_finish=True)
    assert found.generation is generations[1] and found.generation.tokens == alone[1][:4]
    assert answers.ended == [1, 0, 2] and all(len(g.tokens) <= 6 for g in generations)
    assert engine.pages.free == engine.image.pages
    (one,) = llm.answers("the cat", SAMPLING, n=3, max_new_tokens=4, first_finish=True)
    assert one.generation.tokens == llm.answers("the cat", SAMPLING, max_new_tokens=4)[0].generation.tokens
    with pytest.raises(HwgenError, match="first_finish"):
        llm.answers("the cat", SAMPLING, n=1, best_of=2, first_finish=True)
    with pytest.raises(HwgenError, match="n must be 1"):
        llm.answers("the cat", SAMPLING, n=3, best_of=2)

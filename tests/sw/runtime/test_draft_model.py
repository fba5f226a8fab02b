"""A second model on the device guesses; answers stay those of the first, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.devices.device import Allocator
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.draft_model import DraftModel
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights, random_weights

from ..conftest import CONFIG, SHAPE

#: A pass of the large model costs this whatever is in it, one of the small model a hundredth.
LARGE = PassCosts(sizes=(1, 8), plain=(100.0, 100.0), wanting=(100.0, 100.0), block=0.0)
SMALL = PassCosts(sizes=(1, 8), plain=(1.0, 1.0), wanting=(1.0, 1.0), block=0.0)
PROMPT = [3, 9, 27, 14, 5]


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return with_cache_tokens(compile_model(CONFIG, weights), 256)


@pytest.fixture(scope="module")
def other() -> Image:
    """Of another model with as many tokens."""
    return with_cache_tokens(compile_model(CONFIG, random_weights(replace(SHAPE, layers=1), seed=8)), 256)


def engines(image: Image, small: Image, device: Any = None) -> tuple[Engine, Engine]:
    if device is None:
        device = GoldenDevice(CONFIG, memory_bytes=image.memory_bytes() + small.memory_bytes() + 4 * Allocator.STEP)
    engine = Engine(device, image)
    guessing = Engine(device, small, beside=engine)
    guessing.__dict__["costs"], engine.__dict__["costs"] = SMALL, LARGE
    return engine, guessing


def answer(engine: Engine, drafter: Drafter | None, sampling: Sampling, new: int = 24) -> tuple[list[int], str]:
    generation = Generation(engine, PROMPT, new, sampling, drafter=drafter)
    return [item.token for item in generation], generation.stop_reason


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5), Sampling(temperature=0.7, top_k=3, seed=2)])
def test_the_answer_is_that_without(image: Image, other: Image, sampling: Sampling) -> None:
    alone = answer(Engine(GoldenDevice(CONFIG, memory_bytes=image.memory_bytes()), image), None, sampling)
    for small in (image, other):
        engine, guessing = engines(image, small)
        drafter = Drafter(LARGE, DraftModel(guessing))
        assert answer(engine, drafter, sampling) == alone
        assert guessing.pages.free == small.pages  # what guessed gave its pages back
        assert drafter.proposed > 0
        if small is image and sampling == Sampling():  # it guesses as it answers
            assert drafter.accepted == drafter.proposed and drafter.passes < 24 // 4


def test_one_that_is_wrong_is_asked_no_more(image: Image, other: Image) -> None:
    """It costs what it may cost before it has saved anything, and nothing after that."""
    engine, guessing = engines(image, other)
    costly = replace(SMALL, plain=(60.0, 60.0), wanting=(60.0, 60.0))
    guessing.__dict__["costs"] = costly
    drafter = Drafter(LARGE, DraftModel(guessing))
    answer(engine, drafter, Sampling(), 40)
    assert drafter.proposed <= 2 * 100 / 60 < drafter.passes


def test_the_longest_guess(image: Image) -> None:
    _, guessing = engines(image, image)
    model = DraftModel(guessing)
    assert model.most(PROMPT, 100) == model.most(PROMPT, 8) == 8 and model.most(PROMPT, 2) == 2
    most = model.most([1] * (image.context - 2), 100)
    assert most == 3 and len(model.guess(most)) == 3 and guessing.pages.free < image.pages
    assert model.most([1] * (image.context + 1), 100) == 0


def test_what_a_guess_costs(image: Image) -> None:
    """A pass a token; the first reads what is new, but for a prompt."""
    _, guessing = engines(image, image)
    guessing.__dict__["costs"] = PassCosts(sizes=(1, 8), plain=(1.0, 8.0), wanting=(1.0, 78.0), block=100.0)
    model = DraftModel(guessing)
    blocks = 100.0 * guessing.pages.blocks(len(PROMPT))
    model.most(PROMPT, 3)
    assert model.cycles(1) == 1 + blocks and model.cycles(3) == 3 * (1 + blocks)
    model.guess(1)
    longer = [*PROMPT, 8, 8]
    model.most(longer, 3)
    behind = len(longer) - model._session.position
    blocks = 100.0 * guessing.pages.blocks(len(longer))
    assert behind == 2 and model.cycles(3) == behind + blocks + 2 * (1 + blocks)
    longer += [8] * 12
    model.most(longer, 3)
    assert model.cycles(1) == 8 + 100.0 * guessing.pages.blocks(len(longer)), "a pass has no more tokens than eight"


def test_what_was_read_of_a_text(image: Image) -> None:
    """As far as it is the same, and not its last token, which a guess is behind."""
    model = DraftModel(engines(image, image)[1])
    for read, text, left in (
        ([1, 2, 3], [1, 2, 3], [1, 2]), ([1, 2, 3], [1, 9, 3], [1]), ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3]), ([1, 2], [5, 6], []),
        ([1, 2, 3, 4], [1, 2], [1]), ([], [1], []),
    ):
        model._session.tokens = list(read)
        assert model.most(text, 3) == 3 and model._session.tokens == left


@pytest.mark.parametrize(("free", "length", "guessed"), [(1, 2, 2), (1, 3, 0), (2, 3, 3), (0, 1, 0)])
def test_pages_for_all_of_a_guess(image: Image, free: int, length: int, guessed: int) -> None:
    """Its last token is not computed: fifteen tokens and a guess of two are a page."""
    _, guessing = engines(image, image)
    model, other = DraftModel(guessing), Session()
    assert model.most([1] * 15, length) == length
    while guessing.pages.free > free:
        other.pages.append(guessing.pages._take())
    assert len(model.guess(length)) == guessed and model._session.position == (15 + length - 1 if guessed else 0)


def test_no_pages_no_guess(image: Image) -> None:
    """A cache that others fill: the answer goes on without."""
    engine, guessing = engines(image, image)
    others = [Session() for _ in range(4)]
    assert all(guessing.pages.reserve(session, 64) for session in others) and guessing.pages.free == 0
    drafter = Drafter(LARGE, DraftModel(guessing))
    alone = answer(engine, None, Sampling())
    assert answer(engine, drafter, Sampling()) == alone


def test_several_answers(image: Image, other: Image) -> None:
    """Their guesses share a device, and a cache, in turn."""
    alone = [answer(engines(image, other)[0], None, Sampling(seed=n, temperature=0.5)) for n in range(4)]
    engine, guessing = engines(image, image)
    scheduler, found = Scheduler(engine), [list[int]() for _ in alone]
    for n in range(4):
        generation = Generation(
            engine, PROMPT, 24, Sampling(seed=n, temperature=0.5), drafter=Drafter(LARGE, DraftModel(guessing))
        )
        scheduler.submit(Job(generation, lambda item, n=n: found[n].append(item.token), lambda error: None))  # type: ignore[misc]  # n has its type from the loop
    while scheduler.step():
        pass
    assert found == [tokens for tokens, _ in alone] and guessing.pages.free == image.pages


def test_by_name(model_directory: Path) -> None:
    plain = LLM(str(model_directory), "golden", CONFIG)
    llm = LLM(str(model_directory), "golden", CONFIG, draft_model=str(model_directory))
    prompt: Sequence[int] = [1, 2, 3, 1, 2]
    assert llm.generate(list(prompt), max_new_tokens=12).text == plain.generate(list(prompt), max_new_tokens=12).text
    with pytest.raises(HwgenError, match="no drafts are wanted"):
        LLM(str(model_directory), "golden", CONFIG, draft="none", draft_model=str(model_directory))
    with pytest.raises(HwgenError, match="other tokens"):
        LLM(str(model_directory), "golden", CONFIG, draft_model="stories")

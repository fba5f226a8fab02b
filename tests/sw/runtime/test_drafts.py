"""Drafts change no token, and cost no more than they save."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.runtime.drafts import ALLOWANCE, DEBT, Drafter, PromptLookup
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE
from .toy_device import toy_engine

#: A pass of any size costs the same.
FLAT = PassCosts(sizes=(1, 8), plain=(100.0, 100.0), wanting=(100.0, 100.0), block=0.0)


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights)


class Oracle(Drafter):
    """Knows what follows, but for some tokens: cuts of right, wrong and missing drafts as a seed draws them."""

    answer: Sequence[int] = ()
    begin = 0
    random = np.random.default_rng(0)

    def propose(self, text: Sequence[int], most: int, tokens: int = 0, wanted: int = 0) -> list[int]:
        at = len(text) - self.begin
        draft = list(self.answer[at : at + int(self.random.integers(0, most + 1))])
        if draft and self.random.random() < 0.5:
            wrong = int(self.random.integers(len(draft)))
            draft[wrong] = (draft[wrong] + 1) % SHAPE.vocab
        return draft


def oracle(prompt: Sequence[int], answer: Sequence[int], seed: int) -> Oracle:
    drafter = Oracle(FLAT)
    drafter.answer, drafter.begin, drafter.random = answer, len(prompt), np.random.default_rng(seed)
    return drafter


def sampling_of(seed: int) -> Sampling:
    kinds: list[dict[str, float]] = [
        {}, {"temperature": 2.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 1.0, "top_p": 0.8, "repetition_penalty": 1.2},
    ]
    return Sampling(seed=seed, **kinds[seed % 4])  # type: ignore[arg-type]  # by name


def case(seed: int) -> tuple[list[int], int]:
    random = np.random.default_rng(seed)
    return random.integers(0, SHAPE.vocab, int(random.integers(1, 30))).tolist(), int(random.integers(1, 35))


def records(engine: Engine, generation: Generation) -> bytes:
    """Keys of a session, up to its position."""
    pages = engine.pages.read(generation.session.pages)[:, : CONFIG.kv_block * 8]
    return pages.reshape(-1)[: 8 * generation.session.position].tobytes()


@pytest.mark.parametrize("seed", range(40))
def test_answers_are_those_without_drafts(image: Image, seed: int) -> None:
    """Tokens, keys, what ends them, and what the next turn of the session gets; the context may end within a draft."""
    (prompt, new), context_full = case(seed), ("stop", "slide")[seed % 2]
    found = []
    for drafts in (False, True):
        engine = toy_engine(image, 64)
        drafter = oracle(prompt, found[0][0] if drafts else (), seed) if drafts else None
        if seed % 3 == 0 and drafts:
            drafter = Drafter(FLAT)
        generation = Generation(
            engine, prompt, new, sampling_of(seed), range(0, SHAPE.vocab, 40), context_full=context_full, drafter=drafter
        )
        items = list(generation)
        after = Generation(engine, [1, 2, 3], 3, session=generation.session)
        keys = records(engine, generation)
        tokens = [item.token for item in after] if generation.session.position + 7 < 64 else []
        found.append(([item.token for item in items], generation.tokens, generation.stop_reason, keys, tokens))
        assert [item.stop_reason for item in items[:-1]] == [None] * (len(items) - 1)
        if drafts and drafter is not None:
            assert drafter.passes + drafter.accepted >= len(items) - 1 - generation.prefill.tokens // 8
    assert found[0] == found[1]


def test_drafts_of_answers_that_share_passes(image: Image) -> None:
    """Beside each other, in the scheduler, with pages that run out and prefixes that are kept."""
    cases = [case(seed) for seed in range(12)]
    alone = [[i.token for i in Generation(toy_engine(image, 64), p, n, sampling_of(s))] for s, (p, n) in enumerate(cases)]
    engine = toy_engine(image, 160)
    prefixes = PrefixCache(engine)
    scheduler = Scheduler(engine, max_running=5)
    found: list[list[int]] = [[] for _ in cases]
    drafters = [oracle(p, alone[s], s) for s, (p, _) in enumerate(cases)]
    for s, (prompt, new) in enumerate(cases):
        generation = Generation(engine, prompt, new, sampling_of(s), prefixes=prefixes, drafter=drafters[s])
        scheduler.submit(Job(generation, lambda item, s=s: found[s].append(item.token), lambda error: None))  # type: ignore[misc]
    while scheduler.step():
        pass
    assert found == alone
    assert sum(d.accepted for d in drafters) > 20 and sum(d.proposed - d.accepted for d in drafters) > 20
    prefixes.clear()
    assert engine.pages.free == engine.image.pages


def test_a_right_draft_saves_passes(image: Image) -> None:
    """Twelve tokens that repeat four: the draft has the rest of each repetition, and eight tokens at most fit in a pass."""
    text = [5, 6, 7, 8] * 3
    assert PromptLookup().propose(text, 3) == [5, 6, 7]
    grows = PromptLookup()
    for end in range(1, len(text) + 1):
        assert grows.propose(text[:end], 3) == PromptLookup().propose(text[:end], 3)
    assert PromptLookup().propose([1, 2, 3], 3) == [] == PromptLookup().propose([], 3)
    assert PromptLookup().propose([1, 2, 9, 4, 2, 9], 1) == [4]


def simulated(costs: PassCosts, right: Sequence[bool]) -> tuple[float, float]:
    """Cycles of an answer with and without drafts, whose draft at every token is right or wrong at once."""
    drafter = Drafter(costs)
    drafter.guesser.most = lambda text, most: most  # type: ignore[method-assign]  # stands in: there is always a draft
    drafter.guesser.guess = lambda length: [0] * length  # type: ignore[method-assign]  # stands in: its tokens do not matter
    spent, at = 0.0, 0
    while at < len(right):
        draft = drafter.propose([], min(4, len(right) - at - 1))
        hits = 0
        while hits < len(draft) and right[at + hits]:
            hits += 1
        spent += costs.cycles(1 + len(draft), 1 + len(draft))
        drafter.settle(len(draft), hits)
        at += 1 + hits
    return spent, len(right) * costs.cycles(1, 1)


@pytest.mark.parametrize("slope", [0.0, 0.3, 5.0, 60.0])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.95])
def test_drafts_never_cost(slope: float, rate: float) -> None:
    """Whatever a token more costs and however many are right: no more than without, but for what is allowed."""
    line = (100.0, 100.0 + 7 * slope)
    costs = PassCosts(sizes=(1, 8), plain=line, wanting=line, block=0.0)
    spent, without = simulated(costs, (np.random.default_rng(1).random(400) < rate).tolist())
    assert spent <= (1 + ALLOWANCE) * without + DEBT * 100.0
    if slope <= 0.3 and rate >= 0.5:
        assert spent < 0.75 * without


def test_a_run_wants_its_draft(image: Image) -> None:
    engine = toy_engine(image, 64)
    generation = Generation(engine, [4, 5, 6, 4, 5, 6, 4, 5, 6], 20, drafter=Drafter(FLAT))
    run_pass, runs = engine.run_pass, []

    def noted(passed: list[Run], **options: bool) -> object:
        runs.append((len(passed[0].tokens), passed[0].wanted))
        return run_pass(passed, **options)

    engine.run_pass = noted  # type: ignore[method-assign,assignment]
    list(generation)
    assert runs[:2] == [(8, 0), (1, 1)] and all(tokens == wanted for tokens, wanted in runs[2:])

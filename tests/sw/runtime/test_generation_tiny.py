"""Answers on the toy device: beginnings that are shared, contexts that end or slide, scores, forms, interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.logprobs import token_logprobs
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.phase import Phase
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling

from .toy_device import tiny_image, toy_engine

PROMPT = [3, 9, 4, 4, 7]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine(tiny_image(32), 1024)


def greedy(engine: Engine, tokens: Sequence[int], count: int) -> list[int]:
    """Token by token, each behind everything before it, computed anew."""
    found: list[int] = []
    while len(found) < count:
        session = Session()
        found.append(engine.prefill(session, [*tokens, *found])[-1].runs[0].best(0))
        engine.pages.close(session)
    return found


def run(generation: Generation) -> list[tuple[int, str | None]]:
    return [(item.token, item.stop_reason) for item in generation]


@pytest.mark.parametrize("length", [1, 5, 8, 9, 20])
def test_tokens_are_those_of_the_model(engine: Engine, length: int) -> None:
    """Prompts of a pass, and of more; sums of both phases."""
    prompt = [(7 * i + 3) % 40 for i in range(length)]
    generation = Generation(engine, prompt, 4)
    expected = greedy(engine, prompt, 4)
    assert run(generation) == [*((token, None) for token in expected[:3]), (expected[3], "length")]
    assert (generation.prefill.tokens, generation.decode.tokens, generation.stop_reason) == (length, 3, "length")
    assert generation.session.tokens == [*prompt, *expected[:3]] and generation.session.pending == [expected[3]]
    second, third = greedy(engine, [*prompt, *expected, 1, 2], 2)
    assert run(Generation(engine, [1, 2], 2, session=generation.session)) == [(second, None), (third, "length")]
    nothing = Generation(engine, prompt, 0)
    assert run(nothing) == [] and nothing.prefill.tokens == length and nothing.decode.tokens == 0
    for used in (generation, nothing):
        used.release()
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize("length", [1, 2, 17])
def test_a_sibling_takes_the_prompt_over(engine: Engine, length: int) -> None:
    """All but its last token, which is computed, whether or not the other goes on."""
    prompt = [(5 * i + 1) % 40 for i in range(length)]
    first = Generation(engine, prompt, 6)
    items = iter(first)
    begun = [next(items).token for _ in range(2)]
    second = Generation(engine, prompt, 6)
    second.sibling = first
    assert second.begins_like(first) and not second.begins_like(Generation(engine, prompt, 1))
    expected = greedy(engine, prompt, 6)
    assert [token for token, _ in run(second)] == expected == [*begun, *(item.token for item in items)]
    assert second.reused == length - 1 and second.prefill.tokens == 1 and second.sibling is None
    rounded = Generation(engine, prompt, 2)
    rounded.sibling, first.session.exact = first, False
    assert [token for token, _ in run(rounded)] == expected[:2] and rounded.reused == 0
    for used in (first, second, rounded):
        used.release()
    assert engine.pages.free == engine.image.pages


def test_beginnings_that_are_kept(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    prompt = [(5 * i + 1) % 40 for i in range(20)]
    first = Generation(engine, prompt, 3, prefixes=prefixes)
    expected = [token for token, _ in run(first)]
    first.release()
    again = Generation(engine, [*prompt, *expected[:2], 9], 2, prefixes=prefixes)
    assert [token for token, _ in run(again)] == greedy(engine, [*prompt, *expected[:2], 9], 2) and again.reused == 22
    alike = Generation(engine, prompt, 1, prefixes=prefixes)
    assert again.begins_like(alike) and not again.begins_like(Generation(engine, prompt[:15], 1, prefixes=prefixes))
    assert not Generation(engine, prompt, 1).begins_like(alike)
    again.release()
    prefixes.clear()
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize(("context_full", "reason"), [("stop", "context"), ("slide", "length")])
def test_the_end_of_the_context(engine: Engine, context_full: str, reason: str) -> None:
    """The answer ends with the token behind the last position, or the oldest half is forgotten, but for the first tokens."""
    prompt = [(5 * i + 1) % 40 for i in range(28)]
    generation = Generation(engine, prompt, 8, context_full=context_full, keep=3)
    found = run(generation)
    before = greedy(engine, prompt, 5)
    assert [token for token, _ in found[:5]] == before and found[-1][1] == reason
    if context_full == "stop":
        assert len(found) == 5 and generation.session.position == 32
    else:
        whole = [*prompt, *before]
        kept = [*whole[:3], *whole[-13:]]
        assert [token for token, _ in found[5:]] == greedy(engine, kept, 3) and generation.session.tokens[:16] == kept
        assert (generation.prefill.tokens, generation.decode.tokens) == (28 + 16, 4 + 2)
    generation.release()


@pytest.mark.parametrize(("length", "count", "fine"), [(28, 5, True), (28, 6, False), (32, 1, True), (33, 1, False)])
def test_what_might_not_fit(engine: Engine, length: int, count: int, fine: bool) -> None:
    generation = Generation(engine, [1] * length, count, context_full="error")
    if fine:
        generation.check()
        return
    with pytest.raises(HwgenError, match=r"longer than the context of\s+32 tokens"):
        generation.check()
    with pytest.raises(HwgenError, match="the prompt has no tokens"):
        Generation(engine, [], 1).check()
    with pytest.raises(HwgenError, match="context_full must be one of"):
        Generation(engine, [1], 1, context_full="odd")


def test_scores(engine: Engine) -> None:
    """Of every token of the prompt but the first, and of the answer, by all logits behind the tokens before."""
    generation = Generation(engine, PROMPT, 3, prompt_logprobs=2, logprobs=1)
    expected = [token for token, _ in run(generation)]
    whole, at = [*PROMPT, *expected], 1
    scores = [*generation.prompt_scores, *generation.scores]
    assert (len(generation.prompt_scores), len(generation.scores)) == (4, 3)
    for found in scores:
        session = Session()
        engine.prefill(session, whole[:at], write_logits=True)
        assert found == token_logprobs(engine.logits(), whole[at], 2 if at < 5 else 1)
        engine.pages.close(session)
        at += 1
    assert Generation(engine, PROMPT, 3, logprobs=1).loop_passes == 0
    generation.release()


def test_forms(engine: Engine) -> None:
    """Only what is allowed; complete when nothing may follow."""
    class Form:
        accepted: list[int] = []

        def allowed(self) -> Any:
            mask = np.zeros(40, np.bool_)
            mask[[2, 5, 11]] = True
            return mask

        def accept(self, token: int) -> bool:
            self.accepted.append(token)
            return len(self.accepted) == 3

    form = Form()
    generation = Generation(engine, PROMPT, 9, constraint=form)
    found = run(generation)
    assert form.accepted == generation.tokens == [token for token, _ in found] and set(form.accepted) <= {2, 5, 11}
    assert found[-1][1] == "complete" and len(found) == 3 and generation.loop_passes == 0
    generation.release()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_interruption(engine: Engine, taken: int) -> None:
    """What was said, and not computed, is left to the session, which goes on as if nothing had been."""
    generation, expected = Generation(engine, PROMPT, 9), greedy(engine, PROMPT, 5)
    items = iter(generation)
    assert [next(items).token for _ in range(taken)] == expected[:taken]
    generation.interrupt()
    if not taken:
        assert not generation.session.tokens and not generation.ended
        return
    assert generation.stop_reason == "interrupted" and [*items] == []
    assert [*generation.session.tokens, *generation.session.pending] == [*PROMPT, *expected[:taken]]
    assert [t for t, _ in run(Generation(engine, expected[taken : taken + 1], 1, session=generation.session))] == greedy(
        engine, [*PROMPT, *expected[: taken + 1]], 1
    )
    engine.pages.close(generation.session)


def test_phases() -> None:
    phase = Phase()
    assert (phase.seconds(250), phase.rate(250), phase.port_utilisation) == (None, None, 0.0)
    result: Any = type("R", (), {"cycles": 500_000, "stream_beats": 125_000})()
    phase.add(result, 3, 0.5)
    phase.add(result, 1, 0.25)
    assert (phase.tokens, phase.cycles, phase.stream_beats, phase.wall_s) == (4, 1_000_000, 250_000, 0.75)
    assert (phase.seconds(250), phase.rate(250), phase.port_utilisation) == (0.004, 1000, 0.25)


def test_which_logits_are_needed(engine: Engine) -> None:
    for options, needed in (({}, False), ({"temperature": 1.0, "top_k": 8}, False), ({"temperature": 1.0}, True)):
        generation = Generation(engine, [1], 2, Sampling(**options))  # type: ignore[arg-type]  # by name
        request = generation.next_pass(8)
        assert request is not None and (request.write_logits, request.run.wanted, list(request.run.tokens)) == (needed, 1, [1])
    long = Generation(engine, list(range(10)), 2, Sampling(temperature=1.0))
    request = long.next_pass(8)
    assert request is not None and (request.write_logits, request.run.wanted, len(request.run.tokens)) == (False, 0, 8)
    short = replace(long.sampling, temperature=0.0)  # type: ignore[type-var]  # no sampler
    assert not short.adjusts  # type: ignore[union-attr]  # likewise

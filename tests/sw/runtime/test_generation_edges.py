"""Answers at their edges, on the toy device: what is taken over and what is not, drafts of the last tokens, slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampler import Sampler
from hwgen.sw.runtime.sampling import Sampling

from .toy_device import tiny_image, toy_engine

PROMPT = [3, 9, 4, 4, 7]
FLAT = PassCosts(sizes=(1, 8), plain=(100.0, 100.0), wanting=(100.0, 100.0), block=0.0)


@pytest.fixture(scope="module")
def image() -> Image:
    return tiny_image(32)


@pytest.fixture
def engine(image: Image) -> Engine:
    return toy_engine(image, 1024)


def alone(engine: Engine, count: int) -> list[int]:
    """The answer to `PROMPT` of an engine of its own."""
    return tokens_of(Generation(toy_engine(engine.image, 64), PROMPT, count))


def tokens_of(generation: Generation) -> list[int]:
    return [item.token for item in generation]


class Knows(Drafter):
    """Guesses what it is told, and keeps how much it was asked for."""

    def __init__(self, answer: Sequence[int] = ()) -> None:
        super().__init__(FLAT)
        self.answer, self.asked, self.settled = list(answer), list[tuple[int, int, int]](), list[tuple[int, int]]()

    def propose(self, text: Sequence[int], most: int, tokens: int = 0, wanted: int = 0) -> list[int]:
        self.asked.append((most, tokens, wanted))
        return self.answer[:most]

    def settle(self, drafted: int, right: int) -> None:
        self.settled.append((drafted, right))


def behind(engine: Engine, count: int = 9, **options: Any) -> Generation:
    """An answer whose prompt was read, and whose first token was chosen."""
    generation = Generation(engine, PROMPT, count, **options)
    request = generation.next_pass(8)
    assert request is not None
    result = engine.run_pass([request.run], write_logits=request.write_logits)
    assert len(generation.accept(result, result.runs[0], 0.0)) == 1
    return generation


@pytest.mark.parametrize("change", ["parked", "other tokens", "rounded", "fewer tokens"])
def test_siblings_that_give_nothing(engine: Engine, change: str) -> None:
    """One whose pages are elsewhere, whose tokens are others, or not so many; then the kept prefixes are asked."""
    expected = alone(engine, 3)
    prefixes = PrefixCache(engine)
    kept = Generation(engine, PROMPT[:2], 1, prefixes=prefixes)
    assert tokens_of(kept)
    kept.release()
    sibling = behind(engine)
    if change == "parked":
        engine.pages.park(sibling.session)
    elif change == "rounded":
        sibling.session.exact = False
    else:
        sibling.session.tokens[3:4] = [] if change == "fewer tokens" else [5]
    generation = Generation(engine, PROMPT, 3, prefixes=prefixes)
    generation.sibling = sibling
    assert tokens_of(generation) == expected and generation.reused == 2
    last = behind(engine)
    last.session.tokens[4] = 1  # the last token is computed: it may be another
    other = Generation(engine, PROMPT, 3)
    other.sibling = last
    assert tokens_of(other) == expected and other.reused == 4
    for used in (sibling, generation, last, other):
        used.release()
    prefixes.clear()
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize("keep", [0, 14, 15, 16, 17, 32, 100])
def test_a_slide_leaves_half_a_context(engine: Engine, keep: int) -> None:
    """The first tokens, as many as leave the last one its place, and then the newest."""
    prompt = [(5 * i + 1) % 40 for i in range(28)]
    generation = Generation(engine, prompt, 8, context_full="slide", keep=keep)
    found = tokens_of(generation)
    whole, first = [*prompt, *found[:5]], min(keep, 15)
    assert generation.session.tokens == [*whole[:first], *whole[first - 16 :], *found[5:7]] and generation.prefill.tokens == 28 + 16
    generation.release()


def test_scores_have_no_stop_token(engine: Engine) -> None:
    plain = Generation(engine, PROMPT, 6, logprobs=0)
    tokens = tokens_of(plain)
    stop = tokens[4]
    at = tokens.index(stop)
    stopped = Generation(engine, PROMPT, 6, stop_tokens=[stop], logprobs=0)
    items = list(stopped)
    assert len(items) == at + 1 and len(plain.scores) == 6 and stopped.scores == plain.scores[:at]
    assert items[-1].stop_reason == "stop" and items[-1].logprobs == plain.scores[at] and stopped.tokens == tokens[:at]
    for used in (plain, stopped):
        used.release()


@pytest.mark.parametrize(("count", "most", "room"), [
    (9, 8, 7), (5, 8, 3), (2, 8, None), (3, 8, 1), (9, 1, None), (9, 2, 1), (60, 99, 26),
])
def test_how_long_a_draft_may_be(engine: Engine, count: int, most: int, room: int | None) -> None:
    """What is left of the pass, of the answer but its last token, and of the context; nobody is asked for nothing."""
    drafter = Knows()
    generation = behind(engine, count, drafter=drafter)
    assert not drafter.asked, "a prompt has none"
    request = generation.next_pass(most, 3, 2)
    assert request is not None and len(request.run.tokens) == 1
    assert drafter.asked == ([] if room is None else [(room, 3, 2)])
    drafter.asked.clear()
    assert generation.has_draft(4) is False
    assert drafter.asked == ([(count - 2, 4, 4)] if count > 2 else [])
    drafter.answer = [1]
    assert generation.has_draft(4) is (count > 2)
    generation.release()


def test_what_becomes_of_a_draft(engine: Engine) -> None:
    """As far as it is right it is taken, and the token behind; the drafter is told."""
    expected = alone(engine, 9)
    wrong = next(token for token in range(40) if token not in expected)
    for draft, right in (([], 0), (expected[1:4], 3), ([*expected[1:3], wrong, expected[4]], 2), ([wrong], 0)):
        drafter = Knows(draft)
        generation = behind(engine, drafter=drafter)
        request = generation.next_pass(8)
        assert request is not None and (len(request.run.tokens), request.run.wanted) == (1 + len(draft), 1 + len(draft))
        result = engine.run_pass([request.run])
        items = generation.accept(result, result.runs[0], 0.25)
        assert [item.token for item in items] == expected[1 : right + 2] and drafter.settled == [(len(draft), right)]
        assert generation.session.tokens == [*PROMPT, *expected[: right + 1]] and generation.remaining == 1
        assert (generation.decode.tokens, generation.decode.wall_s) == (right + 1, 0.25)
        generation.release()
    assert engine.pages.free == engine.image.pages


def test_a_token_of_a_loop_had_no_draft(engine: Engine) -> None:
    drafter = Knows()
    generation = behind(engine, 3, drafter=drafter)
    generation.session.tokens += generation.tokens  # the machine computed it
    item = generation.take(7)
    assert (item.token, item.stop_reason, item.logprobs) == (7, None, None) and drafter.settled == [(0, 0)]
    assert generation.take(8).stop_reason == "length" and drafter.settled == [(0, 0)] * 2
    generation.release()


@pytest.mark.parametrize("free", [0, 1])
def test_a_draft_only_where_pages_are_free(engine: Engine, free: int) -> None:
    """Nobody makes way for it; ten tokens are there, and seven more need a page of their own."""
    generation = behind(engine, 20, drafter=Knows([1] * 12))
    own = [request.run for request in [generation.next_pass(1)] if request is not None]
    assert len(own[0].tokens) == 1
    others: list[Session] = []
    while engine.pages.free > free:
        others.append(Session())
        assert engine.pages.reserve(others[-1], 16)
    request = generation.next_pass(13)
    assert request is not None and len(request.run.tokens) == (13 if free else 1)
    for used in others:
        engine.pages.close(used)
    generation.release()


def test_how_it_is_drawn_and_looped(engine: Engine) -> None:
    """A sampler that is given goes on; passes of a loop are those of the answer and of the context, and none before a draft."""
    sampler = Sampler(Sampling(temperature=1.0, seed=4))
    assert Generation(engine, PROMPT, 3, sampler)._sampler is sampler
    generation = behind(engine, 9)
    assert generation.loop_passes == 8 and behind(engine, 90).loop_passes == 32 - 5
    generation._draft = [1]
    assert generation.loop_passes == 0 and Generation(engine, PROMPT, 3).loop_passes == 0
    drawn = behind(engine, 9, sampling=Sampling(temperature=1.0))
    assert drawn.loop_passes == 0 and drawn._draw is None
    for used in (generation, drawn):
        used.release()


def test_interrupted_before_and_behind_a_slide(engine: Engine) -> None:
    """What was seen and is not in the session is left to it: of an answer that slides what waits to be computed."""
    prompt = [(5 * i + 1) % 40 for i in range(30)]
    for context_full, taken, left in (("stop", 1, 1), ("slide", 1, 1), ("slide", 3, 16)):
        generation = Generation(engine, prompt, 9, context_full="".join([*context_full]))  # a word of its own, as of a request
        items = iter(generation)
        found = [next(items).token for _ in range(taken)]
        generation.interrupt()
        whole = [*prompt, *found]
        assert generation.session.pending == whole[-left:] and generation.remaining == 0 and generation.ended
        assert generation.stop_reason == "interrupted" and len(generation.session.tokens) == (0 if left == 16 else 30)
        generation.interrupt()
        assert generation.session.pending == whole[-left:]
        generation.release()
    ended = Generation(engine, PROMPT, 2)
    list(ended)
    ended.interrupt()
    assert ended.stop_reason == "length" and len(ended.session.pending) == 1
    ended.release()


def test_what_is_refused_before_it_begins(engine: Engine) -> None:
    """All that the session would have then, what waits in it among that; log probabilities that the short-list head has not."""
    for read, waiting, length, fine in (
        (20, 1, 11, True), (20, 1, 12, False), (0, 0, 32, True), (0, 0, 33, False), (31, 0, 1, True),
    ):
        session = Session()
        session.tokens, session.pending = [1] * read, [1] * waiting
        generation = Generation(engine, [2] * length, 1, session=session)
        if fine:
            generation.check()
            Generation(engine, [2] * length, 1, session=session, context_full="error").check()
            continue
        with pytest.raises(HwgenError, match=f"{read + waiting + length} tokens are longer than the context of 32"):
            generation.check()
    engine.image = tiny_image(32, "shortlist")
    Generation(engine, PROMPT, 3).check()
    for options in ({"prompt_logprobs": 0}, {"logprobs": 0}, {"sampling": Sampling(temperature=1.0)}):
        with pytest.raises(HwgenError, match="the short-list head gives the best candidates"):
            Generation(engine, PROMPT, 3, **options).check()  # type: ignore[arg-type]  # by name


def test_a_prompt_in_pieces(engine: Engine) -> None:
    """Of as many tokens as are asked for; what follows is wanted of the last piece alone, and asking again changes nothing."""
    generation = Generation(engine, PROMPT, 1)
    for most, tokens, wanted, left in ((2, [3, 9], 0, 3), (1, [4], 0, 2), (2, [4, 7], 1, 0)):
        for _ in range(2):
            request = generation.next_pass(most)
            assert request is not None and (list(request.run.tokens), request.run.wanted) == (tokens, wanted)
        assert request is not None
        result = engine.run_pass([request.run])
        assert len(generation.accept(result, result.runs[0], 0.5)) == wanted and generation.prefilling is (wanted == 0)
        assert generation.remaining == left
    assert (generation.prefill.tokens, generation.prefill.wall_s, generation.decode.tokens) == (5, 1.5, 0)
    assert generation.ended and generation.next_pass(8) is None
    generation.release()


def test_what_is_kept_inside_is_no_argument() -> None:
    inside = {field.name for field in fields(Generation) if not field.init}
    assert {"prompt_scores", "scores", "reused", "prefilling", "ended"} <= inside
    assert {field.name for field in fields(Generation) if field.name.startswith("_")} <= inside

"""The Python interface: what it asks with, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models.model import Model
from hwgen.sw.runtime.documents import LEAD, lead
from hwgen.sw.runtime.generation import GeneratedToken, Generation
from hwgen.sw.runtime.llm import LLM, Answer
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.vector_tokens import PLACE, VectorToken

from ..conftest import CONFIG, SHAPE

TEXT = "The cat sat on a hat"


def test_llm(model_directory: Path) -> None:
    pytest.importorskip("torch")
    llm = LLM(model_directory, device="golden", board=CONFIG)
    answer = llm.generate("the cat", max_new_tokens=6)
    pieces = list(answer)
    assert "".join(pieces) == answer.text == str(answer)
    assert answer.text == llm.model.tokenizer.decode(answer.generation.tokens)
    assert llm.generate(llm.model.tokenizer.encode("the cat"), max_new_tokens=6).text == answer.text
    assert llm.engine.image.shape == SHAPE


# ---- what is asked ---------------------------------------------------------------------------------------------------
def test_an_answer_in_the_making(llm: LLM) -> None:
    """The model's stop tokens, and its begin token that a slide keeps; others where they are given."""
    plain = llm.generation([1, 2], 7, Sampling(seed=5))
    assert (list(plain.stop_tokens), plain.keep, plain.max_new_tokens, plain.doorbell_passes) == ([0], 1, 7, 64)
    assert plain.prefixes is llm.prefixes is not None and plain.documents is None and not plain.session.tokens
    assert plain.context_full == "stop" and plain.logprobs is plain.prompt_logprobs is None
    session = Session()
    other = llm.generation(
        [1], 2, Sampling(), session=session, stop_tokens=[4], context_full="slide", logprobs=2, prompt_logprobs=1
    )
    assert (list(other.stop_tokens), other.context_full, other.logprobs, other.prompt_logprobs) == ([4], "slide", 2, 1)
    assert other.session is session and llm.generation([1], 2, Sampling(), stop_tokens=()).stop_tokens == ()


def asked(llm: LLM, *arguments: Any, **options: Any) -> list[int]:
    return list(llm.generate(*arguments, max_new_tokens=1, **options).generation.prompt)


def test_tokens_of_a_prompt(llm: LLM) -> None:
    """Text with the begin token, but behind what a session has; ids as they are; a message in the template."""
    tokenizer = llm.model.tokenizer
    text = tokenizer.encode_text("the cat")
    assert asked(llm, "the cat") == [0, *text] and asked(llm, [5, 6]) == [5, 6]
    assert asked(llm, "the cat", chat=True) == tokenizer.encode_chat("the cat") != [0, *text]
    fresh, pending, read = Session(), Session(), Session()
    pending.pending = [7]
    llm.engine.prefill(read, [1, 2])
    assert asked(llm, "the cat", session=fresh) == [0, *text]
    assert asked(llm, "the cat", session=pending) == asked(llm, "the cat", session=read) == text
    llm.close_session(read)


@pytest.mark.parametrize(("prompt", "first"), [("cat", 1), ([0, 5], 1), ([5, 0], 0), ([], 0)])
def test_where_vectors_stand(llm: LLM, prompt: Any, first: int) -> None:
    """Behind the begin token, if the prompt has one, else in front of everything."""
    ids = asked(llm, prompt, embeddings=np.ones((2, SHAPE.hidden)))
    assert [isinstance(token, VectorToken) for token in ids] == [first <= i < first + 2 for i in range(len(ids))]
    with pytest.raises(HwgenError, match="has places"):
        llm.generate([1, PLACE])


def test_how_tokens_are_drawn(llm: LLM) -> None:
    options: dict[str, Any] = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.75, "min_p": 0.25, "repetition_penalty": 1.5, "presence_penalty": 0.125,
        "frequency_penalty": 0.375, "logit_bias": {4: 1.0}, "seed": 9,
    }
    assert llm.generate([1], **options).generation.sampling == Sampling(**options)
    assert llm.generate([1], logit_bias=None).generation.sampling == Sampling()
    generation = llm.generate([1], recompute=0.25, context_full="slide", logprobs=3, max_new_tokens=2).generation
    assert (generation.recompute, generation.context_full, generation.logprobs) == (0.25, "slide", 3)
    assert llm.generate([1]).generation.recompute is None and llm.generate([1], recompute=0).generation.recompute == 0


def test_who_gives_pages_back(llm: LLM) -> None:
    """An answer with a session of its own, at its end; one that was given is kept until it is closed."""
    assert llm.prefixes is not None
    llm.prefixes.clear()
    session = Session()
    kept = llm.generate([9, 8, 7], max_new_tokens=3, session=session)
    assert kept.text is not None and session.position == 5 and len(session.pages) == 1
    llm.close_session(session)
    llm.prefixes.clear()
    assert llm.engine.pages.free == llm.image.pages
    own = llm.generate([9, 8, 7], max_new_tokens=3)
    assert own.text == kept.text and own.generation.session.position == 0 and len(llm.prefixes) == 1


class Made:
    """An answer that was made elsewhere."""

    def __init__(self, items: Sequence[tuple[int, str | None]]) -> None:
        self.session, self.prompt, self.released, self._items = Session(), [0, 84], 0, items

    def __iter__(self) -> Iterator[GeneratedToken]:
        return (GeneratedToken(token, reason) for token, reason in self._items)

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("keeps", [False, True])
def test_text_of_tokens(model: Model, keeps: bool) -> None:
    """Whole characters as they come, what is left of one at the end, and nothing of a stop token; pages are given back then."""
    first, second = model.tokenizer.encode_text("\N{LATIN SMALL LETTER E WITH ACUTE}")
    letter = model.tokenizer.encode_text("x")[0]
    for items, pieces in (
        ([(letter, None), (first, None), (second, None), (letter, "length")], ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}", "x"]),
        ([(letter, None), (first, "length")], ["x", "\N{REPLACEMENT CHARACTER}"]),
        ([(first, None), (letter, "stop")], ["\N{REPLACEMENT CHARACTER}"]), ([(letter, "stop")], []),
        ([(letter, "context")], ["x"]),
    ):
        made: Any = Made(items)
        answer = Answer(model, made, keep_session=keeps)
        assert list(answer) == pieces and answer.text == str(answer) == "".join(pieces) and made.released == (not keeps)


# ---- documents -------------------------------------------------------------------------------------------------------
def test_documents_in_front(llm: LLM, model: Model) -> None:
    """In front of ids, of text behind the begin token, of a message; they are computed behind the usual beginning."""
    own, tokenizer = LLM(model, "golden", CONFIG, cache_tokens=256), model.tokenizer
    document, other = own.document(TEXT), own.document("Once upon a time there was")
    assert own.document(TEXT) is document and len(own.documents) == 2
    begin, front = len(tokenizer.usual_beginning), len(tokenizer.encode_text(lead()))
    room = own.image.context - begin - len(document.tokens) - 1
    assert [computed.position for computed in document.computed] == [begin, begin + min(front, LEAD, room)]
    assert own.generation([1], 1, Sampling()).documents is own.documents
    assert asked(own, [5, 6], documents=[document, other]) == [*document.tokens, *other.tokens, 5, 6]
    assert asked(own, "Who?", documents=[document]) == [0, *document.tokens, *tokenizer.encode_text("Who?")]
    assert asked(own, "Who?", documents=[document], chat=True) == tokenizer.encode_chat(f"{TEXT}Who?", [TEXT])
    with pytest.raises(HwgenError, match="belongs to another LLM"):
        llm.generate([1], documents=[document])


# ---- several answers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "best_of", "first_finish", "message"), [
    (0, None, False, "n must be 1 to best_of, not 0 of 0"), (3, 2, False, "not 3 of 2"), (1, 2, True, "first_finish takes"),
    (2, 2, True, None), (1, 1, False, None), (2, 3, False, None), (3, None, True, None),
])
def test_how_many_answers(llm: LLM, n: int, best_of: int | None, first_finish: bool, message: str | None) -> None:
    options: dict[str, Any] = {"n": n, "best_of": best_of, "first_finish": first_finish, "max_new_tokens": 2}
    if message is None:
        assert len(llm.answers([1, 2], Sampling(temperature=3.0), **options)) == (1 if first_finish else n)
        return
    with pytest.raises(HwgenError, match=message) as caught:
        llm.answers([1, 2], Sampling(), **options)
    assert caught.value.kind == "usage"


def test_the_best_of_all(llm: LLM) -> None:
    """By the mean of the logarithms over their tokens; likelihoods are asked for where they are needed alone."""
    sampling = Sampling(temperature=30.0, seed=40)
    scored: list[tuple[float, list[int]]] = []
    for seed in range(40, 45):
        generation: Generation = llm.generate([1, 2], temperature=30.0, seed=seed, logprobs=0, max_new_tokens=5).generation
        list(generation)
        scored.append((sum(score.logprob for score in generation.scores) / len(generation.tokens), list(generation.tokens)))
    best: Sequence[Any] = llm.answers([1, 2], sampling, n=2, best_of=5, max_new_tokens=5)
    assert [(a.score, a.generation.tokens) for a in best] == sorted(scored, reverse=True)[:2]
    plain = llm.answers([1, 2], sampling, n=2, best_of=2, max_new_tokens=5)
    assert [a.generation.tokens for a in plain] == [tokens for _, tokens in scored[:2]]
    assert all(a.generation.logprobs is None and a.logprob == 0 for a in plain)

"""Vectors in place of tokens: rows of the embedding give the bits of their tokens, others are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.formats import round_bf16
from hwgen.sw.runtime.drafts import PromptLookup
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.vector_tokens import VectorToken, as_words, with_vectors
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE

PROMPT = [7, 31, 200, 4, 90, 12, 55, 1, 3, 77, 8, 21]


@pytest.fixture(scope="module")
def llm(model_directory: Path) -> LLM:
    return LLM(model_directory, "golden", CONFIG)


def logits_after(llm: LLM, tokens: list[int]) -> np.ndarray:
    session = Session()
    llm.engine.prefill(session, tokens, write_logits=True)
    logits = llm.engine.logits().view(np.uint32)
    llm.close_session(session)
    return logits


def test_rows_of_the_embedding_are_tokens(llm: LLM, weights: ModelWeights) -> None:
    table = weights.embedding
    expected = logits_after(llm, PROMPT)
    assert np.array_equal(logits_after(llm, with_vectors([], table[PROMPT], SHAPE.hidden)), expected)
    mixed = with_vectors([7, -1, 200, 4, -1, *PROMPT[5:]], table[[31, 90]], SHAPE.hidden)
    assert as_words(mixed) == [7, 200, 4, *PROMPT[5:]] and np.array_equal(logits_after(llm, mixed), expected)
    other = with_vectors([7, -1, 200, 4, -1, *PROMPT[5:]], table[[31, 91]], SHAPE.hidden)
    assert not np.array_equal(logits_after(llm, other), expected)


def test_answers_to_vectors(llm: LLM, weights: ModelWeights) -> None:
    plain = llm.generate(PROMPT, max_new_tokens=6)
    vectors = weights.embedding[PROMPT]
    for prompt, given in (([], vectors), ("", vectors), ([*PROMPT[:3], *[-1] * 9], vectors[3:]), (PROMPT[5:], vectors[:5])):
        answer = llm.generate(prompt, embeddings=given, max_new_tokens=6, repetition_penalty=1.0)
        begin = llm.model.tokenizer.begin
        if prompt != "" or begin is None:
            assert (answer.text, answer.generation.tokens) == (plain.text, plain.generation.tokens)


def test_prefixes_know_vectors(model_directory: Path) -> None:
    llm = LLM(model_directory, "golden", CONFIG)
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 1, (20, SHAPE.hidden)).astype(np.float32)
    first = llm.generate([5, 6], embeddings=vectors, max_new_tokens=3)
    assert first.text is not None and first.generation.reused == 0
    again = llm.generate([5, 6], embeddings=vectors, max_new_tokens=3)
    assert again.text == first.text and again.generation.reused == 21
    changed = round_bf16(vectors)
    changed[9, 44] *= 2
    later = llm.generate([5, 6], embeddings=changed, max_new_tokens=3, repetition_penalty=1.3)
    assert later.text is not None and later.generation.reused == 9
    alone = LLM(model_directory, "golden", CONFIG, reuse=False).generate(
        [5, 6], embeddings=changed, max_new_tokens=3, repetition_penalty=1.3
    )
    assert alone.text == later.text


def test_numbers_of_vectors() -> None:
    """Below those of tokens and places, in 64 bits; equal where all bits are."""
    rows = np.random.default_rng(2).normal(0, 1, (200, 4)).astype(np.float32)
    numbers = with_vectors([], rows, 4)
    assert len(set(numbers)) == 200 and all(-(2**63) <= number < -1 for number in numbers) and min(numbers) < -(2**61)
    assert with_vectors([5], rows[::-1], 4, 1) == [5, *numbers[::-1]]
    assert with_vectors([numbers[3], -1, 4], rows[:1], 4) == [numbers[3], numbers[0], 4], "a vector that stands there stays"
    for wrong in (rows[:0], rows[0], rows[None], rows[:, :3]):
        with pytest.raises(HwgenError, match="embeddings must be"):
            with_vectors([], wrong, 4)
    with pytest.raises(HwgenError, match="must be finite"):
        with_vectors([], np.where(rows > 2, np.nan, rows), 4)


def test_drafts_have_no_vectors(llm: LLM) -> None:
    """Not where one stood behind the last tokens before: it would be verified in vain."""
    vector = with_vectors([], np.ones((1, SHAPE.hidden), np.float32), SHAPE.hidden)
    assert PromptLookup().propose([4, 5, 6, 7, *vector, 8, 4, 5], 4) == [6, 7]
    assert PromptLookup().propose([4, 5, *vector, 8, 4, 5], 4) == []


def test_sessions_that_go_on_behind_vectors(llm: LLM) -> None:
    """An answer to a session that read vectors, and vectors behind an answer, are those to all of it at once."""
    vectors = np.random.default_rng(3).normal(0, 1, (4, SHAPE.hidden)).astype(np.float32)
    session = Session()
    first = llm.generate([7, -1, -1, 3], embeddings=vectors[:2], max_new_tokens=3, session=session)
    assert first.text is not None
    second = llm.generate([-1, 9, -1], embeddings=vectors[2:], max_new_tokens=3, session=session)
    whole = llm.generate(
        [7, -1, -1, 3, *first.generation.tokens, -1, 9, -1], embeddings=vectors, max_new_tokens=3
    )
    assert second.text is not None and whole.text is not None
    assert second.generation.tokens == whole.generation.tokens
    llm.close_session(session)


def test_what_is_no_vector_is_refused(llm: LLM, tmp_path: Path) -> None:
    good = np.ones((2, SHAPE.hidden), np.float32)
    for prompt, vectors, message in (
        ([1], good[:, :-1], r"must be \[vectors, 45\], not \[2, 44\]"),
        ([1], good[0], "must be"),
        ([1], good * np.inf, "finite"),
        ([1, -1], good, r"has 1 places \(-1\) for 2 embeddings"),
    ):
        with pytest.raises(HwgenError, match=message):
            llm.generate(prompt, embeddings=vectors)
    with pytest.raises(HwgenError, match=r"places \(-1\) and no embeddings"):
        llm.generate([1, -1])
    session = Session()
    with pytest.raises(HwgenError, match="outside the vocabulary"):
        llm.engine.prefill(session, [VectorToken(np.zeros(3, np.uint16))])
    llm.engine.prefill(session, with_vectors([1], good, SHAPE.hidden))
    with pytest.raises(HwgenError, match="vectors in place of tokens cannot be saved"):
        llm.save_session(session, tmp_path / "s")
    assert not list(tmp_path.iterdir())
    prompt = with_vectors([1], good, SHAPE.hidden)
    with pytest.raises(HwgenError, match="vectors in place of tokens have no probabilities"):
        llm.generation(prompt, 1, Sampling(), prompt_logprobs=0).check()

"""Documents: found in prompts, taken over at other positions, and computed again as far as is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.document_passes import chosen_spans, place_documents
from hwgen.sw.runtime.documents import Document, DocumentStore, compute_document
from hwgen.sw.runtime.engine import Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import unpack_pages
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pages import Session

from ..conftest import CONFIG, SHAPE

RANDOM = np.random.default_rng(5)
FRONT, BETWEEN, BEHIND = ([int(t) for t in RANDOM.integers(1, SHAPE.vocab, n)] for n in (3, 2, 4))
TEXTS = [[int(t) for t in RANDOM.integers(1, SHAPE.vocab, n)] for n in (17, 20)]
PROMPT = [*FRONT, *TEXTS[0], *BETWEEN, *TEXTS[1], *BEHIND]


@pytest.fixture
def llm(model_directory: Path) -> LLM:
    return LLM(model_directory, "golden", CONFIG, cache_tokens=4 * SHAPE.max_context, reuse=False)


def documents_of(llm: LLM, before: list[int]) -> list[Document]:
    documents = [compute_document(llm.engine, str(i), text, before) for i, text in enumerate(TEXTS)]
    for document in documents:
        llm.documents.add(document)
    return documents


def cache_of(llm: LLM, session: Session) -> list[bytes]:
    pages = llm.engine.pages.read(session.pages)
    kv = unpack_pages(llm.image, pages, session.position)
    return [kv.elements.tobytes(), kv.scales.tobytes()]


def logits_behind(llm: LLM, session: Session, tokens: list[int]) -> bytes:
    llm.engine.prefill(session, tokens, write_logits=True)
    return llm.engine.logits().tobytes()


def test_all_computed_again_is_the_whole_prompt(llm: LLM) -> None:
    """In every bit, whatever was taken over before."""
    documents_of(llm, [9, 9])
    whole, session = Session(), Session()
    expected = logits_behind(llm, whole, PROMPT)
    placement = place_documents(llm.engine, session, PROMPT, llm.documents, 0.999)
    assert (placement.tokens, placement.placed, placement.recomputed) == (42, 37, 39)
    assert session.tokens == PROMPT[:42] and not session.exact
    assert logits_behind(llm, session, PROMPT[42:]) == expected
    assert cache_of(llm, session) == cache_of(llm, whole)


def test_behind_the_same_tokens_nothing_deviates(llm: LLM) -> None:
    """A document that stands where it was computed is what it was; the second one is not."""
    documents_of(llm, FRONT)
    whole, session = Session(), Session()
    llm.engine.prefill(whole, PROMPT[:20])
    place_documents(llm.engine, session, PROMPT[:21], llm.documents, 0)
    assert session.position == 20 and cache_of(llm, session) == cache_of(llm, whole)
    shared, plain, exact = Session(), Session(), Session()
    place_documents(llm.engine, shared, PROMPT, llm.documents, 0.4)
    place_documents(llm.engine, plain, PROMPT, llm.documents, 0)
    llm.engine.prefill(exact, PROMPT[:42])

    def distance(session: Session) -> float:
        """Of all keys and values, from those of the whole prompt."""
        mine, theirs = (unpack_pages(llm.image, llm.engine.pages.read(s.pages), 42) for s in (session, exact))
        return float(np.abs(mine.elements.astype(float) - theirs.elements).sum())

    assert distance(plain) > 0 == distance(shared), "the first two layers, all of this model, are computed for every token"


def test_runs_of_one_sequence_in_a_pass(llm: LLM) -> None:
    """Each sees the others' keys as they were before: as if the last had been alone first."""
    documents_of(llm, [9, 9])
    engine, results = llm.engine, list[list[bytes]]()
    for parts in (((5, 9), (12, 13), (30, 33)),), (((30, 33),), ((12, 13),), ((5, 9),)):
        session = Session()
        place_documents(engine, session, PROMPT, llm.documents, 0)
        before = cache_of(llm, session)
        for ranges in parts:
            engine.run_pass([Run(session, PROMPT[first:end], at=first) for first, end in ranges])
        assert session.tokens == PROMPT[:42] and cache_of(llm, session) != before
        results.append(cache_of(llm, session))
        engine.pages.close(session)
    assert results[0] == results[1]


def test_a_pass_of_the_first_layers(llm: LLM) -> None:
    """It leaves their keys and values, and nothing else."""
    engine, whole, session = llm.engine, Session(), Session()
    engine.forward(whole, PROMPT[:7])
    engine.pages.write(engine.pages._free[-1:], np.zeros((1, llm.image.page_bytes), np.uint8))
    engine.run_pass([Run(session, PROMPT[:7])], layers=1)
    mine, theirs = (unpack_pages(llm.image, engine.pages.read(s.pages), 7) for s in (session, whole))
    assert np.array_equal(mine.elements[:, 0], theirs.elements[:, 0]) and np.array_equal(mine.scales[:, 0], theirs.scales[:, 0])
    assert not mine.scales[:, 1].any() and theirs.scales[:, 1].all()
    assert logits_behind(llm, whole, PROMPT[7:9]) == logits_behind(llm, Session(), PROMPT[:9]), "whole passes go on"
    with pytest.raises(ValueError, match="layers must be 1 to 2"):
        engine.run_pass([Run(session, [1])], layers=3)
    with pytest.raises(ValueError, match="has no logits"):
        engine.run_pass([Run(session, [1], 1)], layers=1)


def test_what_a_pass_may_compute_again(llm: LLM) -> None:
    engine, session = llm.engine, Session()
    engine.prefill(session, PROMPT[:20])
    with pytest.raises(ValueError, match="must have the tokens of a run at position 4"):
        engine.run_pass([Run(session, PROMPT[5:7], at=4)])
    with pytest.raises(ValueError, match="one run of a pass"):
        engine.run_pass([Run(session, PROMPT[4:6], at=4), Run(session, [1])])
    other = engine.pages.share(session, 20)  # pages that others hold are copied first
    before = cache_of(llm, other)
    engine.pages.write(session.pages[:1], np.zeros((1, llm.image.page_bytes), np.uint8))
    broken = cache_of(llm, other)
    engine.run_pass([Run(session, PROMPT[:8], at=0)])
    assert session.pages[0] != other.pages[0] and session.pages[1] == other.pages[1]
    assert cache_of(llm, other) == broken != before


def test_the_spans_that_deviate_most() -> None:
    values = np.zeros(20, np.float32)
    values[[3, 17]] = 2, 5
    deviations = [((4, 24), values), ((30, 40), np.full(10, 0.1, np.float32))]
    assert chosen_spans(deviations, 0.1) == [(20, 24)]
    assert chosen_spans(deviations, 0.2) == [(4, 12), (20, 24)]
    assert chosen_spans(deviations, 0.6) == [(4, 12), (20, 24), (30, 38)]
    assert chosen_spans(deviations, 0.95) == [(4, 24), (30, 40)]


def test_where_documents_stand(llm: LLM) -> None:
    first, second = documents_of(llm, [])
    longer = compute_document(llm.engine, "longer", [*TEXTS[0], 7, 7], [])
    assert llm.documents.found(PROMPT) == [(3, first), (22, second)]
    llm.documents.add(longer)
    assert llm.documents.found([*TEXTS[0], 7, 7, *TEXTS[0], 8]) == [(0, longer), (19, first)]
    assert llm.documents.found(TEXTS[0][1:]) == [] and llm.documents.get(TEXTS[1]) is second
    llm.documents.remove(longer)
    assert len(llm.documents) == 2 and llm.documents.texts == ["0", "1"]


def test_answers_with_documents(model_directory: Path) -> None:
    """A text that is known is found wherever a prompt has it, and with the share 1 an answer has the bits of the whole prompt."""
    llm = LLM(model_directory, "golden", CONFIG, cache_tokens=4 * SHAPE.max_context)
    text, question = "The cat sat on a hat", "Who?"
    tokens = llm.model.tokenizer.encode_text(text)
    front = llm.model.tokenizer.encode_text("So: ")
    plain = llm.generate([*front, *tokens, *llm.model.tokenizer.encode_text(question)], max_new_tokens=4)
    assert plain.text is not None and plain.generation.reused == 0
    document = llm.document(text)
    assert llm.document(text) is document and document.tokens == tuple(tokens)
    again = llm.generate(f"So: {text}{question}", recompute=1.0, max_new_tokens=4)
    assert again.text == plain.text
    fresh = LLM(model_directory, "golden", CONFIG)
    document = fresh.document(text)
    taken = fresh.generate(question, documents=[document], recompute=0.0, max_new_tokens=4)
    assert taken.text is not None and taken.generation.reused == 1 + len(tokens)
    moved = fresh.generate(f"So: {text}{question}", recompute=0.3, max_new_tokens=4)
    assert moved.text is not None and 0 < moved.generation.reused < len(tokens) and moved.generation.prefill.tokens > 4
    assert moved.generation.reused + moved.generation.prefill.tokens == len(moved.generation.prompt)
    exact = fresh.generate(f"So: {text}{question}", recompute=1.0, max_new_tokens=4)
    assert exact.text == plain.text, "nothing of what was taken over is kept for others"


@pytest.mark.parametrize(("share", "reused"), [(0.0, 37), (0.2, 27), (0.999, 0)])
def test_an_answer_counts_what_was_computed(llm: LLM, share: float, reused: int) -> None:
    """Once, though its first layers were computed twice; what was computed again is not taken over."""
    documents_of(llm, [9, 9])
    generation = Generation(llm.engine, PROMPT, 1, documents=llm.documents, recompute=share)
    assert len(list(generation)) == 1 and generation.reused == reused
    assert generation.prefill.tokens == len(PROMPT) - reused + (2 if share == 0.999 else 0), "the two between are computed twice"
    assert generation.prefill.wall_s > 0 and generation.session.tokens == PROMPT


def test_what_is_refused(llm: LLM, model_directory: Path) -> None:
    for call, message in (
        (lambda: llm.document("cat"), "must have 8 tokens or more"),
        (lambda: llm.generate([1], recompute=1.5), "recompute must be 0 to 1"),
        (lambda: DocumentStore(-0.1), "recompute must be 0 to 1"),
        (lambda: llm.generate([1], documents=documents_of(LLM(model_directory, "golden", CONFIG), [])), "belongs to another LLM"),
    ):
        with pytest.raises(HwgenError, match=message):
            call()
    documents_of(llm, [])
    held = Session()
    assert llm.engine.pages.reserve(held, (llm.image.pages - 2) * CONFIG.kv_block)
    session = Session()
    assert place_documents(llm.engine, session, PROMPT, llm.documents).tokens == 0, "no pages for all of it"
    assert session.position == 0 and session.exact

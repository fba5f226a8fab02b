"""What placing documents in a prompt says that it did, pass by pass, of a tiny model on the golden machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime import documents
from hwgen.sw.runtime.document_passes import Placement, place_documents
from hwgen.sw.runtime.documents import Document, DocumentStore, compute_document
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.kv_arrays import unpack_pages, with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.weights import random_weights

from ..conftest import CONFIG

SHAPE = ModelShape(hidden=16, layers=3, heads=1, kv_heads=1, head_dim=16, ffn=16, vocab=60, max_context=64)
TEXT = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
OTHER = [31, 32, 33, 34, 35, 36, 37, 38]


@pytest.fixture(scope="module")
def engine() -> Engine:
    image = with_cache_tokens(compile_model(CONFIG, random_weights(SHAPE, 5)), 512)
    return Engine(GoldenDevice(CONFIG, memory_bytes=image.memory_bytes()), image)


@pytest.fixture(scope="module")
def store(engine: Engine) -> DocumentStore:
    found = DocumentStore()
    for tokens in (TEXT, OTHER):
        found.add(compute_document(engine, "", tokens, [1, 2]))
    return found


def place(engine: Engine, store: DocumentStore, prompt: Sequence[int], share: float, has: int = 0) -> tuple[Placement, Session]:
    """Of a prompt whose first ``has`` tokens a session has already."""
    session = Session()
    if has:
        engine.prefill(session, prompt[:has])
    result = place_documents(engine, session, prompt[has:], store, share)
    engine.pages.close(session) if not result.tokens else None
    return result, session


def sizes(result: Placement) -> list[int]:
    return [passed.tokens for passed, _ in result.passes]


@pytest.mark.parametrize("has", [0, 2])
def test_sums(engine: Engine, store: DocumentStore, has: int) -> None:
    """Three tokens, a document of ten, one token, a document of eight, and the rest; a pass has eight tokens."""
    prompt = [3, 4, 5, *TEXT, 6, *OTHER, 7, 8]
    for share, least, most in ((0.0, 0, 0), (0.5, 10, 17), (0.99, 19, 19)):
        result, session = place(engine, store, prompt, share, has)
        assert (result.tokens, result.placed) == (22 - has, 18) and session.tokens == prompt[:22] and not session.exact
        # its own tokens; all from the first document on, for two layers; spans, and the token between, which saw old keys
        begin = ([3 - has] if has < 3 else []) + [1] + ([8, 8, 3] if share else [])
        found = sizes(result)
        assert found[: len(begin)] == begin and sum(found[len(begin) :]) == result.recomputed and least <= result.recomputed <= most
        engine.pages.close(session)
    assert engine.pages.free == engine.image.pages


def test_all_of_it_is_what_is_computed(engine: Engine, store: DocumentStore) -> None:
    prompt = [3, 4, 5, *TEXT, 6, *OTHER, 7, 8]
    _, session = place(engine, store, prompt, 0.999, 2)
    whole = Session()
    engine.prefill(whole, prompt[:22])
    for mine, theirs in ((session, whole),):
        kv = [unpack_pages(engine.image, engine.pages.read(s.pages), 22) for s in (mine, theirs)]
        assert np.array_equal(kv[0].elements, kv[1].elements) and np.array_equal(kv[0].scales, kv[1].scales)
    for used in (session, whole):
        engine.pages.close(used)


@pytest.mark.parametrize(("prompt", "share", "has", "tokens", "placed"), [
    ([*TEXT, 7], 0.0, 0, 10, 10), (TEXT, 0.0, 0, 9, 9), ([3, *TEXT, 7], 1.0, 0, 0, 0), ([3, 4, 5], 0.0, 0, 0, 0),
    ([*TEXT, 7, 7], 0.0, 4, 6, 6), ([*TEXT, 7, 7], 0.0, 10, 0, 0), ([*TEXT, 7, 7], 0.0, 9, 1, 1), ([3, *TEXT[:9], 7], 0.0, 0, 0, 0),
])
def test_what_is_taken_over(
    engine: Engine, store: DocumentStore, prompt: list[int], share: float, has: int, tokens: int, placed: int
) -> None:
    """All but the last token; of a document that a session has the beginning of, the rest; nothing where the share is one."""
    result, session = place(engine, store, prompt, share, has)
    assert (result.tokens, result.placed, result.recomputed) == (tokens, placed, 0)
    engine.pages.close(session)


@pytest.mark.parametrize(("has", "tokens"), [(3, 10), (3, 8), (12, 10), (9, 8), (0, 9)])
def test_what_stands_beside_it_stays(engine: Engine, has: int, tokens: int) -> None:
    """A page has sixteen slots: those in front of a document, and those behind its end, are what they were."""
    text = [20 + i for i in range(tokens)]
    store = DocumentStore()
    store.add(compute_document(engine, "", text, [1, 2]))
    session = Session()
    assert engine.pages.reserve(session, has + tokens)
    noise = np.random.default_rng(has).integers(0, 120, (len(session.pages), engine.image.page_bytes)).astype(np.uint8)
    engine.pages.write(session.pages, noise)
    if has:
        engine.prefill(session, list(range(1, 1 + has)))
    before = unpack_pages(engine.image, engine.pages.read(session.pages), 16 * len(session.pages))
    place_documents(engine, session, [*text, 9], store, 0.0)
    after = unpack_pages(engine.image, engine.pages.read(session.pages), 16 * len(session.pages))
    inside = slice(has, has + tokens)
    assert session.position == has + tokens
    for name in ("elements", "scales"):
        was, found = (np.moveaxis(getattr(kv, name), 3, 0) for kv in (before, after))
        assert not np.array_equal(was[inside], found[inside])
        assert np.array_equal(np.delete(was, inside, 0), np.delete(found, inside, 0))
    engine.pages.close(session)


def test_pages_that_are_not_free(engine: Engine, store: DocumentStore) -> None:
    others = [Session() for _ in range(7)]
    assert all(engine.pages.reserve(other, 64) for other in others)
    last = Session()
    assert engine.pages.reserve(last, 16 * (engine.pages.free - 1)) and engine.pages.free == 1
    prompt = [3, 4, 5, *TEXT, 6, *OTHER, 7, 8]
    assert place(engine, store, prompt, 0.1)[0].tokens == 0, "two are needed"
    result, session = place(engine, store, [3, *TEXT, 7], 0.0)
    assert result.tokens == 11
    for used in (*others, last, session):
        engine.pages.close(used)


def test_what_passes_are_asked_for(engine: Engine, store: DocumentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logits; two layers where it is looked for what deviates, and all of them else."""
    asked: list[tuple[int | None, int]] = []
    run_pass = engine.run_pass

    def watched(runs: list[Run], *, write_logits: bool = False, layers: int | None = None) -> PassResult:
        asked.extend((layers, run.wanted) for run in runs)
        return run_pass(runs, write_logits=write_logits, layers=layers)

    monkeypatch.setattr(engine, "run_pass", watched)
    result, session = place(engine, store, [3, *TEXT, 7], 0.5)
    assert asked == [(None, 0), (2, 0), (2, 0), (None, 0)] and (result.placed, result.recomputed) == (10, 8)
    engine.pages.close(session)
    asked.clear()
    compute_document(engine, "", TEXT, [1, 2])
    assert asked == [(None, 0)] * 2


def test_a_document_behind_a_text(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second keys and values are those of a prompt with that text, or as much of it as may be and the context has room for."""
    front = [int(t) for t in np.random.default_rng(9).integers(1, 60, 600)]

    def computed(front: Sequence[int]) -> list[int]:
        """Where the machine computed a document; keys and values are those of a prompt up to its end."""
        document, before = compute_document(engine, "", TEXT, [1, 2], None, front), [1, 2]
        for found in document.computed:
            session = Session()
            engine.prefill(session, [*before, *TEXT])
            whole = unpack_pages(engine.image, engine.pages.read(session.pages), session.position)
            assert found.position == len(before)
            assert np.array_equal(found.arrays.elements, whole.elements[..., found.position :, :])
            assert np.array_equal(found.arrays.scales, whole.scales[..., found.position :])
            engine.pages.close(session)
            before += front[: min(documents.LEAD, SHAPE.max_context - 2 - len(TEXT) - 1)]
        return [found.position for found in document.computed]

    assert computed([]) == [2] and computed(front[:1]) == [2, 3] and computed(front) == [2, 53]
    monkeypatch.setattr(documents, "LEAD", 7)
    assert computed(front) == [2, 9]
    held = Session()
    assert engine.pages.reserve(held, 16 * (engine.image.pages - 1))
    assert computed(front[:3]) == [2, 5] and computed(front[:5]) == [2], "one page has room for sixteen tokens"
    engine.pages.close(held)
    assert engine.pages.free == engine.image.pages


def test_a_device_that_fails_behind_a_text(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told, and pages are given back."""
    forward = engine.forward

    def failing(session: Session, tokens: Sequence[int], *, logits: bool = True) -> PassResult:
        if session.position >= 16:
            raise HwgenError("device", "no answer")
        return forward(session, tokens, logits=logits)

    monkeypatch.setattr(engine, "forward", failing)
    with pytest.raises(HwgenError, match="no answer"):
        compute_document(engine, "", TEXT, [1, 2], None, list(range(1, 20)))
    assert engine.pages.free == engine.image.pages


def test_documents_in_a_text(store: DocumentStore) -> None:
    """Longer ones first, none over another; the beginning alone is none."""
    long = Document("longer", (*TEXT, 6), store.get(TEXT).computed)  # type: ignore[union-attr]  # it is there
    both = DocumentStore(0.3)
    for document in (store.get(TEXT), long, store.get(OTHER)):
        both.add(document)  # type: ignore[arg-type]  # likewise
    assert len(both) == 3 and both.texts == ["longer", "", ""]
    found = [(at, len(d.tokens)) for at, d in both.found([9, *TEXT, 6, *TEXT, *OTHER[:7], *OTHER])]
    assert found == [(1, 11), (12, 10), (29, 8)]
    both.remove(long)
    both.remove(long)
    assert [at for at, _ in both.found([*TEXT, 6, *TEXT])] == [0, 11] and both.get([1]) is None and both.recompute == 0.3

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE
from .toy_device import toy_engine

MEMORY = 1 << 23

#: A pass takes six tokens here (the scratch holds no more): pages and passes begin at different places.
ODD = replace(CONFIG, name="odd", lanes=3, groups=1, scratch_vectors=140)


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return with_cache_tokens(compile_model(CONFIG, weights), 256)


def new_engine(image: Image) -> Engine:
    return toy_engine(image, image.pages * image.config.kv_block)


def golden_engine(image: Image) -> Engine:
    pytest.importorskip("torch")
    return Engine(GoldenDevice(image.config, memory_bytes=MEMORY), image)


@pytest.fixture
def engine(image: Image) -> Engine:
    return new_engine(image)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


def answer(engine: Engine, tokens: list[int], prefixes: PrefixCache | None, count: int = 5) -> Generation:
    """Sampled from all logits, so that a difference in any bit is likely to show; the logits of the end are compared too."""
    generation = Generation(engine, tokens, count, Sampling(temperature=2.0, seed=len(tokens)), prefixes=prefixes)
    for _ in generation:
        pass
    return generation


def check_like_fresh(
    engine: Engine,
    prefixes: PrefixCache,
    tokens: list[int],
    reused: int,
    count: int = 5,
    new: Callable[[Image], Engine] = new_engine,
) -> None:
    generation = answer(engine, tokens, prefixes, count)
    logits = engine.logits().view(np.uint32)
    fresh = new(engine.image)
    expected = answer(fresh, tokens, None, count)
    assert generation.tokens == expected.tokens
    np.testing.assert_array_equal(logits, fresh.logits().view(np.uint32))
    assert generation.reused == reused and generation.prefill.tokens == len(tokens) - reused
    generation.release()


@pytest.mark.parametrize(
    ("first", "common", "second", "reused"),
    [
        (40, 40, 41, 40),
        (40, 40, 40, 39),  # the last token is computed again
        (37, 37, 50, 37),
        (40, 33, 50, 33),
        (40, 31, 50, 31),  # within a page: it is copied
        (40, 16, 50, 16),
        (40, 1, 50, 1),
        (40, 0, 50, 0),
        (5, 5, 20, 5),
        (64, 63, 64, 63),
    ],
)
def test_answers_with_reuse_are_those_without(engine: Engine, first: int, common: int, second: int, reused: int) -> None:
    prefixes = PrefixCache(engine)
    shared = prompt(common)
    check_like_fresh(engine, prefixes, (shared + prompt(64, 1))[:first], 0, 1)
    other = [(t + 1) % SHAPE.vocab for t in prompt(64, 1)]
    check_like_fresh(engine, prefixes, (shared + other)[:second], reused, 1)
    check_like_fresh(engine, prefixes, (shared + prompt(64, 1))[:first], first - 1, 1)  # unharmed
    prefixes.clear()
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize("new", [new_engine, golden_engine])
def test_passes_that_end_within_pages(weights: ModelWeights, new: Callable[[Image], Engine]) -> None:
    """The same on the golden device: passes of another place and length than those of a prompt from its begin."""
    image = with_cache_tokens(compile_model(ODD, weights), 256)
    assert image.chunk == 6
    engine = new(image)
    prefixes = PrefixCache(engine)
    check_like_fresh(engine, prefixes, prompt(40), 0, 2, new)
    check_like_fresh(engine, prefixes, prompt(64)[:55], 40, 2, new)
    check_like_fresh(engine, prefixes, prompt(64)[:21] + [0] * 20, 21, 2, new)
    check_like_fresh(engine, prefixes, prompt(40), 39, 2, new)
    prefixes.clear()
    assert engine.pages.free == image.pages


@pytest.mark.parametrize("new", [new_engine, golden_engine])
def test_answers_are_taken_over_too(image: Image, new: Callable[[Image], Engine]) -> None:
    """Tokens that were computed one by one have the bits of a prefill."""
    engine = new(image)
    prefixes = PrefixCache(engine)
    first = answer(engine, prompt(20), prefixes, 20)
    first.release()
    conversation = prompt(20) + first.tokens + prompt(3, 2)
    check_like_fresh(engine, prefixes, conversation, 39, new=new)  # the last token of an answer is not in the cache


def test_rounded_keys_are_not_taken_over(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    session = Session()
    engine.prefill(session, prompt(40))
    session.exact = False
    prefixes.add(session)
    assert len(prefixes) == 0
    check_like_fresh(engine, prefixes, prompt(40), 0)


def test_shared_pages_are_shared(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    answer(engine, prompt(49), prefixes, 1).release()
    free = engine.pages.free
    generations = [answer(engine, prompt(49)[:48] + [i], prefixes, 1) for i in range(4)]
    assert [g.session.pages[:3] for g in generations] == [generations[0].session.pages[:3]] * 4
    assert engine.pages.free == free - 4
    for generation in generations:
        engine.pages.close(generation.session)


def test_pressure_drops_the_least_recently_used(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    for seed in range(4):  # of 16 pages, all are held in the end
        answer(engine, prompt(64, seed), prefixes, 1).release()
    assert engine.pages.free == 0 and len(prefixes) == 4
    answer(engine, prompt(64, 0), prefixes, 1).release()
    session = Session()
    engine.prefill(session, prompt(20, 9))
    assert len(prefixes) == 3
    engine.pages.close(session)
    check_like_fresh(engine, prefixes, prompt(64, 0), 63, 1)
    check_like_fresh(engine, prefixes, prompt(64, 1), 0, 1)


def test_a_session_in_use_outlives_the_prefix(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    answer(engine, prompt(40), prefixes, 1).release()
    running = Generation(engine, prompt(40) + [3], 20, prefixes=prefixes)
    iterator = iter(running)
    tokens = [next(iterator).token for _ in range(3)]
    prefixes.clear()
    others = [Session() for _ in range(4)]
    for i, session in enumerate(others[:3]):
        engine.prefill(session, prompt(64, i + 1))
    tokens += [item.token for item in iterator]
    assert running.reused == 40
    fresh = new_engine(engine.image)
    assert tokens == [item.token for item in Generation(fresh, prompt(40) + [3], 20)]


def test_without_pages_the_error_stays(engine: Engine) -> None:
    prefixes = PrefixCache(engine)
    held = [Session() for _ in range(4)]
    for i, session in enumerate(held):
        engine.prefill(session, prompt(64, i))
        prefixes.add(session)
    with pytest.raises(HwgenError, match="1 KV pages are needed, 0 are free"):
        engine.forward(Session(), [1])
    assert len(prefixes) == 0


@pytest.mark.parametrize("seed", range(6))
def test_random_use(weights: ModelWeights, seed: int) -> None:
    """Prompts with random common beginnings, several at a time, some abandoned, in a cache that is too small."""
    rng = np.random.default_rng(seed)
    config: BuildConfig = ODD if seed % 2 else CONFIG
    image = with_cache_tokens(compile_model(config, weights), 160)
    engine = new_engine(image)
    prefixes = PrefixCache(engine)
    fresh = new_engine(image)
    expected: dict[tuple[int, ...], list[int]] = {}
    stems = [prompt(60, 100 + i) for i in range(3)]
    reused = 0
    for _ in range(20):
        batch = []
        for _ in range(2):
            stem = stems[int(rng.integers(3))][: int(rng.integers(1, 40))]
            tokens = stem + [int(t) for t in rng.integers(0, SHAPE.vocab, int(rng.integers(0, 10)))]
            batch.append((tokens, Generation(engine, tokens, 4, prefixes=prefixes), []))
        running = [(tokens, g, iter(g), out) for tokens, g, out in batch]
        while running:
            entry = running[int(rng.integers(len(running)))]
            item = None if rng.random() < 0.05 else next(entry[2], None)
            if item is None:
                running.remove(entry)
                entry[1].release()
            else:
                entry[3].append(item.token)
        for tokens, generation, out in batch:
            key = tuple(tokens)
            if key not in expected:
                alone = Generation(fresh, tokens, 4)
                expected[key] = [i.token for i in alone]
                alone.release()
            assert out == expected[key][: len(out)]
            reused += generation.reused
    assert reused > 200
    prefixes.clear()
    assert engine.pages.free == image.pages


def kept(engine: Engine, prefixes: PrefixCache, tokens: list[int], **options: bool) -> None:
    """Tokens of a session that comes to its end."""
    session = Session()
    engine.prefill(session, tokens)
    prefixes.add(session, **options)
    engine.pages.close(session)


def test_how_many_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used goes first; what is the beginning of another is not kept beside it."""
    monkeypatch.setattr(PrefixCache, "LIMIT", 3)
    prefixes = PrefixCache(engine)
    for first in (1, 2, 3):
        kept(engine, prefixes, [first, 5, 6])
    assert len(prefixes) == 3
    kept(engine, prefixes, [1, 5])  # is there: as if it were new
    kept(engine, prefixes, [4, 5])
    assert [entry.tokens for entry in prefixes._entries] == [[3, 5, 6], [1, 5, 6], [4, 5]]
    kept(engine, prefixes, [3, 5, 6, 7])
    assert [entry.tokens for entry in prefixes._entries] == [[1, 5, 6], [4, 5], [3, 5, 6, 7]]
    session = Session()
    assert prefixes.start(session, [1, 5, 9]) == 2 and session.tokens == [1, 5]
    assert [entry.tokens[0] for entry in prefixes._entries] == [4, 3, 1]
    assert prefixes.start(Session(), [9, 1]) == 0 and prefixes.evict() is True and len(prefixes) == 2
    engine.pages.close(session)
    prefixes.clear()
    assert prefixes.evict() is False and engine.pages.free == engine.image.pages


def test_of_equal_ones_the_older_is_taken_over(engine: Engine) -> None:
    """It is then the newest: what nobody asks for is dropped first."""
    prefixes = PrefixCache(engine)
    for last in (5, 6, 7):
        kept(engine, prefixes, [1, last])
    session = Session()
    assert prefixes.start(session, [1, 9]) == 1 and [entry.tokens[1] for entry in prefixes._entries] == [6, 7, 5]
    engine.pages.close(session)
    prefixes.clear()


def test_whole_pages(engine: Engine) -> None:
    prefixes, page = PrefixCache(engine), CONFIG.kv_block
    for tokens, there in ((prompt(page - 1), 0), (prompt(2 * page + 3), 2 * page), (prompt(page, 1), page)):
        kept(engine, prefixes, tokens, whole_pages=True)
        assert [entry.position for entry in prefixes._entries] == ([there] if there else [])
        prefixes.clear()
    parked = Session()
    engine.prefill(parked, prompt(5))
    engine.pages.park(parked)
    prefixes.add(parked)
    prefixes.add(Session())
    assert len(prefixes) == 0


# ---- context full ------------------------------------------------------------------------------------------------
def test_context_full_error(engine: Engine) -> None:
    with pytest.raises(HwgenError, match="60 tokens and an answer of 6 are longer than the context of 64") as caught:
        next(iter(Generation(engine, prompt(60), 6, context_full="error")))
    assert caught.value.kind == "context" and engine.pages.free == engine.image.pages
    assert len(list(Generation(engine, prompt(60), 5, context_full="error"))) == 5
    with pytest.raises(HwgenError, match="stop, error, slide"):
        Generation(engine, prompt(5), 5, context_full="wrap")


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_context_full_slide(engine: Engine, keep: int) -> None:
    """What comes after a slide is what a fresh prompt of the kept tokens gets."""
    tokens = prompt(60)
    generation = Generation(engine, tokens, 20, Sampling(temperature=2.0, seed=1), context_full="slide", keep=keep)
    out = [item.token for item in generation]
    assert generation.stop_reason == "length" and len(out) == 20
    history = tokens + out
    kept = history[:keep] + history[65 - 32 + keep : 65]  # full with 64 tokens, the 65th is chosen
    assert generation.session.tokens == kept + history[65:-1] and generation.prefill.tokens == 60 + 32
    last = engine.logits().view(np.uint32)
    fresh = new_engine(engine.image)
    session = Session()
    fresh.prefill(session, kept)
    for token in history[65:-1]:
        fresh.forward(session, [token], write_logits=True)
    np.testing.assert_array_equal(fresh.logits().view(np.uint32), last)


def test_context_full_slides_again(engine: Engine) -> None:
    generation = Generation(engine, prompt(60), 5 + 33 + 1, context_full="slide")
    assert len(list(generation)) == 39 and generation.prefill.tokens == 60 + 32 + 32
    assert engine.pages.free == engine.image.pages - 2

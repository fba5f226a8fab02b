"""Summaries of blocks: what they are, that they are made once and dropped where keys change, and the pages that they have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.block_choice import candidates, first_position, summary_pages
from hwgen.errors import HwgenError
from hwgen.formats import to_four_bits, widen_bf16
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.block_summaries import check_budget, loop_limit, pages_looked_at, update_summaries
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.kv_arrays import KvArrays, pack_pages, unpack_pages
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.runs import Run

from .budget_model import BLOCK, BUDGET, CONFIG, ROWS, SHAPE, Counted, budget_image

#: Tokens of 12 blocks, of which 10 may be chosen: summaries of two pages, and a third that is begun.
TOKENS, BLOCKS = 12 * BLOCK + 3, 10

#: Blocks whose summaries share a page.
TOGETHER = BLOCK // ROWS


@pytest.fixture(scope="module", params=["k8v8", "k8v4", "k4v4"])
def image(request: pytest.FixtureRequest) -> Image:
    return budget_image(request.param)


def filled(engine: Engine, tokens: int, seed: int = 0) -> tuple[Session, KvArrays]:
    """A session with random keys and values."""
    rng, image = np.random.default_rng(seed), engine.image
    shape = (2, SHAPE.layers, SHAPE.kv_heads, tokens, SHAPE.head_dim)
    elements = rng.integers(-127, 128, shape).astype(np.int8)
    if image.kv != "k8v8":
        elements[1] = to_four_bits(elements[1])
    if image.kv == "k4v4":
        elements[0] = to_four_bits(elements[0])
    elements[0, 1, 1, BLOCK : 2 * BLOCK] = 0
    scales = rng.integers(0x3C00, 0x3F00, shape[:-1]).astype(np.uint16)
    scales[0, 1, 1, BLOCK : 2 * BLOCK] = 0  # a block of nothing
    session, arrays = Session(), KvArrays(elements, scales)
    engine.adopt(session, rng.integers(0, SHAPE.vocab, tokens).tolist())
    engine.pages.write(session.pages, pack_pages(image, arrays))
    return session, arrays


def summaries_of(engine: Engine, session: Session, blocks: int) -> KvArrays:
    """As the pages of summaries have them, one behind the other."""
    found = unpack_pages(engine.image, engine.pages.read(session.summaries.pages), blocks * engine.config.summary_rows)
    return KvArrays(found.elements[:1], found.scales[:1])


def update(engine: Engine, session: Session, blocks: int) -> None:
    pages = -(-blocks * engine.config.summary_rows // BLOCK)
    assert engine.pages.reserve(session, session.position, None, pages)
    update_summaries(engine.image, engine.pages, session, blocks)


@pytest.mark.parametrize("rows", [1, ROWS, BLOCK])
def test_a_summary_is_the_mean_of_neighbouring_keys_as_a_key(image: Image, rows: int) -> None:
    image = budget_image(image.kv, replace(CONFIG, summary_rows=rows))
    engine = Engine(Counted(image), image)
    session, arrays = filled(engine, TOKENS)
    update(engine, session, BLOCKS)
    found = summaries_of(engine, session, BLOCKS)
    keys = arrays.elements[0].astype(np.float64) * widen_bf16(arrays.scales[0]).astype(np.float64)[..., None]
    of_rows = (SHAPE.layers, SHAPE.kv_heads, BLOCKS * rows, BLOCK // rows, SHAPE.head_dim)
    means = keys[..., : BLOCKS * BLOCK, :].reshape(of_rows).mean(axis=3)
    scales = widen_bf16(found.scales[0])[..., None].astype(np.float64)
    largest = np.abs(means).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(scales, largest / 127, rtol=2**-8)
    assert np.array_equal(scales == 0, largest == 0) and (scales == 0).sum() == rows
    codes = np.divide(means, scales, out=np.zeros_like(means), where=scales != 0)
    if image.kv == "k4v4":
        expected = to_four_bits(np.clip(np.rint(codes), -127, 127).astype(np.int8))
        assert (found.elements[0] != expected).mean() < 1e-3, "only what lies between two codes may round differently"
    else:
        assert np.abs(found.elements[0] - codes).max() < 0.5 + 1e-3 or np.abs(codes).max() > 127


def test_blocks_are_read_once_and_only_pages_with_new_ones_written(image: Image) -> None:
    device = Counted(image)
    engine = Engine(device, image)
    session, _ = filled(engine, TOKENS)
    at = [engine.pages.address(page) for page in session.pages]
    for known, blocks, pages in ((0, 3, [0]), (3, 3, []), (3, 2, []), (3, 4, [0]), (4, 6, [1]), (6, BLOCKS, [1, 2])):
        device.reads, device.writes = [], []
        update(engine, session, blocks)
        assert device.reads == at[known:blocks]
        assert device.writes == [engine.pages.address(session.summaries.pages[number]) for number in pages]
    assert len(session.summaries.pages) == 3
    whole, _ = filled(engine, TOKENS)
    update(engine, whole, BLOCKS)
    for kind in ("elements", "scales"):
        mine, theirs = (getattr(summaries_of(engine, s, BLOCKS), kind) for s in (session, whole))
        assert np.array_equal(mine, theirs), "made at once or by and by"


def test_summaries_of_what_changes_are_dropped(image: Image) -> None:
    device = Counted(image)
    engine = Engine(device, image)
    session, _ = filled(engine, TOKENS)
    update(engine, session, BLOCKS)
    engine.pages.reserve(session, 7 * BLOCK, 6 * BLOCK + 5)  # a run of some tokens in the middle
    assert len(session.summaries.blocks) == session.summaries.written == 6
    other, arrays = filled(engine, TOKENS, seed=1)
    engine.pages.write(session.pages[6:], engine.pages.read(other.pages[6:]))
    device.reads = []
    update(engine, session, BLOCKS)
    assert len(device.reads) == 4
    update(engine, other, BLOCKS)
    mine, theirs = (summaries_of(engine, s, BLOCKS).elements for s in (session, other))
    first = 6 * ROWS
    assert np.array_equal(mine[..., first:, :], theirs[..., first:, :])
    assert not np.array_equal(mine[..., first - 1, :], theirs[..., first - 1, :])
    del session.tokens[5 * BLOCK + 1 :]  # what follows is computed anew
    engine.pages.reserve(session, session.position + 1)
    assert len(session.summaries.blocks) == 5 and arrays.scales.shape[-1] == TOKENS


def test_pages_of_summaries_come_and_go() -> None:
    image = budget_image(contexts=1)
    engine = Engine(Counted(image), image)
    pages = engine.pages
    blocks = image.context // BLOCK
    assert pages.free == image.pages == blocks + -(-blocks // TOGETHER), "a whole context and its summaries"
    session, _ = filled(engine, TOKENS)
    update(engine, session, BLOCKS)
    assert pages.free == image.pages - 13 - 3
    fork = pages.share(session, TOKENS)
    assert not fork.summaries.blocks and not fork.summaries.pages and pages.free == image.pages - 16
    pages.close(fork)
    before = summaries_of(engine, session, BLOCKS)
    pages.park(session)
    assert pages.free == image.pages and not session.summaries.pages
    lent = [pages._take() for _ in range(image.pages - 15)]
    pages.write(lent, np.full((len(lent), image.page_bytes), 0xAA, np.uint8))
    assert not pages.unpark(session, TOKENS, 3) and session.parked is not None and pages.free == 15
    for page in lent:
        pages._release(page)
    assert pages.unpark(session, TOKENS, 3) and pages.free == image.pages - 16
    update(engine, session, BLOCKS)
    after = summaries_of(engine, session, BLOCKS)
    assert np.array_equal(before.elements, after.elements) and np.array_equal(before.scales, after.scales)
    assert pages.missing(session, TOKENS, None, 5) == 2
    pages.close(session)
    assert pages.free == image.pages and not session.summaries.blocks and not session.summaries.pages


@pytest.mark.parametrize("rows", [1, ROWS, BLOCK])
def test_the_first_summary_comes_back_too(rows: int) -> None:
    """A session that made way while it had one, in pages that others wrote meanwhile."""
    image = budget_image(config=replace(CONFIG, summary_rows=rows), contexts=1)
    engine = Engine(Counted(image), image)
    session, _ = filled(engine, TOKENS)
    update(engine, session, 1)
    before = summaries_of(engine, session, 1)
    engine.pages.park(session)
    engine.pages.write(range(image.pages), np.full((image.pages, image.page_bytes), 0xAA, np.uint8))
    assert engine.pages.unpark(session, TOKENS)
    update(engine, session, 1)
    after = summaries_of(engine, session, 1)
    assert np.array_equal(before.elements, after.elements) and np.array_equal(before.scales, after.scales)


def run_at(position: int, budget: int = BUDGET, tokens: int = 1, at: int | None = None) -> Run:
    session = Session()
    session.tokens = [0] * position
    return Run(session, [0] * tokens, 1, at, budget=budget)


def test_which_runs_choose() -> None:
    first = first_position(CONFIG, BUDGET)
    assert [run_at(p).choice(CONFIG) for p in (0, first - 1, first, 150)] == [0, 0, BUDGET, BUDGET]
    assert run_at(150, budget=0).choice(CONFIG) == run_at(150, tokens=2).choice(CONFIG) == run_at(150, at=3).choice(CONFIG) == 0
    assert run_at(first - BLOCK, budget=3).choice(CONFIG) == 3
    pages = [pages_looked_at(CONFIG, run_at(p)) for p in (first - 1, first, 9 * BLOCK, 10 * BLOCK, 14 * BLOCK)]
    assert pages == [0, 2, 2, 3, 4]
    for position in range(first, first + 4 * BLOCK):
        assert pages_looked_at(CONFIG, run_at(position)) == summary_pages(CONFIG, position)
    assert pages_looked_at(CONFIG, run_at(9 * BLOCK), BLOCK + 1) == 3 and pages_looked_at(CONFIG, run_at(99, 0), 9) == 0


def test_loops_end_where_a_choice_begins_or_a_summary_is_missing() -> None:
    first = first_position(CONFIG, BUDGET)
    assert [loop_limit(CONFIG, run_at(first - n), 64) for n in (30, 1)] == [30, 1]
    limits = [loop_limit(CONFIG, run_at(p), 64) for p in (first, first + 1, first + BLOCK - 1)]
    assert limits == [2 * BLOCK, 2 * BLOCK - 1, BLOCK + 1]
    assert [loop_limit(CONFIG, run_at(p), 5) for p in (first, 3)] == [5, 5] and loop_limit(CONFIG, run_at(3, 0), 64) == 64
    for position in range(first, first + 3 * BLOCK):
        last = position + loop_limit(CONFIG, run_at(position), 1000) - 1
        assert candidates(CONFIG, last).stop <= position // BLOCK < candidates(CONFIG, last + 1).stop
        assert summary_pages(CONFIG, last) == pages_looked_at(CONFIG, run_at(position), last - position + 1)


@pytest.mark.parametrize(
    ("config", "budget", "words"),
    [
        (replace(CONFIG, kv_budget=0), 3, r"no budget of blocks \(build with --set kv_budget=32"),
        (CONFIG, BUDGET + 1, f"must be 1 to {BUDGET} blocks"), (CONFIG, -1, f"must be 1 to {BUDGET} blocks"),
    ],
)
def test_a_budget_that_a_build_has_not(config: object, budget: int, words: str) -> None:
    with pytest.raises(HwgenError, match=words):
        check_budget(config, budget)  # type: ignore[arg-type]  # a build
    check_budget(CONFIG, BUDGET)
    check_budget(replace(CONFIG, kv_budget=0), 0)


def test_a_run_with_a_budget_that_the_build_has_not_is_refused() -> None:
    image = budget_image(config=replace(CONFIG, kv_budget=0))
    engine = Engine(Counted(image), image)
    assert image.pages == 4 * image.context // BLOCK, "and no pages of summaries"
    with pytest.raises(HwgenError, match="no budget of blocks"):
        engine.run_pass([Run(Session(), [1], 1, budget=2)])

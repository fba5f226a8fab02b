"""The pool of pages by itself: whose pages are whose, and what is in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.sw.runtime.pages import PagePool, Session

PAGES, PAGE_BYTES, TOKENS = 4, 4096, 8

#: Two pages of this size share a buffer; buffers lie wherever memory was free.
ADDRESSES = [5 * PAGE_BYTES, 6 * PAGE_BYTES, PAGE_BYTES, 2 * PAGE_BYTES]


@pytest.fixture
def pool() -> PagePool:
    memory = np.zeros(7 * PAGE_BYTES, np.uint8)

    def write(address: int, data: Any) -> None:
        memory[address : address + data.size] = data.reshape(-1)

    device: Any = SimpleNamespace(read=lambda address, size: memory[address : address + size].copy(), write=write)
    image: Any = SimpleNamespace(pages=PAGES, page_bytes=PAGE_BYTES, config=SimpleNamespace(kv_block=TOKENS))
    return PagePool(device, image, ADDRESSES)


def filled(pool: PagePool, tokens: int, value: int) -> Session:
    session = Session()
    assert pool.reserve(session, tokens)
    session.tokens = [value] * tokens
    pool.write(session.pages, np.full((len(session.pages), PAGE_BYTES), value, np.uint8))
    return session


def content(pool: PagePool, session: Session) -> list[int]:
    """The byte that every page of a session is full of."""
    pages = pool.read(session.pages)
    assert (pages == pages[:, :1]).all()
    return [int(page[0]) for page in pages]


def test_pages_are_apart_and_come_back(pool: PagePool) -> None:
    one, two = filled(pool, 9, 1), filled(pool, 8, 2)
    assert (len(one.pages), len(two.pages), pool.free) == (2, 1, 1)
    assert content(pool, one) == [1, 1] and content(pool, two) == [2]
    assert not pool.reserve(two, 25) and len(two.pages) == 1 and pool.missing(two, 25) == 3
    pool.close(one)
    assert pool.reserve(two, 25) and pool.free == 0 and one.position == 0 and not one.pages


def test_pages_in_any_order(pool: PagePool) -> None:
    """Pages side by side in a buffer are one access."""
    device, accesses = pool._device, []
    inner = device.read
    device.read = lambda address, size: accesses.append((address, size)) or inner(address, size)  # type: ignore[method-assign]
    content = np.arange(4 * PAGE_BYTES, dtype=np.uint8).reshape(4, PAGE_BYTES)
    pool.write([2, 3, 1, 0], content)
    np.testing.assert_array_equal(pool.read([0, 1, 2, 3]), content[[3, 2, 0, 1]])
    np.testing.assert_array_equal(pool.read([3, 2, 0, 1]), content[[1, 0, 3, 2]])
    assert pool.read([]).shape == (0, PAGE_BYTES)
    at = ADDRESSES
    buffers = [(at[0], 2 * PAGE_BYTES), (at[2], 2 * PAGE_BYTES)]
    assert accesses == [*buffers, (at[3], PAGE_BYTES), (at[2], PAGE_BYTES), buffers[0]]


def test_a_shared_page_is_copied_before_it_is_written(pool: PagePool) -> None:
    one = filled(pool, 12, 1)
    two = pool.share(one, 10)
    assert two.pages == one.pages and two.position == 10 and pool.free == 2
    assert pool.reserve(two, 11) and two.pages[0] == one.pages[0] and two.pages[1] != one.pages[1]
    assert content(pool, two) == [1, 1]
    pool.write(two.pages[1:], np.full((1, PAGE_BYTES), 2, np.uint8))
    assert content(pool, one) == [1, 1]
    pool.close(one)
    assert pool.free == 2  # the first page is still held


def test_parked_pages_are_lent(pool: PagePool) -> None:
    one = filled(pool, 20, 1)
    pool.park(one)
    assert pool.free == PAGES and one.position == 20
    other = filled(pool, 16, 2)
    assert not pool.unpark(one, 21) and one.parked is not None
    pool.close(other)
    assert pool.unpark(one, 21) and content(pool, one) == [1, 1, 1] and one.parked is None


def test_pages_are_reclaimed_until_there_are_enough(pool: PagePool) -> None:
    kept = [filled(pool, 8, value) for value in range(4)]

    def reclaim() -> bool:
        if not kept:
            return False
        pool.close(kept.pop(0))
        return True

    pool.reclaim = reclaim
    session = Session()
    assert pool.reserve(session, 16) and len(kept) == 2
    assert not pool.reserve(session, 40) and not kept


def test_pages_are_taken_in_their_order(pool: PagePool) -> None:
    """Those that come back are taken again in the order that they had, so that they lie side by side."""
    one = filled(pool, 17, 1)
    assert one.pages == [0, 1, 2]
    pool.close(one)
    two = filled(pool, 25, 2)
    assert two.pages == [0, 1, 2, 3] and pool.free == 0
    two.summaries.pages, two.pages = two.pages[2:], two.pages[:2]
    pool.close(two)
    assert filled(pool, 9, 3).pages == [0, 1] and pool.free == 2


def test_what_a_closed_session_is(pool: PagePool) -> None:
    """As a new one."""
    one = filled(pool, 9, 1)
    one.pending, one.exact = [4], False
    one.summaries.written = 1
    shared = pool.share(one, 8)
    assert not shared.exact and len(shared.pages) == 1 and pool.free == 2
    pool.close(one)
    assert vars(one) | {"summaries": None} == vars(Session()) | {"summaries": None} and one.summaries == Session().summaries
    assert pool.free == 3 and pool.unpark(shared, 8)


def test_summaries_that_are_dropped() -> None:
    """From a block on; those that were not there before stay away."""
    for written, block, left, then in ((3, 1, 1, 1), (1, 2, 2, 1), (3, 3, 3, 3), (2, 0, 0, 0)):
        summaries = Session().summaries
        summaries.blocks, summaries.written = [None, None, None], written  # type: ignore[list-item]  # nobody looks at them
        summaries.drop(block)
        assert (len(summaries.blocks), summaries.written) == (left, then)

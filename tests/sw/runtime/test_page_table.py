"""Page tables of sessions in one table: what the device has is what the sessions have, and little is written."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.page_table import PageTable
from hwgen.sw.runtime.pages import Session


class Table:
    """The table of a device, and how often it was written."""

    def __init__(self, entries: int) -> None:
        self.pages: list[int | None] = [None] * entries
        self.writes = 0
        self.table = PageTable(entries)

    def write(self, entry: int, page: int) -> None:
        self.pages[entry] = page
        self.writes += 1

    def check(self, sessions: list[Session]) -> None:
        firsts = self.table.place(sessions, self.write)
        for session, first in zip(sessions, firsts, strict=True):
            assert self.pages[first : first + len(session.pages)] == session.pages
            front = session.summaries.pages
            assert front == [self.pages[first - 1 - i] for i in range(len(front))] and first >= len(front)


def session(*pages: int) -> Session:
    new = Session()
    new.pages = list(pages)
    return new


def test_only_what_changed_is_written() -> None:
    device = Table(16)
    a, b = session(5), session(7, 8, 9)
    device.check([a, b])
    assert device.writes == 4
    device.check([b, a])
    device.check([a])
    assert device.writes == 4
    b.pages.append(3)  # in the room that it has
    device.check([a, b])
    assert device.writes == 5
    b.pages[1] = 2  # copied on write
    device.check([b])
    assert device.writes == 6
    a.pages += [1, 4]  # moves
    device.check([a, b])
    assert device.writes == 9


def test_sessions_of_other_passes_give_way() -> None:
    device = Table(8)
    old = [session(i) for i in range(8)]
    device.check(old)
    wide = session(*range(10, 18))
    device.check([wide])
    device.check(old[:3])
    with pytest.raises(HwgenError, match="more KV pages than the table of 8 entries"):
        device.check([wide, old[0]])


def test_pages_of_summaries_are_in_front() -> None:
    """The first one next to the first page; a session that gets more of them moves."""
    device = Table(16)
    a, b = session(5, 6), session(7)
    a.summaries.pages = [1]
    device.check([a, b])
    assert device.writes == 4 and device.pages[:4] == [1, 5, 6, 7]
    a.summaries.pages += [2]
    device.check([a, b])
    assert device.writes == 8 and device.pages[4:8] == [2, 1, 5, 6]
    a.summaries.pages[0] = 3
    device.check([b, a])
    assert device.writes == 9
    a.summaries.pages += [4]  # there is room for four now
    device.check([a])
    a.summaries.pages += [8]
    device.check([a, b])
    assert device.writes == 9 + 5 + 1
    a.summaries.pages = []  # parked, and back
    device.check([a])
    assert device.writes == 15
    full = session(*range(20, 33))
    full.summaries.pages = [40, 41, 42]  # no power of two is left
    device.check([full])
    with pytest.raises(HwgenError, match="more KV pages than the table of 16 entries"):
        device.check([full, b])


@pytest.mark.parametrize("seed", range(5))
def test_random_use(seed: int) -> None:
    random = np.random.default_rng(seed)
    device = Table(48)
    sessions = [session(i) for i in range(9)]
    for _ in range(400):
        chosen = [sessions[i] for i in random.permutation(9)[: int(random.integers(1, 6))]]
        for one in chosen:
            kind = random.integers(5)
            front = one.summaries.pages
            if kind == 0 and len(one.pages) < 6:
                one.pages.append(int(random.integers(1000)))
            elif kind == 1:
                one.pages[int(random.integers(len(one.pages)))] = int(random.integers(1000))
            elif kind == 2 and random.random() < 0.2:
                one.pages = [int(random.integers(1000))]
                front.clear()
            elif kind == 3 and len(front) < 3:
                front.append(int(random.integers(1000)))
            elif kind == 4 and front:
                front[int(random.integers(len(front)))] = int(random.integers(1000))
        device.check(chosen)

"""What passes and loops an engine refuses, to the last token; and which words its registers get, of the toy device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwgen.draw import Draw
from hwgen.errors import HwgenError
from hwgen.registers import register
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import COUNTED, Candidate, Engine, PassResult, Run, RunResult
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.page_table import PageTable
from hwgen.sw.runtime.pages import PagePool, Session

from ..conftest import CONFIG
from .toy_device import tiny_image, toy_engine


@pytest.fixture(scope="module")
def image() -> Image:
    return tiny_image()


@pytest.fixture
def engine(image: Image) -> Engine:
    return toy_engine(image, 1024)


class Quiet:
    """A loop that nobody has begun."""

    def close(self) -> None:
        """Nothing runs."""


def with_tokens(engine: Engine, count: int) -> Session:
    session = Session()
    engine.adopt(session, [1] * count)
    return session


@pytest.mark.parametrize(("count", "passes", "fine"), [(60, 4, True), (60, 5, False), (33, 31, True), (33, 32, False)])
def test_a_loop_within_the_context(image: Image, count: int, passes: int, fine: bool) -> None:
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=1 << 22), image)
    session = with_tokens(engine, count)
    run = Run(session, [2], 1)
    if fine:
        engine.start_loop(Quiet(), [run], passes, [])
        assert len(session.pages) == -(-(count + passes) // 16), "pages for all that it chooses"
        return
    with pytest.raises(HwgenError, match=f"{count + passes} tokens are longer than the context of 64"):
        engine.start_loop(Quiet(), [run], passes, [])


@pytest.mark.parametrize(("runs", "passes", "stops", "changes", "message"), [
    (1, 0, 0, {}, "choose 1 to 512 tokens"), (8, 65, 0, {}, "choose 1 to 512 tokens"), (1, 2, 9, {}, "stop at up to 8, .* and 9"),
    (1, 2, 0, {"wanted": 0}, "of every session a token"), (1, 2, 0, {"draw": None}, "of every session a token"),
    (1, 2, 0, {"tokens": [1, 2]}, "of every session a token"), (1, 2, 8, {}, ""), (8, 40, 0, {"draw": Draw(3, 5, 7)}, ""),
])
def test_loops_that_are_refused(
    image: Image, runs: int, passes: int, stops: int, changes: dict[str, Any], message: str
) -> None:
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=1 << 22), with_cache_tokens(image, 1024))
    made = [Run(Session(), [2], 1)._replace(**changes) for _ in range(runs)]
    if not message:
        engine.start_loop(Quiet(), made, passes, list(range(stops)))
        assert engine._read("LOOP") == passes and engine._read("RUNS") == engine._read("WANTED") == runs
        return
    with pytest.raises(ValueError, match=message):
        engine.start_loop(Quiet(), made, passes, list(range(stops)))


@pytest.mark.parametrize(("tokens", "wanted", "message"), [
    ([], 0, "a pass must have 1 to 8 tokens, not 0"), ([1] * 9, 1, "1 to 8 tokens, not 9"),
    ([1, 2], 3, "want 0 to 2 of them, not 3"),
    ([1], -1, "want 0 to 1"), ([40], 1, "token id 40 is outside the vocabulary of 40"), ([-1], 1, "token id -1"), ([39] * 8, 8, ""),
    ([0], 0, ""),
])
def test_passes(engine: Engine, tokens: list[int], wanted: int, message: str) -> None:
    run = Run(Session(), tokens, wanted)
    if not message:
        result = engine.run_pass([run])
        assert result.tokens == len(tokens) and len(result.runs[0].candidates) == wanted
        return
    with pytest.raises((ValueError, HwgenError), match=message):
        engine.run_pass([run])
    assert run.session.position == 0


def test_runs_of_a_pass(engine: Engine) -> None:
    """Eight tokens together; what each wants is its own; a session has one run, or runs of tokens that it has."""
    sessions = [with_tokens(engine, count) for count in (3, 0, 20)]
    runs = [Run(sessions[0], [4, 5], 1), Run(sessions[1], [6], 0), Run(sessions[2], [7, 8, 9], 2)]
    assert [run.position for run in runs] == [3, 0, 20] and Run(sessions[2], [1], at=7).position == 7
    result = engine.run_pass(runs)
    found = [(run.tokens, run.first, run.words.shape) for run in result.runs]
    assert found == [(2, 0, (1, 8, 2)), (1, 1, (0, 8, 2)), (3, 1, (2, 8, 2))]
    words = [[engine._read("RUN", 2 * r + i) for i in range(2)] for r in range(3)]
    assert [word[0] for word in words] == [3, 0, 20] and [word[1] & 0xFFFF for word in words] == [2, 1, 3]
    assert [engine._read("WANT", j) for j in range(3)] == [1, 4, 5]
    for name, value in (("RUNS", 3), ("COUNT", 6), ("WANTED", 3), ("PASS", 0), ("LOOP", 0), ("INTERRUPT", 1), ("PORT_ENABLE", 3)):
        assert engine._read(name) == value, name
    engine.run_pass([Run(sessions[1], [1], 1)], write_logits=True)
    assert engine._read("PASS") == 1
    engine.run_pass([Run(sessions[1], [1], 0)], write_logits=True)
    assert engine._read("PASS") == 0, "nobody wants logits"
    with pytest.raises(ValueError, match="one run of a pass"):
        engine.run_pass([Run(sessions[0], [1]), Run(sessions[0], [2])])
    with pytest.raises(HwgenError, match="65 tokens are longer"):
        engine.prefill(sessions[2], [1] * (65 - sessions[2].position))
    with pytest.raises(HwgenError, match="the prompt has no tokens"):
        engine.prefill(sessions[2], [])


def test_results() -> None:
    """Counters by name and opcode, and candidates of the last wanted token."""
    words = np.array([[[5, 0x3F800000], [6, 0]], [[7, 0xC0000000], [8, 0x40400000]]], np.uint32)
    run = RunResult(2, words, 0)
    assert run.candidates == ((Candidate(5, 1.0), Candidate(6, 0.0)), (Candidate(7, -2.0), Candidate(8, 3.0))) and run.best(1) == 7
    empty = RunResult(3, words[:0], 2)
    result = PassResult(runs=(empty, run, empty), counted=list(range(100, 100 + COUNTED)))
    assert result.tokens == 8 and result.candidates == run.candidates[1] and (result.cycles, result.stream_beats) == (100, 101)
    assert result.counters["engine_busy"] == 106 and len(result.counters) == 14
    assert result.opcode_cycles["embed"] == 115 and result.opcode_cycles["head"] == 124 and "end" not in result.opcode_cycles
    assert PassResult(runs=(empty,), counted=[0] * COUNTED).candidates == ()


@pytest.mark.parametrize(("address", "fine"), [(4096, True), (4097, False), (1 << 36, False), ((1 << 36) - 4096, True)])
def test_where_pages_may_lie(image: Image, address: int, fine: bool) -> None:
    """At multiples of 4096 below 64 GiB: what 24 bits of a page table can say."""
    addresses = [4096 * (i + 1) for i in range(image.pages - 1)] + [address]
    device: Any = None
    if fine:
        assert PagePool(device, image, addresses).frame(image.pages - 1) == address // 4096
        return
    with pytest.raises(HwgenError, match=f"a KV page lies at 0x{address:x}"):
        PagePool(device, image, addresses)


def test_neighbouring_pages_are_moved_together(engine: Engine) -> None:
    """As far as they share a buffer, in the order in which they are asked for."""
    pool = engine.pages
    pages = [0, 1, 4, 5, 3, 7, 6]
    runs = list(pool._runs(pages))
    assert pool._together == 2 and [(first, end) for first, end, _ in runs] == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 7)]
    assert [(first, end) for first, end, _ in pool._runs([1, 2])] == [(0, 1), (1, 2)], "another buffer begins"
    assert all(address == pool.address(pages[first]) for first, _, address in runs)
    content = np.random.default_rng(1).integers(0, 256, (7, engine.image.page_bytes)).astype(np.uint8)
    pool.write(pages, content)
    assert np.array_equal(pool.read(pages), content) and np.array_equal(pool.read([6])[0], content[6])


def test_pages_of_sessions(engine: Engine) -> None:
    """Shared pages are copied before they are written; what is missing is counted from where is written."""
    pool = engine.pages
    first = with_tokens(engine, 40)
    assert (len(first.pages), pool.free, pool.blocks(0), pool.blocks(16), pool.blocks(17)) == (3, 61, 0, 1, 2)
    second = pool.share(first, 36)
    assert (second.pages, pool.free, second.tokens) == (first.pages, 61, [1] * 36)
    assert [pool.missing(second, p) for p in (36, 48, 49, 65)] == [1, 1, 2, 3] and pool.missing(second, 48, 16) == 2
    assert pool.missing(second, 32, 0) == 2 and pool.missing(second, 40, 48) == 0
    assert pool.reserve(second, 49) and pool.free == 59
    assert second.pages[:2] == first.pages[:2] and second.pages[2] != first.pages[2]
    pool.close(first)
    assert pool.free == 60 and not first.tokens and not first.pages
    pool.park(second)
    assert pool.free == 64 and second.parked is not None and len(second.parked) == 4
    others = [Session() for _ in range(15)]
    assert all(pool.reserve(other, 64) for other in others) and pool.free == 4 and pool.unpark(second, 10)
    assert (pool.free, len(second.pages), second.parked) == (1, 3, None)
    asked: list[int] = []

    def reclaim() -> bool:
        asked.append(1)
        if len(asked) == 1:
            pool.close(others[0])
        return len(asked) == 1

    pool.reclaim = reclaim
    assert pool.reserve(Session(), 64) and asked == [1]
    assert not pool.reserve(Session(), 512) and len(asked) >= 2


def test_a_table_of_sessions() -> None:
    """Neighbouring entries of a power of two; what has changed is written; one that grows moves."""
    table, written = PageTable(16), list[tuple[int, int]]()

    def session(*pages: int) -> Session:
        made = Session()
        made.pages = list(pages)
        return made

    def place(*sessions: Session) -> list[int]:
        written.clear()
        return table.place(list(sessions), lambda entry, page: written.append((entry, page)))

    a, b, c = session(5), session(7, 8, 9), session()
    assert place(a, b, c) == [0, 1, 5] and written == [(0, 5), (1, 7), (2, 8), (3, 9)]
    assert place(a, b) == [0, 1] and written == []
    b.pages.append(4)
    assert place(b) == [1] and written == [(4, 4)]
    b.pages[0] = 6
    assert place(b) == [1] and written == [(1, 6)]
    b.pages.append(3)
    assert place(b) == [6] and len(written) == 5, "eight entries, behind the others"
    d = session(1, 2, 3, 4)
    assert place(d) == [1] and place(a, d, b) == [0, 1, 6]
    e = session(*range(12))
    assert place(a, e) == [0, 1] and len(written) == 13, "nobody else has a run: they begin anew"
    with pytest.raises(HwgenError, match="more KV pages than the table of 16 entries"):
        place(e, session(*range(5)))
    assert place(session(*range(16))) == [0]


def test_registers_that_are_held(engine: Engine) -> None:
    """Written when they change, and again when nobody knows what they hold."""
    device: Any = engine.device
    written: list[tuple[int, int]] = []
    write = device.write_register
    device.write_register = lambda offset, value: (written.append((offset, value)), write(offset, value))
    run = register(CONFIG, "COUNT").offset
    for value, expected in ((3, 1), (3, 0), (4, 1)):
        written.clear()
        engine._hold("COUNT", value)
        assert written == [(run, value)] * expected
    engine._hold("TOKEN", 9, 2)
    assert written[-1] == (0x1008, 9)
    engine.set_registers()
    written.clear()
    engine._hold("COUNT", 4)
    assert written == [(run, 4)] and engine._read("TOKEN", 2) == 2


def test_what_a_loop_leaves(engine: Engine) -> None:
    """Positions and tokens of its runs; nothing is known of one that failed."""
    state = engine._state
    engine._hold("COUNT", 4)
    state.loop, state.rung = Quiet(), (1,)
    engine.loop_ended([30, 40], [7, 8])
    places = {register(CONFIG, name).offset + i: value for name, i, value in (
        ("COUNT", 0, 4), ("RUN", 0, 30), ("RUN", 8, 40), ("TOKEN", 0, 7), ("TOKEN", 4, 8),
    )}
    assert state.loop is None and {at: state.held[at] for at in places} == places and state.rung == (1,)
    engine.loop_ended([], [])
    assert not state.held and state.rung == ()
    engine._write("LOOP", 9)
    state.rung = (1,)
    engine.let_loop_end()
    assert engine._read("LOOP") == 1 and state.rung == ()
    engine.device.values |= {("CHOSEN_COUNT", 0): 7} | {("CHOSEN", i): 10 + i for i in range(7)}  # type: ignore[attr-defined]  # a stand-in
    assert engine.chosen(0, 3) == [10, 11, 12, 13, 14, 15] and engine.chosen(3, 3) == [13, 14, 15] and engine.chosen(6, 3) == []

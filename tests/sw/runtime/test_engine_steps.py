"""Passes of an engine step by step: what is written to the device, what is read, and what is left when one of them fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.registers import register, register_map
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop

from ..conftest import CONFIG
from .toy_device import ToyDevice, tiny_image, toy_engine

NAMES = {r.offset + i * r.step: (r.name, i) for r in register_map(CONFIG) for i in range(r.count)}


@pytest.fixture(scope="module")
def image() -> Image:
    return with_cache_tokens(tiny_image(), 512)


@pytest.fixture
def engine(image: Image) -> Engine:
    return toy_engine(image, 512)


def watched(engine: Engine) -> list[tuple[str, int, int]]:
    """Registers that are written: name, index, value."""
    written: list[tuple[str, int, int]] = []
    write = engine.device.write_register
    engine.device.write_register = lambda at, value: (written.append((*NAMES[at], value)), write(at, value))[1]  # type: ignore[method-assign,func-returns-value]
    return written


def test_registers_at_the_beginning(image: Image) -> None:
    """Every token finds its row; a pass that nobody acknowledged is; all ports are used, and the end of a pass is told."""
    written: list[tuple[str, int, int]] = []
    device = ToyDevice(image)
    write = device.write_register
    device.write_register = lambda at, value: (written.append((*NAMES[at], value)), write(at, value))[1]  # type: ignore[method-assign,func-returns-value]
    engine = Engine(device, image)
    at_first = [*(("TOKEN", i, i) for i in range(8)), ("CONTROL", 0, 2), ("PORT_ENABLE", 0, 3), ("INTERRUPT", 0, 1)]
    assert image.chunk == 8 and written == at_first
    state = engine._state
    engine.forward(Session(), [1])
    state.busy, state.by_id = True, 5
    written.clear()
    engine.set_registers()
    assert written == at_first and (state.busy, state.by_id, state.wants, state.rung) == (False, 0, [], ())


def test_logits_of_every_wanted_token(engine: Engine, image: Image) -> None:
    """Those of a pass lie one behind the other, and are copied unless they are looked at in place."""
    sessions = Session(), Session()
    runs = [Run(sessions[0], [1, 2, 3], 2), Run(sessions[1], [4], 1)]
    result = engine.run_pass(runs, write_logits=True)
    found = [engine.logits(number) for number in range(3)]
    for number, (run, last) in enumerate(((0, 0), (0, 1), (1, 0))):
        best = result.runs[run].candidates[last]
        order = np.argsort(-found[number], kind="stable")[: CONFIG.topk]
        assert [(c.token, c.logit) for c in best] == [(int(i), float(found[number][i])) for i in order]
    assert found[0].size == 40 and np.array_equal(engine.logits(), found[0]) and np.array_equal(engine.logits_in_place(2), found[2])
    device: Any = engine.device
    assert np.shares_memory(engine.logits_in_place(1), device.memory) and not np.shares_memory(found[1], device.memory)


def test_a_pass_that_fails_adds_nothing(engine: Engine) -> None:
    """Not a token to any of its sessions, nor takes one away that was there."""
    sessions = Session(), Session()
    engine.prefill(sessions[0], [1, 2, 3])

    def fail(timeout: float, look: object = None) -> bool:
        raise HwgenError("device", "gone", "")

    wait, engine.device.wait = engine.device.wait, fail  # type: ignore[method-assign]  # it fails
    with pytest.raises(HwgenError, match="gone"):
        engine.run_pass([Run(sessions[0], [4], 1), Run(sessions[1], [5, 6], 0)])
    assert sessions[0].tokens == [1, 2, 3] and sessions[1].tokens == [] and engine._state.busy
    engine.device.wait = wait  # type: ignore[method-assign]  # as it was
    written = watched(engine)
    engine.settle()
    assert written == [("CONTROL", 0, 2)] and not engine._state.busy
    engine.settle()
    assert len(written) == 1, "nothing runs"
    assert engine.forward(sessions[0], [4]).runs[0].best(0) == engine_alone(engine, [1, 2, 3, 4])


def engine_alone(engine: Engine, tokens: list[int]) -> int:
    """The best token behind some, of an engine of its own."""
    return toy_engine(engine.image, 64).prefill(Session(), tokens)[-1].runs[0].best(0)


def test_runs_of_tokens_that_are_there(engine: Engine) -> None:
    """Several of one session, beside the next token of another."""
    first, second = Session(), Session()
    engine.prefill(first, [1, 2, 3, 4, 5])
    engine.prefill(second, [6, 7])
    result = engine.run_pass([Run(first, [1, 2], at=0), Run(first, [5], 1, at=4), Run(second, [8], 1)])
    assert [run.tokens for run in result.runs] == [2, 1, 1] and (first.position, second.position) == (5, 3)
    assert result.runs[2].best(0) == engine_alone(engine, [6, 7, 8])
    for more in (Run(first, [6]), Run(second, [9])):
        with pytest.raises(ValueError, match="one run of a pass"):
            engine.run_pass([Run(first, [1, 2], at=0), Run(second, [8]), more])


def test_ctrl_c_stops_the_passes(engine: Engine) -> None:
    stopped: list[int] = []

    def interrupt(timeout: float, look: object = None) -> bool:
        assert timeout >= 1
        raise KeyboardInterrupt

    engine.device.wait, engine.device.stop = interrupt, lambda: stopped.append(1)  # type: ignore[method-assign]  # watched
    with pytest.raises(KeyboardInterrupt):
        engine.wait()
    assert stopped == [1]


def test_tokens_that_are_adopted(engine: Engine) -> None:
    """They and their pages, as far as the context and the cache reach."""
    session = Session()
    engine.adopt(session, [1] * 40)
    assert session.tokens == [1] * 40 and len(session.pages) == 3
    engine.adopt(session, [2] * 24)
    assert session.position == 64 and len(session.pages) == 4
    with pytest.raises(HwgenError, match="65 tokens are longer"):
        engine.adopt(session, [3])
    others = [Session() for _ in range(7)]
    for other in others:
        engine.adopt(other, [1] * 64)
    with pytest.raises(HwgenError, match="2 tokens need more KV pages than are free") as caught:
        engine.adopt(Session(), [1, 2])
    assert caught.value.kind == "context"
    engine.pages.close(others[0])
    engine.pages.park(others[1])
    with pytest.raises(ValueError, match="a parked session must be brought back"):
        engine.forward(others[1], [1])


def test_how_many_pages_are_needed(engine: Engine) -> None:
    others = [Session() for _ in range(8)]
    for other in others[:7]:
        engine.adopt(other, [1] * 64)
    engine.adopt(others[7], [1] * 48)
    long = Session()
    engine.adopt(long, [1] * 16)
    with pytest.raises(HwgenError, match="1 KV pages are needed, 0 are free") as caught:
        engine.run_pass([Run(long, [1] * 8, 1)])
    assert caught.value.kind == "context" and long.position == 16


def test_prompts_in_chunks(engine: Engine) -> None:
    """Eight tokens a pass; logits, and best tokens, of the last one alone."""
    for length, expected in ((1, [1]), (8, [8]), (9, [8, 1]), (16, [8, 8]), (17, [8, 8, 1])):
        session = Session()
        results = engine.prefill(session, list(range(length)))
        assert [result.tokens for result in results] == expected and session.tokens == list(range(length))
        assert [len(result.runs[0].candidates) for result in results] == [0] * (len(expected) - 1) + [1]
        engine.pages.close(session)


def test_a_pass_behind_a_loop(image: Image) -> None:
    """Tokens are found by their ids in a loop, and in rows again behind it; as many as the largest loop had."""
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=1 << 22), image)
    held, row = engine._state.held, register(CONFIG, "TOKEN")

    def tokens() -> list[int]:
        return [held[row.offset + i * row.step] for i in range(3)]

    sessions = [Session() for _ in range(3)]
    for session in sessions:
        engine.prefill(session, [3, 9])
    loop = RunningLoop(engine, [Run(session, (7 + i,), 1) for i, session in enumerate(sessions)], 2, ())
    assert tokens() == [7, 8, 9] and engine._state.by_id == 3
    last = list(loop)[-1]
    assert loop.result is not None and loop.result.passes == 2 and engine._state.loop is None
    RunningLoop(engine, [Run(sessions[0], (last[0],), 1)], 1, ()).close()
    assert engine._state.by_id == 3
    engine.forward(sessions[1], [5])
    assert tokens() == [0, 1, 2] and engine._state.by_id == 0
